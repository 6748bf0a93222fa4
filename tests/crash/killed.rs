//! SIGKILL at random moments under load.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::Engine;
use flashkit::ledger::Account;
use flashkit::store::Store;

use crate::support::books::expect_sound;
use crate::support::shop;
use crate::worker::{BOOKERS, Books, CAPITAL_MSAT, CARDS, PRICE_MSAT, TASKS, Worker, card};
use crate::{Chance, setting};

const ROUNDS: u64 = 200;
const ON_CARD_SAT: i64 = 1_000_000;
/// How often the whole journal is read.
const JOURNAL_EVERY: u64 = 25;

/// What was acknowledged, and what of it was found.
struct Ledger {
    accounts: Vec<Account>,
    /// How many commands of each task were acknowledged.
    done: Vec<u64>,
    acknowledged: HashSet<String>,
    /// By account: the references of its transfers, and up to which position they were read.
    found: BTreeMap<Account, (HashSet<String>, i64)>,
    /// Acknowledged by a later process to whom an earlier one's work was answered again.
    refusals: BTreeMap<String, u64>,
}

impl Ledger {
    /// Makes cards with money on them, and a merchant.
    async fn prepare(store: Arc<dyn Store>) -> Self {
        let shop = shop::simulated(store.clone()).await;
        shop::merchant(&shop.engine, "Cookshop").await;
        let mut accounts = Vec::new();
        for task in 0..CARDS {
            let card = card(&shop.engine, task).await;
            let (name, price) = (format!("first/{task}"), shop::sat(ON_CARD_SAT));
            shop::top_up(&shop.engine, &shop.customer, &card, &name, price).await;
            accounts.push(Account::card_balance(card.id));
        }
        accounts.push(Account::operator_capital());
        let mut found = BTreeMap::new();
        for account in &accounts {
            let rows = store.transfers(account, None, 1).await.unwrap();
            let position = rows.first().map_or(0, |row| row.position);
            found.insert(*account, (HashSet::new(), position));
        }
        shop.engine.stop().await.unwrap();
        Self {
            accounts,
            done: vec![0; TASKS],
            acknowledged: HashSet::new(),
            found,
            refusals: BTreeMap::new(),
        }
    }

    fn hear(&mut self, said: &[String]) {
        for line in said {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["ack", task, number, id] => {
                    let task: usize = task.parse().unwrap();
                    assert_eq!(number.parse(), Ok(self.done[task]), "{line}");
                    self.done[task] += 1;
                    assert!(self.acknowledged.insert(id.to_owned()), "twice: {line}");
                }
                ["refused", _, code] => {
                    *self.refusals.entry(code.to_owned()).or_default() += 1;
                }
                _ => panic!("{line}"),
            }
        }
    }

    /// Every acknowledged command has its transfer, none has two, and beyond them there is at
    /// most what was under way.
    async fn check(&mut self, store: &dyn Store, step: &str) {
        // A database may still be carrying out what the killed process sent last, between one
        // of these reads and the next.
        for look in 1.. {
            self.read_transfers(store, step).await;
            match self.compare(store).await {
                Ok(()) => break,
                Err(difference) => assert!(look < 20, "{step}: {difference}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let all: HashSet<&String> = self.found.values().flat_map(|(found, _)| found).collect();
        for id in &self.acknowledged {
            assert!(
                all.contains(id),
                "{step}: {id} was acknowledged, and is lost"
            );
        }
    }

    async fn read_transfers(&mut self, store: &dyn Store, step: &str) {
        for account in &self.accounts {
            let (references, last) = self.found.get_mut(account).unwrap();
            let (mut before, mut newest) = (None, *last);
            'pages: loop {
                let rows = store.transfers(account, before, 1_000).await.unwrap();
                if rows.is_empty() {
                    break;
                }
                for row in rows {
                    if row.position <= *last {
                        break 'pages;
                    }
                    (before, newest) = (Some(row.position), newest.max(row.position));
                    let is_new = references.insert(row.reference.clone());
                    assert!(is_new, "{step}: {} is there twice", row.reference);
                }
            }
            *last = newest;
        }
    }

    /// As many transfers as commands, and the balance that they come to.
    async fn compare(&self, store: &dyn Store) -> Result<(), String> {
        for (task, account) in self.accounts.iter().enumerate() {
            let (done, under_way): (u64, u64) = match task {
                CARDS => (self.done[CARDS..].iter().sum(), BOOKERS as u64),
                _ => (self.done[task], 1),
            };
            let found = self.found[account].0.len() as u64;
            if !(done..=done + under_way).contains(&found) {
                return Err(format!("{found} of {done} in {account}"));
            }
            let number = i128::from(found);
            let expected = match task {
                CARDS => number * i128::from(CAPITAL_MSAT),
                _ => i128::from(ON_CARD_SAT * shop::SAT) - number * i128::from(PRICE_MSAT),
            };
            let balance = store.balance(account).await.unwrap();
            let balance = balance.available(account.kind().side());
            if balance != expected {
                return Err(format!("{balance} and not {expected} in {account}"));
            }
        }
        Ok(())
    }

    fn commits(&self) -> u64 {
        self.done.iter().sum()
    }
}

async fn check_journal(engine: &Engine, step: &str) {
    let verdict = engine.reports().verify_journal(&engine.issuer(), &[]).await;
    let verdict = verdict.unwrap();
    assert_eq!(verdict.problems, [], "{step}");
    assert_eq!(verdict.unsettled, [], "{step}");
}

/// Kills a worker in every round, at most so long after it began. `disturb` may do something else to it before.
async fn rounds(books: &Books, longest: Duration, mut disturb: impl FnMut(u64)) -> Ledger {
    let seed = setting("FLASHKIT_CRASH_SEED", 0x5eed);
    let (rounds, mut chance) = (setting("FLASHKIT_CRASH_ROUNDS", ROUNDS), Chance(seed));
    let mut ledger = Ledger::prepare(books.open().await).await;
    let (begun, mut before_ready) = (Instant::now(), 0);
    let mut longest = u64::try_from(longest.as_micros()).unwrap();
    for round in 1..=rounds {
        let step = format!("seed {seed}, round {round}");
        let worker = Worker::start(books, &ledger.done);
        // Now and then while it opens its books.
        if round % 8 == 0 {
            before_ready += 1;
            std::thread::sleep(Duration::from_micros(chance.below(40_000)));
        } else {
            worker.until_ready();
            std::thread::sleep(Duration::from_micros(chance.below(longest)));
            disturb(round);
        }
        ledger.hear(&worker.kill());
        let store = books.open().await;
        ledger.check(&*store, &step).await;
        let engine = shop::engine_on(store, None).await;
        expect_sound(&engine, &step).await;
        if round % JOURNAL_EVERY == 0 || round == rounds {
            check_journal(&engine, &step).await;
        }
        engine.stop().await.unwrap();
        // Where a flush takes long, so does it until there is something to lose.
        if ledger.commits() < round {
            longest = (2 * longest).min(2_000_000);
        }
    }
    println!(
        "killed {rounds} times ({before_ready} while it opened): {} commits acknowledged, all \
         there, none twice; refused meanwhile: {:?}; {} s",
        ledger.commits(),
        ledger.refusals,
        begun.elapsed().as_secs()
    );
    assert!(ledger.commits() > rounds, "there was no load");
    ledger
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_on_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let books = Books::Sqlite(folder.path().join("books.db"));
    let ledger = rounds(&books, Duration::from_millis(80), |_| {}).await;
    assert_eq!(ledger.refusals, BTreeMap::new());
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_on_postgres() {
    let Some(cluster) = crate::postgres::Cluster::start() else {
        return;
    };
    let books = Books::Postgres(cluster.url(cluster.port, "sslmode=disable"));
    let mut crashes = 0;
    // The server's turn comes as well: it is ended as a crash ends it, and started again.
    rounds(&books, Duration::from_millis(160), |round| {
        if round % 10 == 1 {
            crashes += 1;
            cluster.crash();
            cluster.go_on();
            std::thread::sleep(Duration::from_millis(100));
        }
    })
    .await;
    println!("the server was ended {crashes} times");
}
