//! A receipt in the hands of somebody who was not there: what is proven, and what is refused.

use flashkit::invoices::InvoiceOptions;
use flashkit::lightning::{InvoiceRequest, LightningNode};
use flashkit::receipts::{
    IssueReceipt, LightningProof, ProveReceipt, ReceiptBundle, ReceiptKey, RotateReceiptKey, Trust,
    Unverified, verify,
};

use crate::receipts::{NOW_MS, Shop};
use crate::support::key;
use crate::support::scene::told;
use crate::support::shop::sat;

impl Shop {
    pub async fn trust(&self) -> Trust {
        Trust {
            keys: self.engine.receipts().keys().await.unwrap().value,
            ..Trust::default()
        }
    }

    pub async fn prove(&self, number: u64) -> ReceiptBundle {
        let query = ProveReceipt {
            merchant: Some(self.merchant.id),
            number,
            through_height: None,
        };
        let receipts = self.engine.receipts();
        let proof = receipts.prove(&self.merchant.till, query).await;
        proof.unwrap().value
    }

    async fn rotate(&self, name: &str) -> ReceiptKey {
        let command = RotateReceiptKey { key: key(name) };
        let (receipts, issuer) = (self.engine.receipts(), self.engine.issuer());
        receipts.rotate_key(&issuer, command).await.unwrap().value
    }
}

fn code(bundle: &ReceiptBundle, trust: &Trust) -> &'static str {
    verify(bundle, trust).map_or_else(|error| error.code(), |_| "proven")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_receipt_is_proven_by_its_signature_and_its_preimage() {
    let shop = Shop::open().await;
    let invoice = shop
        .sell("lunch", sat(21_000), InvoiceOptions::default())
        .await;
    shop.print("print", &invoice).await.unwrap();
    let (trust, bundle) = (shop.trust().await, shop.prove(1).await);
    let again = ReceiptBundle::from_text(&bundle.to_text()).unwrap();
    assert_eq!(again, bundle);
    let proven = verify(&bundle, &trust).unwrap();
    assert_eq!(proven.receipt.invoice, invoice.id);
    assert_eq!(proven.lightning.len(), 1);
    assert_eq!(proven.lightning[0].amount_msat, Some(21_000_000));
    assert_eq!(
        proven.lightning[0].payment_hash,
        invoice.payment_hash.to_string()
    );
    // The signature alone is a receipt too, and says nothing of a payment.
    let alone = ReceiptBundle {
        lightning: Vec::new(),
        ..bundle.clone()
    };
    assert_eq!(verify(&alone, &trust).unwrap().lightning, []);
    // The node is the seller's, where the verifier knows it.
    let node = proven.lightning[0].payee_node_id.clone();
    let nodes = Trust {
        nodes: vec![node],
        ..trust.clone()
    };
    assert_eq!(code(&bundle, &nodes), "proven");
    let nodes = Trust {
        nodes: vec!["02".repeat(33)],
        ..trust
    };
    assert_eq!(code(&bundle, &nodes), "receipt.wrong_request");
    assert_eq!(
        format!("{:?}", bundle.lightning[0]),
        "LightningProof { .. }"
    );
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_counts() {
    let shop = Shop::open().await;
    let invoice = shop
        .sell("lunch", sat(21_000), InvoiceOptions::default())
        .await;
    let signed = shop.print("print", &invoice).await.unwrap().signed;
    let trust = shop.trust().await;
    let bundle = |receipt: String| ReceiptBundle {
        receipt,
        lightning: Vec::new(),
        on_chain: Vec::new(),
    };
    assert_eq!(code(&bundle(signed.clone()), &trust), "proven");
    let (mut tried, bytes) = (0, signed.as_bytes());
    for at in 0..bytes.len() {
        for bit in [1, 0x20] {
            let mut changed = bytes.to_vec();
            changed[at] ^= bit;
            // What is no text was refused before.
            let Ok(text) = String::from_utf8(changed) else {
                continue;
            };
            assert_ne!(code(&bundle(text), &trust), "proven", "byte {at}");
            tried += 1;
        }
        let mut shorter = bytes.to_vec();
        shorter.remove(at);
        if let Ok(text) = String::from_utf8(shorter) {
            assert_ne!(code(&bundle(text), &trust), "proven", "without byte {at}");
        }
    }
    assert!(tried > bytes.len());
    for more in ["\n", " ", "0"] {
        assert_eq!(
            code(&bundle(signed.clone() + more), &trust),
            "receipt.malformed"
        );
    }
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_trusted_for_what_it_signed_in_its_time() {
    let shop = Shop::open().await;
    assert_eq!(shop.trust().await.keys, []);
    let invoice = shop
        .sell("first", sat(1_000), InvoiceOptions::default())
        .await;
    shop.print("first", &invoice).await.unwrap();
    let before = shop.trust().await;
    shop.clock.set(NOW_MS + 1_000);
    let second = shop.rotate("rotate").await;
    assert_eq!(second, shop.rotate("rotate").await);
    let invoice = shop
        .sell("second", sat(2_000), InvoiceOptions::default())
        .await;
    shop.print("second", &invoice).await.unwrap();
    let (one, two, both) = (shop.prove(1).await, shop.prove(2).await, shop.trust().await);
    assert_eq!(both.keys.len(), 2);
    assert_eq!((code(&one, &both), code(&two, &both)), ("proven", "proven"));
    assert_eq!(verify(&two, &both).unwrap().key, second);
    // Whoever has the old list does not know the new key, and nobody trusts a key for nothing.
    assert_eq!(code(&two, &before), "receipt.foreign_key");
    assert_eq!(code(&one, &Trust::default()), "receipt.foreign_key");
    // What says that it was issued later than its key was in use was not issued by the engine.
    let mut early = both.clone();
    early.keys[0].until_ms = Some(NOW_MS);
    assert_eq!(code(&one, &early), "receipt.key_retired");
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_another_payment_or_of_none_proves_nothing() {
    let shop = Shop::open().await;
    let paid = shop
        .sell("lunch", sat(21_000), InvoiceOptions::default())
        .await;
    let other = shop
        .sell("dinner", sat(30_000), InvoiceOptions::default())
        .await;
    let unpaid = shop
        .ask("supper", sat(40_000), InvoiceOptions::default())
        .await;
    shop.print("lunch", &paid).await.unwrap();
    shop.print("dinner", &other).await.unwrap();
    let (trust, good, dinner) = (shop.trust().await, shop.prove(1).await, shop.prove(2).await);
    let with = |bolt11: &str, preimage: &str| ReceiptBundle {
        lightning: vec![LightningProof {
            bolt11: bolt11.to_owned(),
            preimage: preimage.to_owned(),
        }],
        ..good.clone()
    };
    let secret = good.lightning[0].preimage.clone();
    assert_eq!(code(&with(&paid.bolt11, &secret), &trust), "proven");
    for (bolt11, preimage, wanted) in [
        (&unpaid.bolt11, "00".repeat(32), "receipt.not_its_payment"),
        (
            &other.bolt11,
            dinner.lightning[0].preimage.clone(),
            "receipt.not_its_payment",
        ),
        (&paid.bolt11, "00".repeat(32), "receipt.wrong_preimage"),
        (&paid.bolt11, "00".to_owned(), "receipt.wrong_preimage"),
        (
            &paid.bolt11,
            dinner.lightning[0].preimage.clone(),
            "receipt.wrong_preimage",
        ),
        (
            &"lnbcrt1".to_owned(),
            secret.clone(),
            "receipt.wrong_request",
        ),
    ] {
        assert_eq!(code(&with(bolt11, &preimage), &trust), wanted);
    }
    // The same proof counts once.
    let twice = ReceiptBundle {
        lightning: vec![good.lightning[0].clone(), good.lightning[0].clone()],
        ..good.clone()
    };
    assert_eq!(code(&twice, &trust), "receipt.not_its_payment");
    // A text that somebody else made for the same hash: less, or for something else.
    let somebody = shop.network.node(0);
    somebody.start().await.unwrap();
    for (description, amount_msat) in [("lunch", 1_000_000), ("a boat", 21_000_000)] {
        let request = InvoiceRequest {
            payment_hash: paid.payment_hash,
            amount_msat: Some(amount_msat),
            description: description.to_owned(),
            description_hash: None,
            expiry_seconds: 600,
        };
        let bolt11 = somebody.create_invoice(request).await.unwrap();
        assert_eq!(
            code(&with(&bolt11, &secret), &trust),
            "receipt.wrong_request"
        );
    }
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ones_own_is_not_handed_out() {
    let shop = Shop::open().await;
    let invoice = shop
        .sell("lunch", sat(21_000), InvoiceOptions::default())
        .await;
    shop.print("print", &invoice).await.unwrap();
    let other = crate::support::shop::merchant(&shop.engine, "Mr Chin").await;
    let receipts = shop.engine.receipts();
    let mut query = ProveReceipt {
        merchant: Some(shop.merchant.id),
        number: 1,
        through_height: None,
    };
    let refused = told(receipts.prove(&other.till, query).await);
    assert_eq!(refused.unwrap_err(), "access.not_allowed");
    query.number = 2;
    let refused = told(receipts.prove(&shop.merchant.till, query).await);
    assert_eq!(refused.unwrap_err(), "receipt.not_found");
    query = ProveReceipt {
        merchant: None,
        number: 1,
        through_height: None,
    };
    let refused = told(receipts.prove(&shop.merchant.till, query).await);
    assert_eq!(refused.unwrap_err(), "access.not_allowed");
    let command = IssueReceipt {
        key: key("theirs"),
        invoice: invoice.id,
    };
    let refused = told(receipts.issue(&other.till, command).await);
    assert_eq!(refused.unwrap_err(), "access.not_allowed");
    let refused = told(
        receipts
            .rotate_key(&other.till, RotateReceiptKey { key: key("r") })
            .await,
    );
    assert_eq!(refused.unwrap_err(), "access.not_allowed");
    shop.engine.stop().await.unwrap();
}

#[test]
fn what_somebody_hands_in_is_read_or_refused() {
    for text in [
        "",
        "{}",
        "[]",
        "null",
        r#"{"receipt":1}"#,
        r#"{"receipt":"","more":1}"#,
    ] {
        let refused = ReceiptBundle::from_text(text).unwrap_err();
        assert_eq!(refused.code(), "receipt.malformed", "{text}");
    }
    let long = format!(r#"{{"receipt":"{}"}}"#, "x".repeat(1_048_576));
    assert!(matches!(
        ReceiptBundle::from_text(&long),
        Err(Unverified::Malformed { .. })
    ));
    let empty = ReceiptBundle::from_text(r#"{"receipt":""}"#).unwrap();
    assert_eq!(code(&empty, &Trust::default()), "receipt.malformed");
}
