//! A file that is damaged, foreign, too new or held by another is refused with a typed error,
//! and is left as it was.
#![cfg(feature = "sqlite")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use flashkit::ids::{BatchId, CardId, TransferId};
use flashkit::ledger::{
    Account, Batch, NewEvent, NewHold, NewTransfer, Step, TransferKind, UsageWindow,
};
use flashkit::ports::SystemClock;
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{CommitError, KeyPath, KeyValue, KeyValueWrite, Store, StoreError};
use sha2::{Digest, Sha256};

/// In the second process: the file to open.
const SECOND: &str = "FLASHKIT_TEST_SECOND_PROCESS";

struct Books {
    _folder: tempfile::TempDir,
    file: PathBuf,
}

fn card(number: u8) -> Account {
    Account::card_balance(CardId::from_parts(1, [number; 10]))
}

fn batch(number: u8) -> Batch {
    let transfer = NewTransfer {
        id: TransferId::from_parts(1, [number; 10]),
        debit: Account::node_channels(),
        credit: card(number),
        amount: 1_000,
        kind: TransferKind::TopUp,
        reference: "a reference that fills some pages".repeat(10),
        credit_ceiling: None,
    };
    let event = NewEvent {
        kind: "card.topped_up",
        object: format!("card {number}"),
        body: serde_json::json!({ "amount_msat": 1_000 }).into(),
    };
    Batch {
        id: BatchId::from_parts(1, [number; 10]),
        command: None,
        steps: vec![Step::Transfer(transfer), Step::Emit(event)].into(),
    }
}

fn open(file: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(file, Arc::new(SystemClock))
}

fn files_beside(file: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(file.parent().unwrap()).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let all = entries.map(|entry| entry.unwrap().path());
    let is_beside = |path: &PathBuf| {
        let other = path.file_name().unwrap().to_str().unwrap();
        other != name && other.starts_with(name)
    };
    all.filter(is_beside).collect()
}

impl Books {
    /// A folder without a file.
    fn none() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("books.db");
        Self {
            _folder: folder,
            file,
        }
    }

    /// Books with a hundred top-ups in them, closed.
    async fn closed() -> Self {
        let books = Self::none();
        let store = open(&books.file).unwrap();
        for number in 0..100 {
            store.commit(batch(number)).await.unwrap();
        }
        store.close().await.unwrap();
        // Whoever closed a store can copy the one file.
        assert!(!books.beside("-wal").exists() && !books.beside("-shm").exists());
        books
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(ending);
        name.into()
    }

    /// All that the engine keeps beside the file.
    fn all_beside(&self) -> Vec<PathBuf> {
        files_beside(&self.file)
    }

    fn copy_to(&self, folder: &Path) {
        for path in self.all_beside().iter().chain([&self.file]) {
            fs::copy(path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }

    /// Copies everything over what is there; what is not there in the copy stays or is removed.
    fn copy_from(&self, folder: &Path, is_cleared: bool) {
        let to = self.file.parent().unwrap();
        for entry in fs::read_dir(folder).unwrap() {
            let from = entry.unwrap();
            fs::copy(from.path(), to.join(from.file_name())).unwrap();
        }
        for path in self.all_beside() {
            if is_cleared && !folder.join(path.file_name().unwrap()).exists() {
                fs::remove_file(path).unwrap();
            }
        }
    }

    /// The digest of the file and of the log beside it.
    fn hash(&self) -> String {
        let mut digest = Sha256::new();
        for file in [self.file.clone(), self.beside("-wal")] {
            digest.update(fs::read(file).unwrap_or_default());
            digest.update(b"/");
        }
        hex::encode(digest.finalize())
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(&self.file, bytes).unwrap();
        for ending in ["-wal", "-shm"] {
            drop(fs::remove_file(self.beside(ending)));
        }
    }

    /// Opening fails with one of these codes and changes nothing.
    #[track_caller]
    fn refused(&self, what: &str, codes: &[&str]) -> StoreError {
        let before = self.hash();
        let error = open(&self.file).map(drop).expect_err(what);
        assert!(codes.contains(&error.code()), "{what}: {error:?}");
        assert!(!error.to_string().is_empty());
        assert_eq!(self.hash(), before, "{what}: the file was changed");
        error
    }
}

/// Reads and writes whatever there is. Answers the codes of what failed.
async fn use_all(store: &SqliteStore) -> Vec<&'static str> {
    let mut failed = Vec::new();
    let mut note = |answer: Result<(), StoreError>| {
        if let Err(error) = answer {
            failed.push(error.code());
        }
    };
    note(store.balances(None, 1_000).await.map(drop));
    note(store.events(0, 1_000).await.map(drop));
    let accounts = (0..100).map(card).chain([Account::node_channels()]);
    for account in accounts {
        note(store.balance(&account).await.map(drop));
        note(store.transfers(&account, None, 1_000).await.map(drop));
    }
    note(match store.commit(batch(200)).await {
        Ok(_) | Err(CommitError::Refused(_)) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
    });
    note(store.close().await);
    failed
}

#[test]
fn garbage_is_no_store() {
    let books = Books::none();
    for length in [1, 15, 16, 99, 100, 511, 512, 4_096, 100_000_usize] {
        let garbage: Vec<u8> = (0..length).map(|at| (at * 7 + at / 13) as u8 | 1).collect();
        books.write(&garbage);
        books.refused("garbage", &["store.corrupt", "store.io"]);
    }
    // A header that promises a database, with nothing behind it.
    let mut header = b"SQLite format 3\0".to_vec();
    header.resize(4_096, 0xff);
    books.write(&header);
    books.refused("a header alone", &["store.corrupt", "store.io"]);
    fs::remove_file(&books.file).unwrap();
    fs::create_dir(&books.file).unwrap();
    let error = open(&books.file).map(drop).unwrap_err();
    assert_eq!(error.code(), "store.io", "a folder: {error:?}");
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let books = Books::closed().await;
    let whole = fs::read(&books.file).unwrap();
    let page = 2_048;
    for length in [
        50,
        100,
        1_000,
        page,
        page + 1,
        whole.len() / 2,
        whole.len() - page,
        whole.len() - 1,
    ] {
        books.write(&whole[..length]);
        books.refused("a truncated file", &["store.corrupt", "store.io"]);
    }
    books.write(&whole);
    let store = open(&books.file).unwrap();
    assert_eq!(use_all(&store).await, [""; 0]);
}

#[tokio::test]
async fn flipped_bytes_are_a_typed_error_at_worst() {
    let books = Books::closed().await;
    let whole = fs::read(&books.file).unwrap();
    let (mut refused, mut failed, mut unseen) = (0, 0, 0);
    // The head of every page, and places all over the file.
    let heads = (0..whole.len() / 2_048).map(|page| page * 2_048 + if page == 0 { 100 } else { 0 });
    let places = heads.chain((16..whole.len()).step_by(1_777));
    for place in places {
        let mut bytes = whole.clone();
        for byte in bytes.iter_mut().skip(place).take(4) {
            *byte ^= 0xff;
        }
        books.write(&bytes);
        let before = books.hash();
        match open(&books.file) {
            Err(error) => {
                let code = error.code();
                assert!(
                    ["store.corrupt", "store.io", "store.newer_schema"].contains(&code),
                    "{code}"
                );
                assert_eq!(books.hash(), before, "{place}: the file was changed");
                refused += 1;
            }
            Ok(store) => {
                let codes = use_all(&store).await;
                assert!(
                    codes
                        .iter()
                        .all(|code| ["store.corrupt", "store.io"].contains(code)),
                    "{codes:?}"
                );
                if codes.is_empty() {
                    unseen += 1;
                } else {
                    failed += 1;
                }
            }
        }
    }
    println!("flipped: {refused} refused at open, {failed} failed when read, {unseen} unseen");
    assert!(refused > 0 && failed > 0);
}

#[test]
fn another_programs_file_is_left_alone() {
    let books = Books::none();
    let other = rusqlite::Connection::open(&books.file).unwrap();
    other
        .execute_batch("CREATE TABLE notes (text); INSERT INTO notes VALUES ('mine')")
        .unwrap();
    other.close().unwrap();
    books.refused("another program's file", &["store.corrupt"]);
    // Also while that program runs, with a log that is not written back.
    let other = rusqlite::Connection::open(&books.file).unwrap();
    other.pragma_update(None, "journal_mode", "WAL").unwrap();
    other
        .execute_batch("INSERT INTO notes VALUES ('more')")
        .unwrap();
    books.refused("another program's open file", &["store.corrupt"]);
    let notes: i64 = other
        .query_row("SELECT count(*) FROM notes", [], |row| row.get(0))
        .unwrap();
    assert_eq!(notes, 2);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let books = Books::closed().await;
    let newer = rusqlite::Connection::open(&books.file).unwrap();
    newer.pragma_update(None, "user_version", 5).unwrap();
    newer.close().unwrap();
    let error = books.refused("a newer schema", &["store.newer_schema"]);
    assert_eq!(error, StoreError::NewerSchema { found: 5, known: 4 });
    // Also one that a crash left with a log beside it: it belongs to whoever wrote it.
    let newer = rusqlite::Connection::open(&books.file).unwrap();
    newer.pragma_update(None, "journal_mode", "WAL").unwrap();
    newer
        .execute_batch("CREATE TABLE added (column_of_the_future)")
        .unwrap();
    let crashed = Books::none();
    for ending in ["", "-wal"] {
        fs::copy(books.beside(ending), crashed.beside(ending)).unwrap();
    }
    assert!(fs::metadata(crashed.beside("-wal")).unwrap().len() > 0);
    crashed.refused("a newer schema after a crash", &["store.newer_schema"]);
}

#[tokio::test]
async fn one_engine_a_file() {
    let books = Books::closed().await;
    let store = open(&books.file).unwrap();
    store.commit(batch(101)).await.unwrap();
    let error = books.refused("a second store", &["store.in_use"]);
    assert!(error.is_retryable());

    let in_another_process = |file: &Path| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "second_process", "--nocapture"])
            .env(SECOND, file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        text
    };
    let before = books.hash();
    assert!(in_another_process(&books.file).contains("answer: store.in_use"));
    assert_eq!(books.hash(), before);
    store.commit(batch(102)).await.unwrap();
    store.close().await.unwrap();
    assert!(in_another_process(&books.file).contains("answer: opened"));
    // That process ended without closing; the file is free all the same, and whole.
    let store = open(&books.file).unwrap();
    assert_eq!(use_all(&store).await, [""; 0]);
}

/// Not a test by itself: what [`one_engine_a_file`] runs in another process.
#[test]
fn second_process() {
    if let Some(file) = std::env::var_os(SECOND) {
        let answer = open(Path::new(&file));
        let answer = answer.as_ref().map_or_else(StoreError::code, |_| "opened");
        println!("answer: {answer}");
        // As a crash does: nothing is dropped.
        std::process::exit(0);
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_written() {
    let books = Books::closed().await;
    let folder = books.file.parent().unwrap();
    let mut permissions = fs::metadata(folder).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(folder, permissions.clone()).unwrap();
    let superuser = fs::write(folder.join("probe"), b"").is_ok();
    if superuser {
        println!("skipped: this user may write into read-only folders (root)");
    } else {
        fs::remove_file(books.beside(".lock")).ok();
        books.refused("a read-only folder", &["store.read_only"]);
    }
    #[expect(
        clippy::permissions_set_readonly_false,
        reason = "so that the folder can be removed"
    )]
    permissions.set_readonly(false);
    fs::set_permissions(folder, permissions).unwrap();

    let missing = Books::none();
    let nowhere = missing.file.join("books.db");
    let error = open(&nowhere).map(drop).unwrap_err();
    assert_eq!(error.code(), "store.io", "{error:?}");
    assert!(!missing.file.exists());
}

/// What a user is told who may read the books and not write them. A superuser may write anything,
/// so that another process asks, as nobody.
#[cfg(unix)]
#[tokio::test]
async fn a_file_that_cannot_be_written() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::process::CommandExt as _;

    let books = Books::closed().await;
    let folder = books.file.parent().unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let program = folder.join("another-user");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    mode(&program, 0o755);
    let is_superuser = fs::metadata(&books.file).unwrap().uid() == 0;
    let ask = |file_mode, folder_mode| {
        drop(fs::remove_file(books.beside(".lock")));
        mode(&books.file, file_mode);
        mode(folder, folder_mode);
        let mut command = Command::new(&program);
        command.args(["--exact", "second_process", "--nocapture"]);
        command.env(SECOND, &books.file);
        if is_superuser {
            command.uid(65_534).gid(65_534);
        }
        let output = command.output().unwrap();
        mode(folder, 0o777);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        let answer = text.lines().find_map(|line| line.strip_prefix("answer: "));
        answer.unwrap().to_owned()
    };
    let before = books.hash();
    assert_eq!(ask(0o444, 0o777), "store.read_only");
    assert_eq!(ask(0o666, 0o555), "store.read_only");
    assert_eq!(books.hash(), before);
    assert_eq!(ask(0o666, 0o777), "opened");
}

#[tokio::test]
async fn a_closed_store_changes_nothing() {
    let books = Books::closed().await;
    let store = open(&books.file).unwrap();
    let (first, second) = tokio::join!(store.close(), store.close());
    assert_eq!((first, second), (Ok(()), Ok(())));
    let before = books.hash();
    let closed = Err(CommitError::Store(StoreError::Closed));
    assert_eq!(store.commit(batch(103)).await, closed);
    assert_eq!(store.balance(&card(1)).await, Err(StoreError::Closed));
    assert_eq!(
        store.acknowledge("reader", 1).await,
        Err(StoreError::Closed)
    );
    assert_eq!(books.hash(), before);
    // And the file is free at once.
    let store = open(&books.file).unwrap();
    assert_eq!(use_all(&store).await, [""; 0]);
}

/// A second name for the same file is the same file.
#[cfg(unix)]
#[tokio::test]
async fn one_engine_a_file_whatever_it_is_called() {
    let books = Books::closed().await;
    let link = books.file.with_file_name("link.db");
    std::os::unix::fs::symlink(&books.file, &link).unwrap();
    let store = open(&books.file).unwrap();
    let error = open(&link).map(drop).unwrap_err();
    assert_eq!(error.code(), "store.in_use", "{error:?}");
    store.close().await.unwrap();
    let store = open(&link).unwrap();
    assert_eq!(use_all(&store).await, [""; 0]);
}

#[tokio::test]
async fn an_emptied_file_is_no_new_one() {
    let books = Books::closed().await;
    fs::write(&books.file, b"").unwrap();
    let error = open(&books.file).map(drop).unwrap_err();
    assert_eq!(error.code(), "store.corrupt", "{error:?}");
    assert_eq!(fs::metadata(&books.file).unwrap().len(), 0);
}

async fn node_writes(store: &SqliteStore, times: u8) {
    let epoch = store.begin_epoch().await.unwrap();
    for number in 0..times {
        let path = KeyPath {
            primary: "monitors".to_owned(),
            secondary: String::new(),
            key: number.to_string(),
        };
        let value = vec![number];
        let change = KeyValueWrite::Put { path, value };
        store.write(epoch, change).await.unwrap();
    }
}

/// An older copy that was put back: the books open, the node does not run.
#[tokio::test]
async fn a_node_never_runs_on_an_older_copy_of_its_state() {
    let books = Books::closed().await;
    let store = open(&books.file).unwrap();
    node_writes(&store, 3).await;
    store.close().await.unwrap();
    let copy = fs::read(&books.file).unwrap();
    // The newest file runs, as often as it likes.
    for _ in 0..2 {
        let store = open(&books.file).unwrap();
        node_writes(&store, 1).await;
        store.close().await.unwrap();
    }
    let newest = fs::read(&books.file).unwrap();

    fs::write(&books.file, &copy).unwrap();
    let store = open(&books.file).unwrap();
    let refused = store.begin_epoch().await.unwrap_err();
    let stale = StoreError::StaleNodeState {
        found: 3,
        expected: Some(5),
    };
    assert_eq!(refused, stale);
    assert_eq!(refused.code(), "store.stale_node_state");
    assert_eq!(use_all(&store).await, [""; 0], "the books are usable");
    store.close().await.unwrap();

    // Moved without what lies beside it: nobody knows whether it is the newest.
    fs::write(&books.file, &newest).unwrap();
    for beside in books.all_beside() {
        fs::remove_file(beside).unwrap();
    }
    let store = open(&books.file).unwrap();
    let refused = store.begin_epoch().await.unwrap_err();
    assert_eq!(refused.code(), "store.stale_node_state");
    store.trust_node_state();
    node_writes(&store, 1).await;
    store.close().await.unwrap();
    let store = open(&books.file).unwrap();
    store.begin_epoch().await.unwrap();
}

/// The whole folder is copied and put back later, as every phone's backup does: the lock's file says
/// what the old database says, and is not the file it was.
#[tokio::test]
async fn a_node_never_runs_on_a_copy_of_the_whole_folder() {
    let books = Books::closed().await;
    let store = open(&books.file).unwrap();
    node_writes(&store, 3).await;
    store.close().await.unwrap();
    let yesterday = tempfile::tempdir().unwrap();
    books.copy_to(yesterday.path());
    let copy = yesterday.path().join(books.file.file_name().unwrap());
    for _ in 0..2 {
        let store = open(&copy).unwrap();
        let refused = store.begin_epoch().await.unwrap_err();
        assert_eq!(refused.code(), "store.stale_node_state");
        assert_eq!(use_all(&store).await, [""; 0], "the books are usable");
        store.close().await.unwrap();
    }
    let store = open(&copy).unwrap();
    store.trust_node_state();
    node_writes(&store, 1).await;
    store.close().await.unwrap();
    let store = open(&copy).unwrap();
    store.begin_epoch().await.unwrap();
    store.close().await.unwrap();
    // What only has another name is what it was.
    let renamed = copy.with_file_name("renamed.db");
    fs::rename(&copy, &renamed).unwrap();
    for beside in files_beside(&copy) {
        let name = beside.file_name().unwrap().to_str().unwrap();
        let name = name.replace("books.db", "renamed.db");
        fs::rename(&beside, renamed.with_file_name(name)).unwrap();
    }
    open(&renamed).unwrap().begin_epoch().await.unwrap();
}

/// The whole folder is copied, and later copied back over the files that are there, which stay the
/// files they were. What came newly since may stay too, or is removed, as `rsync --delete` does.
#[tokio::test]
async fn a_node_never_runs_on_a_copy_that_was_put_back_over_what_was_there() {
    let books = Books::closed().await;
    let store = open(&books.file).unwrap();
    node_writes(&store, 3).await;
    store.close().await.unwrap();
    let (yesterday, today) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    books.copy_to(yesterday.path());
    let store = open(&books.file).unwrap();
    node_writes(&store, 2).await;
    store.close().await.unwrap();
    books.copy_to(today.path());

    for is_cleared in [false, true] {
        books.copy_from(yesterday.path(), is_cleared);
        for _ in 0..2 {
            let store = open(&books.file).unwrap();
            let refused = store.begin_epoch().await.unwrap_err();
            assert_eq!(refused.code(), "store.stale_node_state", "{is_cleared}");
            assert_eq!(use_all(&store).await, [""; 0], "the books are usable");
            store.close().await.unwrap();
        }
        if !is_cleared {
            // The newest one is that beside its own number, whatever else was left there.
            fs::copy(today.path().join("books.db"), &books.file).unwrap();
            let store = open(&books.file).unwrap();
            store.begin_epoch().await.unwrap();
            store.close().await.unwrap();
        }
    }
    // Given up, its channels are none any more, and the node starts; as often as it likes.
    let store = open(&books.file).unwrap();
    assert_eq!(store.forget_channels(Vec::new()).await, Ok(true));
    store.close().await.unwrap();
    for _ in 0..2 {
        let store = open(&books.file).unwrap();
        store.begin_epoch().await.unwrap();
        store.close().await.unwrap();
    }
    // And what ran until then is an older one now, also without what lay beside it.
    fs::copy(today.path().join("books.db"), &books.file).unwrap();
    let store = open(&books.file).unwrap();
    let refused = store.begin_epoch().await.unwrap_err();
    assert_eq!(refused.code(), "store.stale_node_state");
    store.close().await.unwrap();
    books.copy_from(today.path(), true);
    let store = open(&books.file).unwrap();
    let refused = store.begin_epoch().await.unwrap_err();
    assert_eq!(refused.code(), "store.stale_node_state");
}

/// Whoever asks for the node in vain makes no older file the newest.
#[tokio::test]
async fn a_refused_node_leaves_the_number_as_it_was() {
    let books = Books::closed().await;
    let store = open(&books.file).unwrap();
    node_writes(&store, 3).await;
    store.close().await.unwrap();
    let copy = fs::read(&books.file).unwrap();
    let store = open(&books.file).unwrap();
    node_writes(&store, 2).await;
    store.close().await.unwrap();
    fs::write(&books.file, &copy).unwrap();
    for _ in 0..3 {
        let store = open(&books.file).unwrap();
        let path = KeyPath {
            primary: "monitors".to_owned(),
            secondary: String::new(),
            key: "0".to_owned(),
        };
        let refused = store.write(9, KeyValueWrite::Remove { path }).await;
        assert_eq!(refused.unwrap_err().code(), "store.fenced");
        let refused = store.begin_epoch().await.unwrap_err();
        let stale = StoreError::StaleNodeState {
            found: 3,
            expected: Some(5),
        };
        assert_eq!(refused, stale);
        store.close().await.unwrap();
    }
}

/// The lock's file is taken for one that a crash left, and removed; the engine runs.
#[tokio::test]
async fn a_lock_that_is_removed_lets_no_second_engine_in() {
    let books = Books::closed().await;
    let first = open(&books.file).unwrap();
    node_writes(&first, 1).await;
    fs::remove_file(books.beside(".lock")).unwrap();
    let error = open(&books.file).map(drop).unwrap_err();
    assert_eq!(error.code(), "store.in_use", "{error:?}");
    let moved = first.commit(batch(101)).await.unwrap_err();
    assert!(
        matches!(moved, CommitError::Store(StoreError::Moved { .. })),
        "{moved:?}"
    );
    assert_eq!(first.trouble().unwrap().error.code(), "store.moved");
    first.close().await.unwrap();
    open(&books.file).unwrap().begin_epoch().await.unwrap();
}

/// The number goes on where somebody has removed the file that says it.
#[tokio::test]
async fn a_number_that_is_removed_is_written_again() {
    let books = Books::closed().await;
    let store = open(&books.file).unwrap();
    node_writes(&store, 2).await;
    fs::remove_file(books.beside(".node-2")).unwrap();
    node_writes(&store, 2).await;
    assert!(books.beside(".node-4").exists());
    store.close().await.unwrap();
    open(&books.file).unwrap().begin_epoch().await.unwrap();
}

/// A file with books in it that was copied before its node first wrote: that may have begun since.
#[tokio::test]
async fn a_copy_from_before_the_node_began_starts_no_second_one() {
    let books = Books::closed().await;
    let elsewhere = Books::none();
    fs::copy(&books.file, &elsewhere.file).unwrap();
    let store = open(&books.file).unwrap();
    node_writes(&store, 3).await;
    store.close().await.unwrap();
    for _ in 0..2 {
        let store = open(&elsewhere.file).unwrap();
        let refused = store.begin_epoch().await.unwrap_err();
        assert_eq!(refused.code(), "store.stale_node_state");
        assert_eq!(use_all(&store).await, [""; 0], "the books are usable");
        store.close().await.unwrap();
    }
    let store = open(&elsewhere.file).unwrap();
    store.trust_node_state();
    node_writes(&store, 1).await;
    store.close().await.unwrap();
    open(&elsewhere.file).unwrap().begin_epoch().await.unwrap();
}

/// What the log says of itself, which is another thing each time it begins anew.
fn salt(log: &Path) -> Vec<u8> {
    fs::read(log).unwrap()[16..24].to_vec()
}

/// Writes so much that the log is written back, and begins anew.
async fn until_log_begins_anew(books: &Books, store: &SqliteStore) {
    let log = books.beside("-wal");
    let epoch = store.begin_epoch().await.unwrap();
    let before = salt(&log);
    for number in 0..200_u8 {
        let path = KeyPath {
            primary: String::new(),
            secondary: String::new(),
            key: "scorer".to_owned(),
        };
        let value = vec![number; 1 << 16];
        let change = KeyValueWrite::Put { path, value };
        store.write(epoch, change).await.unwrap();
        if salt(&log) != before {
            return;
        }
    }
    panic!("the log never began anew");
}

/// An older file is put back, and the log of the newer one was left beside it by a crash: SQLite would
/// play it into the older file, and find both sound.
#[tokio::test]
async fn a_log_is_played_into_no_other_file() {
    let books = Books::closed().await;
    let monday = fs::read(&books.file).unwrap();
    let store = open(&books.file).unwrap();
    store.commit(batch(101)).await.unwrap();
    // The same file still, to which the log has everything.
    let first = fs::read(books.beside("-wal")).unwrap();
    until_log_begins_anew(&books, &store).await;
    store.commit(batch(102)).await.unwrap();
    node_writes(&store, 1).await;
    let backup = books.beside(".backup");
    store.backup(&backup).await.unwrap();
    let backup = fs::read(backup).unwrap();
    let log = fs::read(books.beside("-wal")).unwrap();
    let tuesday = fs::read(&books.file).unwrap();
    store.close().await.unwrap();
    let lie = |file: &[u8], log: &[u8]| {
        books.write(file);
        fs::write(books.beside("-wal"), log).unwrap();
    };
    for (what, file) in [("an older file", &monday), ("a backup", &backup)] {
        lie(file, &log);
        let error = books.refused(what, &["store.corrupt"]);
        assert!(error.to_string().contains("books.db-wal"), "{error}");
    }
    lie(&[], &log);
    books.refused("an empty file", &["store.corrupt"]);
    // Without the log it is Monday, without Monday's node.
    books.write(&monday);
    let store = open(&books.file).unwrap();
    let refused = store.begin_epoch().await.unwrap_err();
    assert_eq!(refused.code(), "store.stale_node_state");
    store.close().await.unwrap();
    for (file, log, commits) in [(&monday, &first, 101), (&tuesday, &log, 102)] {
        lie(file, log);
        let store = open(&books.file).unwrap();
        let found = store.commits(0, 1_000).await.unwrap();
        assert_eq!(found.len(), commits);
        store.close().await.unwrap();
    }
    open(&books.file).unwrap().begin_epoch().await.unwrap();
}

/// A version that knew nothing of it was killed: its log goes with its file.
#[tokio::test]
async fn a_log_of_before_is_played_into_its_file() {
    let books = Books::closed().await;
    let before = rusqlite::Connection::open(&books.file).unwrap();
    let forget = "DELETE FROM settings WHERE name LIKE 'log_number%';
                  PRAGMA wal_checkpoint(TRUNCATE);
                  INSERT INTO cursors (name, position) VALUES ('reader', 7)";
    before.execute_batch(forget).unwrap();
    let killed = Books::none();
    for ending in ["", "-wal"] {
        fs::copy(books.beside(ending), killed.beside(ending)).unwrap();
    }
    assert!(fs::metadata(killed.beside("-wal")).unwrap().len() > 0);
    let store = open(&killed.file).unwrap();
    assert_eq!(store.cursor("reader").await, Ok(7));
    assert_eq!(use_all(&store).await, [""; 0]);
}

/// One card's hold cannot be read any more: who debits that card learns of it, and everybody else,
/// in the same groups, does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_row_takes_no_other_commit_with_it() {
    const DAMAGED: u8 = 200;
    let books = Books::none();
    let (store, income) = (open(&books.file).unwrap(), Account::fee_income());
    store.commit(batch(DAMAGED)).await.unwrap();
    let debit = |number: u8, from| NewTransfer {
        id: TransferId::from_parts(2, [number; 10]),
        debit: from,
        credit: income,
        amount: 1,
        kind: TransferKind::Charge,
        reference: "r".to_owned(),
        credit_ceiling: None,
    };
    let hold = Step::Hold(NewHold {
        transfer: debit(DAMAGED, card(DAMAGED)),
        expires_at_ms: Some(1),
        usage: vec![UsageWindow {
            subject: "s".to_owned(),
            start_ms: 0,
            end_ms: i64::MAX,
        }],
    });
    let one = |number: u8, step| Batch {
        id: BatchId::from_parts(2, [number; 10]),
        command: None,
        steps: vec![step].into(),
    };
    store.commit(one(DAMAGED, hold)).await.unwrap();
    store.close().await.unwrap();
    let raw = rusqlite::Connection::open(&books.file).unwrap();
    let damage = "UPDATE holds SET usage = '[{'";
    assert_eq!(raw.execute(damage, []).unwrap(), 1);
    raw.close().unwrap();
    let store = open(&books.file).unwrap();
    let mut work = tokio::task::JoinSet::new();
    for number in 0..DAMAGED {
        let is_victim = number % 10 == 0;
        let from = if is_victim {
            card(DAMAGED)
        } else {
            Account::node_channels()
        };
        let (store, batch) = (
            store.clone(),
            one(number, Step::Transfer(debit(number, from))),
        );
        work.spawn(async move { (is_victim, store.commit(batch).await) });
    }
    while let Some(answered) = work.join_next().await {
        let (is_victim, answer) = answered.unwrap();
        let is_corrupt = matches!(answer, Err(CommitError::Store(StoreError::Corrupt { .. })));
        assert_eq!(is_victim, is_corrupt, "{answer:?}");
        assert_eq!(is_victim, answer.is_err());
    }
}
