//! A hold that has ended stands in nobody's way, whether or not anybody has noticed.
#![cfg(feature = "sqlite")]

use std::sync::Arc;

use flashkit::ids::{BatchId, CardId, TransferId};
use flashkit::ledger::{Account, Batch, NewHold, NewTransfer, Step, TransferKind, UsageWindow};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{CommitError, MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;

const NOW_MS: i64 = 1_700_000_000_000;
const HOUR_MS: i64 = 3_600_000;

fn card() -> Account {
    Account::card_balance(CardId::from_parts(1, [1; 10]))
}

fn transfer(number: u8, debit: Account, credit: Account, amount: i64) -> NewTransfer {
    NewTransfer {
        id: TransferId::from_parts(9, [number; 10]),
        debit,
        credit,
        amount,
        kind: TransferKind::Charge,
        reference: "test".to_owned(),
        credit_ceiling: None,
    }
}

fn for_a_second(transfer: NewTransfer, usage: Vec<UsageWindow>) -> Step {
    Step::Hold(NewHold {
        transfer,
        expires_at_ms: Some(NOW_MS + 1_000),
        usage,
    })
}

async fn commit(store: &dyn Store, number: u8, steps: Vec<Step>) -> Result<(), CommitError> {
    let id = BatchId::from_parts(9, [number; 10]);
    let command = None;
    store
        .commit(Batch {
            id,
            command,
            steps: steps.into(),
        })
        .await
        .map(drop)
}

/// Both stores, an hour later each time.
async fn an_hour_later(before: Vec<Step>, after: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    for file in [None, Some(folder.path().join("books.db"))] {
        let clock = Arc::new(ManualClock::at(NOW_MS));
        let store: Arc<dyn Store> = match file {
            None => Arc::new(MemoryStore::new(clock.clone())),
            Some(file) => Arc::new(SqliteStore::open(file, clock.clone()).unwrap()),
        };
        commit(&*store, 1, before.clone()).await.unwrap();
        let too_early = commit(&*store, 2, after.clone()).await;
        assert!(matches!(too_early, Err(CommitError::Refused(_))));
        clock.set(NOW_MS + HOUR_MS);
        commit(&*store, 3, after.clone()).await.unwrap();
        store.close().await.unwrap();
    }
}

/// An authorisation had used up the whole day's limit. A charge counts its usage before it debits
/// the card.
#[tokio::test]
async fn its_usage_is_given_back_before_a_limit_is_looked_at() {
    let day = UsageWindow {
        subject: "card/spent/day".to_owned(),
        start_ms: NOW_MS,
        end_ms: NOW_MS + 24 * HOUR_MS,
    };
    let used = |amount| Step::Use {
        window: day.clone(),
        amount,
        limit: 100,
    };
    let income = Account::fee_income();
    let before = vec![
        Step::Transfer(transfer(1, Account::node_channels(), card(), 1_000)),
        used(100),
        for_a_second(transfer(2, card(), income, 100), vec![day.clone()]),
    ];
    let after = vec![used(50), Step::Transfer(transfer(3, card(), income, 50))];
    an_hour_later(before, after).await;
}

/// What was to come to a card had taken all its room.
#[tokio::test]
async fn it_takes_no_room_below_a_ceiling() {
    let capped = |number, amount| NewTransfer {
        credit_ceiling: Some(100),
        ..transfer(number, Account::node_channels(), card(), amount)
    };
    let before = vec![for_a_second(capped(1, 100), Vec::new())];
    an_hour_later(before, vec![Step::Transfer(capped(2, 50))]).await;
}
