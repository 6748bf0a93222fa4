//! Money on chain that matches nothing, beside a model of its own: whatever the chain takes away
//! and gives back, whenever a person says whose it is, and whatever its owner spent meanwhile, it
//! is credited once while it is there and not at all while it is not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flashkit::Engine;
use flashkit::cards::{CardLimits, ChargeCard};
use flashkit::invoices::{
    CreateInvoice, Custody, GivenAddress, InvoiceOptions, InvoicePurpose, OnChainFact,
    OnChainPlace, Outpoint, Rail,
};
use flashkit::ledger::Account;
use flashkit::ports::Clock;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::chain::nobodys_address;
use flashkit::testkit::clock::ManualClock;
use flashkit::treasury::{AssignSuspense, SuspenseItem, SuspenseTarget};

use crate::machine::Dice;
use crate::support::key;
use crate::support::shop::{self, HeldCard, Merchant, SAT, sat};

const SATS: i64 = 10_000;
const NOBODYS: &str = "nobody's";
const LATE: &str = "late";

/// What can happen to one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Block,
    Mempool,
    Gone,
    Assign(usize),
}

struct World {
    store: MemoryStore,
    clock: Arc<ManualClock>,
    engine: Engine,
    merchant: Merchant,
    shop: Merchant,
    card: HeldCard,
    commands: u32,
}

async fn engine_at(store: &MemoryStore, clock: &Arc<ManualClock>) -> Engine {
    let builder = Engine::builder(Arc::new(store.clone()), shop::master());
    let builder = builder.network("regtest").clock(clock.clone());
    builder.open().await.unwrap()
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(1_800_000_000_000));
        let store = MemoryStore::new(clock.clone());
        let engine = engine_at(&store, &clock).await;
        let world = Self {
            merchant: shop::merchant(&engine, "Cookshop").await,
            shop: shop::merchant(&engine, "Bakery").await,
            card: shop::card(&engine, shop::UID, CardLimits::default()).await,
            store,
            clock,
            engine,
            commands: 0,
        };
        let command = CreateInvoice {
            key: key("late"),
            purpose: InvoicePurpose::Sale {
                merchant: world.merchant.id,
            },
            price: Some(sat(1_000)),
            description: String::new(),
            expiry_seconds: 600,
            options: InvoiceOptions {
                rails: vec![Rail::OnChain],
                address: Some(GivenAddress {
                    address: nobodys_address(LATE),
                    custody: Custody::Operator,
                }),
                ..InvoiceOptions::default()
            },
        };
        let issuer = world.engine.issuer();
        let made = world.engine.invoices().create(&issuer, command).await;
        made.unwrap();
        world.clock.advance(Duration::from_secs(3_600));
        world
    }

    fn key(&mut self) -> flashkit::IdempotencyKey {
        self.commands += 1;
        key(&format!("command-{}", self.commands))
    }

    async fn tell(&self, number: u16, place: OnChainPlace) {
        let mut txid = [7; 32];
        txid[..2].copy_from_slice(&number.to_be_bytes());
        let fact = OnChainFact {
            outpoint: Outpoint { txid, vout: 0 },
            amount_sat: SATS,
            first_known_ms: self.clock.now_ms(),
            place,
        };
        // Every third one is the late payment of an invoice.
        let is_late = number % 3 == 2;
        let address = nobodys_address(if is_late { LATE } else { NOBODYS });
        let (invoices, issuer) = (self.engine.invoices(), self.engine.issuer());
        // Told twice, it is done once.
        for _ in 0..2 {
            let told = invoices.observe_on_chain(&issuer, &address, &fact).await;
            assert_eq!(told.unwrap(), is_late);
        }
    }

    /// The items that wait, by the output they came by.
    async fn waiting(&self) -> BTreeMap<Outpoint, SuspenseItem> {
        let treasury = self.engine.treasury();
        let (mut found, mut after) = (BTreeMap::new(), None);
        loop {
            let page = treasury.suspense(&self.engine.issuer(), after, 1_000).await;
            let page = page.unwrap().value;
            let Some(last) = page.last() else {
                return found;
            };
            after = Some(last.id);
            for item in page {
                let is_first = found.insert(item.outpoint.unwrap(), item).is_none();
                assert!(is_first, "an output waits twice");
            }
        }
    }

    async fn balance(&self, account: Account) -> i64 {
        let balance = self.store.balance(&account).await.unwrap();
        i64::try_from(balance.posted(account.kind().side())).unwrap()
    }

    fn targets(&self) -> [SuspenseTarget; 3] {
        let (card, merchant) = (self.card.id, self.merchant.id);
        [
            SuspenseTarget::Card { card },
            SuspenseTarget::Merchant { merchant },
            SuspenseTarget::Operator,
        ]
    }

    async fn spend(&mut self) -> bool {
        let command = ChargeCard {
            key: self.key(),
            tap: self.card.chip.tap(),
            price: sat(500),
            reference: String::new(),
            pin: None,
        };
        self.clock.advance(Duration::from_secs(3_600));
        self.engine
            .cards()
            .charge(&self.shop.till, command)
            .await
            .is_ok()
    }
}

/// One output as it should be.
#[derive(Debug, Clone, Copy, Default)]
struct Output {
    is_here: bool,
    of: Option<usize>,
}

#[derive(Default)]
struct Model {
    outputs: BTreeMap<u16, Output>,
    spent: i64,
}

impl Model {
    fn step(&mut self, number: u16, step: Step) {
        let output = self.outputs.entry(number).or_default();
        match step {
            Step::Block => output.is_here = true,
            Step::Mempool | Step::Gone => *output = Output::default(),
            Step::Assign(to) if output.is_here && output.of.is_none() => output.of = Some(to),
            Step::Assign(_) => {}
        }
    }

    fn here(&self, of: impl Fn(Option<usize>) -> bool) -> i64 {
        let here = self
            .outputs
            .values()
            .filter(|output| output.is_here && of(output.of));
        i64::try_from(here.count()).unwrap() * SATS * SAT
    }
}

async fn step(world: &mut World, model: &mut Model, number: u16, step: Step) {
    match step {
        Step::Block => {
            let hash = "ab".repeat(32);
            let place = OnChainPlace::Block {
                height: 9,
                hash,
                confirmations: 1,
            };
            world.tell(number, place).await;
        }
        Step::Mempool => {
            world
                .tell(number, OnChainPlace::Mempool { replaceable: true })
                .await
        }
        Step::Gone => {
            world
                .tell(number, OnChainPlace::Gone { replaced_by: None })
                .await
        }
        Step::Assign(to) => {
            let before = model.outputs.get(&number).copied().unwrap_or_default();
            let waiting = world.waiting().await;
            let is_it = |outpoint: &&Outpoint| outpoint.txid[..2] == number.to_be_bytes();
            let item = waiting
                .keys()
                .find(is_it)
                .map(|outpoint| waiting[outpoint].id);
            assert_eq!(item.is_some(), before.is_here && before.of.is_none());
            if let Some(item) = item {
                for is_first in [true, false] {
                    let command = AssignSuspense {
                        key: world.key(),
                        item,
                        to: world.targets()[to],
                        reason: "a letter".to_owned(),
                    };
                    let (treasury, issuer) = (world.engine.treasury(), world.engine.issuer());
                    let assigned = treasury.assign_suspense(&issuer, command).await;
                    assert_eq!(assigned.is_ok(), is_first, "{assigned:?}");
                }
            }
        }
    }
    model.step(number, step);
}

async fn compare(world: &World, model: &Model, step: &str) {
    let waiting = i64::try_from(world.waiting().await.len()).unwrap() * SATS * SAT;
    assert_eq!(waiting, model.here(|of| of.is_none()), "{step}");
    assert_eq!(world.balance(Account::suspense()).await, waiting, "{step}");
    let on_chain = world.balance(Account::node_onchain()).await;
    assert_eq!(on_chain, model.here(|_| true), "{step}");
    let (card, merchant) = (world.card.id, world.merchant.id);
    for (to, has, owes, spent) in [
        (
            0,
            Account::card_balance(card),
            Account::card_receivable(card),
            model.spent,
        ),
        (
            1,
            Account::merchant_payable(merchant),
            Account::merchant_receivable(merchant),
            0,
        ),
    ] {
        let (has, owes) = (world.balance(has).await, world.balance(owes).await);
        assert_eq!(
            has - owes,
            model.here(|of| of == Some(to)) - spent,
            "{step}"
        );
        assert!(has == 0 || owes == 0, "{step}: has {has} and owes {owes}");
    }
    let capital = world.balance(Account::operator_capital()).await;
    assert_eq!(capital, model.here(|of| of == Some(2)), "{step}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_every_order_an_output_is_credited_once_while_it_is_there() {
    let (mut world, mut model) = (World::new().await, Model::default());
    let steps = [Step::Block, Step::Gone, Step::Assign(1)];
    let lives = steps.len().pow(4);
    for life in 0..lives {
        let number = u16::try_from(life).unwrap();
        // It is there at first, and the rest is every order of four.
        step(&mut world, &mut model, number, Step::Block).await;
        for place in 0..4 {
            let next = steps[life / steps.len().pow(place) % steps.len()];
            step(&mut world, &mut model, number, next).await;
        }
        if life % 16 == 0 || life + 1 == lives {
            compare(&world, &model, &format!("life {life}")).await;
        }
        // A late payment counts among the hundred of its invoice, so that it goes again.
        step(&mut world, &mut model, number, Step::Gone).await;
    }
    compare(&world, &model, "the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_agrees_over_random_orders_with_spending_and_restarts() {
    let (mut world, mut model) = (World::new().await, Model::default());
    let mut dice = Dice(0x5eed_0001);
    let (mut refused, mut spent, mut owed) = (0, 0, 0);
    for turn in 0..400 {
        let number = u16::try_from(dice.roll(6)).unwrap();
        let next = match dice.roll(11) {
            0..=2 => Some(Step::Block),
            3 => Some(Step::Mempool),
            4 => Some(Step::Gone),
            5..=8 => Some(Step::Assign(dice.pick(&[0, 0, 0, 1, 2]))),
            9 => None,
            _ => {
                // As after its process was killed.
                world.engine = engine_at(&world.store, &world.clock).await;
                continue;
            }
        };
        match next {
            Some(next) => step(&mut world, &mut model, number, next).await,
            None if world.spend().await => {
                spent += 1;
                model.spent += 500 * SAT;
            }
            None => refused += 1,
        }
        compare(
            &world,
            &model,
            &format!("turn {turn}, {next:?} of {number}"),
        )
        .await;
        let receivable = Account::card_receivable(world.card.id);
        owed += usize::from(world.balance(receivable).await > 0);
    }
    println!("spent {spent}, refused {refused}, owed after {owed}");
    assert!(spent > 10 && refused > 3 && owed > 20);
}
