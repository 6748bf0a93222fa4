//! Every store keeps the contract of `store::contract`.

use std::sync::Arc;

use flashkit::store::MemoryStore;
#[cfg(feature = "sqlite")]
use flashkit::store::contract::check_reopening;
use flashkit::store::contract::{FreshStore, check_all};

fn report(kept: &[&str]) {
    println!("{} promises kept: {}", kept.len(), kept.join(", "));
    assert!(kept.len() >= 41);
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
