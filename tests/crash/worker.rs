//! The process that is killed: tasks that charge cards and book capital as fast as they are
//! answered, and say on standard output what was acknowledged, after it was.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flashkit::cards::boltcard::{IssuerKey, KeyDerivation};
use flashkit::cards::{CardLimits, ChargeCard, ProgrammingKeys};
use flashkit::ports::{BoxFuture, SystemClock};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{Store, StoreError};
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use flashkit::{Engine, Error};

use crate::support::key;
use crate::support::shop::{self, HeldCard, Merchant, SAT};

pub const CARDS: usize = 6;
/// Tasks that book capital; the others have a card each.
pub const BOOKERS: usize = 2;
pub const TASKS: usize = CARDS + BOOKERS;
pub const PRICE_MSAT: i64 = 2 * SAT;
pub const CAPITAL_MSAT: i64 = 7;

const PATIENCE: Duration = Duration::from_secs(60);
const BOOKS: &str = "FLASHKIT_CRASH_BOOKS";
const DONE: &str = "FLASHKIT_CRASH_DONE";

/// Where the books are, as a child is told.
#[derive(Clone)]
pub enum Books {
    Sqlite(std::path::PathBuf),
    #[cfg(feature = "postgres")]
    Postgres(String),
}

impl Books {
    pub async fn open(&self) -> Arc<dyn Store> {
        let (clock, begun) = (Arc::new(SystemClock), Instant::now());
        match self {
            Self::Sqlite(file) => loop {
                match SqliteStore::open(file, clock.clone()) {
                    Ok(store) => break Arc::new(store),
                    // A test beside this one starts a process just now, which has the parent's
                    // files, and so its lock, until it is another program.
                    Err(StoreError::InUse { .. }) if begun.elapsed() < PATIENCE => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            },
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => {
                use flashkit::store::postgres::{PostgresConfig, PostgresStore};
                let config = PostgresConfig::new(url.clone()).schema("crash");
                Arc::new(PostgresStore::connect(config, clock).await.unwrap())
            }
        }
    }

    fn told(&self) -> String {
        match self {
            Self::Sqlite(file) => format!("sqlite {}", file.display()),
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => format!("postgres {url}"),
        }
    }

    fn from_told(text: &str) -> Self {
        match text.split_once(' ').unwrap() {
            ("sqlite", file) => Self::Sqlite(Path::new(file).to_owned()),
            #[cfg(feature = "postgres")]
            ("postgres", url) => Self::Postgres(url.to_owned()),
            _ => panic!("no such books: {text}"),
        }
    }
}

pub fn uid(task: usize) -> String {
    format!("04a39493cc86{task:02x}")
}

pub async fn card(engine: &Engine, task: usize) -> HeldCard {
    shop::card(engine, &uid(task), CardLimits::default()).await
}

/// The chip of a card that was made before, tapped so often.
fn chip(task: usize, counter: u64) -> VirtualCard {
    let uid = uid(task);
    let mut number = [0; 7];
    for (at, byte) in number.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&uid[2 * at..2 * at + 2], 16).unwrap();
    }
    let issuer = IssuerKey::new(*shop::master().card_issuer_key());
    let keys = issuer.card_keys(&number, 1, &KeyDerivation::Standard);
    let keys = ProgrammingKeys {
        lnurlw: "lnurlw://pay.example.com/boltcard".to_owned(),
        version: 1,
        k0: keys.k0.to_hex(),
        k1: keys.k1.to_hex(),
        k2: keys.k2.to_hex(),
        k3: keys.k3.to_hex(),
        k4: keys.k4.to_hex(),
    };
    let mut chip = VirtualCard::program(&uid, &keys).unwrap();
    chip.set_counter(u32::try_from(counter).unwrap());
    chip
}

/// A process at work.
pub struct Worker {
    process: Child,
    reader: JoinHandle<Vec<String>>,
    ready: std::sync::mpsc::Receiver<()>,
}

impl Worker {
    /// Starts this test binary again. `done` is how many commands of each task were acknowledged.
    pub fn start(books: &Books, done: &[u64]) -> Self {
        let done: Vec<String> = done.iter().map(u64::to_string).collect();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker::process", "--nocapture"])
            .env(BOOKS, books.told())
            .env(DONE, done.join(" "))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = process.stdout.take().unwrap();
        let (say_ready, ready) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut said = Vec::new();
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The test harness prints here too, and not always on a line of its own.
                match line.split_once("@ ") {
                    Some((_, "ready")) => drop(say_ready.send(())),
                    Some((_, text)) => said.push(text.to_owned()),
                    None => {}
                }
            }
            said
        });
        Self {
            process,
            reader,
            ready,
        }
    }

    pub fn until_ready(&self) {
        let ready = self.ready.recv_timeout(PATIENCE);
        ready.expect("the worker is ready");
    }

    /// SIGKILL. Answers all that it had said.
    pub fn kill(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.reader.join().unwrap()
    }
}

/// Not a test: the body of the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process() {
    let (Ok(books), Ok(done)) = (std::env::var(BOOKS), std::env::var(DONE)) else {
        return;
    };
    let engine = shop::engine_on(Books::from_told(&books).open().await, None).await;
    let merchant = Arc::new(shop::merchant(&engine, "Cookshop").await);
    let mut tasks = Vec::new();
    for (task, done) in done.split(' ').enumerate() {
        let done: u64 = done.parse().unwrap();
        let (engine, merchant) = (engine.clone(), merchant.clone());
        if task < CARDS {
            tasks.push(tokio::spawn(charge(engine, merchant, task, done)));
        } else {
            tasks.push(tokio::spawn(book(engine, task, done)));
        }
    }
    println!("@ ready");
    for task in tasks {
        task.await.unwrap();
    }
}

async fn charge(engine: Engine, shop: Arc<Merchant>, task: usize, done: u64) {
    let mut chip = chip(task, done);
    for number in done.. {
        let command = ChargeCard {
            key: key(&format!("charge/{task}/{number}")),
            tap: chip.tap(),
            price: shop::sat(PRICE_MSAT / SAT),
            reference: "table 4".to_owned(),
            pin: None,
        };
        let charge = answered(task, || {
            let (cards, till) = (engine.cards(), shop.till.clone());
            let command = command.clone();
            Box::pin(async move { cards.charge(&till, command).await })
        });
        println!("@ ack {task} {number} {}", charge.await.id);
    }
}

async fn book(engine: Engine, task: usize, done: u64) {
    for number in done.. {
        let command = BookCapital {
            key: key(&format!("capital/{task}/{number}")),
            account: CapitalAccount::Channels,
            direction: CapitalDirection::In,
            amount_msat: CAPITAL_MSAT,
            reason: "more".to_owned(),
        };
        let capital = answered(task, || {
            let (treasury, issuer) = (engine.treasury(), engine.issuer());
            let command = command.clone();
            Box::pin(async move { treasury.book_capital(&issuer, command).await })
        });
        println!("@ ack {task} {number} {}", capital.await.id);
    }
}

/// The same command again until it is answered.
async fn answered<T>(task: usize, ask: impl Fn() -> BoxFuture<'static, Result<T, Error>>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                println!("@ refused {task} {}", error.code());
                assert!(error.is_retryable(), "{error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}
