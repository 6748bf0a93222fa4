//! A shop with a card in a currency, whose clock and rates are the test's.

use std::sync::Arc;

use flashkit::cards::{
    ActivateCard, AuthorizeCard, CaptureCharge, CardLimits, CardProgramTerms, Charge, ChargeAmount,
    ChargeCard, CreateCardProgram, FeeBearer, IssueCard, RefundCharge, ReleaseCharge,
};
use flashkit::exchange::{ConversionRules, SetPositionCap};
use flashkit::ids::{BatchId, ChargeId, TransferId};
use flashkit::ledger::{Account, Batch, NewTransfer, Step, TransferKind};
use flashkit::lightning::LightningNode;
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::money::{Asset, Currency, Price, QuoteSide, Spread};
use flashkit::ports::SystemClock;
use flashkit::rates::{FixedRates, RatePolicy};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::testkit::wallet::Wallet;
use flashkit::{Engine, Settings};

use crate::support::books::expect_sound;
use crate::support::key;
use crate::support::scene::{NOON, Told, told};
use crate::support::scripted::ScriptedNode;
use crate::support::shop::{self, HeldCard, Merchant, UID};

pub struct World {
    pub engine: Engine,
    pub store: Arc<dyn Store>,
    pub clock: Arc<ManualClock>,
    pub rates: Arc<FixedRates>,
    pub merchant: Merchant,
    pub card: HeldCard,
    pub unit: Currency,
    funded: u8,
    _folder: Option<tempfile::TempDir>,
}

/// What is different from one test to the next.
#[derive(Clone, Default)]
pub struct Terms {
    pub rules: ConversionRules,
    pub limits: CardLimits,
    pub spread: Option<Spread>,
    pub fee_bearer: Option<FeeBearer>,
    pub offline_window_ms: Option<i64>,
}

pub fn currency(code: &str) -> Currency {
    Currency::from_code(code).unwrap()
}

pub fn fiat(code: &str, minor_units: i64) -> Price {
    Price::Fiat {
        currency: currency(code),
        minor_units,
    }
}

pub fn msat(amount_msat: i64) -> Price {
    Price::Bitcoin { amount_msat }
}

impl World {
    /// One bitcoin costs `rate` of the currency `code`, in which the card is.
    pub async fn new(is_sqlite: bool, code: &str, rate: &str, terms: Terms) -> Self {
        Self::build(is_sqlite, code, rate, terms, None).await
    }

    /// With a node, and a customer who pays over Lightning.
    pub async fn online(is_sqlite: bool, rate: &str, terms: Terms) -> (Self, Arc<Wallet>) {
        let network = SimulatedNetwork::new(Arc::new(SystemClock));
        let node: Arc<dyn LightningNode> = Arc::new(network.node(0));
        let world = Self::build(is_sqlite, "JMD", rate, terms, Some(node)).await;
        world.engine.start().await.unwrap();
        let customer = network.node(10_000_000_000);
        customer.start().await.unwrap();
        let customer = Arc::new(Wallet::new(Arc::new(customer), None));
        tokio::spawn(customer.clone().run());
        (world, customer)
    }

    /// With a node that does as told, in a network whose clock is the test's.
    pub async fn with_node(
        is_sqlite: bool,
        rate: &str,
        terms: Terms,
    ) -> (Self, ScriptedNode, SimulatedNetwork) {
        let network = SimulatedNetwork::new(Arc::new(ManualClock::at(NOON)));
        let node = ScriptedNode::new(network.node(10_000_000_000));
        let port: Arc<dyn LightningNode> = Arc::new(node.clone());
        let world = Self::build(is_sqlite, "JMD", rate, terms, Some(port)).await;
        world.engine.start().await.unwrap();
        (world, node, network)
    }

    async fn build(
        is_sqlite: bool,
        code: &str,
        rate: &str,
        terms: Terms,
        node: Option<Arc<dyn LightningNode>>,
    ) -> Self {
        let clock = Arc::new(ManualClock::at(NOON));
        let folder = is_sqlite.then(|| tempfile::tempdir().unwrap());
        let store: Arc<dyn Store> = match &folder {
            Some(folder) => {
                let file = folder.path().join("books.db");
                Arc::new(SqliteStore::open(file, clock.clone()).unwrap())
            }
            None => Arc::new(MemoryStore::new(clock.clone())),
        };
        let rates = Arc::new(FixedRates::new());
        let settings = Settings {
            rates: RatePolicy {
                spread: terms.spread,
                ..RatePolicy::default()
            },
            ..Settings::default()
        };
        let mut builder = Engine::builder(store.clone(), shop::master())
            .network("regtest")
            .clock(clock.clone())
            .rates(rates.clone())
            .settings(settings);
        if let Some(node) = node {
            builder = builder.lightning(node);
        }
        let engine = builder.open().await.unwrap();
        let merchant = shop::merchant(&engine, "Cookshop").await;
        let unit = currency(code);
        let card = issue(&engine, unit, &terms, UID).await;
        let world = Self {
            engine,
            store,
            clock,
            rates,
            merchant,
            card,
            unit,
            funded: 0,
            _folder: folder,
        };
        world.rate(code, rate);
        world
    }

    pub fn rate(&self, code: &str, rate: &str) {
        let (now_ms, rate) = (flashkit::ports::Clock::now_ms(&*self.clock), rate.parse());
        self.rates
            .set(currency(code), rate.unwrap(), "test", now_ms);
    }

    pub fn side(&self, code: &str, side: QuoteSide, rate: &str) {
        let now_ms = flashkit::ports::Clock::now_ms(&*self.clock);
        let rate = rate.parse().unwrap();
        self.rates
            .set_side(currency(code), side, rate, "test", now_ms);
    }

    /// Money on the card as a top-up brings it: the operator has bitcoin and owes the currency.
    pub async fn fund(&mut self, minor_units: i64, amount_msat: i64) {
        let unit = Asset::Fiat(self.unit);
        self.funded += 1;
        let legs = [
            (
                Account::exchange(unit),
                Account::card_balance_in(self.card.id, unit),
                minor_units,
            ),
            (
                Account::node_channels(),
                Account::exchange(Asset::Btc),
                amount_msat,
            ),
        ];
        let steps = legs
            .into_iter()
            .zip(1..)
            .map(|((debit, credit, amount), leg)| {
                Step::Transfer(NewTransfer {
                    id: TransferId::from_parts(leg, [self.funded; 10]),
                    debit,
                    credit,
                    amount,
                    kind: TransferKind::TopUp,
                    reference: "top-up".to_owned(),
                    credit_ceiling: None,
                })
            });
        let batch = Batch {
            id: BatchId::from_parts(1, [self.funded; 10]),
            command: None,
            steps: Arc::new(steps.collect()),
        };
        self.store.commit(batch).await.unwrap();
    }

    /// Money on the card as it was when another issuer's cards were taken over: no position.
    pub async fn take_over(&mut self, minor_units: i64) {
        self.funded += 1;
        let unit = Asset::Fiat(self.unit);
        let former = format!("former_issuer/operator/{}", self.unit.code());
        let step = Step::Transfer(NewTransfer {
            id: TransferId::from_parts(1, [self.funded; 10]),
            debit: former.parse().unwrap(),
            credit: Account::card_balance_in(self.card.id, unit),
            amount: minor_units,
            kind: TransferKind::TopUp,
            reference: "taken over".to_owned(),
            credit_ceiling: None,
        });
        let batch = Batch {
            id: BatchId::from_parts(1, [self.funded; 10]),
            command: None,
            steps: vec![step].into(),
        };
        self.store.commit(batch).await.unwrap();
    }

    pub async fn cap(&self, name: &str, max_open: i64) {
        let command = SetPositionCap {
            key: key(name),
            currency: self.unit,
            max_open,
        };
        let exchange = self.engine.exchange();
        let issuer = self.engine.issuer();
        exchange.set_position_cap(&issuer, command).await.unwrap();
    }

    pub async fn charge(&mut self, name: &str, price: Price) -> Told<Charge> {
        let tap = self.card.chip.tap();
        self.charge_tap(name, tap, price).await
    }

    pub async fn charge_tap(&self, name: &str, tap: String, price: Price) -> Told<Charge> {
        let command = ChargeCard {
            key: key(name),
            tap,
            price,
            reference: "table 4".to_owned(),
            pin: None,
        };
        told(
            self.engine
                .cards()
                .charge(&self.merchant.till, command)
                .await,
        )
    }

    pub async fn authorize(&mut self, name: &str, price: Price) -> Told<Charge> {
        let command = AuthorizeCard {
            key: key(name),
            tap: self.card.chip.tap(),
            price,
            reference: "table 4".to_owned(),
            pin: None,
        };
        told(
            self.engine
                .cards()
                .authorize(&self.merchant.till, command)
                .await,
        )
    }

    pub async fn capture(&self, name: &str, charge: ChargeId, amount: Price) -> Told<Charge> {
        let command = CaptureCharge {
            key: key(name),
            charge,
            amount: ChargeAmount::from(amount),
        };
        told(
            self.engine
                .cards()
                .capture(&self.merchant.till, command)
                .await,
        )
    }

    pub async fn release(&self, name: &str, charge: ChargeId) -> Told<Charge> {
        let key = key(name);
        let command = ReleaseCharge { key, charge };
        told(
            self.engine
                .cards()
                .release(&self.merchant.till, command)
                .await,
        )
    }

    pub async fn refund(&self, name: &str, charge: ChargeId, amount: Price) -> Told<Charge> {
        let command = RefundCharge {
            key: key(name),
            charge,
            amount: ChargeAmount::from(amount),
        };
        told(
            self.engine
                .cards()
                .refund(&self.merchant.till, command)
                .await,
        )
    }

    /// What can be taken of an account.
    pub async fn has(&self, account: Account) -> i64 {
        let balance = self.store.balance(&account).await.unwrap();
        i64::try_from(balance.available(account.kind().side())).unwrap()
    }

    pub async fn on_card(&self) -> i64 {
        let unit = Asset::Fiat(self.unit);
        self.has(Account::card_balance_in(self.card.id, unit)).await
    }

    pub async fn payable(&self) -> i64 {
        self.has(Account::merchant_payable(self.merchant.id)).await
    }

    /// The operator's position in the card's currency.
    pub async fn position(&self) -> i64 {
        self.has(Account::exchange(Asset::Fiat(self.unit))).await
    }

    /// The operator's position in bitcoin.
    pub async fn bitcoin(&self) -> i64 {
        self.has(Account::exchange(Asset::Btc)).await
    }

    pub async fn spread(&self) -> i64 {
        self.has(Account::spread_income()).await
    }

    /// Card, merchant, position in the currency, position in bitcoin, spread.
    pub async fn books(&self) -> [i64; 5] {
        [
            self.on_card().await,
            self.payable().await,
            self.position().await,
            self.bitcoin().await,
            self.spread().await,
        ]
    }

    pub async fn stop(self, step: &str) {
        expect_sound(&self.engine, step).await;
        let (reports, issuer) = (self.engine.reports(), self.engine.issuer());
        let verdict = reports.verify_journal(&issuer, &[]).await.unwrap();
        assert_eq!(verdict.problems, [], "{step}");
        self.engine.stop().await.unwrap();
    }
}

/// A card in a currency, of the chip with the number `uid`.
pub async fn issue(engine: &Engine, unit: Currency, terms: &Terms, uid: &str) -> HeldCard {
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let command = CreateCardProgram {
        key: key(&format!("program-{uid}")),
        name: "Cards".to_owned(),
        terms: CardProgramTerms {
            unit: Asset::Fiat(unit),
            conversion: terms.rules,
            fee_bearer: terms.fee_bearer,
            offline_window_ms: terms.offline_window_ms,
            ..CardProgramTerms::default()
        },
    };
    let program = cards.programs().create(&issuer, command).await.unwrap().id;
    let command = IssueCard {
        key: key(&format!("issue-{uid}")),
        uid: uid.to_owned(),
        existing_chip: None,
        limits: terms.limits.clone(),
        program: Some(program),
    };
    let card = cards.issue(&issuer, command).await.unwrap();
    assert_eq!(card.unit, Asset::Fiat(unit));
    let keys = cards.programming_keys(&issuer, uid).await.unwrap();
    let command = ActivateCard {
        key: key(&format!("activate-{uid}")),
        card: card.id,
    };
    let holder = cards.activate(&issuer, command).await.unwrap();
    HeldCard {
        id: card.id,
        holder: holder.holder.clone(),
        chip: VirtualCard::program(uid, &keys).unwrap(),
    }
}
