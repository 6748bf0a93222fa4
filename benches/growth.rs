//! What a charge, a balance and a page of history cost in old books and in young ones.
//!
//! Both books are made of real charges by the engine, with the same cards. SQLite's own counters
//! tell how many pages each operation touches and how many instructions it runs: they are the same
//! on every machine, so the bench fails when the old books need more than 1.3 times the young
//! ones', or when anything scans a table. How often the pages were visited is printed and judged by
//! nobody: that grows with the depth of the trees. Both books are open and take turns, so that their
//! times can be compared; a machine with other work makes them meaningless, so that they are judged
//! when that is asked for.
//!
//! `cargo bench --bench growth` compares a million charges with ten thousand; with `-- --charges
//! 40000 --transfers 1000000`, old books of which all but 40,000 transfers were told to the store
//! directly, which is quicker;
//! `-- --charges 10000000 --times` takes hours and about 25 GB, and fails as well when the old books
//! take more than 1.5 times as long.

#[path = "support/shop.rs"]
mod shop;
#[path = "support/transfers.rs"]
mod transfers;
#[path = "support/watch.rs"]
#[allow(dead_code, reason = "the growth of cards is told by the statement")]
mod watch;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flashkit::ledger::Account;
use flashkit::store::Store;
use shop::Shop;
use transfers::Done;
use watch::Work;

const YOUNG: usize = 10_000;
const OLD: usize = 1_000_000;
/// Cards, in both books.
const CARDS: usize = 1_000;
/// The young books' history has this many pages of [`PAGE`] rows.
const PAGES: usize = 1_000;
const PAGE: usize = YOUNG / PAGES;
/// Each operation is done so often, with another card each time.
const TIMES: usize = 50;
/// The old books may need at most 13 tenths of what the young ones need.
const MOST_TENTHS: i64 = 13;
/// And at most 15 tenths of the time, where that is judged.
const MOST_TIME_TENTHS: u32 = 15;

const OPERATIONS: [&str; 4] = [
    "charge of a card",
    "balance of a card",
    "first page of history",
    "thousandth page of history",
];

struct Books {
    file: PathBuf,
    shop: Shop,
    /// Before the thousandth page and the [`TIMES`] before it: where a page begins in the tables'
    /// own pages is chance.
    before: Vec<Option<i64>>,
    next_card: usize,
}

impl Books {
    /// Books with so many charges, and so many transfers besides, opened anew after the last one.
    async fn with(file: PathBuf, charges: usize, besides: u64) -> Done<Self> {
        let begun = Instant::now();
        let mut shop = Shop::open(&file, CARDS).await?;
        shop.transfer_all(besides).await?;
        shop.charge_all(charges).await?;
        // Not what makes an empty file, which reads all of nothing.
        watch::forget_statements();
        let shop = shop.reopen(&file).await?;
        let size = std::fs::metadata(&file)?.len() >> 20;
        println!(
            "{charges:9} charges, {besides} transfers made in {:.0} s: {size} MiB",
            begun.elapsed().as_secs_f64()
        );
        let mut books = Self {
            file,
            shop,
            before: Vec::new(),
            next_card: 0,
        };
        let mut before = None;
        for number in 1..PAGES {
            before = books.page(before).await?;
            if number >= PAGES - TIMES {
                books.before.push(before);
            }
        }
        // What is prepared once: statements, the merchant, the till.
        for operation in 0..OPERATIONS.len() {
            books.run(operation).await?;
        }
        Ok(books)
    }

    /// Reads a page; answers the position of its last row.
    async fn page(&self, before: Option<i64>) -> Done<Option<i64>> {
        let account = Account::merchant_payable(self.shop.merchant);
        let rows = self.shop.store.transfers(&account, before, PAGE).await?;
        if rows.len() != PAGE {
            return Err(format!("a page of {} rows", rows.len()).into());
        }
        Ok(rows.last().map(|row| row.position))
    }

    /// An operation, once: how long it took and what it needed of SQLite.
    async fn run(&mut self, operation: usize) -> Done<(Duration, Work)> {
        self.next_card = (self.next_card + 1) % CARDS;
        let tap = self.shop.tap(self.next_card)?;
        watch::take();
        let begun = Instant::now();
        match operation {
            0 => self.shop.charge(tap).await?,
            1 => {
                let account = Account::card_balance(self.shop.cards[self.next_card].0);
                self.shop.store.balance(&account).await.map(drop)?;
            }
            2 => self.page(None).await.map(drop)?,
            _ => {
                let before = self.before[self.next_card % TIMES];
                self.page(before).await.map(drop)?;
            }
        }
        Ok((begun.elapsed(), watch::take()))
    }
}

/// What an operation needed and how long it took, in the young books and in the old.
#[derive(Default)]
struct Found {
    works: [Work; 2],
    times: [Vec<Duration>; 2],
}

/// Whether the old books need no more than they may. Each round has every operation once, so that
/// the first page of history is another one each time: where it begins in the tables' own pages is
/// chance as well.
async fn compare(young: &mut Books, old: &mut Books, judges_times: bool) -> Done<bool> {
    let mut found = OPERATIONS.map(|_| Found::default());
    for _ in 0..TIMES {
        for (operation, found) in found.iter_mut().enumerate() {
            for (place, books) in [&mut *young, &mut *old].into_iter().enumerate() {
                let (time, work) = books.run(operation).await?;
                found.works[place] += work;
                found.times[place].push(time);
            }
        }
    }
    let mut all_well = true;
    println!("\nold to young books, each operation {TIMES} times in turn:");
    for (name, found) in OPERATIONS.iter().zip(found) {
        all_well &= tell(name, found, judges_times);
    }
    Ok(all_well)
}

fn tell(name: &str, found: Found, judges_times: bool) -> bool {
    let [young, old] = found.works;
    let [young_time, old_time] = found.times.map(median);
    let is_quick = !judges_times || old_time * 10 <= young_time * MOST_TIME_TENTHS;
    let is_well = old.pages * 10 <= young.pages * MOST_TENTHS
        && old.steps * 10 <= young.steps * MOST_TENTHS
        && young.scanned + old.scanned == 0
        && is_quick;
    let ratio = |old: i64, young: i64| old as f64 / young.max(1) as f64;
    let each = |count: i64| count as f64 / TIMES as f64;
    println!(
        "  {name:28} pages x{:.2} ({:.1} to {:.1}), visits of them x{:.2}, steps x{:.2} ({:.0} to \
         {:.0}), time x{:.2} ({:.0} to {:.0} us){}",
        ratio(old.pages, young.pages),
        each(young.pages),
        each(old.pages),
        ratio(old.visits, young.visits),
        ratio(old.steps, young.steps),
        each(young.steps),
        each(old.steps),
        old_time.as_secs_f64() / young_time.as_secs_f64(),
        young_time.as_secs_f64() * 1e6,
        old_time.as_secs_f64() * 1e6,
        if is_well { "" } else { "  TOO MUCH" },
    );
    is_well
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

async fn run(folder: &Path, charges: usize, besides: u64, judges_times: bool) -> Done<bool> {
    watch::watch_new_connections();
    let mut young = Books::with(folder.join("young.db"), YOUNG, 0).await?;
    let mut old = Books::with(folder.join("old.db"), charges, besides).await?;
    let is_flat = compare(&mut young, &mut old, judges_times).await?;
    let has_no_scan = watch::plans_are_well(&old.file)?;
    young.shop.engine.stop().await?;
    old.shop.engine.stop().await?;
    Ok(is_flat && has_no_scan)
}

fn main() -> Done {
    let option = |name| std::env::args().skip_while(move |it| it != name).nth(1);
    let charges = option("--charges").map_or(Ok(OLD), |number| number.parse())?;
    let transfers = option("--transfers").map_or(Ok(0), |number| number.parse::<usize>())?;
    // A charge is a transfer.
    let besides = u64::try_from(transfers.saturating_sub(charges))?;
    // Beside the build: a temporary folder may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let judges_times = std::env::args().any(|argument| argument == "--times");
    if runtime.block_on(run(folder.path(), charges, besides, judges_times))? {
        Ok(())
    } else {
        Err("old books cost more than young ones".into())
    }
}
