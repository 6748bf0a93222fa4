//! What the books should say.

use std::collections::BTreeMap;

use flashkit::Engine;
use flashkit::ledger::Account;

/// Every account whose balance is not zero, and nothing else; and the sums agree.
pub async fn expect(engine: &Engine, step: &str, expected: &[(Account, i64)]) {
    let books = engine
        .reports()
        .trial_balance(&engine.issuer())
        .await
        .unwrap();
    assert!(books.is_balanced(), "{step}: {:?}", books.totals);
    let found: BTreeMap<Account, i128> = books
        .lines
        .iter()
        .filter(|line| line.balance != 0)
        .map(|line| (line.account, line.balance))
        .collect();
    let expected: BTreeMap<Account, i128> = expected
        .iter()
        .map(|(account, balance)| (*account, (*balance).into()))
        .collect();
    assert_eq!(found, expected, "{step}");
    assert!(
        books
            .lines
            .iter()
            .all(|line| { line.totals.debits_pending == 0 && line.totals.credits_pending == 0 }),
        "{step}: something is still on hold"
    );
}

/// Debits equal credits, and no account that may not is below zero.
pub async fn expect_sound(engine: &Engine, step: &str) {
    let books = engine
        .reports()
        .trial_balance(&engine.issuer())
        .await
        .unwrap();
    assert!(books.is_balanced(), "{step}: {:?}", books.totals);
    for line in &books.lines {
        if let Some(floor) = line.account.kind().floor() {
            let available = line.totals.available(line.side);
            assert!(available >= i128::from(floor), "{step}: {:?}", line);
        }
    }
}

/// The node has what its control accounts say, to the msat.
pub async fn node_agrees(engine: &Engine) -> bool {
    let audit = engine.reports().audit(&engine.issuer()).await.unwrap();
    audit.is_balanced
        && audit.untied.is_empty()
        && audit
            .controls
            .iter()
            .all(|control| control.difference_msat == 0)
}
