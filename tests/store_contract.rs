//! Every store keeps the contract of `store::contract`.

use std::sync::Arc;

use flashkit::store::MemoryStore;
#[cfg(feature = "sqlite")]
use flashkit::store::contract::check_reopening;
use flashkit::store::contract::{FreshStore, check_all};

fn report(kept: &[&str]) {
    println!("{} promises kept: {}", kept.len(), kept.join(", "));
    assert!(kept.len() >= 42);
}

#[tokio::test]
async fn the_store_in_memory_keeps_the_contract() {
    let kept = check_all(|clock| async move {
        let store = Arc::new(MemoryStore::new(clock.clone()));
        Ok(FreshStore::new(store.clone(), store, clock))
    })
    .await;
    report(&kept.unwrap_or_else(|violation| panic!("{violation}")));
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn the_sqlite_store_keeps_the_contract() {
    use flashkit::store::sqlite::SqliteStore;
    use std::sync::atomic::{AtomicU32, Ordering};

    let folder = tempfile::tempdir().unwrap();
    let files = AtomicU32::new(0);
    let kept = check_all(|clock| {
        let number = files.fetch_add(1, Ordering::SeqCst);
        let file = folder.path().join(format!("{number}.db"));
        async move {
            let store = Arc::new(SqliteStore::open(&file, clock.clone())?);
            Ok(FreshStore::new(store.clone(), store, clock))
        }
    })
    .await;
    report(&kept.unwrap_or_else(|violation| panic!("{violation}")));

    let file = folder.path().join("reopened.db");
    let reopened = check_reopening(|clock| {
        let file = file.clone();
        async move {
            let store = Arc::new(SqliteStore::open(&file, clock.clone())?);
            Ok(FreshStore::new(store.clone(), store, clock))
        }
    })
    .await;
    reopened.unwrap_or_else(|violation| panic!("{violation}"));
}

/// A document that was read lately is written, and written once more upon the version before: in
/// one transaction, with other work of the writer in between.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn the_second_of_two_writes_in_a_transaction_sees_the_first() {
    use flashkit::ids::BatchId;
    use flashkit::ledger::{Batch, NewDocument, Refusal, Step};
    use flashkit::ports::SystemClock;
    use flashkit::store::sqlite::SqliteStore;
    use flashkit::store::{CommitError, Store};

    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("books.db"), Arc::new(SystemClock)).unwrap();
    let put = |number: u8, read_version: i64| {
        let document = NewDocument {
            collection: "thing",
            id: "contended".to_owned(),
            read_version,
            body: serde_json::json!(number).into(),
            index_keys: Vec::new(),
        };
        store.commit(Batch {
            id: BatchId::from_parts(1, [number; 10]),
            command: None,
            steps: vec![Step::Put(document)].into(),
        })
    };
    for round in 0..20 {
        // Now it is known, also that there is none.
        let read = store.document("thing", "contended").await.unwrap();
        let version = read.map_or(0, |document| document.version);
        assert_eq!(version, i64::from(round));
        // The writer is busy with the first of them while the others are asked for.
        let (busy, first, between, second) = tokio::join!(
            store.acknowledge("busy", 1),
            put(2 * round, version),
            store.acknowledge("between", 1),
            put(2 * round + 1, version),
        );
        busy.and(between).unwrap();
        first.unwrap();
        let refused = matches!(second, Err(CommitError::Refused(Refusal::Conflict { .. })));
        assert!(refused, "round {round}: {second:?}");
    }
}
