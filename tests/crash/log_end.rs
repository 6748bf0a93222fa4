//! Power fails while SQLite writes: whatever then stands behind the last flush, the file opens to
//! a prefix of the commits that has all that were acknowledged.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::ports::SystemClock;
use flashkit::store::sqlite::SqliteStore;
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use flashkit::{Answer, Engine, Error, treasury::Capital};

use crate::disk::Disk;
use crate::flushes::{FILE, LOG, look};
use crate::support::books::expect_sound;
use crate::support::{key, shop};
use crate::{Chance, setting};

/// The whole engine is opened, and the journal read, at one in so many places; the file is
/// opened at all of them.
const ENGINE_EVERY: usize = 499;
/// SQLite's own check, likewise.
const CHECK_EVERY: usize = 16;

/// What is on the disk when the power fails while a commit is being flushed.
struct Crashed {
    file: Vec<u8>,
    log: Vec<u8>,
    /// How much of the log had been flushed before.
    flushed: usize,
    /// The batches that were acknowledged, in order.
    acknowledged: Vec<String>,
    /// All batches that were begun.
    begun: Vec<String>,
}

async fn book(engine: &Engine, name: &str) -> Result<Answer<Capital>, Error> {
    let command = BookCapital {
        key: key(name),
        account: CapitalAccount::Channels,
        direction: CapitalDirection::In,
        amount_msat: 1,
        reason: name.to_owned(),
    };
    let (treasury, issuer) = (engine.treasury(), engine.issuer());
    treasury.book_capital(&issuer, command).await
}

fn batches(connection: &rusqlite::Connection) -> Vec<String> {
    let mut statement = connection
        .prepare("SELECT batch FROM commits ORDER BY position")
        .unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Commits a few times, and then a group of as many commits, during whose flush the power fails.
async fn crash(group: usize) -> Crashed {
    let mut pause = Duration::from_millis(300);
    loop {
        let crashed = crash_after(pause, group).await;
        if crashed.is_one_group() {
            return crashed;
        }
        // Some came too late to be of the group: on a slow machine they need longer.
        pause *= 2;
        assert!(pause < Duration::from_secs(30), "never one group");
    }
}

async fn crash_after(pause: Duration, group: usize) -> Crashed {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::under(folder.path());
    let file = folder.path().join(FILE);
    let store = SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
    let engine = shop::engine_on(Arc::new(store), None).await;
    for number in 0..8 {
        book(&engine, &format!("before/{number}")).await.unwrap();
    }
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let begin = |name: String| {
        let engine = engine.clone();
        tokio::spawn(async move { book(&engine, &name).await })
    };
    let until_flush_waits = || {
        let disk = disk.clone();
        tokio::task::spawn_blocking(move || disk.until_flush_waits())
    };
    disk.hold_flushes("-wal");
    // While one is flushed, the others wait, and become one group.
    let one_before = begin("before".to_owned());
    until_flush_waits().await.unwrap();
    let tasks: Vec<_> = (0..group).map(|one| begin(format!("last/{one}"))).collect();
    tokio::time::sleep(pause).await;
    disk.let_one_flush_go();
    one_before.await.unwrap().unwrap();
    let acknowledged = batches(&rusqlite::Connection::open(&file).unwrap());
    until_flush_waits().await.unwrap();
    let (file, log, durable) = (read(FILE), read(LOG), disk.durable());
    assert!(tasks.iter().all(|task| !task.is_finished()));
    disk.release_flushes();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let begun = batches(&rusqlite::Connection::open(folder.path().join(FILE)).unwrap());
    engine.stop().await.unwrap();
    assert!(log.starts_with(&durable[LOG]) && log.len() > durable[LOG].len());
    assert_eq!(acknowledged.len() + group, begun.len());
    Crashed {
        file,
        log,
        flushed: durable[LOG].len(),
        acknowledged,
        begun,
    }
}

/// A folder in memory where there is one: tens of thousands of files are opened there.
fn quick_folder() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

impl Crashed {
    /// Whether all that was not acknowledged stands in the log, and so was written together.
    fn is_one_group(&self) -> bool {
        let folder = quick_folder();
        fs::write(folder.path().join(FILE), &self.file).unwrap();
        fs::write(folder.path().join(LOG), &self.log).unwrap();
        let connection = rusqlite::Connection::open(folder.path().join(FILE)).unwrap();
        batches(&connection) == self.begun
    }
}

/// The files of a crash, with the end of the log as somebody wants it.
struct Found<'a> {
    crashed: &'a Crashed,
    folder: tempfile::TempDir,
    log: File,
    looks: usize,
    /// How often it came to how many commits beyond the acknowledged ones.
    beyond: std::collections::BTreeMap<usize, usize>,
}

impl<'a> Found<'a> {
    fn new(crashed: &'a Crashed) -> Self {
        let folder = quick_folder();
        fs::write(folder.path().join(FILE), &crashed.file).unwrap();
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(true).write(true);
        let log = options.open(folder.path().join(LOG)).unwrap();
        log.write_all_at(&crashed.log, 0).unwrap();
        Self {
            crashed,
            folder,
            log,
            looks: 0,
            beyond: Default::default(),
        }
    }

    fn restore(&self) {
        self.log.write_all_at(&self.crashed.log, 0).unwrap();
    }

    /// Opens it as it is now, and checks what is in it.
    async fn check(&mut self, what: &str) {
        self.looks += 1;
        let connection = look(self.folder.path());
        let found = batches(&connection);
        let extra = found.len().saturating_sub(self.crashed.acknowledged.len());
        if extra > 0 || self.looks % CHECK_EVERY == 1 {
            let sound: String = connection
                .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
                .unwrap();
            assert_eq!(sound, "ok", "{what}");
        }
        drop(connection);
        let Crashed {
            acknowledged,
            begun,
            ..
        } = self.crashed;
        assert!(found.starts_with(acknowledged), "{what}: a commit is lost");
        assert!(begun.starts_with(&found), "{what}: no prefix");
        *self.beyond.entry(extra).or_default() += 1;
        if self.looks % ENGINE_EVERY == 1 {
            open_with_the_engine(self.folder.path(), found.len(), what).await;
        }
    }
}

/// On a copy, since it writes.
async fn open_with_the_engine(found: &Path, commits: usize, what: &str) {
    let copy = quick_folder();
    for name in [FILE, LOG] {
        fs::copy(found.join(name), copy.path().join(name)).unwrap();
    }
    let store = SqliteStore::open(copy.path().join(FILE), Arc::new(SystemClock)).unwrap();
    let engine = shop::engine_on(Arc::new(store), None).await;
    expect_sound(&engine, what).await;
    let verdict = engine.reports().verify_journal(&engine.issuer(), &[]).await;
    let verdict = verdict.unwrap();
    assert_eq!(verdict.problems, [], "{what}");
    assert_eq!(usize::try_from(verdict.commits), Ok(commits), "{what}");
    // And it goes on.
    book(&engine, "after").await.unwrap();
    engine.stop().await.unwrap();
}

/// Every length of the log, and every byte of its end garbled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_torn_end_of_the_log_opens_to_what_was_acknowledged() {
    let crashed = crash(1).await;
    let begun = Instant::now();
    let mut found = Found::new(&crashed);
    let (from, to) = (crashed.flushed, crashed.log.len());
    found.check("as it was").await;
    assert_eq!(
        found.beyond.get(&1),
        Some(&1),
        "the last commit is not in the log"
    );
    for place in from..to {
        let garbled = [crashed.log[place] ^ 0x5a];
        found.log.write_all_at(&garbled, place as u64).unwrap();
        found.check(&format!("byte {place} garbled")).await;
        let whole = &crashed.log[place..=place];
        found.log.write_all_at(whole, place as u64).unwrap();
    }
    for length in (from..to).rev() {
        found.log.set_len(length as u64).unwrap();
        found.check(&format!("{length} bytes")).await;
    }
    println!(
        "{} torn logs, {} bytes behind the last flush; commits beyond those acknowledged, and \
         how often: {:?}; {} s",
        found.looks,
        to - from,
        found.beyond,
        begun.elapsed().as_secs()
    );
    assert!(found.looks > 2 * 24 && found.beyond.contains_key(&0));
}

/// What a disk may do with writes that it has not flushed: any of its sectors are there or not,
/// in any order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_lost_sectors_of_a_group_open_to_what_was_acknowledged() {
    const SECTOR: usize = 512;
    let crashed = crash(24).await;
    let mut chance = Chance(setting("FLASHKIT_CRASH_SEED", 0x5eed));
    let mut found = Found::new(&crashed);
    let sectors: Vec<usize> = (crashed.flushed..crashed.log.len())
        .step_by(SECTOR)
        .collect();
    for case in 0..1_000 {
        found.restore();
        let lost_in_hundred = 1 + chance.below(60);
        for place in &sectors {
            if chance.below(100) < lost_in_hundred {
                let end = (place + SECTOR).min(crashed.log.len());
                let filling = u8::try_from(chance.below(2) * chance.below(256)).unwrap();
                let lost = vec![filling; end - place];
                found.log.write_all_at(&lost, *place as u64).unwrap();
            }
        }
        found.check(&format!("case {case}")).await;
    }
    println!(
        "{} cases; commits beyond those acknowledged, and how often: {:?}",
        found.looks, found.beyond
    );
    // A group is one transaction: it is there as a whole or not at all.
    assert!(found.beyond.keys().all(|extra| [0, 24].contains(extra)));
    assert_eq!(found.beyond.len(), 2);
}

/// The log is written back to the file, and the power fails before the file is flushed: whatever
/// became of those pages, the log still has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_checkpoint_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::under(folder.path());
    let path = folder.path().join(FILE);
    let store = SqliteStore::open(&path, Arc::new(SystemClock)).unwrap();
    let engine = shop::engine_on(Arc::new(store), None).await;
    for number in 0..40 {
        book(&engine, &format!("before/{number}")).await.unwrap();
        if number == 20 {
            let raw = rusqlite::Connection::open(&path).unwrap();
            let back = raw.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()));
            back.unwrap();
        }
    }
    let raw = rusqlite::Connection::open(&path).unwrap();
    let acknowledged = batches(&raw);
    let before = fs::read(&path).unwrap();
    disk.hold_flushes(".db");
    let writing_back = tokio::task::spawn_blocking(move || {
        let back = raw.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()));
        back.unwrap();
    });
    let waiting = disk.clone();
    let waited = tokio::task::spawn_blocking(move || waiting.until_flush_waits());
    waited.await.unwrap();
    let crashed = Crashed {
        file: fs::read(&path).unwrap(),
        log: fs::read(folder.path().join(LOG)).unwrap(),
        flushed: 0,
        begun: acknowledged.clone(),
        acknowledged,
    };
    disk.release_flushes();
    writing_back.await.unwrap();
    engine.stop().await.unwrap();

    const PAGE: usize = 2_048;
    let page = |file: &[u8], number: usize| {
        let from = (number * PAGE).min(file.len());
        file[from..(from + PAGE).min(file.len())].to_vec()
    };
    let pages = crashed.file.len() / PAGE;
    let written: BTreeSet<usize> = (0..pages)
        .filter(|number| page(&before, *number) != page(&crashed.file, *number))
        .collect();
    assert!(written.len() > 5, "nothing was written back");
    let mut chance = Chance(setting("FLASHKIT_CRASH_SEED", 0x5eed));
    let mut found = Found::new(&crashed);
    for case in 0..500 {
        let mut file = crashed.file.clone();
        for number in &written {
            let from = number * PAGE;
            match chance.below(4) {
                0 => {}
                1 if *number > 0 => file[from..from + PAGE].fill(0),
                2 => {
                    let torn = 512 * usize::try_from(chance.below(8)).unwrap();
                    let old = page(&before, *number);
                    let torn = torn.min(old.len());
                    file[from..from + torn].copy_from_slice(&old[..torn]);
                }
                _ => {
                    let old = page(&before, *number);
                    file[from..from + old.len()].copy_from_slice(&old);
                }
            }
        }
        fs::write(found.folder.path().join(FILE), &file).unwrap();
        found.restore();
        found.check(&format!("case {case}")).await;
    }
    println!("{} cases with {} pages", found.looks, written.len());
}
