//! A store that is not the crate's own: the one of `examples/redb_store`, which was written from
//! the documentation of the contract, keeps it.

mod support;

#[path = "../examples/redb_store/store/mod.rs"]
mod redb_store;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use flashkit::store::contract::{FreshStore, check_all};
use redb_store::RedbStore;

#[tokio::test]
async fn it_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let files = AtomicU32::new(0);
    let kept = check_all(|clock| {
        let number = files.fetch_add(1, Ordering::SeqCst);
        let file = folder.path().join(format!("{number}.redb"));
        async move {
            let store = Arc::new(RedbStore::open(&file, clock.clone())?);
            Ok(FreshStore::new(store.clone(), store, clock))
        }
    })
    .await;
    let kept = kept.unwrap_or_else(|violation| panic!("{violation}"));
    println!("{} promises kept: {}", kept.len(), kept.join(", "));
    assert!(kept.len() >= 40);
}
