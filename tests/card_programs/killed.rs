//! A real process is killed at random moments while a card base comes over and its counters are
//! brought up to date; the next one goes on. In the end it is as if none had been killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use flashkit::cards::boltcard::IssuerKey;
use flashkit::cards::{CardCounter, CutOver, ImportIssuerKey, SyncCounters};
use flashkit::ids::CardImportId;
use flashkit::ports::SystemClock;
use flashkit::store::Store;
use flashkit::store::sqlite::SqliteStore;

use super::imports::{self, HIGHEST, OLD_KEY, OldCard, World};
use crate::support::key;
use crate::support::shop::{self, Merchant};

const FOLDER: &str = "FLASHKIT_IMPORT_FOLDER";
const CARDS: u32 = 1_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn open_store(folder: &Path) -> Arc<dyn Store> {
    let file = folder.join("books.db");
    Arc::new(SqliteStore::open(file, Arc::new(SystemClock)).unwrap())
}

/// What the old server's chips had used when it was frozen at last.
fn last_counter(card: &OldCard) -> u32 {
    (card.row.counter + 3).min(HIGHEST)
}

fn sync(import: CardImportId, base: &[OldCard]) -> SyncCounters {
    let counters = base.iter().map(|card| CardCounter {
        id: card.row.id.clone().unwrap(),
        version: card.row.version,
        counter: last_counter(card),
    });
    SyncCounters {
        key: key("end"),
        import,
        counters: counters.collect(),
    }
}

fn cut_over(import: CardImportId, base: &[OldCard]) -> CutOver {
    CutOver {
        key: key("base"),
        import,
        old_issuer_is_frozen: true,
        cards: base.iter().map(|card| card.row.clone()).collect(),
    }
}

/// Not a test: the body of the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn import_process() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let base = imports::old_base(CARDS);
    let store = open_store(Path::new(&folder));
    let engine = imports::open_engine(&store).await;
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let command = ImportIssuerKey {
        key: key("issuer-key"),
        issuer_key: IssuerKey::new(OLD_KEY),
    };
    cards.import_issuer_key(&issuer, command).await.unwrap();
    let imports = cards.imports();
    let import = imports.create(&issuer, imports::create("base"));
    let import = import.await.unwrap().id;
    println!("@ ready");
    let report = imports.cut_over(&issuer, cut_over(import, &base)).await;
    let report = report.unwrap().value;
    println!("@ cut {}", serde_json::to_string(&report).unwrap());
    let report = imports.sync_counters(&issuer, sync(import, &base)).await;
    let report = report.unwrap().value;
    println!("@ synced {}", serde_json::to_string(&report).unwrap());
    engine.stop().await.unwrap();
}

struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::import_process", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in BufReader::new(output).lines().map_while(Result::ok) {
                // The test harness prints here too, and not always on a line of its own.
                if let Some((_, text)) = text.split_once("@ ") {
                    let _ = line.send(text.to_owned());
                }
            }
        });
        let process = Self { child, lines };
        process.line("ready");
        process
    }

    /// The line that begins with a word; the rest of it.
    fn line(&self, word: &str) -> String {
        let line = self.lines.recv_timeout(PATIENCE).expect("a line");
        let rest = line.strip_prefix(word);
        let rest = rest.unwrap_or_else(|| panic!("{word}: {line}"));
        rest.trim().to_owned()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// How many came over, and how many counters stand as they do in the end.
async fn progress(folder: &Path, base: &[OldCard]) -> (usize, usize) {
    let world = open(folder).await;
    let exported = world.export().await;
    let stands = |card: &&OldCard| {
        let found = exported.get(card.row.id.as_ref().unwrap());
        found.is_some_and(|found| found.counter == last_counter(card))
    };
    let synced = base.iter().filter(stands).count();
    let cards = exported.len();
    world.store.close().await.unwrap();
    (cards, synced)
}

async fn open(folder: &Path) -> World {
    let store = open_store(folder);
    let engine = imports::open_engine(&store).await;
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let (imports, issuer) = (engine.cards().imports(), engine.issuer());
    let import = imports.create(&issuer, imports::create("base"));
    let import = import.await.unwrap().id;
    World {
        store,
        engine,
        merchant,
        import,
        folder: None,
    }
}

/// Kills processes, each later than the one before it, until one has done its work.
async fn kill_until(
    folder: &Path,
    base: &[OldCard],
    after: Option<&str>,
    done: &str,
) -> (Vec<(usize, usize)>, String) {
    let mut seen = Vec::new();
    for round in 0_u32.. {
        let process = Process::start(folder);
        if let Some(word) = after {
            process.line(word);
        }
        let moment = Duration::from_millis(40 << round.min(10));
        if let Ok(line) = process.lines.recv_timeout(moment) {
            let report = line.strip_prefix(done).unwrap().trim().to_owned();
            process.kill();
            return (seen, report);
        }
        process.kill();
        seen.push(progress(folder, base).await);
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_over_killed_at_random_moments_comes_to_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut base = imports::old_base(CARDS);
    let all = imports::sum(&base);
    let (seen, cut) = kill_until(folder.path(), &base, None, "cut").await;
    let (synced, moved) = kill_until(folder.path(), &base, Some("cut"), "synced").await;
    println!("killed at {seen:?}, then at {synced:?}");
    let half = |counts: &mut dyn Iterator<Item = usize>| {
        let whole = usize::try_from(CARDS).unwrap();
        counts.filter(|count| (1..whole).contains(count)).count()
    };
    assert!(half(&mut seen.iter().map(|seen| seen.0)) > 0, "{seen:?}");
    assert!(
        !synced.is_empty(),
        "nothing was killed while counters moved"
    );

    let world = open(folder.path()).await;
    let (imports, issuer) = (world.engine.cards().imports(), world.engine.issuer());
    let again = imports
        .cut_over(&issuer, cut_over(world.import, &base))
        .await;
    let again = again.unwrap().value;
    assert_eq!(serde_json::to_string(&again).unwrap(), cut);
    assert!(again.is_clean(), "{:?}", again.refused.first());
    // That of a run which nobody has killed, on a store of its own.
    let calm = tempfile::tempdir().unwrap();
    let process = Process::start(calm.path());
    let strip = |report: &str| {
        let mut report: serde_json::Value = serde_json::from_str(report).unwrap();
        // Ids are made anew.
        report.as_object_mut().unwrap().remove("import");
        report
    };
    assert_eq!(strip(&cut), strip(&process.line("cut")));
    let calm_moved = strip(&process.line("synced"));
    let moved = strip(&moved);
    for field in ["rows", "kept", "refused"] {
        assert_eq!(moved[field], calm_moved[field], "{field}");
    }
    let count = |report: &serde_json::Value| report["moved"].as_array().unwrap().len();
    assert_eq!(count(&moved), count(&calm_moved));

    assert_eq!(world.with_former_issuer().await, all);
    let import = world.import().await;
    assert_eq!(
        (import.cards, import.balance_msat),
        (1_000, all * shop::SAT)
    );
    let exported = world.export().await;
    assert_eq!(exported.len(), base.len());
    for card in &base {
        let found = &exported[card.row.id.as_ref().unwrap()];
        let expected = (card.row.balance_msat, last_counter(card));
        assert_eq!((found.balance_msat, found.counter), expected);
    }
    let mut work = tokio::task::JoinSet::new();
    for (number, card) in base.iter_mut().enumerate() {
        let has = card.row.balance_msat / shop::SAT;
        card.chip.set_counter(last_counter(card) - 1);
        let old = card.chip.tap();
        let new = (last_counter(card) < HIGHEST).then(|| card.chip.tap());
        let till = Merchant {
            id: world.merchant.id,
            till: world.merchant.till.clone(),
        };
        let engine = world.engine.clone();
        work.spawn(async move {
            let charge = async |name: &str, tap: String, sats: i64| {
                let name = format!("{number}/{name}");
                imports::charge(&engine, &till, &name, tap, sats).await
            };
            let replayed = Err("card.tap_replayed");
            assert_eq!(charge("old", old, 1).await, replayed, "{number}");
            if let Some(tap) = new {
                charge("all", tap.clone(), has).await.unwrap();
                assert_eq!(charge("again", tap, 1).await, replayed, "{number}");
            }
        });
    }
    while let Some(done) = work.join_next().await {
        done.unwrap();
    }
    world.stop("killed").await;
}
