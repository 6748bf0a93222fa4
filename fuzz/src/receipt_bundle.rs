//! What a third party is handed as a receipt with its proofs is read or refused: no panic, and
//! nothing is proven of a receipt that the engine did not sign.

use flashkit::receipts::{ReceiptBundle, Trust, verify};

/// Signed by an engine of a test, paid over Lightning and on chain; its keys, and the block that
/// has the payment.
const PAID: [&str; 2] = [
    include_str!("../corpus/receipt_bundle/lightning"),
    include_str!("../corpus/receipt_bundle/on_chain"),
];
const TRUST: &str = include_str!("receipt_bundle_trust.json");

pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let Ok(bundle) = ReceiptBundle::from_text(text) else {
        return false;
    };
    let again = ReceiptBundle::from_text(&bundle.to_text());
    assert_eq!(again.as_ref(), Ok(&bundle));
    let trust: Trust = serde_json::from_str(TRUST).expect("what the corpus is checked with");
    if let Ok(proven) = verify(&bundle, &trust) {
        let signed = PAID.map(|text| ReceiptBundle::from_text(text).expect("the corpus"));
        let known = signed.iter().find(|known| known.receipt == bundle.receipt);
        let known = known.expect("only what was signed is proven");
        for proof in &proven.lightning {
            assert!(known.receipt.contains(&proof.payment_hash));
        }
        for proof in &proven.on_chain {
            assert!(known.receipt.contains(&proof.outpoint.to_string()));
            assert_eq!(proof.confirmations, 1);
        }
    }
    true
}
