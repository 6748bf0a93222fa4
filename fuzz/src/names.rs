//! Ids, accounts, keys, tokens, printed codes and card numbers: every name that a caller gives.

use std::fmt::Display;
use std::str::FromStr;

use flashkit::IdempotencyKey;
use flashkit::access::Credential;
use flashkit::cards::{CardNumber, RecoveryCode, VirtualTap};
use flashkit::ids::{CardId, InvoiceId, MerchantId, PayoutId, TransferId};
use flashkit::ledger::{Account, AccountKind, ChainHash};
use flashkit::lightning::PaymentHash;
use flashkit::money::{Asset, Currency};

pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let decoded = [
        same_again::<CardId>(text),
        same_again::<InvoiceId>(text),
        same_again::<MerchantId>(text),
        same_again::<PayoutId>(text),
        same_again::<TransferId>(text),
        same_again::<Account>(text),
        same_again::<Asset>(text),
        same_again::<Currency>(text),
        same_again::<ChainHash>(text),
        same_again::<PaymentHash>(text),
        same_again::<IdempotencyKey>(text),
        same_again::<CardNumber>(text),
        text.parse::<RecoveryCode>().is_ok_and(|code| {
            let again = code.reveal().parse::<RecoveryCode>();
            again.is_ok_and(|again| again == code)
        }),
        text.split_once(':').is_some_and(|(number, code)| {
            VirtualTap::new(number, code).is_ok_and(|tap| tap.to_string().ends_with(code))
        }),
        text.parse::<AccountKind>().is_ok(),
        text.parse::<Credential>().is_ok_and(|token| {
            let again = token.reveal().parse::<Credential>();
            again.is_ok_and(|again| again.reveal() == token.reveal())
        }),
    ];
    decoded.contains(&true)
}

/// What was read is written so that it reads the same.
fn same_again<T: FromStr + Display + PartialEq>(text: &str) -> bool {
    let Ok(read) = text.parse::<T>() else {
        return false;
    };
    let written = read.to_string();
    assert!(
        written.parse::<T>().is_ok_and(|again| again == read),
        "{text}"
    );
    true
}
