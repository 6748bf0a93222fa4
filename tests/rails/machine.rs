//! The state machine of invoices against a model of its own, over random orders of everything that
//! can happen to one: payments of all kinds, confirmations, replacement, reorgs (also after the money
//! was paid out), time, marks, and an engine that was down meanwhile.
//! The model knows nothing of the engine but ids and amounts.

use std::sync::Arc;
use std::time::Duration;

use flashkit::Engine;
use flashkit::ids::MerchantId;
use flashkit::invoices::{
    ConfirmationTier, CreateInvoice, Custody, GivenAddress, Invoice, InvoiceOptions,
    InvoicePurpose, InvoiceState, MarkInvoice, MarkedAs, OnChainFact, OnChainPlace, Outpoint,
    PaymentRules, Rail, SurplusTo,
};
use flashkit::ledger::{Account, Side};
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::lightning::{LightningEvent, PaymentHash};
use flashkit::money::Price;
use flashkit::ports::Clock;
use flashkit::settlement::{PayoutState, RequestPayout};
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::chain::nobodys_address;
use flashkit::testkit::clock::ManualClock;

use crate::support::gated_store::GatedStore;
use crate::support::scripted::ScriptedNode;
use crate::support::shop::{self, Merchant, SAT};
use crate::support::{key, until};

pub const START_MS: i64 = 1_800_000_000_000;
const AMOUNT: i64 = 10_000 * SAT;

/// Deterministic dice.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Coming,
    Here,
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Paid {
    name: String,
    chain: bool,
    has: i64,
    counts: i64,
    stage: Stage,
    late: bool,
    nobodys: bool,
}

/// What should be so.
struct Model {
    under_per_mille: i64,
    rest: bool,
    over: bool,
    late: bool,
    confirmations: u32,
    expires: i64,
    watched: i64,
    paid: Vec<Paid>,
    said: Option<InvoiceState>,
    lost: i64,
}

impl Model {
    fn counted(&self) -> i64 {
        let live = self.paid.iter().filter(|paid| paid.stage != Stage::Nothing);
        live.map(|paid| paid.counts).sum()
    }

    fn here(&self) -> i64 {
        let here = self.paid.iter().filter(|paid| paid.stage == Stage::Here);
        here.map(|paid| paid.counts).sum()
    }

    fn enough(&self) -> i64 {
        AMOUNT - AMOUNT * self.under_per_mille / 1_000
    }

    fn state(&self, now: i64) -> InvoiceState {
        if let Some(said) = self.said {
            return said;
        }
        if self.here() >= self.enough() {
            return InvoiceState::Settled;
        }
        if self.counted() >= self.enough() {
            let mut coming = self.paid.iter().filter(|paid| paid.stage == Stage::Coming);
            return match coming.any(|paid| paid.chain) && now >= self.watched {
                true => InvoiceState::Invalid,
                false => InvoiceState::Processing,
            };
        }
        match now >= self.expires {
            true => InvoiceState::Expired,
            false => InvoiceState::New,
        }
    }

    fn counts_of(due: i64, has: i64) -> i64 {
        match has - due {
            // A whole number of sats cannot be closer.
            more if more > 0 && more < SAT && has % SAT == 0 && due > 0 => has,
            more if more > 0 => due.max(0),
            _ => has,
        }
    }

    /// True when it is taken.
    fn offer(&mut self, name: &str, has: i64, now: i64) -> bool {
        if self.paid.iter().any(|paid| paid.name == name) {
            return false;
        }
        let open = matches!(self.state(now), InvoiceState::New | InvoiceState::Expired);
        let late = now >= self.expires;
        if !open || (late && !self.late) {
            return false;
        }
        let due = AMOUNT - self.counted();
        let counts = Self::counts_of(due, has);
        let missing = due - counts;
        let small = missing <= AMOUNT * self.under_per_mille / 1_000;
        if (counts < has && !self.over) || (missing > 0 && !small && !self.rest) {
            return false;
        }
        self.paid.push(Paid {
            name: name.to_owned(),
            chain: false,
            has,
            counts,
            stage: Stage::Coming,
            late,
            nobodys: false,
        });
        true
    }

    fn arrive(&mut self, name: &str) {
        let paid = self.paid.iter_mut().find(|paid| paid.name == name);
        paid.unwrap().stage = Stage::Here;
    }

    fn chain(&mut self, fact: &OnChainFact) {
        let name = fact.outpoint.to_string();
        let gone = matches!(fact.place, OnChainPlace::Gone { .. });
        if !self.paid.iter().any(|paid| paid.name == name) {
            if gone {
                return;
            }
            let late = fact.first_known_ms >= self.expires;
            self.paid.push(Paid {
                name: name.clone(),
                chain: true,
                has: fact.amount_sat * SAT,
                counts: 0,
                stage: Stage::Nothing,
                late,
                nobodys: self.said.is_some() || (late && !self.late),
            });
        }
        let at = self.paid.iter().position(|paid| paid.name == name).unwrap();
        let needs = self.confirmations.max(u32::from(self.paid[at].nobodys));
        let stage = match &fact.place {
            OnChainPlace::Mempool { replaceable } if needs == 0 && !replaceable => Stage::Here,
            OnChainPlace::Block { confirmations, .. } if *confirmations >= needs => Stage::Here,
            OnChainPlace::Gone { .. } => Stage::Nothing,
            _ => Stage::Coming,
        };
        let before = std::mem::replace(&mut self.paid[at].stage, stage);
        if before == Stage::Here && stage != Stage::Here {
            self.lost += self.paid[at].has;
        }
        self.recount();
    }

    /// What came on chain counts as far as the price is not paid otherwise, what is here before what
    /// is coming: however it came to be so.
    fn recount(&mut self) {
        let others = self.paid.iter().filter(|paid| !paid.chain);
        let mut due = AMOUNT - others.map(|paid| paid.counts).sum::<i64>();
        for stage in [Stage::Nothing, Stage::Here, Stage::Coming] {
            let of_chain = self.paid.iter_mut().filter(|paid| paid.chain);
            for paid in of_chain.filter(|paid| paid.stage == stage) {
                let counts = !paid.nobodys && stage != Stage::Nothing;
                paid.counts = if counts { paid.has.min(due.max(0)) } else { 0 };
                due -= paid.counts;
            }
        }
    }

    fn sum(&self, of: impl Fn(&Paid) -> i64) -> i64 {
        let live = self.paid.iter().filter(|paid| paid.stage != Stage::Nothing);
        live.map(of).sum()
    }

    fn over(&self) -> i64 {
        self.sum(|paid| {
            if paid.late && paid.nobodys {
                0
            } else {
                paid.has - paid.counts
            }
        })
    }
}

pub struct World {
    store: MemoryStore,
    pub clock: Arc<ManualClock>,
    node: ScriptedNode,
    pub engine: Engine,
    pub merchant: Merchant,
    /// Has money in the books, and pays by book.
    payer: Merchant,
    /// What the merchant was paid out, and what came to it by book.
    paid_out: i64,
    by_book: i64,
}

/// What the payer has at first.
const FUNDS: i64 = 50_000_000 * SAT;

async fn open(store: &MemoryStore, clock: &Arc<ManualClock>, node: &ScriptedNode) -> Engine {
    let store = GatedStore::outliving(Arc::new(store.clone()));
    let builder = Engine::builder(Arc::new(store), shop::master())
        .network("regtest")
        .clock(clock.clone())
        .lightning(Arc::new(node.clone()));
    let engine = builder.open().await.unwrap();
    engine.start().await.unwrap();
    engine
}

impl World {
    pub async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(START_MS));
        let store = MemoryStore::new(clock.clone());
        let node = ScriptedNode::new(SimulatedNetwork::new(clock.clone()).node(0));
        let engine = open(&store, &clock, &node).await;
        let merchant = shop::merchant(&engine, "Cookshop").await;
        let payer = shop::merchant(&engine, "Bakery").await;
        let world = Self {
            store,
            clock,
            node,
            engine,
            merchant,
            payer,
            paid_out: 0,
            by_book: 0,
        };
        let funds = shop::sale(&world.engine, &world.payer, "funds", msat(FUNDS)).await;
        world.claimable(funds.payment_hash, FUNDS).await;
        world.received(funds.payment_hash, FUNDS).await;
        world
    }

    pub async fn claimable(&self, payment_hash: PaymentHash, amount_msat: i64) {
        self.tell(LightningEvent::Claimable {
            payment_hash,
            amount_msat,
            blocks_left: None,
        })
        .await;
    }

    pub async fn received(&self, payment_hash: PaymentHash, amount_msat: i64) {
        self.tell(LightningEvent::Received {
            payment_hash,
            amount_msat,
        })
        .await;
    }

    /// A merchant pays a text of this engine, which is a book transfer.
    async fn pay_by_book(&self, name: &str, from: MerchantId, bolt11: &str) -> bool {
        let command = RequestPayout {
            key: key(name),
            merchant: from,
            bolt11: bolt11.to_owned(),
        };
        let settlement = self.engine.settlement();
        match settlement
            .request_payout(&self.engine.issuer(), command)
            .await
        {
            Ok(payout) => {
                assert_eq!(payout.state, PayoutState::PaidOut, "{payout:?}");
                true
            }
            Err(refused) => {
                assert_eq!(refused.code(), "invoice.not_payable", "{name}");
                false
            }
        }
    }

    /// All that the merchant has leaves its account: a reorg after that finds nothing to take back.
    pub async fn pay_out(&mut self, name: &str) {
        let has = self
            .balance(Account::merchant_payable(self.merchant.id))
            .await;
        let amount = has / SAT * SAT;
        if amount == 0 {
            return;
        }
        let sale = shop::sale(&self.engine, &self.payer, name, msat(amount)).await;
        assert!(self.pay_by_book(name, self.merchant.id, &sale.bolt11).await);
        self.paid_out += amount;
    }

    /// The engine ends and begins again, on the same books and node.
    async fn restart(&mut self, down: Duration) {
        self.engine.stop().await.unwrap();
        self.clock.advance(down);
        self.engine = open(&self.store, &self.clock, &self.node).await;
    }

    async fn create(&self, name: &str, rules: PaymentRules) -> Invoice {
        self.create_for(name, AMOUNT, rules).await
    }

    pub async fn create_for(&self, name: &str, amount_msat: i64, rules: PaymentRules) -> Invoice {
        self.create_priced(name, Some(msat(amount_msat)), rules)
            .await
    }

    pub async fn create_priced(
        &self,
        name: &str,
        price: Option<Price>,
        rules: PaymentRules,
    ) -> Invoice {
        let options = InvoiceOptions {
            rails: vec![Rail::Lightning, Rail::OnChain],
            address: Some(GivenAddress {
                address: nobodys_address(name),
                custody: Custody::Operator,
            }),
            rules: Some(rules),
            ..InvoiceOptions::default()
        };
        let command = CreateInvoice {
            key: key(name),
            purpose: InvoicePurpose::Sale {
                merchant: self.merchant.id,
            },
            price,
            description: "lunch".to_owned(),
            expiry_seconds: 3_600,
            options,
        };
        let issuer = self.engine.issuer();
        self.engine
            .invoices()
            .create(&issuer, command)
            .await
            .unwrap()
            .value
    }

    pub async fn get(&self, invoice: &Invoice) -> Invoice {
        let issuer = self.engine.issuer();
        self.engine
            .invoices()
            .get(&issuer, invoice.id)
            .await
            .unwrap()
            .value
    }

    async fn tell(&self, event: LightningEvent) {
        self.node.inject(event);
        until("the event is dealt with", || async {
            self.node.waiting() == 0
        })
        .await;
    }

    pub async fn balance(&self, account: Account) -> i64 {
        let balance = self.store.balance(&account).await.unwrap();
        i64::try_from(balance.posted(account.kind().side())).unwrap()
    }
}

fn rules(dice: &mut Dice) -> PaymentRules {
    PaymentRules {
        accept_under_per_mille: dice.pick(&[0, 0, 100]),
        ask_for_rest: dice.roll(2) == 0,
        surplus: dice.pick(&[None, Some(SurplusTo::Tip)]),
        accept_late_within_per_mille: dice.pick(&[None, Some(10)]),
        refund_up_to_per_mille: None,
        confirmations: vec![ConfirmationTier {
            up_to_msat: i64::MAX,
            confirmations: dice.pick(&[0, 1, 2, 6]),
        }],
    }
}

fn model(invoice: &Invoice) -> Model {
    let rules = invoice.rules();
    Model {
        under_per_mille: i64::from(rules.accept_under_per_mille),
        rest: rules.ask_for_rest,
        over: rules.surplus.is_some(),
        late: rules.accept_late_within_per_mille.is_some(),
        confirmations: rules.confirmations[0].confirmations,
        expires: invoice.expires_at_ms,
        watched: invoice.monitored_until_ms(),
        paid: Vec::new(),
        said: None,
        lost: 0,
    }
}

fn output(dice: &mut Dice, seed: u64, seen: &mut [Option<(i64, i64)>; 4], now: i64) -> OnChainFact {
    let at = usize::try_from(dice.roll(4)).unwrap();
    let amounts = [5_000, 9_500, 10_000, 10_001, 12_000];
    let (amount_sat, first_known_ms) = *seen[at].get_or_insert_with(|| (dice.pick(&amounts), now));
    let mut txid = [u8::try_from(at).unwrap(); 32];
    txid[..8].copy_from_slice(&seed.to_be_bytes());
    let place = match dice.roll(6) {
        0 => OnChainPlace::Gone { replaced_by: None },
        1 | 2 => OnChainPlace::Mempool {
            replaceable: dice.roll(2) == 0,
        },
        _ => OnChainPlace::Block {
            height: 7,
            hash: "ab".repeat(32),
            confirmations: dice.pick(&[1, 2, 3, 6]),
        },
    };
    OnChainFact {
        outpoint: Outpoint { txid, vout: 1 },
        amount_sat,
        first_known_ms,
        place,
    }
}

async fn lightning(world: &World, model: &mut Model, dice: &mut Dice, invoice: &Invoice) {
    // The text for the rest is made by a job.
    world.engine.run_due_jobs().await.unwrap();
    let now = world.get(invoice).await;
    let rail = &now.lightning[usize::try_from(dice.roll(now.lightning.len() as u64)).unwrap()];
    let due = model.counted();
    let amounts = [
        AMOUNT,
        AMOUNT - due,
        4_000 * SAT,
        9_500 * SAT,
        AMOUNT + SAT,
        AMOUNT + 1,
    ];
    let amount_msat = dice.pick(&amounts);
    if amount_msat <= 0 {
        return;
    }
    let hash: PaymentHash = rail.payment_hash;
    model.offer(&hash.to_string(), amount_msat, world.clock.now_ms());
    world.claimable(hash, amount_msat).await;
}

/// The newest text is paid by book. A text has a time of its own, so that a late one is not tried.
async fn by_book(world: &mut World, model: &mut Model, invoice: &Invoice, name: &str) -> bool {
    world.engine.run_due_jobs().await.unwrap();
    let (now, now_ms) = (world.get(invoice).await, world.clock.now_ms());
    let rail = now.lightning.last().unwrap().clone();
    if now_ms >= model.expires {
        return false;
    }
    let (hash, amount) = (rail.payment_hash.to_string(), rail.amount_msat.unwrap());
    let taken = model.offer(&hash, amount, now_ms);
    let paid = world.pay_by_book(name, world.payer.id, &rail.bolt11).await;
    assert_eq!(paid, taken, "{name}: {now:#?}");
    if paid {
        model.arrive(&hash);
        world.by_book += amount;
    }
    paid
}

fn msat(amount_msat: i64) -> Price {
    Price::Bitcoin { amount_msat }
}

async fn arrivals(world: &World, model: &mut Model) {
    let mut coming = model
        .paid
        .iter()
        .filter(|paid| !paid.chain && paid.stage == Stage::Coming);
    let Some(paid) = coming.next_back().cloned() else {
        return;
    };
    model.arrive(&paid.name);
    for _ in 0..2 {
        world.received(paid.name.parse().unwrap(), paid.has).await;
    }
}

async fn say(world: &World, model: &mut Model, dice: &mut Dice, invoice: &Invoice, name: &str) {
    let as_state = dice.pick(&[MarkedAs::Settled, MarkedAs::Invalid]);
    let command = MarkInvoice {
        key: key(name),
        invoice: invoice.id,
        as_state,
        reason: "so it is".to_owned(),
    };
    let issuer = world.engine.issuer();
    let said = world.engine.invoices().mark(&issuer, command).await;
    let now = model.state(world.clock.now_ms());
    let lawful = match as_state {
        MarkedAs::Settled => now != InvoiceState::Settled,
        _ => {
            (now != InvoiceState::Settled || model.said.is_some())
                && model.said != Some(InvoiceState::Invalid)
        }
    };
    assert_eq!(said.is_ok(), lawful, "{now:?} {as_state:?}");
    if lawful {
        model.said = Some(match as_state {
            MarkedAs::Settled => InvoiceState::Settled,
            _ => InvoiceState::Invalid,
        });
    }
}

async fn compare(world: &World, model: &Model, invoice: &Invoice, step: &str) {
    let wanted = model.state(world.clock.now_ms());
    // The engine's own worker may have a job that this test asked it for.
    for _ in 0..200 {
        if world.get(invoice).await.state == wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let found = world.get(invoice).await;
    let stored = found.state;
    assert_eq!(stored, wanted, "{step}: {:#?}\n{found:#?}", model.paid);
    assert_eq!(found.received_msat, model.here(), "{step}");
    let flags = &found.flags;
    let counted = model.counted();
    let under = if counted > 0 {
        (AMOUNT - counted).max(0)
    } else {
        0
    };
    assert_eq!(flags.underpaid_msat, under, "{step}");
    assert_eq!(flags.overpaid_msat, model.over(), "{step}");
    assert_eq!(
        flags.late_msat,
        model.sum(|paid| if paid.late { paid.has } else { 0 }),
        "{step}"
    );
    assert_eq!(flags.reorged_msat, model.lost, "{step}");
    assert_eq!(flags.marked.is_some(), model.said.is_some(), "{step}");
}

#[derive(Default)]
struct Books {
    owed: i64,
    nobodys: i64,
}

fn add(books: &mut Books, model: &Model) {
    for paid in model.paid.iter().filter(|paid| paid.stage == Stage::Here) {
        let surplus = paid.has - paid.counts;
        books.owed += paid.counts;
        if model.over && !paid.nobodys {
            books.owed += surplus;
        } else {
            books.nobodys += surplus;
        }
    }
}

async fn one_life(world: &mut World, seed: u64, before: &mut Books, fired: &mut [usize; 10]) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let invoice = world.create(&format!("life{seed}"), rules(&mut dice)).await;
    let mut model = model(&invoice);
    let address = nobodys_address(&format!("life{seed}"));
    let mut seen = [None; 4];
    for step in 0..14 {
        let mut now = world.clock.now_ms();
        let kind = dice.roll(15);
        match kind {
            0..=2 => lightning(world, &mut model, &mut dice, &invoice).await,
            3 | 4 => arrivals(world, &mut model).await,
            5..=8 | 12 => {
                if kind == 12 {
                    // It happened while the engine was down, and its time may be over by now.
                    now += 1;
                    let hours = dice.pick(&[0, 0, 2, 26]);
                    world.restart(Duration::from_secs(60 + hours * 3_600)).await;
                    fired[6] += 1;
                    if dice.roll(2) == 0 {
                        world.engine.run_due_jobs().await.unwrap();
                    }
                }
                let fact = output(&mut dice, seed, &mut seen, now);
                model.chain(&fact);
                let issuer = world.engine.issuer();
                for _ in 0..2 {
                    let invoices = world.engine.invoices();
                    invoices
                        .observe_on_chain(&issuer, &address, &fact)
                        .await
                        .unwrap();
                }
            }
            9 => {
                let hours = dice.pick(&[0, 0, 2, 26]);
                world
                    .clock
                    .advance(Duration::from_secs(600 + hours * 3_600));
                world.engine.run_due_jobs().await.unwrap();
            }
            10 => {
                let name = format!("mark{seed}/{step}");
                if dice.roll(3) == 0 {
                    say(world, &mut model, &mut dice, &invoice, &name).await;
                }
            }
            11 => {
                let name = format!("book{seed}/{step}");
                fired[7] += usize::from(by_book(world, &mut model, &invoice, &name).await);
            }
            13 => {
                let before = world.paid_out;
                world.pay_out(&format!("out{seed}/{step}")).await;
                fired[8] += usize::from(world.paid_out > before);
            }
            _ => {}
        }
        // Time that went by is noticed by a job.
        world.engine.run_due_jobs().await.unwrap();
        compare(
            world,
            &model,
            &invoice,
            &format!("seed {seed}, step {step}, kind {kind}"),
        )
        .await;
        fired[model.state(world.clock.now_ms()) as usize] += 1;
        fired[5] += usize::from(model.lost > 0);
        let owes = Account::merchant_receivable(world.merchant.id);
        let owes = world.balance(owes).await;
        fired[9] += usize::from(owes > 0);
        // All that comes pays what is owed first: nothing is to be had beside a debt.
        let payable = Account::merchant_payable(world.merchant.id);
        let has = world.balance(payable).await;
        assert!(
            owes == 0 || has == 0,
            "seed {seed}, step {step}: {has} and {owes}"
        );
    }
    add(before, &model);
    let payable = Account::merchant_payable(world.merchant.id);
    let receivable = Account::merchant_receivable(world.merchant.id);
    assert_eq!(payable.kind().side(), Side::Credit);
    let owed = world.balance(payable).await - world.balance(receivable).await;
    assert_eq!(owed, before.owed - world.paid_out, "seed {seed}");
    assert_eq!(
        world.balance(Account::suspense()).await,
        before.nobodys,
        "seed {seed}"
    );
    let ours = world.balance(Account::node_channels()).await
        + world.balance(Account::node_onchain()).await;
    let came = FUNDS + before.owed + before.nobodys - world.by_book;
    assert_eq!(ours, came, "seed {seed}");
    every_event_is_there(world, &invoice).await;
}

/// One event for every change, in order, none left out, the last one as the invoice is now.
async fn every_event_is_there(world: &World, invoice: &Invoice) {
    let (mut position, mut told) = (0, Vec::new());
    loop {
        let page = world.store.events(position, 1_000).await.unwrap();
        let Some(last) = page.last() else { break };
        position = last.position;
        let of_it = page
            .into_iter()
            .filter(|event| event.object == invoice.id.to_string());
        told.extend(of_it);
    }
    let numbers: Vec<u64> = told
        .iter()
        .map(|event| event.body["sequence"].as_u64().unwrap())
        .collect();
    let wanted: Vec<u64> = (1..=told.len() as u64).collect();
    assert_eq!(numbers, wanted);
    let last: Invoice = serde_json::from_value(told.last().unwrap().body.clone()).unwrap();
    assert_eq!(last, world.get(invoice).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_in_whatever_order_the_engine_and_the_model_agree() {
    let lives = std::env::var("FLASHKIT_INVOICE_LIVES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    let mut world = World::new().await;
    let (mut books, mut fired) = (Books::default(), [0; 10]);
    for seed in 1..=lives {
        one_life(&mut world, seed, &mut books, &mut fired).await;
    }
    println!(
        "new, processing, settled, expired, invalid, reorged, restarted, by book, paid out, owing: \
         {fired:?}"
    );
    assert!(fired.iter().all(|count| *count > 0), "{fired:?}");
    world.engine.stop().await.unwrap();
}
