//! What a durable charge costs, as ratios to bare SQLite and to the disk.
//!
//! Absolute figures of a shared machine mean little, so everything is measured in slices of one
//! run that take turns: the ratio of two slices of the same turn, and of all turns the median with
//! its spread. Afterwards the books are checked; the exit code says whether they are right, never
//! how fast it was.
//!
//! `cargo bench --bench durable_charge` takes about a minute; `-- --quick` a few seconds. With
//! `-- --only 3` the fourth contender alone runs, for a profiler to look at, and with `--slices 50`
//! besides exactly so many slices of it, for a counter of instructions.

#[path = "../tests/support/disk.rs"]
mod disk;
#[path = "support/shop.rs"]
mod shop;
#[path = "support/transfers.rs"]
mod transfers;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::cards::ChargeCard;
use flashkit::ids::{CardId, MerchantId};
use flashkit::ledger::{Account, Batch};
use flashkit::ports::SystemClock;
use flashkit::store::Store;
use flashkit::store::sqlite::SqliteStore;
use rusqlite::{Connection, params};
use shop::Shop;
use tokio::task::JoinSet;
use transfers::{AMOUNT_MSAT, Done, FUNDS_MSAT, batch, fund, is_conserved, numbered, spread};

/// How many are submitted at the same time, and how many cards there are.
const CONCURRENT: usize = 100;
/// How many single ones are in one slice.
const SINGLES: usize = 20;
/// The least that a flush takes on the slow disk.
const SLOW_FLUSH: Duration = Duration::from_millis(4);

const BARE_SETUP: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL) STRICT;
CREATE TABLE journal (position INTEGER PRIMARY KEY, idempotency_key TEXT NOT NULL UNIQUE,
    debit INTEGER NOT NULL, credit INTEGER NOT NULL, amount INTEGER NOT NULL) STRICT;
CREATE TABLE outbox (position INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL) STRICT;";
const BARE_TRANSFER: [&str; 4] = [
    "INSERT INTO journal (idempotency_key, debit, credit, amount) VALUES (?1, ?2, ?3, ?4)",
    "UPDATE accounts SET balance = balance - ?2 WHERE id = ?1",
    "UPDATE accounts SET balance = balance + ?2 WHERE id = ?1",
    "INSERT INTO outbox (kind, body) VALUES (?1, ?2)",
];

/// Bare SQLite: card `n` is account `n`, the merchant is account 0.
struct Bare {
    connection: Connection,
    transfers: i64,
}

impl Bare {
    fn new(file: &Path) -> Done<Self> {
        let connection = Connection::open(file)?;
        connection.execute_batch(BARE_SETUP)?;
        connection.execute("INSERT INTO accounts VALUES (0, 0)", [])?;
        for card in 1..=CONCURRENT {
            connection.execute(
                "INSERT INTO accounts VALUES (?1, ?2)",
                params![card, FUNDS_MSAT],
            )?;
        }
        Ok(Self {
            connection,
            transfers: 0,
        })
    }

    fn run(&self, sql: &str) -> Done {
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    fn transfer(&mut self, card: usize) -> Done {
        self.transfers += 1;
        let key = format!("till/charge/{:012}", self.transfers);
        let [journal, debit, credit, outbox] = BARE_TRANSFER;
        let connection = &self.connection;
        connection
            .prepare_cached(journal)?
            .execute(params![key, card, 0, AMOUNT_MSAT])?;
        connection
            .prepare_cached(debit)?
            .execute(params![card, AMOUNT_MSAT])?;
        connection
            .prepare_cached(credit)?
            .execute(params![0, AMOUNT_MSAT])?;
        connection
            .prepare_cached(outbox)?
            .execute(params!["card.charged", key])?;
        Ok(())
    }

    fn singly(&mut self) -> Done {
        for card in 1..=SINGLES {
            self.run("BEGIN IMMEDIATE")?;
            self.transfer(card)?;
            self.run("COMMIT")?;
        }
        Ok(())
    }

    fn grouped(&mut self) -> Done {
        self.run("BEGIN IMMEDIATE")?;
        for card in 1..=CONCURRENT {
            self.run("SAVEPOINT one")?;
            self.transfer(card)?;
            self.run("RELEASE one")?;
        }
        self.run("COMMIT")
    }

    fn is_conserved(&self) -> Done<bool> {
        let sql = "SELECT (SELECT sum(balance) FROM accounts), (SELECT count(*) FROM journal),
                          (SELECT balance FROM accounts WHERE id = 0)";
        let found: (i64, i64, i64) = self
            .connection
            .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let funds = FUNDS_MSAT * i64::try_from(CONCURRENT)?;
        Ok(found == (funds, self.transfers, self.transfers * AMOUNT_MSAT))
    }
}

/// A 4 KiB append and `fdatasync`: the least that anything durable costs.
struct Disk(File);

impl Disk {
    fn singly(&mut self) -> Done {
        for _ in 0..SINGLES {
            self.0.write_all(&[7; 4_096])?;
            self.0.sync_data()?;
        }
        Ok(())
    }
}

/// The ledger alone, through `Store::commit`: a transfer with an idempotency key and an event.
struct Ledger {
    store: SqliteStore,
    cards: Vec<CardId>,
    merchant: MerchantId,
    transfers: u64,
}

impl Ledger {
    async fn new(file: &Path) -> Done<Self> {
        let store = SqliteStore::open(file, Arc::new(SystemClock))?;
        let cards: Vec<CardId> = (0..CONCURRENT as u64)
            .map(|number| CardId::from_parts(1, numbered(number)))
            .collect();
        fund(&store, &cards).await?;
        Ok(Self {
            store,
            cards,
            merchant: MerchantId::from_parts(1, [1; 10]),
            transfers: 0,
        })
    }

    fn batch(&mut self, card: CardId) -> Batch {
        self.transfers += 1;
        let payable = Account::merchant_payable(self.merchant);
        batch(self.transfers, card, payable)
    }

    async fn singly(&mut self) -> Done {
        for place in 0..SINGLES {
            let batch = self.batch(self.cards[place]);
            self.store.commit(batch).await?;
        }
        Ok(())
    }

    async fn at_once(&mut self) -> Done {
        let mut work = JoinSet::new();
        for card in self.cards.clone() {
            let (store, batch) = (self.store.clone(), self.batch(card));
            work.spawn(async move { store.commit(batch).await });
        }
        while let Some(done) = work.join_next().await {
            done??;
        }
        Ok(())
    }
}

/// Taps of the first `many` cards: this is the chip's work, not the engine's.
fn taps(shop: &mut Shop, many: usize) -> Done<Vec<ChargeCard>> {
    (0..many).map(|card| shop.tap(card)).collect()
}

/// How many slices the bytes are counted over.
const BYTES_SLICES: usize = 10;
const CONTENDERS: usize = 9;
const DISK: usize = 0;
const BARE: usize = 1;
const LEDGER: usize = 2;
const CHARGE: usize = 3;
const BARE_GROUP: usize = 4;
const LEDGER_GROUP: usize = 5;
const CHARGE_GROUP: usize = 6;
const SLOW: usize = 7;
const SLOW_GROUP: usize = 8;
const NAMES: [&str; CONTENDERS] = [
    "append 4 KiB + fdatasync, one at a time",
    "bare SQLite transfer, one a commit",
    "ledger transfer by Store::commit, one at a time",
    "card charge with a tap, one at a time",
    "bare SQLite transfer, 100 a commit, each in a savepoint",
    "ledger transfers, 100 at once",
    "card charges with taps, 100 at once",
    "ledger transfer where a flush takes 4 ms",
    "ledger transfers where a flush takes 4 ms, 100 at once",
];

/// How many operations one slice of a contender is.
fn operations(contender: usize) -> usize {
    match contender {
        BARE_GROUP | LEDGER_GROUP | CHARGE_GROUP | SLOW_GROUP => CONCURRENT,
        _ => SINGLES,
    }
}

struct Bench {
    disk: Disk,
    bare: Bare,
    ledger: Ledger,
    slow: Ledger,
    shop: Shop,
}

impl Bench {
    /// The bytes that one operation writes, the log's and those of its checkpoints.
    async fn report_bytes(&mut self) -> Done {
        println!("\nBytes written by one operation, checkpoints among them:");
        for (contender, name) in NAMES.iter().enumerate() {
            let Some(before) = written_bytes() else {
                println!("  not told: this system has no /proc/self/io");
                return Ok(());
            };
            let mut operations = 0;
            for _ in 0..BYTES_SLICES {
                self.slice(contender).await?;
                operations += self::operations(contender);
            }
            let after = written_bytes().unwrap_or(before);
            let each = (after - before) / u64::try_from(operations)?;
            println!("  {name:56} {each:9}");
        }
        Ok(())
    }

    /// One slice: how long one operation of it took.
    async fn slice(&mut self, contender: usize) -> Done<Duration> {
        let operations = operations(contender);
        let taps = match contender {
            CHARGE | CHARGE_GROUP => taps(&mut self.shop, operations)?,
            _ => Vec::new(),
        };
        let begun = Instant::now();
        match contender {
            DISK => self.disk.singly()?,
            BARE => self.bare.singly()?,
            LEDGER => self.ledger.singly().await?,
            CHARGE => self.shop.charge_singly(taps).await?,
            BARE_GROUP => self.bare.grouped()?,
            LEDGER_GROUP => self.ledger.at_once().await?,
            SLOW => self.slow.singly().await?,
            SLOW_GROUP => self.slow.at_once().await?,
            _ => self.shop.charge_at_once(taps).await?,
        }
        Ok(begun.elapsed() / u32::try_from(operations)?)
    }

    async fn is_conserved(&self) -> Done<bool> {
        let Ledger {
            store,
            merchant,
            transfers,
            ..
        } = &self.ledger;
        let ledger = is_conserved(store, &[*merchant], CONCURRENT, *transfers).await?;
        let Shop {
            store,
            merchant,
            charges,
            ..
        } = &self.shop;
        let engine = is_conserved(store, &[*merchant], CONCURRENT, *charges).await?;
        let bare = self.bare.is_conserved()?;
        println!("\nbooks: bare SQLite {bare}, ledger {ledger}, engine {engine} (true: conserved)");
        println!(
            "       {} charges, {} ledger transfers",
            charges, self.ledger.transfers
        );
        Ok(bare && ledger && engine)
    }
}

/// How many bytes this process has handed to the system to be written, where that is told.
fn written_bytes() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/self/io").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("wchar: "))?;
    line.parse().ok()
}

fn report(turns: &[[Duration; CONTENDERS]]) {
    println!(
        "\n{} turns. Time of one operation, median (quartiles):",
        turns.len()
    );
    for (contender, name) in NAMES.iter().enumerate() {
        let times = turns
            .iter()
            .map(|turn| turn[contender].as_secs_f64() * 1e6)
            .collect();
        let (median, low, high) = spread(times);
        println!("  {name:56} {median:9.1} us ({low:.1} to {high:.1})");
    }
    println!(
        "\nThroughput against a baseline of the same turn, median (quartiles); 1.00 is as fast:"
    );
    for (ours, baseline) in [
        (BARE, DISK),
        (LEDGER, DISK),
        (CHARGE, DISK),
        (LEDGER, BARE),
        (CHARGE, BARE),
        (LEDGER_GROUP, BARE_GROUP),
        (CHARGE_GROUP, BARE_GROUP),
        (BARE_GROUP, BARE),
        (LEDGER_GROUP, LEDGER),
        (CHARGE_GROUP, CHARGE),
        (CHARGE_GROUP, DISK),
        (SLOW_GROUP, SLOW),
    ] {
        let ratios = turns
            .iter()
            .map(|turn| turn[baseline].as_secs_f64() / turn[ours].as_secs_f64())
            .collect();
        let (median, low, high) = spread(ratios);
        println!("  x{median:<7.2} ({low:.2} to {high:.2})  {}", NAMES[ours]);
        println!("  {:25} against {}", "", NAMES[baseline]);
    }
}

async fn run(folder: &Path, budget: Duration, only: Option<Only>) -> Done<bool> {
    let slow = folder.join("slow");
    std::fs::create_dir(&slow)?;
    let _slow = disk::Disk::slow(&slow, SLOW_FLUSH);
    let mut bench = Bench {
        slow: Ledger::new(&slow.join("ledger.db")).await?,
        disk: Disk(File::create(folder.join("append"))?),
        bare: Bare::new(&folder.join("bare.db"))?,
        ledger: Ledger::new(&folder.join("ledger.db")).await?,
        shop: Shop::open(&folder.join("engine.db"), CONCURRENT).await?,
    };
    let mut turns = Vec::new();
    let mut begun = Instant::now();
    if let Some((contender, slices)) = only {
        let is_over = |done| slices.map_or(begun.elapsed() >= budget, |slices| done >= slices);
        let mut done = 0;
        while !is_over(done) {
            bench.slice(contender).await?;
            done += 1;
        }
        return bench.is_conserved().await;
    }
    for turn in 0.. {
        let mut times = [Duration::ZERO; CONTENDERS];
        // Each turn begins with another one, so that none always follows the same.
        for place in 0..CONTENDERS {
            let contender = (place + turn) % CONTENDERS;
            times[contender] = bench.slice(contender).await?;
        }
        if turn == 0 {
            // Caches and statements were cold.
            begun = Instant::now();
            continue;
        }
        turns.push(times);
        if turns.len() >= 3 && begun.elapsed() > budget {
            break;
        }
    }
    report(&turns);
    bench.report_bytes().await?;
    bench.is_conserved().await
}

/// One contender, and how many slices of it, if not for a time.
type Only = (usize, Option<usize>);

/// What comes after the argument `name`.
fn argument(name: &str) -> Done<Option<usize>> {
    let mut value = std::env::args().skip_while(|argument| argument != name);
    Ok(value.nth(1).map(|number| number.parse()).transpose()?)
}

fn main() -> Done {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let only = argument("--only")?.filter(|contender| *contender < CONTENDERS);
    let slices = argument("--slices")?;
    let only = only.map(|contender| (contender, slices));
    let budget = Duration::from_secs(if quick { 3 } else { 45 });
    let build = if cfg!(debug_assertions) {
        "a debug build: the ratios are those of a debug build"
    } else {
        "a release build"
    };
    println!("{build}; a slice is {SINGLES} single operations or {CONCURRENT} at once");
    println!(
        "\nbare SQLite {}, set up by:{BARE_SETUP}",
        rusqlite::version()
    );
    println!(
        "its transfer, between BEGIN IMMEDIATE and COMMIT:\n{};",
        BARE_TRANSFER.join(";\n")
    );
    println!("100 a commit: each between SAVEPOINT one and RELEASE one");
    // Beside the build: a temporary folder may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    if runtime.block_on(run(folder.path(), budget, only))? {
        Ok(())
    } else {
        Err("the books are not right".into())
    }
}
