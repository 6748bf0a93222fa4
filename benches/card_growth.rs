//! What a charge costs where there are many cards, and where there are few.
//!
//! Both books have come over from another issuer, card by card, so that a million cards are made
//! in minutes. Each charge is one durable commit with limits a day and a week, the merchant's
//! credit and its points. SQLite's own counters tell how many pages it touches: the bench fails
//! when many cards need more than 1.3 times what few need, or when money is missing. Times are
//! printed and judged by nobody.
//!
//! `cargo bench --bench card_growth` compares a hundred thousand cards with a thousand;
//! `-- --cards 1000000` takes a while and about 4 GB. With `--by-statement` it is printed as well
//! how many pages each statement was the first to need.

#[path = "support/transfers.rs"]
mod transfers;
#[path = "support/watch.rs"]
#[allow(dead_code, reason = "the other bench of growth reads the statements")]
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::access::Credential;
use flashkit::cards::boltcard::{IssuerKey, KeyDerivation};
use flashkit::cards::{
    CardLimits, ChargeCard, CreateCardImport, CutOver, ImportedCard, ProgrammingKeys,
};
use flashkit::ids::{MerchantId, ProgramId};
use flashkit::ledger::Account;
use flashkit::money::Price;
use flashkit::ports::SystemClock;
use flashkit::rewards::CreateProgram;
use flashkit::settlement::{CreateMerchant, PairTill, PayoutTerms};
use flashkit::store::Store;
use flashkit::store::sqlite::SqliteStore;
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::{Engine, IdempotencyKey, MasterSecret};
use transfers::{Done, FUNDS_MSAT};
use watch::Work;

const FEW: usize = 1_000;
const MANY: usize = 100_000;
/// So many cards pay, spread over all.
const PAYING: usize = 500;
const TIMES: usize = 200;
/// Of the cards that come over at once.
const AT_ONCE: usize = 10_000;
const AMOUNT_MSAT: i64 = 1_000_000;
const MOST_TENTHS: i64 = 13;

fn key(text: String) -> Done<IdempotencyKey> {
    Ok(text.parse()?)
}

fn issuer_key() -> IssuerKey {
    IssuerKey::new([5; 16])
}

fn uid(number: usize) -> [u8; 7] {
    let number = u64::try_from(number).unwrap_or(0).to_be_bytes();
    let mut uid = [4; 7];
    uid[1..].copy_from_slice(&number[2..]);
    uid
}

fn chip(number: usize) -> Done<VirtualCard> {
    let uid = uid(number);
    let keys = issuer_key().card_keys(&uid, 1, &KeyDerivation::Standard);
    let keys = ProgrammingKeys {
        lnurlw: "lnurlw://old.example.com/boltcard".to_owned(),
        version: 1,
        k0: keys.k0.to_hex(),
        k1: keys.k1.to_hex(),
        k2: keys.k2.to_hex(),
        k3: keys.k3.to_hex(),
        k4: keys.k4.to_hex(),
    };
    Ok(VirtualCard::program(&hex::encode(uid), &keys)?)
}

struct Books {
    engine: Engine,
    store: SqliteStore,
    till: Credential,
    merchant: MerchantId,
    program: ProgramId,
    chips: Vec<VirtualCard>,
    charges: usize,
}

async fn engine(file: &Path) -> Done<(Engine, SqliteStore)> {
    let store = SqliteStore::open(file, Arc::new(SystemClock))?;
    let builder = Engine::builder(Arc::new(store.clone()), MasterSecret::new([7; 32]));
    let engine = builder.card_issuer_key(issuer_key()).open().await?;
    Ok((engine, store))
}

async fn take_over(engine: &Engine, cards: usize) -> Done {
    let (imports, issuer) = (engine.cards().imports(), engine.issuer());
    let create = CreateCardImport {
        key: key("import".to_owned())?,
        name: "old server".to_owned(),
        issuer_key: issuer_key().id(),
        limits: CardLimits {
            per_day: Some(FUNDS_MSAT),
            per_week: Some(FUNDS_MSAT),
            ..CardLimits::default()
        },
        program: None,
    };
    let import = imports.create(&issuer, create).await?.id;
    for first in (0..cards).step_by(AT_ONCE) {
        let row = |number| ImportedCard {
            id: None,
            uid: Some(hex::encode(uid(number))),
            version: 1,
            counter: 0,
            pull_payment_id: None,
            balance_msat: FUNDS_MSAT,
        };
        let command = CutOver {
            key: key(format!("cut-over/{first}"))?,
            import,
            old_issuer_is_frozen: true,
            cards: (first..cards.min(first + AT_ONCE)).map(row).collect(),
        };
        let report = imports.cut_over(&issuer, command).await?;
        if !report.is_clean() {
            return Err(format!("not all came over: {:?}", report.refused.first()).into());
        }
    }
    Ok(())
}

impl Books {
    /// Books with so many cards, opened anew after the last one.
    async fn with(file: &Path, cards: usize) -> Done<Self> {
        let begun = Instant::now();
        let (engine, store) = self::engine(file).await?;
        let issuer = engine.issuer();
        let create = CreateMerchant {
            key: key("merchant".to_owned())?,
            name: "Cookshop".to_owned(),
            terms: PayoutTerms::default(),
            category: None,
        };
        let merchant = engine.settlement().create(&issuer, create).await?.id;
        let pair = PairTill {
            key: key("till".to_owned())?,
            merchant,
            label: "till 1".to_owned(),
        };
        let till = engine.settlement().pair_till(&issuer, pair).await?;
        let create = CreateProgram {
            key: key("points".to_owned())?,
            merchant,
            name: "Points".to_owned(),
            earn_bps: 200,
            point_value_msat: 1_000,
        };
        let program = engine.rewards().create(&issuer, create).await?.id;
        take_over(&engine, cards).await?;
        engine.stop().await?;
        store.close().await?;
        let size = std::fs::metadata(file)?.len() >> 20;
        let seconds = begun.elapsed().as_secs_f64();
        println!("{cards:9} cards came over in {seconds:.0} s: {size} MiB");
        let (engine, store) = self::engine(file).await?;
        let chips = (0..PAYING).map(|number| chip(number * (cards / PAYING)));
        let mut books = Self {
            chips: chips.collect::<Done<Vec<_>>>()?,
            till: till.credential.clone(),
            engine,
            store,
            merchant,
            program,
            charges: 0,
        };
        // What is prepared once: statements, the merchant, the till.
        books.charge().await?;
        Ok(books)
    }

    /// A charge of the next card: how long it took and what it needed of SQLite.
    async fn charge(&mut self) -> Done<(Duration, Work)> {
        self.charges += 1;
        let next = self.charges % self.chips.len();
        let command = ChargeCard {
            key: key(format!("charge/{:012}", self.charges))?,
            tap: self.chips[next].tap(),
            price: Price::Bitcoin {
                amount_msat: AMOUNT_MSAT,
            },
            reference: "patty and coco bread".to_owned(),
            pin: None,
        };
        watch::take();
        let begun = Instant::now();
        self.engine.cards().charge(&self.till, command).await?;
        Ok((begun.elapsed(), watch::take()))
    }

    /// Whether every charge is with the merchant, or in its points.
    async fn is_whole(&self) -> Done<bool> {
        let mut found = 0;
        for account in [
            Account::merchant_payable(self.merchant),
            Account::reward_fund(self.program),
        ] {
            found += self
                .store
                .balance(&account)
                .await?
                .posted(account.kind().side());
        }
        let charges = i128::try_from(self.charges)?;
        Ok(found == charges * i128::from(AMOUNT_MSAT))
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The pages that each statement was the first to need, of a charge where there are few cards and
/// where there are many.
fn print_statements(of: &[BTreeMap<String, Work>; 2]) {
    let all: BTreeSet<&String> = of.iter().flat_map(BTreeMap::keys).collect();
    for sql in all {
        let [few, many] = of.each_ref().map(|works| {
            let work = works.get(sql).copied().unwrap_or_default();
            work.pages as f64 / TIMES as f64
        });
        let words: Vec<&str> = sql.split_whitespace().collect();
        let words: String = words.join(" ").chars().take(120).collect();
        println!("{few:6.2} {many:6.2}  {words}");
    }
}

async fn run(folder: &Path, cards: usize) -> Done<bool> {
    watch::watch_new_connections();
    let mut few = Books::with(&folder.join("few.db"), FEW).await?;
    let mut many = Books::with(&folder.join("many.db"), cards).await?;
    let (mut works, mut times) = ([Work::default(); 2], [Vec::new(), Vec::new()]);
    let mut statements = [BTreeMap::new(), BTreeMap::new()];
    watch::by_statement();
    for _ in 0..TIMES {
        for (place, books) in [&mut few, &mut many].into_iter().enumerate() {
            let (time, work) = books.charge().await?;
            works[place] += work;
            times[place].push(time);
            for (sql, work) in watch::by_statement() {
                *statements[place].entry(sql).or_default() += work;
            }
        }
    }
    if std::env::args().any(|argument| argument == "--by-statement") {
        print_statements(&statements);
    }
    let [young, old] = works;
    let [few_time, many_time] = times.map(median);
    let ratio = |old: i64, young: i64| old as f64 / young.max(1) as f64;
    let each = |count: i64| count as f64 / TIMES as f64;
    println!(
        "a charge with limits, points and the merchant's credit, {TIMES} times in turn:\n  pages \
         x{:.2} ({:.1} to {:.1}), visits of them x{:.2}, steps x{:.2}, time x{:.2} ({:.0} to {:.0} us)",
        ratio(old.pages, young.pages),
        each(young.pages),
        each(old.pages),
        ratio(old.visits, young.visits),
        ratio(old.steps, young.steps),
        many_time.as_secs_f64() / few_time.as_secs_f64(),
        few_time.as_secs_f64() * 1e6,
        many_time.as_secs_f64() * 1e6,
    );
    let is_flat = old.pages * 10 <= young.pages * MOST_TENTHS && young.scanned + old.scanned == 0;
    let is_whole = few.is_whole().await? && many.is_whole().await?;
    println!("pages within 1.3 and nothing scanned: {is_flat}; no money missing: {is_whole}");
    few.engine.stop().await?;
    many.engine.stop().await?;
    Ok(is_flat && is_whole)
}

fn main() -> Done {
    let mut cards = std::env::args().skip_while(|argument| argument != "--cards");
    let cards = cards.nth(1).map_or(Ok(MANY), |number| number.parse())?;
    // Beside the build: a temporary folder may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    if runtime.block_on(run(folder.path(), cards))? {
        Ok(())
    } else {
        Err("a charge costs more where there are many cards, or money is missing".into())
    }
}
