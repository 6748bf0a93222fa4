//! What a first page of invoices costs where there are many, and where there are few.
//!
//! Both books are made by the engine, of a merchant with ten tables whose customers order the same
//! dishes, so that every search finds more than a page. SQLite's own counters tell how many pages
//! each search touches: the bench fails when many invoices need more than 1.5 times what ten
//! thousand need, or when anything scans a table. Times are printed and judged by nobody.
//!
//! `cargo bench --bench invoice_growth` compares a million invoices with ten thousand;
//! `-- --invoices 50000` is quicker.

#[path = "support/transfers.rs"]
mod transfers;
#[path = "support/watch.rs"]
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::ids::MerchantId;
use flashkit::invoices::{
    CreateInvoice, Custody, GivenAddress, InvoiceFilter, InvoiceOptions, InvoiceOwner,
    InvoicePurpose, InvoiceState, OnChainFact, OnChainPlace, Outpoint, Rail,
};
use flashkit::money::Price;
use flashkit::ports::{Clock, SystemClock};
use flashkit::settlement::{CreateMerchant, PayoutTerms};
use flashkit::store::sqlite::SqliteStore;
use flashkit::{Engine, IdempotencyKey, MasterSecret};
use tokio::task::JoinSet;
use transfers::Done;
use watch::Work;

const FEW: usize = 10_000;
const MANY: usize = 1_000_000;
const AT_ONCE: usize = 500;
const PAGE: usize = 50;
/// Each search is done so often, in turn.
const TIMES: usize = 50;
/// Many invoices may need at most 15 tenths of what few need.
const MOST_TENTHS: i64 = 15;
/// Every so many invoices one is paid.
const PAID: usize = 50;

const SEARCHES: [&str; 7] = [
    "all of everyone",
    "all of a merchant",
    "settled of everyone",
    "settled of a merchant",
    "new of a merchant since a time",
    "an order reference",
    "the beginning of a word",
];

fn key(text: String) -> Done<IdempotencyKey> {
    Ok(text.parse()?)
}

struct Books {
    file: PathBuf,
    engine: Engine,
    merchant: MerchantId,
    /// When half of them were made.
    middle_ms: i64,
}

async fn engine(file: &Path) -> Done<Engine> {
    let store = SqliteStore::open(file, Arc::new(SystemClock))?;
    let builder = Engine::builder(Arc::new(store), MasterSecret::new([7; 32]));
    Ok(builder.network("regtest").open().await?)
}

async fn make(engine: Engine, merchant: MerchantId, number: usize) -> Done {
    const DISHES: [&str; 5] = ["patty", "coco bread", "ackee", "callaloo", "festival"];
    let address = format!("bcrt1q{number}");
    let command = CreateInvoice {
        key: key(format!("invoice/{number}"))?,
        purpose: InvoicePurpose::Sale { merchant },
        price: Some(Price::Bitcoin {
            amount_msat: 1_000_000,
        }),
        description: format!("{} with {}", DISHES[number % 5], DISHES[number / 5 % 5]),
        expiry_seconds: 604_800,
        options: InvoiceOptions {
            rails: vec![Rail::OnChain],
            order_reference: format!("table {}", number % 10),
            address: Some(GivenAddress {
                address: address.clone(),
                custody: Custody::Operator,
            }),
            ..InvoiceOptions::default()
        },
    };
    let (invoices, issuer) = (engine.invoices(), engine.issuer());
    invoices.create(&issuer, command).await?;
    if number.is_multiple_of(PAID) {
        let mut txid = [1; 32];
        txid[..8].copy_from_slice(&number.to_be_bytes());
        let fact = OnChainFact {
            outpoint: Outpoint { txid, vout: 0 },
            amount_sat: 1_000,
            first_known_ms: SystemClock.now_ms(),
            place: OnChainPlace::Block {
                height: 100,
                hash: "ab".repeat(32),
                confirmations: 6,
            },
        };
        invoices.observe_on_chain(&issuer, &address, &fact).await?;
    }
    Ok(())
}

impl Books {
    /// Books with so many invoices, opened anew after the last one.
    async fn with(file: PathBuf, count: usize) -> Done<Self> {
        let begun = Instant::now();
        let engine = self::engine(&file).await?;
        let create = CreateMerchant {
            key: key("merchant".to_owned())?,
            name: "Cookshop".to_owned(),
            terms: PayoutTerms::default(),
            category: None,
        };
        let merchant = engine
            .settlement()
            .create(&engine.issuer(), create)
            .await?
            .id;
        let (mut work, mut middle_ms) = (JoinSet::new(), 0);
        for number in 0..count {
            if work.len() >= AT_ONCE {
                work.join_next().await.transpose()?.transpose()?;
            }
            if number == count / 2 {
                middle_ms = SystemClock.now_ms();
            }
            work.spawn(make(engine.clone(), merchant, number));
        }
        while let Some(made) = work.join_next().await {
            made??;
        }
        engine.stop().await?;
        let size = std::fs::metadata(&file)?.len() >> 20;
        let seconds = begun.elapsed().as_secs_f64();
        println!("{count:9} invoices made in {seconds:.0} s: {size} MiB");
        let books = Self {
            engine: self::engine(&file).await?,
            file,
            merchant,
            middle_ms,
        };
        // What is prepared once: statements, the credential.
        for search in 0..SEARCHES.len() {
            books.run(search).await?;
        }
        Ok(books)
    }

    fn filter(&self, search: usize) -> InvoiceFilter {
        let owner = match search {
            0 | 2 => InvoiceOwner::Everyone,
            _ => InvoiceOwner::Merchant {
                merchant: self.merchant,
            },
        };
        let all = InvoiceFilter {
            owner,
            ..InvoiceFilter::default()
        };
        match search {
            2 | 3 => InvoiceFilter {
                state: Some(InvoiceState::Settled),
                ..all
            },
            4 => InvoiceFilter {
                state: Some(InvoiceState::New),
                from_ms: Some(self.middle_ms),
                ..all
            },
            5 => InvoiceFilter {
                order_reference: Some("Table 7".to_owned()),
                ..all
            },
            6 => InvoiceFilter {
                word_prefix: Some("call".to_owned()),
                ..all
            },
            _ => all,
        }
    }

    /// The first page of a search: how long it took and what it needed of SQLite.
    async fn run(&self, search: usize) -> Done<(Duration, Work)> {
        let filter = self.filter(search);
        let (invoices, issuer) = (self.engine.invoices(), self.engine.issuer());
        watch::take();
        let begun = Instant::now();
        let found = invoices.search(&issuer, &filter, None, PAGE).await?.value;
        let needed = (begun.elapsed(), watch::take());
        if found.invoices.len() != PAGE || found.next.is_none() {
            return Err(format!("{}: {} found", SEARCHES[search], found.invoices.len()).into());
        }
        Ok(needed)
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Whether a first page needs no more among many than it may.
async fn compare(few: &Books, many: &Books) -> Done<bool> {
    let mut all_well = true;
    println!("\nmany to few, each search {TIMES} times in turn:");
    for (search, name) in SEARCHES.iter().enumerate() {
        let (mut works, mut times) = ([Work::default(); 2], [Vec::new(), Vec::new()]);
        for _ in 0..TIMES {
            for (place, books) in [few, many].into_iter().enumerate() {
                let (time, work) = books.run(search).await?;
                works[place] += work;
                times[place].push(time);
            }
        }
        let [few, many] = works;
        let is_well = many.pages * 10 <= few.pages * MOST_TENTHS && few.scanned + many.scanned == 0;
        all_well &= is_well;
        let each = |count: i64| count as f64 / TIMES as f64;
        let [few_time, many_time] = times.map(median);
        println!(
            "  {name:30} pages x{:.2} ({:.1} to {:.1}), time x{:.2} ({:.0} to {:.0} us){}",
            many.pages as f64 / few.pages.max(1) as f64,
            each(few.pages),
            each(many.pages),
            many_time.as_secs_f64() / few_time.as_secs_f64(),
            few_time.as_secs_f64() * 1e6,
            many_time.as_secs_f64() * 1e6,
            if is_well { "" } else { "  TOO MUCH" },
        );
    }
    Ok(all_well)
}

async fn run(folder: &Path, count: usize) -> Done<bool> {
    watch::watch_new_connections();
    let few = Books::with(folder.join("few.db"), FEW).await?;
    let many = Books::with(folder.join("many.db"), count).await?;
    let is_flat = compare(&few, &many).await?;
    let has_no_scan = watch::plans_are_well(&many.file)?;
    few.engine.stop().await?;
    many.engine.stop().await?;
    Ok(is_flat && has_no_scan)
}

fn main() -> Done {
    let mut count = std::env::args().skip_while(|argument| argument != "--invoices");
    let count = count.nth(1).map_or(Ok(MANY), |number| number.parse())?;
    // Beside the build: a temporary folder may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    if runtime.block_on(run(folder.path(), count))? {
        Ok(())
    } else {
        Err("a page costs more where there are many invoices".into())
    }
}
