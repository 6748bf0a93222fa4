//! Searches find the same on every store; PostgreSQL's turn is in `tests/postgres.rs`.

use std::sync::Arc;

use flashkit::store::MemoryStore;
use flashkit::store::sqlite::SqliteStore;

use crate::searches::{clock, search};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_sqlite_find_the_same_as_a_plain_look() {
    let at = clock();
    let in_memory = search(Arc::new(MemoryStore::new(at.clone())), at).await;
    let folder = tempfile::tempdir().unwrap();
    let at = clock();
    let store = SqliteStore::open(folder.path().join("books.db"), at.clone()).unwrap();
    assert_eq!(search(Arc::new(store), at).await, in_memory);
}
