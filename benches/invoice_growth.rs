//! What listing and searching cost among many invoices, and among few.
//!
//! The engine makes some invoices of every state; the rest are copies of those rows under other
//! ids, hashes, addresses, times and order references, told to the store in batches, so that a
//! million are there in minutes. SQLite's own counters tell how many pages a first page of a
//! search touches and how many instructions it runs: the bench fails when many invoices need more
//! than 1.5 times what few need, when anything scans a table, or when a search finds something else
//! than was made. Both books are open and take turns, so that their times can be compared; a machine
//! with other work makes them meaningless, so that they are judged when that is asked for.
//!
//! `cargo bench --bench invoice_growth` compares a hundred thousand invoices with ten thousand;
//! `-- --invoices 1000000` takes minutes and about 3 GB; `--times` judges the times as well.

#[path = "support/transfers.rs"]
mod transfers;
#[path = "support/watch.rs"]
#[allow(dead_code, reason = "the growth of cards is told by the statement")]
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::hashes::Hash;
use bitcoin::{Address, Network, ScriptBuf, WPubkeyHash};
use flashkit::access::Credential;
use flashkit::ids::{BatchId, InvoiceId, MerchantId};
use flashkit::invoices::{
    CreateInvoice, Custody, GivenAddress, Invoice, InvoiceFilter, InvoiceOptions, InvoiceOwner,
    InvoicePosition, InvoicePurpose, InvoiceState, MarkInvoice, MarkedAs, Rail,
};
use flashkit::ledger::{Batch, NewDocument, Step};
use flashkit::money::Price;
use flashkit::settlement::{CreateMerchant, PayoutTerms};
use flashkit::store::Store;
use flashkit::store::sqlite::SqliteStore;
use flashkit::testkit::clock::ManualClock;
use flashkit::{Engine, IdempotencyKey, MasterSecret};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use transfers::{Done, numbered};
use watch::Work;

const FEW: usize = 10_000;
const MANY: usize = 100_000;
/// Invoices that the engine makes, in each books; every fifth of them stands elsewhere.
const PATTERNS: usize = 200;
const MERCHANTS: usize = 8;
const START_MS: i64 = 1_800_000_000_000;
/// Between one invoice and the next.
const STEP_MS: i64 = 40;
const PAGE: usize = 20;
/// Each search is made so often, each time for something else.
const TIMES: usize = 50;
/// Many invoices may need at most 15 tenths of what few need, and of the time where that is judged.
const MOST_TENTHS: i64 = 15;
const MOST_TIME_TENTHS: u32 = 15;
/// Steps in a batch, and batches that wait at once.
const BATCH: usize = 500;
const BATCHES: usize = 8;

/// What people sell; two of them begin alike.
const WORDS: [&str; 12] = [
    "patty", "patties", "coco", "bread", "festival", "bammy", "callaloo", "ackee", "saltfish",
    "ginger", "mango", "sorrel",
];

const SEARCHES: [&str; 8] = [
    "a merchant's list",
    "all, newer than a time",
    "a state, all merchants'",
    "a state and time",
    "a merchant's state",
    "an order reference",
    "a word that begins so",
    "a page in the middle",
];

fn key(text: String) -> Done<IdempotencyKey> {
    Ok(text.parse()?)
}

/// Spreads numbers, as digests are spread.
fn mixed(number: usize) -> u64 {
    let mut mixed = (number as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// An invoice as it stands in the file.
struct Pattern {
    body: Value,
    keys: Vec<(&'static str, String)>,
}

struct Books {
    file: PathBuf,
    engine: Engine,
    store: SqliteStore,
    issuer: Credential,
    merchants: Vec<MerchantId>,
    invoices: usize,
    next: usize,
}

async fn engine(file: &Path, clock: Arc<ManualClock>) -> Done<(Engine, SqliteStore)> {
    let store = SqliteStore::open(file, clock.clone())?;
    let builder = Engine::builder(Arc::new(store.clone()), MasterSecret::new([7; 32]));
    let engine = builder.network("regtest").clock(clock).open().await?;
    Ok((engine, store))
}

/// The order reference and the address of the invoice with this number.
fn names(number: usize) -> (String, String) {
    let mixed = mixed(number);
    let mut program = [7; 20];
    program[..8].copy_from_slice(&mixed.to_be_bytes());
    // 20 bytes are a program of version 0.
    let program = ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array(program));
    let address = Address::from_script(&program, Network::Regtest);
    let address = address.map(|address| address.to_string());
    (format!("order{mixed:016x}"), address.unwrap_or_default())
}

impl Books {
    /// Books with so many invoices, opened anew after the last one.
    async fn with(file: PathBuf, invoices: usize) -> Done<Self> {
        let begun = Instant::now();
        let clock = Arc::new(ManualClock::at(START_MS));
        let (engine, store) = self::engine(&file, clock.clone()).await?;
        let issuer = engine.issuer();
        let mut books = Self {
            file,
            engine,
            store,
            issuer,
            merchants: Vec::new(),
            invoices,
            next: 0,
        };
        for number in 0..MERCHANTS {
            let create = CreateMerchant {
                key: key(format!("merchant/{number}"))?,
                name: format!("Cookshop {number}"),
                terms: PayoutTerms::default(),
                category: None,
            };
            let settlement = books.engine.settlement();
            let made = settlement.create(&books.issuer, create).await?;
            books.merchants.push(made.id);
        }
        for number in 0..PATTERNS {
            books.make(number).await?;
            clock.advance(Duration::from_millis(1));
        }
        clock.advance(Duration::from_secs(120));
        books.engine.run_due_jobs().await?;
        let patterns = patterns(&books.file)?;
        books.copy(&patterns).await?;
        books.engine.stop().await?;
        books.store.close().await?;
        // Not what makes an empty file, which reads all of nothing.
        watch::forget_statements();
        let (engine, store) = self::engine(&books.file, clock).await?;
        (books.engine, books.store) = (engine, store);
        let size = std::fs::metadata(&books.file)?.len() >> 20;
        let seconds = begun.elapsed().as_secs_f64();
        println!("{invoices:9} invoices made in {seconds:.0} s: {size} MiB");
        // What is prepared once: statements, the credential.
        for search in 0..SEARCHES.len() {
            books.run(search).await?;
        }
        Ok(books)
    }

    /// An invoice by its number, brought to one of four states.
    async fn make(&self, number: usize) -> Done {
        let merchant = self.merchants[number % MERCHANTS];
        let (order_reference, address) = names(number);
        let word = |at: usize| WORDS[at % WORDS.len()];
        let command = CreateInvoice {
            key: key(format!("invoice/{number}"))?,
            purpose: InvoicePurpose::Sale { merchant },
            price: Some(Price::Bitcoin {
                amount_msat: 1_000_000,
            }),
            description: format!("{} and {}, to go", word(number), word(number / 5 + 3)),
            expiry_seconds: if number % 5 == 4 { 60 } else { 3_600 },
            options: InvoiceOptions {
                rails: vec![Rail::OnChain, Rail::Book],
                order_reference,
                address: Some(GivenAddress {
                    address,
                    custody: Custody::Operator,
                }),
                ..InvoiceOptions::default()
            },
        };
        let invoices = self.engine.invoices();
        let invoice = invoices.create(&self.issuer, command).await?.id;
        let as_state = match number % 5 {
            1 => MarkedAs::Settled,
            3 => MarkedAs::Invalid,
            _ => return Ok(()),
        };
        let mark = MarkInvoice {
            key: key(format!("mark/{number}"))?,
            invoice,
            as_state,
            reason: "a benchmark".to_owned(),
        };
        invoices.mark(&self.issuer, mark).await?;
        Ok(())
    }

    /// So many invoices more that there are as many as there should be.
    async fn copy(&self, patterns: &[Pattern]) -> Done {
        let mut work: JoinSet<Done> = JoinSet::new();
        for first in (patterns.len()..self.invoices).step_by(BATCH) {
            if work.len() == BATCHES
                && let Some(done) = work.join_next().await
            {
                done??;
            }
            let last = self.invoices.min(first + BATCH);
            let steps: Done<Vec<Step>> = (first..last)
                .map(|number| copy_of(&patterns[number % patterns.len()], number))
                .collect();
            let batch = Batch {
                id: BatchId::from_parts(1, numbered(first as u64)),
                command: None,
                steps: steps?.into(),
            };
            let store = self.store.clone();
            work.spawn(async move {
                store.commit(batch).await?;
                Ok(())
            });
        }
        while let Some(done) = work.join_next().await {
            done??;
        }
        Ok(())
    }

    /// A search, once: how long it took and what it needed of SQLite.
    async fn run(&mut self, search: usize) -> Done<(Duration, Work)> {
        self.next += 1;
        let (filter, after, least) = self.asked(search);
        watch::take();
        let begun = Instant::now();
        let found = match (search, filter.owner) {
            (0, InvoiceOwner::Merchant { merchant }) => {
                let purpose = InvoicePurpose::Sale { merchant };
                let invoices = self.engine.invoices();
                invoices
                    .list(&self.issuer, purpose, None, PAGE)
                    .await?
                    .value
            }
            _ => {
                let invoices = self.engine.invoices();
                let page = invoices.search(&self.issuer, &filter, after, PAGE).await?;
                page.value.invoices
            }
        };
        let spent = (begun.elapsed(), watch::take());
        if found.len() < least || !found.iter().all(|invoice| fits(&filter, invoice)) {
            return Err(format!("{filter:?} found {}: {found:?}", found.len()).into());
        }
        Ok(spent)
    }

    /// What is looked for, where the page begins, and how many it must have.
    fn asked(&self, search: usize) -> (InvoiceFilter, Option<InvoicePosition>, usize) {
        use InvoiceState::{Expired, Invalid, New, Settled};
        let turn = self.next;
        let merchant = self.merchants[turn % MERCHANTS];
        let state = Some([New, Settled, Expired, Invalid][turn / MERCHANTS % 4]);
        let any = mixed(turn) as usize % (self.invoices * 9 / 10);
        let some_time_ms = Some(made_at_ms(any));
        let everyone = InvoiceFilter::default();
        let merchants = InvoiceFilter {
            owner: InvoiceOwner::Merchant { merchant },
            ..InvoiceFilter::default()
        };
        let filter = match search {
            0 => merchants,
            1 => InvoiceFilter {
                from_ms: some_time_ms,
                ..everyone
            },
            2 => InvoiceFilter { state, ..everyone },
            3 => InvoiceFilter {
                state,
                from_ms: some_time_ms,
                ..everyone
            },
            // The eight merchants' invoices are in every state, as eight and five share nothing.
            4 => InvoiceFilter { state, ..merchants },
            5 => InvoiceFilter {
                order_reference: Some(names(PATTERNS + any).0.to_uppercase()),
                ..everyone
            },
            6 => InvoiceFilter {
                word_prefix: Some(WORDS[turn % WORDS.len()][..3].to_owned()),
                ..merchants
            },
            _ => {
                let id = id_of(PATTERNS + any);
                let position = json!({ "key": merchant.to_string(), "id": id.to_string() });
                return (merchants, serde_json::from_value(position).ok(), PAGE);
            }
        };
        let least = if search == 5 { 1 } else { PAGE };
        (filter, None, least)
    }
}

fn fits(filter: &InvoiceFilter, invoice: &Invoice) -> bool {
    let is_owners = match filter.owner {
        InvoiceOwner::Merchant { merchant } => invoice.purpose.merchant() == Some(merchant),
        _ => true,
    };
    let begins = |prefix: &String| {
        let mut words = invoice.description.split(|c: char| !c.is_alphanumeric());
        words.any(|word| word.starts_with(prefix))
    };
    let order = &filter.order_reference;
    is_owners
        && filter.state.is_none_or(|state| state == invoice.state)
        && (filter.from_ms).is_none_or(|from_ms| from_ms <= invoice.created_at_ms)
        && (order.as_ref())
            .is_none_or(|order| order.eq_ignore_ascii_case(&invoice.options.order_reference))
        && filter.word_prefix.as_ref().is_none_or(begins)
}

fn made_at_ms(number: usize) -> i64 {
    START_MS + 3_600_000 + number as i64 * STEP_MS
}

fn id_of(number: usize) -> InvoiceId {
    let random = numbered(mixed(number));
    InvoiceId::from_parts(made_at_ms(number).cast_unsigned(), random)
}

/// The invoices that the engine made, with the keys that each is found by.
fn patterns(file: &Path) -> Done<Vec<Pattern>> {
    let connection = Connection::open(file)?;
    let sql = "SELECT body, keys FROM documents WHERE collection = 'invoice' ORDER BY number";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    })?;
    let mut patterns = Vec::new();
    for row in rows {
        let (body, keys) = row?;
        let keys: Vec<(String, String)> = serde_json::from_str(&keys)?;
        let keys = keys.into_iter();
        patterns.push(Pattern {
            body: serde_json::from_str(&body)?,
            // A handful of names, as long as the bench runs.
            keys: keys.map(|(name, key)| (&*name.leak(), key)).collect(),
        });
    }
    if patterns.len() != PATTERNS {
        return Err(format!("the engine made {}", patterns.len()).into());
    }
    Ok(patterns)
}

/// The same invoice as another one.
fn copy_of(pattern: &Pattern, number: usize) -> Done<Step> {
    let Pattern { body, keys } = pattern;
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let old = [
        text(&body["payment_hash"]),
        text(&body["options"]["order_reference"]),
        text(&body["on_chain"]["address"]),
    ];
    let (reference, address) = names(number);
    let hash = (0..4).map(|part| format!("{:016x}", mixed(number * 4 + part)));
    let new = [hash.collect::<String>(), reference, address];
    let replaced = |key: &String| {
        let pairs = old.iter().zip(&new);
        pairs.fold(key.clone(), |key, (old, new)| key.replace(old, new))
    };
    let index_keys = keys
        .iter()
        .map(|(name, key)| (*name, replaced(key)))
        .collect();
    let id = id_of(number).to_string();
    let at_ms = made_at_ms(number);
    let mut body = body.clone();
    let [hash, reference, address] = new;
    body["id"] = json!(id);
    body["payment_hash"] = json!(hash);
    body["created_at_ms"] = json!(at_ms);
    body["expires_at_ms"] = json!(at_ms + 3_600_000);
    body["options"]["order_reference"] = json!(reference);
    body["options"]["address"]["address"] = json!(address);
    body["on_chain"]["address"] = json!(address);
    Ok(Step::Put(NewDocument {
        collection: "invoice",
        id,
        read_version: 0,
        body: body.into(),
        index_keys,
    }))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Whether many invoices need no more than they may. Each round has every search once.
async fn compare(few: &mut Books, many: &mut Books, judges_times: bool) -> Done<bool> {
    let mut works = [[Work::default(); 2]; SEARCHES.len()];
    let mut times = [(); SEARCHES.len()].map(|()| [Vec::new(), Vec::new()]);
    for _ in 0..TIMES {
        for search in 0..SEARCHES.len() {
            for (place, books) in [&mut *few, &mut *many].into_iter().enumerate() {
                let (time, work) = books.run(search).await?;
                works[search][place] += work;
                times[search][place].push(time);
            }
        }
    }
    let mut all_well = true;
    println!(
        "\n{} invoices to {}, the first {PAGE} found, {TIMES} times in turn:",
        many.invoices, few.invoices
    );
    for ((name, [few, many]), times) in SEARCHES.iter().zip(works).zip(times) {
        let [few_time, many_time] = times.map(median);
        let is_well = many.pages * 10 <= few.pages * MOST_TENTHS
            && many.steps * 10 <= few.steps * MOST_TENTHS
            && few.scanned + many.scanned == 0
            && (!judges_times || many_time * 10 <= few_time * MOST_TIME_TENTHS);
        all_well &= is_well;
        let ratio = |many: i64, few: i64| many as f64 / few.max(1) as f64;
        let each = |count: i64| count as f64 / TIMES as f64;
        println!(
            "  {name:24} pages x{:.2} ({:.1} to {:.1}), visits of them x{:.2}, steps x{:.2} ({:.0} \
             to {:.0}), time x{:.2} ({:.0} to {:.0} us){}",
            ratio(many.pages, few.pages),
            each(few.pages),
            each(many.pages),
            ratio(many.visits, few.visits),
            ratio(many.steps, few.steps),
            each(few.steps),
            each(many.steps),
            many_time.as_secs_f64() / few_time.as_secs_f64(),
            few_time.as_secs_f64() * 1e6,
            many_time.as_secs_f64() * 1e6,
            if is_well { "" } else { "  TOO MUCH" },
        );
    }
    Ok(all_well)
}

async fn run(folder: &Path, invoices: usize, judges_times: bool) -> Done<bool> {
    watch::watch_new_connections();
    let mut few = Books::with(folder.join("few.db"), FEW).await?;
    let mut many = Books::with(folder.join("many.db"), invoices).await?;
    let is_flat = compare(&mut few, &mut many, judges_times).await?;
    let has_no_scan = watch::plans_are_well(&many.file)?;
    few.engine.stop().await?;
    many.engine.stop().await?;
    Ok(is_flat && has_no_scan)
}

fn main() -> Done {
    let mut invoices = std::env::args().skip_while(|argument| argument != "--invoices");
    let invoices = invoices.nth(1).map_or(Ok(MANY), |number| number.parse())?;
    // Beside the build: a temporary folder may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let judges_times = std::env::args().any(|argument| argument == "--times");
    if runtime.block_on(run(folder.path(), invoices, judges_times))? {
        Ok(())
    } else {
        Err("a search costs more among many invoices than among few".into())
    }
}
