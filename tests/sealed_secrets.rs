//! Secrets in the store, sealed with a key of the host's, and keys that are changed.
#![cfg(feature = "sqlite")]

mod support;

use std::path::Path;
use std::sync::Arc;

use flashkit::access::{HostKey, HostKeys};
use flashkit::ports::SystemClock;
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{MemoryStore, Store};
use flashkit::{Engine, Error, MasterSecret};
use support::shop;

fn key(number: u8) -> HostKey {
    HostKey::new([number; 32])
}

fn memory() -> MemoryStore {
    MemoryStore::new(Arc::new(SystemClock))
}

/// What can be told of a secret: the node's entropy that comes from it.
fn entropy(secret: &MasterSecret) -> Vec<u8> {
    secret.node_entropy().to_vec()
}

async fn sealed(store: &dyn Store, keys: &HostKeys) -> Result<Vec<u8>, &'static str> {
    let secret = MasterSecret::sealed_in(store, keys).await;
    secret
        .map(|secret| entropy(&secret))
        .map_err(|error: Error| error.code())
}

#[tokio::test]
async fn a_secret_is_made_once_and_opened_with_its_key_alone() {
    let (store, other) = (memory(), memory());
    let first = sealed(&store, &HostKeys::new(key(1))).await.unwrap();
    let again = sealed(&store, &HostKeys::new(key(1))).await.unwrap();
    assert_eq!(first, again);
    let wrong = sealed(&store, &HostKeys::new(key(2))).await;
    assert_eq!(wrong, Err("access.wrong_host_key"));
    let elsewhere = sealed(&other, &HostKeys::new(key(1))).await.unwrap();
    assert_ne!(first, elsewhere, "each store has its own");
    assert_ne!(key(1).name(), key(2).name());
    assert_eq!(format!("{:?}", key(1)), "HostKey(redacted)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_that_open_at_the_same_time_have_one_secret() {
    let store = memory();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = store.clone();
        tasks.spawn(async move { sealed(&store, &HostKeys::new(key(1))).await.unwrap() });
    }
    let secrets = tasks.join_all().await;
    assert!(secrets.iter().all(|secret| *secret == secrets[0]));
}

#[tokio::test]
async fn a_new_key_takes_the_place_of_the_old_one() {
    let store = memory();
    let old = HostKeys::new(key(1));
    let secret = sealed(&store, &old).await.unwrap();
    old.seal(&store, "issuer-key/2023", b"sixteen bytes !!")
        .await
        .unwrap();
    let both = HostKeys::new(key(2)).with_retired(key(1));
    assert_eq!(sealed(&store, &both).await.unwrap(), secret);
    // The master secret was sealed anew by that; the other one not yet.
    assert_eq!(sealed(&store, &old).await, Err("access.wrong_host_key"));
    assert!(old.open(&store, "issuer-key/2023").await.unwrap().is_some());
    assert_eq!(both.rotate(&store).await.unwrap(), 1);
    assert_eq!(both.rotate(&store).await.unwrap(), 0);
    let refused = old.open(&store, "issuer-key/2023").await.unwrap_err();
    assert_eq!(refused.code(), "access.wrong_host_key");
    let new = HostKeys::new(key(2));
    assert_eq!(sealed(&store, &new).await.unwrap(), secret);
    let opened = new.open(&store, "issuer-key/2023").await.unwrap().unwrap();
    assert_eq!(opened.as_slice(), b"sixteen bytes !!");
}

#[tokio::test]
async fn names_are_checked_and_the_masters_is_its_own() {
    let (store, keys) = (memory(), HostKeys::new(key(1)));
    for name in ["", "master", "two words", "é", &"x".repeat(101)] {
        let refused = keys.seal(&store, name, b"secret").await.unwrap_err();
        assert_eq!(refused.code(), "command.bad_key", "{name:?}");
    }
    assert!(keys.open(&store, "nothing").await.unwrap().is_none());
}

/// Books that were made with a secret of the host's take that one, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_books_take_their_own_secret() {
    let store = memory();
    let keys = HostKeys::new(key(1));
    shop::engine_on(Arc::new(store.clone()), None).await;
    assert_eq!(sealed(&store, &keys).await, Err("access.not_sealed"));
    let other = MasterSecret::new([8; 32]);
    let refused = other.seal_in(&store, &keys).await.unwrap_err();
    assert_eq!(refused.code(), "access.other_secret");
    shop::master().seal_in(&store, &keys).await.unwrap();
    assert_eq!(sealed(&store, &keys).await, Ok(entropy(&shop::master())));
    let secret = MasterSecret::sealed_in(&store, &keys).await.unwrap();
    let builder = Engine::builder(Arc::new(store.clone()), secret).network("regtest");
    builder.open().await.unwrap();
}

fn holds(folder: &Path, needle: &[u8]) -> bool {
    let files = std::fs::read_dir(folder).unwrap();
    files.into_iter().any(|file| {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let hex = hex::encode(needle);
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        has(needle) || has(hex.as_bytes()) || has(hex.to_uppercase().as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_has_a_secret_in_clear_and_a_forged_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.db");
    let keys = HostKeys::new(key(1));
    let secret = [0xa7; 32];
    {
        let store = SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
        let master = MasterSecret::new(secret);
        master.seal_in(&store, &keys).await.unwrap();
        keys.seal(&store, "issuer-key", &[0xb8; 32]).await.unwrap();
        assert!(
            holds(folder.path(), b"sealed_secret"),
            "the log is read too"
        );
        for needle in [&secret[..], &[0xb8; 32], &[1; 32]] {
            assert!(!holds(folder.path(), needle));
        }
        store.close().await.unwrap();
    }
    // One sealed secret in the place of another.
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection
        .execute_batch(
            "UPDATE documents SET body = (SELECT body FROM documents WHERE collection =
                 'sealed_secret' AND id = 'issuer-key')
             WHERE collection = 'sealed_secret' AND id = 'master'",
        )
        .unwrap();
    connection.close().unwrap();
    let store = SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
    assert_eq!(sealed(&store, &keys).await, Err("access.seal_broken"));
    store.close().await.unwrap();
}
