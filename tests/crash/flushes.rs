//! Nothing is acknowledged before its flush.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flashkit::ids::{BatchId, TransferId};
use flashkit::ledger::{Account, Batch, CommandRecord, NewTransfer, Step, TransferKind};
use flashkit::ports::SystemClock;
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{CommitError, KeyPath, KeyValue, KeyValueWrite, Store, StoreError};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};

use crate::disk::{Disk, Fault};

pub const LOG: &str = "books.db-wal";
pub const FILE: &str = "books.db";

pub fn batch(number: u64) -> Batch {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    Batch {
        id: BatchId::from_parts(1, random),
        command: None,
        steps: vec![Step::Transfer(NewTransfer {
            id: TransferId::from_parts(1, random),
            debit: Account::node_channels(),
            credit: Account::operator_capital(),
            amount: 1,
            kind: TransferKind::Capital,
            reference: "flushed".to_owned(),
            credit_ceiling: None,
        })]
        .into(),
    }
}

fn store(folder: &Path) -> SqliteStore {
    SqliteStore::open(folder.join(FILE), Arc::new(SystemClock)).unwrap()
}

/// Opens the files as they would be found, without the store, and leaves them as they are.
pub fn look(folder: &Path) -> Connection {
    drop(std::fs::remove_file(folder.join("books.db-shm")));
    let connection = Connection::open(folder.join(FILE)).unwrap();
    let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(keep_log, true).unwrap();
    connection
}

fn put(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for name in [FILE, LOG] {
        let content = files.get(name).map_or(&[][..], Vec::as_slice);
        std::fs::write(folder.join(name), content).unwrap();
    }
}

/// Many callers, and the power fails at each acknowledgement: the disk has what was flushed, and
/// nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_acknowledged_is_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::under(folder.path());
    let store = store(folder.path());
    let before = disk.flushes(LOG);
    let tasks = (0..16_u64).map(|task| {
        let (store, disk) = (store.clone(), disk.clone());
        tokio::spawn(async move {
            let found = tempfile::tempdir().unwrap();
            for number in 0..20 {
                let batch = batch(task * 1_000 + number);
                let id = batch.id.to_string();
                store.commit(batch).await.unwrap();
                put(found.path(), &disk.durable());
                let there = look(found.path()).query_row(
                    "SELECT 1 FROM commits WHERE batch = ?1",
                    [&id],
                    |_| Ok(()),
                );
                let there = there.optional().unwrap();
                assert!(there.is_some(), "{id} was acknowledged and not flushed");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let flushes = disk.flushes(LOG) - before;
    println!("320 commits of 16 callers, {flushes} flushes of the log");
    assert!((1..=320).contains(&flushes));
    store.close().await.unwrap();
}

/// One caller: each commit has its flush, and each write of the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_of_one_caller_is_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::under(folder.path());
    let store = store(folder.path());
    let epoch = store.begin_epoch().await.unwrap();
    for number in 0..50 {
        let before = disk.flushes(LOG);
        store.commit(batch(number)).await.unwrap();
        let after = disk.flushes(LOG);
        assert!(after > before, "commit {number} was not flushed");
        let path = KeyPath {
            primary: "monitors".to_owned(),
            secondary: String::new(),
            key: "one".to_owned(),
        };
        let value = number.to_be_bytes().to_vec();
        let write = KeyValueWrite::Put { path, value };
        KeyValue::write(&store, epoch, write).await.unwrap();
        assert!(disk.flushes(LOG) > after, "write {number} was not flushed");
    }
    store.close().await.unwrap();
}

/// While the disk does not answer, neither does the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledgement_before_the_flush() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::under(folder.path());
    let store = store(folder.path());
    store.commit(batch(1)).await.unwrap();
    disk.hold_flushes("-wal");
    let task = {
        let store = store.clone();
        let command = CommandRecord {
            scope: "till/charge/2".to_owned(),
            fingerprint: "f".to_owned(),
            answer: serde_json::json!({}).into(),
        };
        let batch = Batch {
            command: Some(command),
            ..batch(2)
        };
        tokio::spawn(async move { store.commit(batch).await })
    };
    let waiting = disk.clone();
    tokio::task::spawn_blocking(move || waiting.until_flush_waits())
        .await
        .unwrap();
    // Nor is anybody told meanwhile that it was not done.
    let asked = {
        let store = store.clone();
        tokio::spawn(async move { store.command("till/charge/2").await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!task.is_finished(), "acknowledged before the flush");
    assert!(!asked.is_finished(), "called undone before the flush");
    // Nobody sees it either: a reader would act on what may be lost.
    let seen = store.commits(0, 10).await.unwrap().len();
    assert_eq!(seen, 1);
    disk.release_flushes();
    task.await.unwrap().unwrap();
    assert!(asked.await.unwrap().unwrap().is_some());
    store.close().await.unwrap();
}

fn is_in(folder: &Path, files: &BTreeMap<String, Vec<u8>>, batch: &Batch) -> bool {
    put(folder, files);
    let sql = "SELECT 1 FROM commits WHERE batch = ?1";
    let found = look(folder).query_row(sql, [batch.id.to_string()], |_| Ok(()));
    found.optional().unwrap().is_some()
}

/// Two commits; the process is killed while the second is flushed, or after that failed. Answers where
/// the next one finds what is in the memory of the system, and what is on the disk.
async fn killed_before_the_flush(does_fail: bool) -> (tempfile::TempDir, Arc<Disk>) {
    let (folder, next) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = Disk::under(folder.path());
    let killed = store(folder.path());
    killed.commit(batch(1)).await.unwrap();
    let durable = disk.durable();
    let flushing = if does_fail {
        disk.fail(Fault::Flush);
        killed.commit(batch(2)).await.unwrap_err();
        None
    } else {
        disk.hold_flushes("-wal");
        let killed = killed.clone();
        let flushing = tokio::spawn(async move { killed.commit(batch(2)).await });
        let waiting = disk.clone();
        let waited = tokio::task::spawn_blocking(move || waiting.until_flush_waits());
        waited.await.unwrap();
        Some(flushing)
    };
    for name in [FILE, LOG] {
        std::fs::copy(folder.path().join(name), next.path().join(name)).unwrap();
    }
    disk.heal();
    disk.release_flushes();
    if let Some(flushing) = flushing {
        flushing.await.unwrap().unwrap();
    }
    killed.close().await.unwrap();
    let disk = Disk::under(next.path());
    disk.had(durable);
    (next, disk)
}

/// What the next process finds in the log may be in the memory of the system alone. It is flushed
/// before it is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_process_left_unflushed_is_flushed_before_it_is_acknowledged() {
    let (folder, disk) = killed_before_the_flush(false).await;
    let found = tempfile::tempdir().unwrap();
    assert!(is_in(found.path(), &disk.durable(), &batch(1)));
    assert!(!is_in(found.path(), &disk.durable(), &batch(2)));
    let next = store(folder.path());
    let again = next.commit(batch(2)).await.unwrap();
    assert!(again.replayed, "it was done before");
    assert!(
        is_in(found.path(), &disk.durable(), &batch(2)),
        "not flushed"
    );
    next.close().await.unwrap();
}

/// The system gives up pages of which the flush failed: they are in its memory, and no later flush
/// brings them to the disk. What comes after them is not built upon them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_flush_left_is_nothing_to_build_upon() {
    let (folder, disk) = killed_before_the_flush(true).await;
    let (flushed, failed) = (disk.durable()[LOG].len(), folder.path().join(LOG));
    let failed = std::fs::read(failed).unwrap();
    assert!(failed.len() > flushed);
    let next = store(folder.path());
    assert!(next.commit(batch(2)).await.unwrap().replayed);
    next.commit(batch(3)).await.unwrap();
    let mut durable = disk.durable();
    let log = durable.get_mut(LOG).unwrap();
    for at in (flushed..failed.len()).step_by(512) {
        let sector = at..(at + 512).min(failed.len());
        // What is not another one now was never written again.
        if log.get(sector.clone()) == Some(&failed[sector.clone()]) {
            log[sector].fill(0);
        }
    }
    let found = tempfile::tempdir().unwrap();
    for number in 1..4 {
        assert!(
            is_in(found.path(), &durable, &batch(number)),
            "{number} is lost"
        );
    }
    next.close().await.unwrap();
}

/// Where it cannot be flushed, nothing of it is taken for done; and it is tried with each write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_flushed_is_not_taken_for_done() {
    let (folder, disk) = killed_before_the_flush(false).await;
    disk.fail(Fault::Flush);
    let next = store(folder.path());
    assert_eq!(
        next.trouble().map(|trouble| trouble.error.code()),
        Some("store.io")
    );
    let unknown = StoreError::OutcomeUnknown;
    let again = next.commit(batch(2)).await;
    assert_eq!(again, Err(CommitError::Store(unknown.clone())));
    assert_eq!(next.command("till/charge/1").await, Err(unknown));
    assert_eq!(
        next.commits(0, 10).await.unwrap().len(),
        2,
        "books can be read"
    );
    disk.heal();
    assert!(next.commit(batch(2)).await.unwrap().replayed);
    let found = tempfile::tempdir().unwrap();
    assert!(
        is_in(found.path(), &disk.durable(), &batch(2)),
        "not flushed"
    );
    next.commit(batch(3)).await.unwrap();
    assert_eq!(next.trouble(), None);
    next.close().await.unwrap();
}
