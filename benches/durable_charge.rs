//! What a durable charge costs, as ratios to bare SQLite and to the disk.
//!
//! Absolute figures of a shared machine mean little, so everything is measured in slices of one
//! run that take turns: the ratio of two slices of the same turn, and of all turns the median with
//! its spread. Afterwards the books are checked; the exit code says whether they are right, never
//! how fast it was.
//!
//! `cargo bench --bench durable_charge` takes about a minute; `-- --quick` a few seconds. With
//! `-- --only 3` the fourth contender alone runs, for a profiler to look at.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::access::Credential;
use flashkit::cards::{ActivateCard, CardLimits, ChargeCard, IssueCard};
use flashkit::ids::{BatchId, CardId, MerchantId, TransferId};
use flashkit::ledger::{
    Account, Batch, CommandRecord, NewEvent, NewTransfer, Side, Step, TransferKind,
};
use flashkit::money::Price;
use flashkit::ports::SystemClock;
use flashkit::settlement::{CreateMerchant, PairTill, PayoutTerms};
use flashkit::store::Store;
use flashkit::store::sqlite::SqliteStore;
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::{Engine, IdempotencyKey, MasterSecret};
use rusqlite::{Connection, params};
use tokio::task::JoinSet;

type Done<T = ()> = Result<T, Box<dyn Error>>;

/// How many are submitted at the same time, and how many cards there are.
const CONCURRENT: usize = 100;
/// How many single ones are in one slice.
const SINGLES: usize = 20;
const AMOUNT_MSAT: i64 = 21_000;
const FUNDS_MSAT: i64 = 1_000_000_000_000;

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

fn numbered(number: u64) -> [u8; 10] {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    random
}

fn transfer(number: u64, debit: Account, credit: Account, amount: i64) -> Step {
    Step::Transfer(NewTransfer {
        id: TransferId::from_parts(1, numbered(number)),
        debit,
        credit,
        amount,
        kind: TransferKind::Charge,
        reference: "benchmark".to_owned(),
        credit_ceiling: None,
    })
}

/// Money on the cards from the operator's capital, told to the store directly: a top-up would
/// need a node.
async fn fund(store: &SqliteStore, cards: &[CardId]) -> Done {
    let mut steps = Vec::new();
    for (number, card) in cards.iter().enumerate() {
        let card = Account::card_balance(*card);
        let number = u64::MAX - u64::try_from(number)?;
        steps.push(transfer(number, Account::node_channels(), card, FUNDS_MSAT));
    }
    let id = BatchId::from_parts(1, [255; 10]);
    let command = None;
    store.commit(Batch { id, command, steps }).await?;
    Ok(())
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
        let key = format!("till/charge/{:012}", self.transfers);
        let (debit, credit) = (
            Account::card_balance(card),
            Account::merchant_payable(self.merchant),
        );
        let event = NewEvent {
            kind: "card.charged",
            object: card.to_string(),
            body: serde_json::json!(key),
        };
        Batch {
            id: BatchId::from_parts(1, numbered(self.transfers)),
            command: Some(CommandRecord {
                scope: key,
                fingerprint: "benchmark".to_owned(),
                answer: serde_json::Value::Null,
            }),
            steps: vec![
                transfer(self.transfers, debit, credit, AMOUNT_MSAT),
                Step::Emit(event),
            ],
        }
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

/// The engine: a till charges cards by their taps.
struct Charges {
    engine: Engine,
    store: SqliteStore,
    till: Credential,
    merchant: MerchantId,
    cards: Vec<VirtualCard>,
    charges: u64,
}

fn key(text: String) -> Done<IdempotencyKey> {
    Ok(text.parse()?)
}

impl Charges {
    async fn new(file: &Path) -> Done<Self> {
        let store = SqliteStore::open(file, Arc::new(SystemClock))?;
        let master = MasterSecret::new([7; 32]);
        let engine = Engine::builder(Arc::new(store.clone()), master)
            .open()
            .await?;
        let issuer = engine.issuer();
        let create = CreateMerchant {
            key: key("merchant".to_owned())?,
            name: "Cookshop".to_owned(),
            terms: PayoutTerms::default(),
        };
        let merchant = engine.settlement().create(&issuer, create).await?.id;
        let pair = PairTill {
            key: key("till".to_owned())?,
            merchant,
            label: "till 1".to_owned(),
        };
        let till = engine.settlement().pair_till(&issuer, pair).await?;
        let (mut ids, mut cards) = (Vec::new(), Vec::new());
        for number in 0..CONCURRENT {
            let uid = format!("04{number:012x}");
            let issue = IssueCard {
                key: key(format!("issue/{number}"))?,
                uid: uid.clone(),
                existing_chip: None,
                limits: CardLimits::default(),
            };
            let card = engine.cards().issue(&issuer, issue).await?.id;
            let keys = engine.cards().programming_keys(&issuer, &uid).await?;
            cards.push(VirtualCard::program(&uid, &keys)?);
            let key = key(format!("activate/{number}"))?;
            engine
                .cards()
                .activate(&issuer, ActivateCard { key, card })
                .await?;
            ids.push(card);
        }
        fund(&store, &ids).await?;
        Ok(Self {
            till: till.credential.clone(),
            engine,
            store,
            merchant,
            cards,
            charges: 0,
        })
    }

    /// The first `many` cards are tapped: this is the chip's work, not the engine's.
    fn taps(&mut self, many: usize) -> Done<Vec<ChargeCard>> {
        let mut commands = Vec::new();
        for card in self.cards.iter_mut().take(many) {
            self.charges += 1;
            commands.push(ChargeCard {
                key: key(format!("charge/{:012}", self.charges))?,
                tap: card.tap(),
                price: Price::Bitcoin {
                    amount_msat: AMOUNT_MSAT,
                },
                reference: "patty and coco bread".to_owned(),
            });
        }
        Ok(commands)
    }

    async fn singly(&self, taps: Vec<ChargeCard>) -> Done {
        for command in taps {
            self.engine.cards().charge(&self.till, command).await?;
        }
        Ok(())
    }

    async fn at_once(&self, taps: Vec<ChargeCard>) -> Done {
        let mut work = JoinSet::new();
        for command in taps {
            let (cards, till) = (self.engine.cards(), self.till.clone());
            work.spawn(async move { cards.charge(&till, command).await.map(drop) });
        }
        while let Some(done) = work.join_next().await {
            done??;
        }
        Ok(())
    }
}

/// Debits equal credits, and the merchant has what the cards have lost: exactly so many transfers.
async fn is_conserved(store: &SqliteStore, merchant: MerchantId, transfers: u64) -> Done<bool> {
    let (mut debits, mut credits, mut on_cards, mut after) = (0, 0, 0, None);
    loop {
        let page = store.balances(after, 1_000).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (account, balance) in page {
            debits += balance.debits_posted;
            credits += balance.credits_posted;
            let is_pending = balance.debits_pending != 0 || balance.credits_pending != 0;
            if is_pending {
                return Ok(false);
            }
            if account.to_string().starts_with("card_balance/") {
                on_cards += balance.posted(Side::Credit);
            }
        }
    }
    let owed = store.balance(&Account::merchant_payable(merchant)).await?;
    let (owed, moved) = (
        owed.posted(Side::Credit),
        i128::from(transfers) * i128::from(AMOUNT_MSAT),
    );
    let funds = i128::from(FUNDS_MSAT) * i128::try_from(CONCURRENT)?;
    Ok(debits == credits && owed == moved && on_cards + owed == funds)
}

/// How many slices the bytes are counted over.
const BYTES_SLICES: usize = 10;
const CONTENDERS: usize = 7;
const DISK: usize = 0;
const BARE: usize = 1;
const LEDGER: usize = 2;
const CHARGE: usize = 3;
const BARE_GROUP: usize = 4;
const LEDGER_GROUP: usize = 5;
const CHARGE_GROUP: usize = 6;
const NAMES: [&str; CONTENDERS] = [
    "append 4 KiB + fdatasync, one at a time",
    "bare SQLite transfer, one a commit",
    "ledger transfer by Store::commit, one at a time",
    "card charge with a tap, one at a time",
    "bare SQLite transfer, 100 a commit, each in a savepoint",
    "ledger transfers, 100 at once",
    "card charges with taps, 100 at once",
];

struct Bench {
    disk: Disk,
    bare: Bare,
    ledger: Ledger,
    charges: Charges,
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
                operations += if contender < BARE_GROUP {
                    SINGLES
                } else {
                    CONCURRENT
                };
            }
            let after = written_bytes().unwrap_or(before);
            let each = (after - before) / u64::try_from(operations)?;
            println!("  {name:56} {each:9}");
        }
        Ok(())
    }

    /// One slice: how long one operation of it took.
    async fn slice(&mut self, contender: usize) -> Done<Duration> {
        let operations = if contender < BARE_GROUP {
            SINGLES
        } else {
            CONCURRENT
        };
        let taps = match contender {
            CHARGE | CHARGE_GROUP => self.charges.taps(operations)?,
            _ => Vec::new(),
        };
        let begun = Instant::now();
        match contender {
            DISK => self.disk.singly()?,
            BARE => self.bare.singly()?,
            LEDGER => self.ledger.singly().await?,
            CHARGE => self.charges.singly(taps).await?,
            BARE_GROUP => self.bare.grouped()?,
            LEDGER_GROUP => self.ledger.at_once().await?,
            _ => self.charges.at_once(taps).await?,
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
        let ledger = is_conserved(store, *merchant, *transfers).await?;
        let Charges {
            store,
            merchant,
            charges,
            ..
        } = &self.charges;
        let engine = is_conserved(store, *merchant, *charges).await?;
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

/// The median and the quartiles.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[(values.len() - 1) * part / 4];
    (at(2), at(1), at(3))
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

async fn run(folder: &Path, budget: Duration, only: Option<usize>) -> Done<bool> {
    let mut bench = Bench {
        disk: Disk(File::create(folder.join("append"))?),
        bare: Bare::new(&folder.join("bare.db"))?,
        ledger: Ledger::new(&folder.join("ledger.db")).await?,
        charges: Charges::new(&folder.join("engine.db")).await?,
    };
    let mut turns = Vec::new();
    let mut begun = Instant::now();
    while let Some(contender) = only
        && begun.elapsed() < budget
    {
        bench.slice(contender).await?;
    }
    if only.is_some() {
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

fn main() -> Done {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let mut only = std::env::args().skip_while(|argument| argument != "--only");
    let only = only.nth(1).map(|number| number.parse()).transpose()?;
    let only = only.filter(|contender| *contender < CONTENDERS);
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
