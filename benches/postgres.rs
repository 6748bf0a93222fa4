//! What a transfer costs on PostgreSQL, as ratios to a bare stored procedure under pgbench.
//!
//! The server is started here, with `fsync` on. Slices of one run take turns, and of the ratios of
//! all turns the median is printed with its spread. Afterwards the books are checked; the exit code
//! says whether they are right, never how fast it was.
//!
//! `cargo bench --bench postgres --features postgres` takes about two minutes; `-- --quick` some
//! seconds. Without PostgreSQL it says so and ends.

#[path = "../tests/support/postgres/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod postgres;
#[path = "support/transfers.rs"]
mod transfers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flashkit::ids::{CardId, MerchantId};
use flashkit::ledger::Account;
use flashkit::ports::SystemClock;
use flashkit::store::Store;
use flashkit::store::postgres::{PostgresConfig, PostgresStore};
use postgres::Cluster;
use tokio::task::JoinSet;
use transfers::{Done, batch, fund, is_conserved, numbered, spread};

/// Cards, each with a merchant of its own; the first merchant is the hot one.
const CARDS: usize = 64;

const BARE_SETUP: &str = "
CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL) WITH (fillfactor = 50);
CREATE TABLE journal (position BIGSERIAL PRIMARY KEY, idempotency_key TEXT NOT NULL UNIQUE,
    debit INTEGER NOT NULL, credit INTEGER NOT NULL, amount BIGINT NOT NULL);
CREATE TABLE outbox (position BIGSERIAL PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE SEQUENCE keys;
INSERT INTO accounts SELECT id, 1000000000000 FROM generate_series(0, 127) AS id;
CREATE FUNCTION bare_transfer(payer INTEGER, payee INTEGER, amount BIGINT) RETURNS VOID
LANGUAGE plpgsql AS $$
DECLARE key TEXT := 'till/charge/' || nextval('keys');
BEGIN
    INSERT INTO journal (idempotency_key, debit, credit, amount) VALUES (key, $1, $2, $3);
    UPDATE accounts SET balance = balance - $3 WHERE id = $1;
    UPDATE accounts SET balance = balance + $3 WHERE id = $2;
    INSERT INTO outbox (kind, body) VALUES ('card.charged', key);
END $$;";
const BARE_TRANSFER: &str = "SELECT bare_transfer(:client_id, :client_id + 64, 1000);";
const BARE_HOT: &str = "SELECT bare_transfer(:client_id, 64, 1000);";

const NAMES: [&str; CONTENDERS] = [
    "bare procedure under pgbench, 8 clients",
    "bare procedure under pgbench, 8 clients, one payee",
    "transfers by Store::commit, 8 tasks",
    "transfers by Store::commit, 64 tasks",
    "all to one merchant, 8 tasks",
    "all to one merchant, 64 tasks",
    "two instances with 32 tasks each",
    "two instances with 32 tasks each, all to one merchant",
];
const CONTENDERS: usize = 8;
const BARE: usize = 0;
const BARE_HOT_PAYEE: usize = 1;
const EIGHT: usize = 2;
const MANY: usize = 3;
const EIGHT_HOT: usize = 4;
const MANY_HOT: usize = 5;
const TWO: usize = 6;
const TWO_HOT: usize = 7;

struct Bench {
    cluster: Cluster,
    stores: [PostgresStore; 2],
    cards: Vec<CardId>,
    merchants: Vec<MerchantId>,
    transfers: Arc<AtomicU64>,
    slice: Duration,
}

impl Bench {
    async fn new(cluster: Cluster, slice: Duration) -> Done<Self> {
        cluster.raw().await.batch_execute(BARE_SETUP).await?;
        let connect = || {
            let config = PostgresConfig::new(cluster.url(cluster.port, "sslmode=disable"));
            PostgresStore::connect(config.schema("bench"), Arc::new(SystemClock))
        };
        let stores = [connect().await?, connect().await?];
        let cards: Vec<CardId> = (0..CARDS as u64)
            .map(|number| CardId::from_parts(1, numbered(number)))
            .collect();
        let merchants = (0..CARDS as u64)
            .map(|number| MerchantId::from_parts(1, numbered(number)))
            .collect();
        fund(&stores[0], &cards).await?;
        Ok(Self {
            cluster,
            stores,
            cards,
            merchants,
            transfers: Arc::default(),
            slice,
        })
    }

    /// Transfers a second.
    async fn slice(&self, contender: usize) -> Done<f64> {
        match contender {
            BARE => self.bare(BARE_TRANSFER),
            BARE_HOT_PAYEE => self.bare(BARE_HOT),
            EIGHT => self.ours(&self.stores[..1], 8, false).await,
            MANY => self.ours(&self.stores[..1], 64, false).await,
            EIGHT_HOT => self.ours(&self.stores[..1], 8, true).await,
            MANY_HOT => self.ours(&self.stores[..1], 64, true).await,
            TWO => self.ours(&self.stores, 64, false).await,
            _ => self.ours(&self.stores, 64, true).await,
        }
    }

    fn bare(&self, script: &str) -> Done<f64> {
        let (seconds, port) = (
            self.slice.as_secs().to_string(),
            self.cluster.port.to_string(),
        );
        let file = self.cluster.folder().join("script.sql");
        std::fs::write(&file, script)?;
        let file = file.to_str().ok_or("a path that is no text")?;
        let server = ["-h", "127.0.0.1", "-p", &port, "-U", "flashkit", "-f", file];
        let load = ["-n", "-M", "prepared", "-c", "8", "-j", "2", "-T", &seconds];
        let arguments = [&server[..], &load, &["postgres"]].concat();
        let ended = self.cluster.command("pgbench", &arguments).output()?;
        let said = String::from_utf8_lossy(&ended.stdout);
        let line = said.lines().find_map(|line| line.strip_prefix("tps = "));
        let number = line.and_then(|line| line.split(' ').next());
        Ok(number
            .ok_or_else(|| {
                format!(
                    "pgbench tells no tps: {said}{}",
                    String::from_utf8_lossy(&ended.stderr)
                )
            })?
            .parse()?)
    }

    async fn ours(&self, stores: &[PostgresStore], tasks: usize, is_hot: bool) -> Done<f64> {
        let (begun, mut work) = (Instant::now(), JoinSet::new());
        let until = begun + self.slice;
        for task in 0..tasks {
            let store = stores[task % stores.len()].clone();
            let (card, transfers) = (self.cards[task], self.transfers.clone());
            let payee = Account::merchant_payable(self.merchants[if is_hot { 0 } else { task }]);
            work.spawn(async move {
                let mut done = 0_u32;
                while Instant::now() < until {
                    let number = transfers.fetch_add(1, Ordering::SeqCst) + 1;
                    store.commit(batch(number, card, payee)).await?;
                    done += 1;
                }
                Done::Ok(done)
            });
        }
        let mut done = 0;
        while let Some(of_task) = work.join_next().await {
            done += of_task??;
        }
        Ok(f64::from(done) / begun.elapsed().as_secs_f64())
    }
}

fn report(turns: &[[f64; CONTENDERS]]) {
    println!(
        "\n{} turns. Transfers a second, median (quartiles):",
        turns.len()
    );
    for (contender, name) in NAMES.iter().enumerate() {
        let (median, low, high) = spread(turns.iter().map(|turn| turn[contender]).collect());
        println!("  {name:54} {median:8.0} ({low:.0} to {high:.0})");
    }
    println!("\nAgainst a baseline of the same turn, median (quartiles); 1.00 is as fast:");
    for (ours, baseline) in [
        (EIGHT, BARE),
        (MANY, BARE),
        (EIGHT_HOT, EIGHT),
        (MANY_HOT, MANY),
        (EIGHT_HOT, BARE_HOT_PAYEE),
        (TWO, MANY),
        (TWO_HOT, TWO),
    ] {
        let ratios = turns.iter().map(|turn| turn[ours] / turn[baseline]);
        let (median, low, high) = spread(ratios.collect());
        println!("  x{median:<7.2} ({low:.2} to {high:.2})  {}", NAMES[ours]);
        println!("  {:25} against {}", "", NAMES[baseline]);
    }
}

async fn run(cluster: Cluster, is_quick: bool) -> Done<bool> {
    let (slice, turns) = if is_quick { (1, 2) } else { (2, 7) };
    let bench = Bench::new(cluster, Duration::from_secs(slice)).await?;
    println!("bare PostgreSQL, set up by:{BARE_SETUP}\n{BARE_TRANSFER}\n{BARE_HOT}");
    let mut seen = Vec::new();
    for turn in 0..=turns {
        let mut rates = [0.0; CONTENDERS];
        // Each turn begins with another one, so that none always follows the same.
        for place in 0..CONTENDERS {
            let contender = (place + turn) % CONTENDERS;
            rates[contender] = bench.slice(contender).await?;
        }
        // In the first turn, caches and statements are cold.
        if turn > 0 {
            seen.push(rates);
        }
    }
    report(&seen);
    let transfers = bench.transfers.load(Ordering::SeqCst);
    let store = &bench.stores[0];
    let is_conserved = is_conserved(store, &bench.merchants, CARDS, transfers).await?;
    println!("\nbooks: {is_conserved} (true: conserved), {transfers} transfers");
    Ok(is_conserved)
}

fn main() -> Done {
    let Some(cluster) = Cluster::start() else {
        return Ok(());
    };
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let runtime = tokio::runtime::Runtime::new()?;
    if runtime.block_on(run(cluster, is_quick))? {
        Ok(())
    } else {
        Err("the books are not right".into())
    }
}
