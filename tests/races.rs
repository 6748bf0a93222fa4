//! Sixty-four at once on one card, one budget and one block: never overspent, and exactly one
//! lawful outcome, on every store. On PostgreSQL there are two engines on one database.

#[cfg(feature = "postgres")]
#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use flashkit::cards::{
    AuthorizeCard, CaptureCharge, CardLimits, Charge, ChargeCard, ChargeState, FreezeCard,
    IssueCard, LossBearer, OfflineBook, OfflineKey, OfflineState, OfflineTerms, RefundCharge,
    ReplaceCard, RetireCard, RetireTo, SetOfflineTerms, StoppedCard, TopUpCard,
};
use flashkit::ids::{BatchId, ProgramId, TransferId};
use flashkit::invoices::InvoiceState;
use flashkit::ledger::{Account, Batch, NewHold, NewTransfer, Refusal, Step, TransferKind};
use flashkit::ports::{BoxFuture, Clock, SystemClock};
use flashkit::rewards::RedeemPoints;
use flashkit::settlement::RequestPayout;
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{CommitError, MAX_PAGE, MemoryStore, Store};
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::testkit::wallet::Wallet;
use flashkit::{Answer, Engine, Error};
use support::books::expect_sound;
use support::key;
use support::shop::{self, HeldCard, Merchant, SAT, UID, sat};

const TASKS: usize = 64;
const PRICE: i64 = 1_000;

/// The time of the day, and as much later as it is told.
struct LaterClock(AtomicI64);

impl LaterClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(0)))
    }

    fn advance(&self, by_ms: i64) {
        self.0.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for LaterClock {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms() + self.0.load(Ordering::SeqCst)
    }

    fn steady_ms(&self) -> i64 {
        SystemClock.steady_ms() + self.0.load(Ordering::SeqCst)
    }
}

/// Engines on one store, and what keeps it.
struct Scene {
    clock: Arc<LaterClock>,
    engines: Vec<Engine>,
    stores: Vec<Arc<dyn Store>>,
    customer: Arc<Wallet>,
    _kept: Box<dyn Any + Send>,
}

impl Scene {
    /// All stores are of one database.
    async fn on(
        stores: Vec<Arc<dyn Store>>,
        kept: Box<dyn Any + Send>,
        clock: Arc<LaterClock>,
    ) -> Self {
        let first = shop::simulated_at(stores[0].clone(), clock.clone()).await;
        let mut engines = vec![first.engine];
        for store in &stores[1..] {
            let builder = Engine::builder(store.clone(), shop::master()).network("regtest");
            engines.push(builder.clock(clock.clone()).open().await.unwrap());
        }
        Self {
            clock,
            engines,
            stores,
            customer: first.customer,
            _kept: kept,
        }
    }

    async fn on_memory() -> Option<Self> {
        let clock = LaterClock::new();
        let store = Arc::new(MemoryStore::new(clock.clone()));
        Some(Self::on(vec![store], Box::new(()), clock).await)
    }

    async fn on_sqlite() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("books.db");
        let clock = LaterClock::new();
        let store = SqliteStore::open(file, clock.clone()).unwrap();
        Some(Self::on(vec![Arc::new(store)], Box::new(folder), clock).await)
    }

    #[cfg(feature = "postgres")]
    async fn on_postgres() -> Option<Self> {
        use std::sync::atomic::AtomicU64;

        use flashkit::store::postgres::{PostgresConfig, PostgresStore};

        static SCENES: AtomicU64 = AtomicU64::new(0);
        let cluster = postgres::Cluster::shared()?;
        let schema = format!("races_{}", SCENES.fetch_add(1, Ordering::Relaxed));
        let clock = LaterClock::new();
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        for _ in 0..2 {
            let url = cluster.url(cluster.port, "sslmode=disable");
            let config = PostgresConfig::new(url).schema(&schema).connections(4);
            let store = PostgresStore::connect(config, clock.clone()).await;
            stores.push(Arc::new(store.unwrap()));
        }
        Some(Self::on(stores, Box::new(cluster), clock).await)
    }

    fn engine(&self) -> &Engine {
        &self.engines[0]
    }

    /// The engine that a task has.
    fn engine_of(&self, task: usize) -> Engine {
        self.engines[task % self.engines.len()].clone()
    }

    async fn card(&self, limits: CardLimits, sats: i64) -> HeldCard {
        let card = shop::card(self.engine(), UID, limits).await;
        shop::top_up(self.engine(), &self.customer, &card, "first", sat(sats)).await;
        card
    }

    async fn tills(&self) -> Vec<Merchant> {
        let mut tills = Vec::new();
        for number in 0..TASKS {
            tills.push(shop::merchant(self.engine(), &format!("Shop-{number}")).await);
        }
        tills
    }

    async fn available(&self, account: Account) -> i128 {
        let balance = self.stores[0].balance(&account).await.unwrap();
        balance.available(account.kind().side())
    }

    async fn stop(self, step: &str) {
        expect_sound(self.engine(), step).await;
        let (reports, issuer) = (self.engine().reports(), self.engine().issuer());
        let verdict = reports.verify_journal(&issuer, &[]).await.unwrap();
        assert_eq!(verdict.problems, [], "{step}");
        for engine in self.engines.into_iter().rev() {
            engine.stop().await.unwrap();
        }
    }
}

/// Runs work side by side, on all threads there are.
async fn settle_all<T: Send + 'static>(
    work: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = work.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

type Charging = BoxFuture<'static, Result<Answer<Charge>, Error>>;

fn charge(engine: &Engine, till: &Merchant, name: &str, tap: String) -> Charging {
    let (cards, till) = (engine.cards(), till.till.clone());
    let command = ChargeCard {
        key: key(name),
        tap,
        price: sat(PRICE),
        reference: name.to_owned(),
        pin: None,
    };
    Box::pin(async move { cards.charge(&till, command).await })
}

/// A zone where it is about noon, so that no day ends during the test.
fn noon() -> String {
    match SystemClock.now_ms() / 3_600_000 % 24 - 12 {
        ahead @ 0.. => format!("Etc/GMT+{ahead}"),
        behind => format!("Etc/GMT-{}", -behind),
    }
}

/// Every task taps and charges the same card at its own till until it is told why not. Answers
/// how many charges were made, and the last words.
async fn charge_until_refused(
    scene: &Scene,
    card: HeldCard,
    tills: Vec<Merchant>,
) -> (usize, BTreeSet<&'static str>) {
    let chip = Arc::new(Mutex::new(card.chip));
    let tasks = tills.into_iter().enumerate().map(|(task, till)| {
        let (engine, chip) = (scene.engine_of(task), chip.clone());
        async move {
            for charged in 0.. {
                let mut replayed = 0;
                let refused = loop {
                    let tap = chip.lock().map(|mut chip| VirtualCard::tap(&mut chip));
                    let name = format!("{task}/{charged}/{replayed}");
                    match charge(&engine, &till, &name, tap.unwrap()).await {
                        Ok(_) => break None,
                        // Somebody's later tap was first: the card is tapped again.
                        Err(error) if error.code() == "card.tap_replayed" => replayed += 1,
                        Err(error) => break Some(error.code()),
                    }
                };
                if let Some(code) = refused {
                    return (charged, code);
                }
            }
            unreachable!("without end")
        }
    });
    let told = settle_all(tasks).await;
    let charges = told.iter().map(|(charged, _)| charged).sum();
    (charges, told.into_iter().map(|(_, code)| code).collect())
}

/// The card has money for forty charges, and a bit.
async fn one_card_is_never_overspent(scene: Scene) {
    let card = scene.card(CardLimits::default(), 40 * PRICE + 7).await;
    let (account, tills) = (Account::card_balance(card.id), scene.tills().await);
    let payables: Vec<Account> = tills
        .iter()
        .map(|till| Account::merchant_payable(till.id))
        .collect();
    let (charges, codes) = charge_until_refused(&scene, card, tills).await;
    assert_eq!(charges, 40);
    assert_eq!(codes, BTreeSet::from(["card.insufficient_funds"]));
    assert_eq!(scene.available(account).await, i128::from(7 * SAT));
    let mut credited = 0;
    for payable in payables {
        credited += scene.available(payable).await;
    }
    assert_eq!(credited, i128::from(40 * PRICE * SAT));
    scene.stop("one card").await;
}

/// The card has money for all, and may spend thirty charges a day.
async fn a_days_limit_is_never_exceeded(scene: Scene) {
    let limits = CardLimits {
        per_day: Some(30 * PRICE * SAT + 1),
        time_zone: noon(),
        ..CardLimits::default()
    };
    let card = scene.card(limits, 100 * PRICE).await;
    let (account, tills) = (Account::card_balance(card.id), scene.tills().await);
    let (charges, codes) = charge_until_refused(&scene, card, tills).await;
    assert_eq!(charges, 30);
    assert_eq!(codes, BTreeSet::from(["card.limit_exceeded"]));
    let left = i128::from(70 * PRICE * SAT);
    assert_eq!(scene.available(account).await, left);
    scene.stop("a day's limit").await;
}

/// Sixty-four callers turn the same points into money: there are enough for twenty-five.
async fn points_are_spent_once(scene: Scene) {
    let card = scene.card(CardLimits::default(), 100_000).await;
    let shop = shop::merchant(scene.engine(), "Cookshop").await;
    let program = shop::program(scene.engine(), shop.id).await;
    let mut chip = card.chip;
    // Two in a hundred of it: twenty points each.
    for number in 0..5 {
        let tap = chip.tap();
        charge(scene.engine(), &shop, &format!("earn-{number}"), tap)
            .await
            .unwrap();
    }
    let points = Account::points_balance(card.id, program);
    assert_eq!(scene.available(points).await, 100);
    let before = scene.available(Account::card_balance(card.id)).await;
    let tasks = (0..TASKS).map(|task| {
        let (engine, holder, card) = (scene.engine_of(task), card.holder.clone(), card.id);
        let command = RedeemPoints {
            key: key(&format!("redeem/{task}")),
            card,
            program,
            points: 4,
        };
        async move { engine.rewards().redeem(&holder, command).await }
    });
    let answers = settle_all(tasks).await;
    let redeemed = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(redeemed, 25);
    for error in answers.into_iter().filter_map(Result::err) {
        assert_eq!(error.code(), "reward.insufficient_points");
    }
    assert_eq!(scene.available(points).await, 0);
    assert_eq!(scene.available(Account::reward_fund(program)).await, 0);
    let after = scene.available(Account::card_balance(card.id)).await;
    assert_eq!(after - before, i128::from(100 * SAT));
    scene.stop("points").await;
}

fn random_part(task: usize, number: u64) -> [u8; 10] {
    let mut random = [0x64; 10];
    random[..2].copy_from_slice(&u16::try_from(task).unwrap().to_be_bytes());
    random[2..].copy_from_slice(&number.to_be_bytes());
    random
}

/// One draw on the budget: at once, or held and captured with less given back.
fn draw(task: usize, number: u64, budget: Account, to: Account) -> Batch {
    let id = |step: u64| TransferId::from_parts(1, random_part(task, number * 10 + step));
    let transfer = NewTransfer {
        id: id(1),
        debit: budget,
        credit: to,
        amount: 10,
        kind: TransferKind::RedemptionCredit,
        reference: format!("till {task}"),
        credit_ceiling: None,
    };
    let steps = match number % 2 {
        0 => vec![Step::Transfer(transfer)],
        _ => vec![
            Step::Hold(NewHold {
                transfer,
                expires_at_ms: None,
                usage: Vec::new(),
            }),
            Step::Capture {
                hold: id(1),
                id: id(2),
                amount: 7,
                release_rest: true,
            },
        ],
    };
    Batch {
        id: BatchId::from_parts(1, random_part(task, number)),
        command: None,
        steps: steps.into(),
    }
}

/// Sixty-four tills give rewards out of one budget until it is used up.
async fn one_budget_is_never_overdrawn(scene: Scene) {
    const BUDGET: i64 = 3_333;
    let program = ProgramId::from_parts(1, random_part(0, 0));
    let budget = Account::reward_fund(program);
    let fund = NewTransfer {
        id: TransferId::from_parts(2, random_part(0, 0)),
        debit: Account::node_channels(),
        credit: budget,
        amount: BUDGET,
        kind: TransferKind::RewardFunding,
        reference: "a campaign".to_owned(),
        credit_ceiling: None,
    };
    let filled = Batch {
        id: BatchId::from_parts(2, random_part(0, 0)),
        command: None,
        steps: vec![Step::Transfer(fund)].into(),
    };
    scene.stores[0].commit(filled).await.unwrap();
    let tills = scene.tills().await;
    let tasks = tills.iter().enumerate().map(|(task, till)| {
        let store = scene.stores[task % scene.stores.len()].clone();
        let to = Account::merchant_payable(till.id);
        async move {
            let mut drawn = 0;
            for number in 0.. {
                match store.commit(draw(task, number, budget, to)).await {
                    Ok(_) => drawn += if number % 2 == 0 { 10 } else { 7 },
                    Err(CommitError::Refused(Refusal::InsufficientFunds {
                        available,
                        needed,
                        ..
                    })) => {
                        assert!(available < needed, "refused with {available} there");
                        return (drawn, available);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            unreachable!("without end")
        }
    });
    let drawn = settle_all(tasks.collect::<Vec<_>>()).await;
    let mut all = 0;
    for (till, (drawn, _)) in tills.iter().zip(&drawn) {
        let got = scene.available(Account::merchant_payable(till.id)).await;
        assert_eq!(got, i128::from(*drawn));
        all += drawn;
    }
    let left = scene.available(budget).await;
    assert_eq!(left, i128::from(BUDGET - all));
    assert!((0..10).contains(&left), "{left} is left");
    scene.stop("one budget").await;
}

/// A block among sixty-four charges: what was before it was charged, what was after it was
/// refused, and the books' own order says so.
async fn a_block_and_charges_have_one_order(scene: Scene) {
    let card = scene.card(CardLimits::default(), 1_000 * PRICE).await;
    let tills = Arc::new(scene.tills().await);
    let (mut chip, mut all_charged, mut all_refused) = (card.chip, 0, 0);
    for round in 0..8 {
        let before = scene.available(Account::card_balance(card.id)).await;
        let seen = last_event(&*scene.stores[0]).await;
        let block_at = round * 8;
        let tasks = (0..TASKS).map(|task| {
            let (engine, tills) = (scene.engine_of(task), tills.clone());
            let (tap, name) = (chip.tap(), format!("{round}/{task}"));
            let (holder, card) = (card.holder.clone(), card.id);
            async move {
                if task == block_at {
                    let command = FreezeCard {
                        key: key(&format!("block/{round}")),
                        card,
                    };
                    let blocked = engine.cards().freeze(&holder, command).await;
                    blocked.map(|_| "blocked")
                } else {
                    let charged = charge(&engine, &tills[task], &name, tap).await;
                    charged.map(|_| "charged")
                }
            }
        });
        let answers = settle_all(tasks.collect::<Vec<_>>()).await;
        let count = |what| answers.iter().filter(|answer| **answer == Ok(what)).count();
        // It is never lost to a charge.
        assert_eq!(count("blocked"), 1, "round {round}");
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            let lawful = ["card.frozen", "card.not_active", "card.tap_replayed"];
            assert!(lawful.contains(&error.code()), "round {round}: {error}");
        }
        let (charged, refused) = (count("charged"), TASKS - 1 - count("charged"));
        let spent = before - scene.available(Account::card_balance(card.id)).await;
        assert_eq!(spent, i128::from(PRICE * SAT) * charged as i128);
        let events = scene.stores[0].events(seen, MAX_PAGE).await.unwrap();
        let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
        let blocked = kinds.iter().position(|kind| *kind == "card.frozen");
        let after = &kinds[blocked.unwrap()..];
        assert!(!after.contains(&"card.charged"), "round {round}: {kinds:?}");
        assert_eq!(kinds.len(), charged + 1, "round {round}: {kinds:?}");
        (all_charged, all_refused) = (all_charged + charged, all_refused + refused);
        let command = FreezeCard {
            key: key(&format!("unblock/{round}")),
            card: card.id,
        };
        let cards = scene.engine().cards();
        cards.unfreeze(&card.holder, command).await.unwrap();
    }
    println!("{all_charged} charged, {all_refused} refused, 8 blocks");
    assert!(all_refused > 0);
    scene.stop("a block").await;
}

/// One tap at sixty-four tills, half of which took it offline and hand it in now: one is paid.
async fn one_tap_pays_one_till(scene: Scene) {
    let card = scene.card(CardLimits::default(), 1_000 * PRICE).await;
    let (account, tills) = (Account::card_balance(card.id), scene.tills().await);
    let (mut chip, mut books, mut by_offline) = (card.chip, Vec::new(), 0);
    for (number, till) in tills.iter().enumerate().skip(TASKS / 2) {
        let key = OfflineKey::new([u8::try_from(number).unwrap(); 32]).unwrap();
        books.push((offline_book(&scene, till, &key).await, key));
    }
    let tills = Arc::new(tills);
    for round in 0..4 {
        let (tap, now_ms) = (chip.tap(), scene.clock.now_ms());
        let mut tasks: Vec<BoxFuture<'static, (bool, &'static str)>> = Vec::new();
        for (task, till) in tills.iter().enumerate() {
            let engine = scene.engine_of(task);
            let Some(at) = task.checked_sub(TASKS / 2) else {
                let charging = charge(&engine, till, &format!("{round}/{task}"), tap.clone());
                tasks.push(Box::pin(async move {
                    match charging.await {
                        Ok(_) => (true, "online"),
                        Err(error) => (false, error.code()),
                    }
                }));
                continue;
            };
            let (book, key) = &mut books[at];
            book.accept(&tap, PRICE * SAT, "", now_ms).unwrap();
            let (envelope, till) = (book.envelope(key).unwrap().unwrap(), till.till.clone());
            tasks.push(Box::pin(async move {
                let handed_in = engine.cards().replay_offline(&till, envelope).await;
                let outcome = handed_in.unwrap().value.pop().unwrap();
                match outcome.state {
                    OfflineState::Paid => (true, "offline"),
                    _ => (false, "card.tap_replayed"),
                }
            }));
        }
        // The one half begins now, the other the next time.
        if round % 2 == 1 {
            tasks.reverse();
        }
        let answers = settle_all(tasks).await;
        let paid: Vec<_> = answers.iter().filter(|(is_paid, _)| *is_paid).collect();
        assert_eq!(paid.len(), 1, "round {round}: {answers:?}");
        by_offline += usize::from(paid[0].1 == "offline");
        for (_, code) in answers.iter().filter(|(is_paid, _)| !is_paid) {
            assert_eq!(*code, "card.tap_replayed", "round {round}");
        }
        let left = i128::from((1_000 - 1 - round) * PRICE * SAT);
        assert_eq!(scene.available(account).await, left, "round {round}");
    }
    println!("{by_offline} of 4 taps were paid to a till that was offline");
    scene.stop("one tap").await;
}

/// What a till has that may take taps offline.
async fn offline_book(scene: &Scene, till: &Merchant, secret: &OfflineKey) -> OfflineBook {
    let command = SetOfflineTerms {
        key: key(&format!("terms/{}", till.id)),
        merchant: till.id,
        till: None,
        terms: Some(OfflineTerms {
            per_tap_msat: 10 * PRICE * SAT,
            per_day_msat: 1_000 * PRICE * SAT,
            window_ms: 3_600_000,
            loss: LossBearer::Merchant,
            stopped_card: StoppedCard::Loss,
        }),
    };
    let (cards, issuer) = (scene.engine().cards(), scene.engine().issuer());
    cards.set_offline_terms(&issuer, command).await.unwrap();
    let command = secret.enroll(shop::id_of(&till.till), key("enroll"));
    let enrolled = cards.enroll_offline_key(&till.till, command.unwrap()).await;
    OfflineBook::new(&enrolled.unwrap()).unwrap()
}

/// Sixty-four captures of one tab while its time runs out and its job ends it: captured once, or
/// given back.
async fn a_capture_and_the_end_of_time_have_one_order(scene: Scene) {
    let card = scene.card(CardLimits::default(), 1_000 * PRICE).await;
    let shop = shop::merchant(scene.engine(), "Cookshop").await;
    let account = Account::card_balance(card.id);
    let (mut chip, mut all_captured) = (card.chip, 0);
    for round in 0..8 {
        let before = scene.available(account).await;
        let command = AuthorizeCard {
            key: key(&format!("tab/{round}")),
            tap: chip.tap(),
            price: sat(PRICE),
            reference: String::new(),
            pin: None,
        };
        let cards = scene.engine().cards();
        let tab = cards.authorize(&shop.till, command).await.unwrap();
        let over_ms = tab.expires_at_ms.unwrap() - scene.clock.now_ms();
        // Some milliseconds before it is over: time runs by itself.
        scene.clock.advance(over_ms - 5 * (round % 3));
        let tasks = (0..TASKS).map(|task| {
            let (engine, clock) = (scene.engine_of(task), scene.clock.clone());
            let (till, charge) = (shop.till.clone(), tab.id);
            let command = CaptureCharge {
                key: key(&format!("capture/{round}/{task}")),
                charge,
                amount: flashkit::cards::ChargeAmount::Bitcoin {
                    amount_msat: PRICE * SAT,
                },
            };
            async move {
                match task % 8 {
                    3 => engine.run_due_jobs().await.map(|_| "jobs"),
                    5 => {
                        clock.advance(1);
                        Ok("later")
                    }
                    _ => engine
                        .cards()
                        .capture(&till, command)
                        .await
                        .map(|_| "captured"),
                }
            }
        });
        let answers = settle_all(tasks.collect::<Vec<_>>()).await;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            let lawful = ["card.charge_not_open", "card.authorization_expired"];
            assert!(lawful.contains(&error.code()), "round {round}: {error}");
        }
        let captured = answers.iter().filter(|answer| **answer == Ok("captured"));
        let captured = captured.count();
        assert!(captured <= 1, "round {round}");
        scene.clock.advance(1_000);
        scene.engine().run_due_jobs().await.unwrap();
        let found = cards.get_charge(&shop.till, tab.id).await.unwrap();
        let (state, spent) = match captured {
            1 => (ChargeState::Captured, i128::from(PRICE * SAT)),
            _ => (ChargeState::Expired, 0),
        };
        assert_eq!(found.state, state, "round {round}");
        let left = before - scene.available(account).await;
        assert_eq!(left, spent, "round {round}");
        all_captured += captured;
    }
    println!("{all_captured} of 8 were captured in time");
    let payable = scene.available(Account::merchant_payable(shop.id)).await;
    assert_eq!(payable, all_captured as i128 * i128::from(PRICE * SAT));
    scene.stop("a capture").await;
}

/// Sixty-four who want the same money of a merchant: half refund the sale, half pay it out.
async fn a_refund_and_a_payout_have_one_order(scene: Scene) {
    let card = scene.card(CardLimits::default(), 1_000 * PRICE).await;
    let (account, mut chip, mut refunds) = (Account::card_balance(card.id), card.chip, 0);
    for round in 0..4 {
        let shop = shop::merchant(scene.engine(), &format!("Shop-{round}")).await;
        let sale = charge(scene.engine(), &shop, &format!("sale/{round}"), chip.tap());
        let sale = sale.await.unwrap().id;
        let before = scene.available(account).await;
        let mut tasks: Vec<BoxFuture<'static, Result<&'static str, Error>>> = Vec::new();
        for task in 0..TASKS {
            // The node is the first engine's.
            let (engine, till) = (scene.engine_of(task * (1 - task % 2)), shop.till.clone());
            if task % 2 == 0 {
                let command = RefundCharge {
                    key: key(&format!("refund/{round}/{task}")),
                    charge: sale,
                    amount: flashkit::cards::ChargeAmount::Bitcoin {
                        amount_msat: PRICE * SAT,
                    },
                };
                tasks.push(Box::pin(async move {
                    engine
                        .cards()
                        .refund(&till, command)
                        .await
                        .map(|_| "refunded")
                }));
                continue;
            }
            let label = format!("{round}/{task}");
            let bolt11 = scene.customer.invoice(900 * SAT, &label).await.unwrap();
            let (engine, issuer) = (scene.engine().clone(), scene.engine().issuer());
            let command = RequestPayout {
                key: key(&format!("payout/{round}/{task}")),
                merchant: shop.id,
                bolt11,
            };
            tasks.push(Box::pin(async move {
                let settlement = engine.settlement();
                settlement
                    .request_payout(&issuer, command)
                    .await
                    .map(|_| "paid out")
            }));
        }
        if round % 2 == 1 {
            tasks.reverse();
        }
        let answers = settle_all(tasks).await;
        let count = |what| answers.iter().filter(|answer| **answer == Ok(what)).count();
        let (refunded, paid_out) = (count("refunded"), count("paid out"));
        assert_eq!(refunded + paid_out, 1, "round {round}: {answers:?}");
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            let lawful = [
                "card.refund_not_covered",
                "card.refund_exceeds_charge",
                "settlement.insufficient_balance",
            ];
            assert!(lawful.contains(&error.code()), "round {round}: {error}");
        }
        let back = scene.available(account).await - before;
        assert_eq!(back, i128::from(PRICE * SAT) * refunded as i128);
        let left = scene.available(Account::merchant_payable(shop.id)).await;
        // With the fee of 1 %.
        assert_eq!(
            left,
            i128::from(91 * SAT) * paid_out as i128,
            "round {round}"
        );
        refunds += refunded;
    }
    println!("{refunds} of 4 were refunded, the others paid out");
    scene.stop("a refund").await;
}

fn blank_card(engine: &Engine, number: usize) -> BoxFuture<'static, VirtualCard> {
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let uid = format!("04a39493dd{number:04x}");
    Box::pin(async move {
        let command = IssueCard {
            key: key(&format!("issue/{uid}")),
            uid: uid.clone(),
            existing_chip: None,
            limits: CardLimits::default(),
            program: None,
        };
        cards.issue(&issuer, command).await.unwrap();
        let keys = cards.programming_keys(&issuer, &uid).await.unwrap();
        VirtualCard::program(&uid, &keys).unwrap()
    })
}

/// A replacement among sixty-three charges: what was before it came off the old card, what was
/// after it was refused, and all that was left is on the new one, in one posting.
async fn a_replacement_and_charges_have_one_order(scene: Scene) {
    let mut card = scene.card(CardLimits::default(), 100 * PRICE).await;
    let (tills, mut left, mut refused) = (Arc::new(scene.tills().await), 100, 0);
    for round in 0..4 {
        let mut blank = blank_card(scene.engine(), round).await;
        let (replace_at, tap) = (round * 16, blank.tap());
        let replaced = Arc::new(Mutex::new(None));
        let tasks = (0..TASKS).map(|task| {
            let (engine, tills) = (scene.engine_of(task), tills.clone());
            let (own, name) = (card.chip.tap(), format!("{round}/{task}"));
            let (holder, id, tap) = (card.holder.clone(), card.id, tap.clone());
            let replaced = replaced.clone();
            async move {
                if task != replace_at {
                    let charged = charge(&engine, &tills[task], &name, own).await;
                    return charged.map(|_| "charged");
                }
                let command = ReplaceCard {
                    key: key(&name),
                    card: id,
                    tap,
                };
                let answer = engine.cards().replace(&holder, command).await?;
                *replaced.lock().unwrap() = Some(answer.value);
                Ok("replaced")
            }
        });
        let answers = settle_all(tasks.collect::<Vec<_>>()).await;
        let count = |what| answers.iter().filter(|answer| **answer == Ok(what)).count();
        assert_eq!(count("replaced"), 1, "round {round}: {answers:?}");
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            let lawful = ["card.not_active", "card.tap_replayed"];
            assert!(lawful.contains(&error.code()), "round {round}: {error}");
            refused += 1;
        }
        let charged = i128::try_from(count("charged")).unwrap();
        left -= charged;
        let new = replaced.lock().unwrap().take().unwrap();
        let on = |card| scene.available(Account::card_balance(card));
        assert_eq!(on(card.id).await, 0, "round {round}");
        let sats = i128::from(PRICE * SAT);
        assert_eq!(on(new.card.id).await, left * sats, "round {round}");
        card = HeldCard {
            id: new.card.id,
            holder: new.holder.clone(),
            chip: blank,
        };
    }
    println!("{} charged, {refused} refused, 4 replacements", 100 - left);
    scene.stop("a replacement").await;
}

/// A retirement while the same card is topped up by many: each payment is the card's before, and
/// so went on with the rest, or went back to whoever sent it.
async fn a_retirement_and_top_ups_have_one_order(scene: Scene) {
    let card = scene.card(CardLimits::default(), 100).await;
    let other = shop::card(scene.engine(), "04a39493dd7777", CardLimits::default()).await;
    let mut invoices = Vec::new();
    for number in 0..12 {
        let command = TopUpCard {
            key: key(&format!("top-up/{number}")),
            card: card.id,
            price: sat(10),
        };
        let invoice = scene.engine().cards().top_up(&card.holder, command).await;
        invoices.push(invoice.unwrap().value);
    }
    let tasks = invoices.iter().enumerate().map(|(number, invoice)| {
        let (engine, customer) = (scene.engine().clone(), scene.customer.clone());
        let (holder, from, to) = (card.holder.clone(), card.id, other.id);
        let bolt11 = invoice.bolt11.clone();
        async move {
            let paid = customer.pay(&bolt11).await.is_ok();
            if number == 5 {
                let command = RetireCard {
                    key: key("retire"),
                    card: from,
                    to: RetireTo::Card { card: to },
                };
                engine.cards().retire(&holder, command).await.unwrap();
            }
            paid
        }
    });
    settle_all(tasks.collect::<Vec<_>>()).await;
    let mut booked = 0;
    for invoice in invoices {
        let (engine, id) = (scene.engine().clone(), invoice.id);
        let state = || async {
            let found = engine.invoices().get(&engine.issuer(), id).await;
            found.unwrap().state
        };
        support::until("the payment is taken", || async {
            state().await != InvoiceState::Processing
        })
        .await;
        booked += i128::from(state().await == InvoiceState::Settled);
    }
    let on = |card| scene.available(Account::card_balance(card));
    assert_eq!(on(card.id).await, 0);
    assert_eq!(on(other.id).await, (100 + 10 * booked) * i128::from(SAT));
    println!("{booked} of 12 top-ups were in time");
    scene.stop("a retirement").await;
}

async fn last_event(store: &dyn Store) -> i64 {
    let mut last = 0;
    loop {
        let page = store.events(last, MAX_PAGE).await.unwrap();
        match page.last() {
            Some(event) => last = event.position,
            None => return last,
        }
    }
}

macro_rules! on_all_stores {
    ($($scenario:ident),* $(,)?) => {
        on_all_stores!(@store on_memory: $($scenario),*);
        on_all_stores!(@store on_sqlite: $($scenario),*);
        #[cfg(feature = "postgres")]
        on_all_stores!(@store on_postgres: $($scenario),*);
    };
    (@store $store:ident: $($scenario:ident),*) => {
        mod $store {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $scenario() {
                if let Some(scene) = Scene::$store().await {
                    super::$scenario(scene).await;
                }
            })*
        }
    };
}

on_all_stores!(
    one_card_is_never_overspent,
    a_days_limit_is_never_exceeded,
    points_are_spent_once,
    one_budget_is_never_overdrawn,
    a_block_and_charges_have_one_order,
    one_tap_pays_one_till,
    a_capture_and_the_end_of_time_have_one_order,
    a_refund_and_a_payout_have_one_order,
    a_replacement_and_charges_have_one_order,
    a_retirement_and_top_ups_have_one_order,
);
