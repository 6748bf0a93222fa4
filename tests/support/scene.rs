//! A card with money and a till, on memory and on SQLite, whose clock is the test's.

use std::sync::Arc;
use std::time::Duration;

use flashkit::access::Credential;
use flashkit::cards::{AuthorizeCard, CardLimits, Charge, ChargeCard, Pin};
use flashkit::ledger::Account;
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use flashkit::{Answer, Engine, Error};

use super::books::expect_sound;
use super::key;
use super::shop::{self, HeldCard, Merchant, SAT, Simulated, sat};

pub const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Noon, so that a day does not end by itself.
pub const NOON: i64 = 1_795_521_600_000;

/// The same tests on both stores: each is told whether it is on SQLite.
#[allow(unused_macros, reason = "every test file uses its own part")]
macro_rules! on_both_stores {
    ($($name:ident;)*) => {
        mod on_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(false).await; })*
        }
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(true).await; })*
        }
    };
}
#[allow(unused_imports, reason = "every test file uses its own part")]
pub(crate) use on_both_stores;

/// A shop with a card that has 50,000 sats, and a till.
pub struct Scene {
    pub shop: Simulated,
    pub store: Arc<dyn Store>,
    pub clock: Arc<ManualClock>,
    pub merchant: Merchant,
    pub card: HeldCard,
    pub folder: Option<tempfile::TempDir>,
}

/// What a call answered, or the code of its refusal.
pub type Told<T> = Result<Answer<T>, &'static str>;

pub fn told<T>(answer: Result<Answer<T>, Error>) -> Told<T> {
    answer.map_err(|error| error.code())
}

impl Scene {
    pub async fn new(is_sqlite: bool, limits: CardLimits) -> Self {
        let clock = Arc::new(ManualClock::at(NOON));
        let folder = is_sqlite.then(|| tempfile::tempdir().unwrap());
        let store: Arc<dyn Store> = match &folder {
            Some(folder) => {
                let file = folder.path().join("books.db");
                Arc::new(SqliteStore::open(file, clock.clone()).unwrap())
            }
            None => Arc::new(MemoryStore::new(clock.clone())),
        };
        let shop = shop::simulated_at(store.clone(), clock.clone()).await;
        let merchant = shop::merchant(&shop.engine, "Cookshop").await;
        let card = shop::card(&shop.engine, shop::UID, limits).await;
        shop::top_up(&shop.engine, &shop.customer, &card, "top-up", sat(50_000)).await;
        Self {
            shop,
            store,
            clock,
            merchant,
            card,
            folder,
        }
    }

    pub fn engine(&self) -> &Engine {
        &self.shop.engine
    }

    pub async fn authorize(&mut self, name: &str, sats: i64) -> Told<Charge> {
        let tap = self.card.chip.tap();
        self.authorize_tap(name, &tap, sats, None).await
    }

    pub async fn authorize_tap(
        &self,
        name: &str,
        tap: &str,
        sats: i64,
        pin: Option<&str>,
    ) -> Told<Charge> {
        let command = AuthorizeCard {
            key: key(name),
            tap: tap.to_owned(),
            price: sat(sats),
            reference: "table 4".to_owned(),
            pin: pin.map(digits),
        };
        let cards = self.engine().cards();
        told(cards.authorize(&self.merchant.till, command).await)
    }

    pub async fn charge(&mut self, name: &str, sats: i64) -> Told<Charge> {
        let tap = self.card.chip.tap();
        self.charge_tap(name, &tap, sats, None).await
    }

    pub async fn charge_tap(
        &self,
        name: &str,
        tap: &str,
        sats: i64,
        pin: Option<&str>,
    ) -> Told<Charge> {
        let command = ChargeCard {
            key: key(name),
            tap: tap.to_owned(),
            price: sat(sats),
            reference: "table 4".to_owned(),
            pin: pin.map(digits),
        };
        let cards = self.engine().cards();
        told(cards.charge(&self.merchant.till, command).await)
    }

    /// What the card can spend, in sats.
    pub async fn balance(&self) -> i64 {
        self.balance_by(&self.card.holder).await
    }

    /// What the card can spend, in sats, as somebody is told.
    pub async fn balance_by(&self, credential: &Credential) -> i64 {
        let cards = self.engine().cards();
        let card = cards.get(credential, self.card.id).await.unwrap();
        assert_eq!(card.balance_msat % SAT, 0);
        card.balance_msat / SAT
    }

    /// How often something happened.
    pub async fn seen(&self, event: &str) -> usize {
        let events = self.store.events(0, 1_000).await.unwrap();
        events.iter().filter(|found| found.kind == event).count()
    }

    /// What the merchant has, in sats.
    pub async fn payable(&self) -> i64 {
        let account = Account::merchant_payable(self.merchant.id);
        let balance = self.store.balance(&account).await.unwrap();
        i64::try_from(balance.available(account.kind().side())).unwrap() / SAT
    }

    pub async fn stop(self, step: &str) {
        expect_sound(self.engine(), step).await;
        let (reports, issuer) = (self.engine().reports(), self.engine().issuer());
        let verdict = reports.verify_journal(&issuer, &[]).await.unwrap();
        assert_eq!(verdict.problems, [], "{step}");
        self.engine().stop().await.unwrap();
    }
}

pub fn digits(text: &str) -> Pin {
    text.parse().unwrap()
}
