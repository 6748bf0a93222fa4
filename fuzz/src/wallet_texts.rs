//! What a person pastes into a wallet: keys, descriptors, signed PSBTs, labels.

use flashkit::wallets::{LabelRecord, WalletPreview, WalletSource, signed_transaction};

/// A PSBT that waits for a signature: what is pasted is given back for it.
const PREPARED: &str = include_str!("../corpus/wallet_texts/prepared");

pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let mut was_read = false;
    if let Ok(records) = LabelRecord::read(text) {
        let written = LabelRecord::write(&records);
        assert_eq!(LabelRecord::read(&written).as_ref(), Ok(&records));
        was_read |= !records.is_empty();
    }
    let (external, change) = (text.trim().to_owned(), None);
    let descriptor = WalletSource::Descriptor { external, change };
    let (xpub, script) = (text.trim().to_owned(), None);
    let xpub = WalletSource::Xpub { xpub, script };
    for network in ["bitcoin", "regtest"] {
        for source in [&descriptor, &xpub] {
            let Ok(wallet) = WalletPreview::of(source, network) else {
                continue;
            };
            assert!(!wallet.external.contains("prv"), "{}", wallet.external);
            // What was written down is read as the same.
            let written = WalletSource::Descriptor {
                external: wallet.external.clone(),
                change: Some(wallet.change.clone()),
            };
            assert_eq!(WalletPreview::of(&written, network), Ok(wallet));
            was_read = true;
        }
    }
    match signed_transaction(PREPARED, text) {
        Ok(_) => true,
        Err(error) => was_read | (error.code() == "wallet.not_signed"),
    }
}
