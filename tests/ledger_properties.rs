//! Any sequence of operations keeps the sums, and an independent model agrees with every store.
//!
//! The model is written from the design alone: it takes nothing of the engine but ids, amounts
//! and accounts, and has its own table of what each kind of account may do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flashkit::ids::{BatchId, CardId, MerchantId, ProgramId, TransferId};
use flashkit::ledger::{Account, Batch, NewHold, NewTransfer, Step, TransferKind};
use flashkit::store::{CommitError, MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const FIRST_MS: i64 = 1_700_000_000_000;

/// The accounts that take part, as the model knows them: whether they grow by debits, and their
/// floor.
fn accounts() -> Vec<(Account, bool, Option<i128>)> {
    let card = |number| CardId::from_parts(1, [number; 10]);
    let merchant = MerchantId::from_parts(1, [1; 10]);
    let program = ProgramId::from_parts(1, [1; 10]);
    vec![
        (Account::node_channels(), true, None),
        (Account::operator_capital(), false, None),
        (Account::card_balance(card(1)), false, Some(0)),
        (Account::card_balance(card(2)), false, Some(0)),
        (Account::merchant_payable(merchant), false, Some(0)),
        (Account::fee_income(), false, Some(0)),
        (Account::routing_fees(), true, None),
        (Account::points_issued(program), true, Some(0)),
        (Account::points_balance(card(1), program), false, Some(0)),
        (Account::points_balance(card(2), program), false, Some(0)),
    ]
}

/// How many accounts there are, and where those of points begin.
const ACCOUNTS: usize = 10;
const POINTS_FROM: usize = 7;

/// One step, by the places of its accounts and holds.
#[derive(Debug, Clone)]
enum Move {
    Transfer {
        debit: usize,
        credit: usize,
        amount: i64,
        ceiling: Option<i64>,
        again: bool,
    },
    Hold {
        debit: usize,
        credit: usize,
        amount: i64,
        ceiling: Option<i64>,
        lasts_ms: Option<i64>,
    },
    Capture {
        hold: usize,
        amount: i64,
        release_rest: bool,
    },
    Release {
        hold: usize,
    },
}

#[derive(Debug, Clone)]
enum Action {
    /// A batch, after the clock was moved by so much.
    Batch { clock_ms: i64, moves: Vec<Move> },
    /// The last batch once more, under its id.
    Resubmit,
    /// The store is closed and opened again, where it has a file.
    Reopen,
}

fn amount() -> impl Strategy<Value = i64> {
    prop_oneof![
        20 => 1_i64..40,
        6 => 40_i64..300,
        1 => -2_i64..1,
        1 => (i64::MAX - 50)..=i64::MAX,
    ]
}

fn pair() -> impl Strategy<Value = (usize, usize)> {
    let within = |from: usize, to: usize| {
        (from..to, 1..to - from).prop_map(move |(debit, further)| {
            let credit = from + (debit - from + further) % (to - from);
            (debit, credit)
        })
    };
    prop_oneof![
        // Money comes in from outside, and points are given.
        6 => (Just(0), 1_usize..POINTS_FROM),
        3 => (Just(POINTS_FROM), POINTS_FROM + 1..ACCOUNTS),
        8 => within(0, POINTS_FROM),
        4 => within(POINTS_FROM, ACCOUNTS),
        1 => (0..ACCOUNTS, 0..ACCOUNTS),
    ]
}

fn one_move() -> impl Strategy<Value = Move> {
    let ceiling = || prop_oneof![4 => Just(None), 1 => (0_i64..300).prop_map(Some)];
    let lasts = prop_oneof![2 => Just(None), 1 => (0_i64..200).prop_map(Some)];
    prop_oneof![
        5 => (pair(), amount(), ceiling(), prop::bool::weighted(0.03)).prop_map(
            |((debit, credit), amount, ceiling, again)| Move::Transfer {
                debit, credit, amount, ceiling, again,
            }
        ),
        4 => (pair(), amount(), ceiling(), lasts).prop_map(
            |((debit, credit), amount, ceiling, lasts_ms)| Move::Hold {
                debit, credit, amount, ceiling, lasts_ms,
            }
        ),
        4 => (0_usize..8, amount(), any::<bool>()).prop_map(
            |(hold, amount, release_rest)| Move::Capture { hold, amount, release_rest }
        ),
        2 => (0_usize..8).prop_map(|hold| Move::Release { hold }),
    ]
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let moves = prop_oneof![
        2 => prop::collection::vec(one_move(), 1..2),
        1 => prop::collection::vec(one_move(), 2..4),
    ];
    let batch =
        (-30_i64..60, moves).prop_map(|(clock_ms, moves)| Action::Batch { clock_ms, moves });
    let action = prop_oneof![30 => batch, 2 => Just(Action::Resubmit), 1 => Just(Action::Reopen)];
    prop::collection::vec(action, 20..60)
}

/// What the model keeps of an account: debits and credits, posted and pending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    debits: i128,
    credits: i128,
    debits_pending: i128,
    credits_pending: i128,
}

#[derive(Debug, Clone)]
struct ModelHold {
    debit: usize,
    credit: usize,
    left: i128,
    ends_ms: Option<i64>,
}

/// The independent model.
#[derive(Debug, Clone, Default)]
struct Model {
    totals: BTreeMap<usize, Totals>,
    holds: BTreeMap<TransferId, ModelHold>,
    ids: BTreeSet<TransferId>,
    last_ms: i64,
}

/// A step with the ids that the test chose for it.
#[derive(Debug, Clone)]
enum Order {
    Transfer {
        id: TransferId,
        debit: usize,
        credit: usize,
        amount: i64,
        ceiling: Option<i64>,
        hold: Option<Option<i64>>,
    },
    Capture {
        hold: TransferId,
        id: TransferId,
        amount: i64,
        release_rest: bool,
    },
    Release {
        hold: TransferId,
    },
}

impl Model {
    fn of(&self, account: usize) -> Totals {
        self.totals.get(&account).copied().unwrap_or_default()
    }

    /// The balance as the account grows, what it may lose, and the most it may become.
    fn balance(&self, account: usize) -> (i128, i128, i128) {
        let totals = self.of(account);
        if accounts()[account].1 {
            let balance = totals.debits - totals.credits;
            let (spendable, most) = (
                balance - totals.credits_pending,
                balance + totals.debits_pending,
            );
            (balance, spendable, most)
        } else {
            let balance = totals.credits - totals.debits;
            let (spendable, most) = (
                balance - totals.debits_pending,
                balance + totals.credits_pending,
            );
            (balance, spendable, most)
        }
    }

    /// The whole batch, or the reason why nothing of it.
    fn batch(&mut self, now_ms: i64, orders: &[Order]) -> Result<(), &'static str> {
        let mut after = self.clone();
        after.last_ms = after.last_ms.max(now_ms);
        for order in orders {
            after.order(order)?;
        }
        *self = after;
        Ok(())
    }

    fn order(&mut self, order: &Order) -> Result<(), &'static str> {
        match *order {
            Order::Transfer {
                id,
                debit,
                credit,
                amount,
                ceiling,
                hold,
            } => {
                self.may_move(id, debit, credit, amount, ceiling)?;
                self.ids.insert(id);
                let amount = i128::from(amount);
                match hold {
                    None => self.post(debit, credit, amount),
                    Some(ends_ms) => {
                        let left = amount;
                        self.holds.insert(
                            id,
                            ModelHold {
                                debit,
                                credit,
                                left,
                                ends_ms,
                            },
                        );
                        self.set_aside(debit, credit, amount)
                    }
                }
            }
            Order::Capture {
                hold: id_of_hold,
                id,
                amount,
                release_rest,
            } => {
                let hold = self.open(id_of_hold)?;
                if hold.ends_ms.is_some_and(|ends_ms| self.last_ms >= ends_ms) {
                    return Err("ledger.hold_expired");
                }
                if amount < 1 {
                    return Err("ledger.not_positive");
                }
                let amount = i128::from(amount);
                if amount > hold.left {
                    return Err("ledger.hold_exceeded");
                }
                if !self.ids.insert(id) {
                    return Err("ledger.duplicate_id");
                }
                let gone = if release_rest { hold.left } else { amount };
                self.set_aside(hold.debit, hold.credit, -gone)?;
                self.post(hold.debit, hold.credit, amount)?;
                self.lower(id_of_hold, gone);
                Ok(())
            }
            Order::Release { hold: id } => {
                let hold = self.open(id)?;
                self.set_aside(hold.debit, hold.credit, -hold.left)?;
                self.lower(id, hold.left);
                Ok(())
            }
        }
    }

    fn may_move(
        &self,
        id: TransferId,
        debit: usize,
        credit: usize,
        amount: i64,
        ceiling: Option<i64>,
    ) -> Result<(), &'static str> {
        if amount < 1 {
            return Err("ledger.not_positive");
        }
        if debit == credit || (debit < POINTS_FROM) != (credit < POINTS_FROM) {
            return Err("ledger.accounts_do_not_fit");
        }
        if self.ids.contains(&id) {
            return Err("ledger.duplicate_id");
        }
        // A debit makes an account of the debit side grow and any other shrink.
        self.may_change(debit, accounts()[debit].1, amount, None)?;
        let ceiling = ceiling.filter(|_| !accounts()[credit].1);
        self.may_change(credit, !accounts()[credit].1, amount, ceiling)
    }

    fn may_change(
        &self,
        account: usize,
        grows: bool,
        amount: i64,
        ceiling: Option<i64>,
    ) -> Result<(), &'static str> {
        let (_, spendable, most) = self.balance(account);
        let amount = i128::from(amount);
        if grows {
            if ceiling.is_some_and(|ceiling| most + amount > i128::from(ceiling)) {
                return Err("ledger.ceiling_reached");
            }
            if most + amount > i128::from(i64::MAX) {
                return Err("ledger.overflow");
            }
        } else if let Some(floor) = accounts()[account].2
            && spendable - amount < floor
        {
            return Err("ledger.insufficient_funds");
        }
        Ok(())
    }

    fn post(&mut self, debit: usize, credit: usize, amount: i128) -> Result<(), &'static str> {
        self.totals.entry(debit).or_default().debits += amount;
        self.totals.entry(credit).or_default().credits += amount;
        for account in [debit, credit] {
            i64::try_from(self.balance(account).0).map_err(|_| "ledger.overflow")?;
        }
        Ok(())
    }

    fn set_aside(&mut self, debit: usize, credit: usize, amount: i128) -> Result<(), &'static str> {
        let debited = self.totals.entry(debit).or_default();
        debited.debits_pending += amount;
        i64::try_from(debited.debits_pending).map_err(|_| "ledger.overflow")?;
        let credited = self.totals.entry(credit).or_default();
        credited.credits_pending += amount;
        i64::try_from(credited.credits_pending).map_err(|_| "ledger.overflow")?;
        Ok(())
    }

    fn open(&self, id: TransferId) -> Result<ModelHold, &'static str> {
        let hold = self.holds.get(&id).filter(|hold| hold.left > 0);
        hold.cloned().ok_or("ledger.hold_not_open")
    }

    fn lower(&mut self, id: TransferId, by: i128) {
        if let Some(hold) = self.holds.get_mut(&id) {
            hold.left -= by;
        }
    }
}

/// How often what happened: a property that never meets a refusal shows little.
static HAPPENED: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
const NAMES: [&str; 5] = [
    "committed",
    "refused",
    "captured",
    "resubmitted",
    "reopened",
];
static REFUSALS: std::sync::Mutex<BTreeMap<&str, u64>> = std::sync::Mutex::new(BTreeMap::new());

fn count(what: &str) {
    let place = NAMES.iter().position(|name| *name == what).unwrap();
    HAPPENED[place].fetch_add(1, Ordering::SeqCst);
}

/// One run: the model and the stores side by side.
struct Run {
    clock: Arc<ManualClock>,
    now_ms: i64,
    stores: Vec<Arc<dyn Store>>,
    #[cfg(feature = "sqlite")]
    file: tempfile::TempDir,
    model: Model,
    last_id: u64,
    holds: Vec<TransferId>,
    transfers: Vec<TransferId>,
    last: Option<(Batch, bool)>,
}

impl Run {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(FIRST_MS));
        let mut run = Self {
            stores: vec![Arc::new(MemoryStore::new(clock.clone()))],
            clock,
            now_ms: FIRST_MS,
            #[cfg(feature = "sqlite")]
            file: tempfile::tempdir().unwrap(),
            model: Model::default(),
            last_id: 0,
            holds: Vec::new(),
            transfers: Vec::new(),
            last: None,
        };
        run.open_file();
        run
    }

    #[cfg(feature = "sqlite")]
    fn open_file(&mut self) {
        use flashkit::store::sqlite::SqliteStore;
        let file = self.file.path().join("books.db");
        let store = SqliteStore::open(file, self.clock.clone()).unwrap();
        self.stores.push(Arc::new(store));
    }

    #[cfg(not(feature = "sqlite"))]
    fn open_file(&mut self) {}

    fn random(&mut self) -> [u8; 10] {
        self.last_id += 1;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.last_id.to_be_bytes());
        random
    }

    fn new_id(&mut self) -> TransferId {
        TransferId::from_parts(1, self.random())
    }

    fn order(&mut self, one: &Move) -> Order {
        // Mostly a hold that is open; else an early one, one of this batch, or none at all.
        let open: Vec<TransferId> = self
            .model
            .holds
            .iter()
            .filter(|(_, hold)| hold.left > 0)
            .map(|(id, _)| *id)
            .collect();
        let hold_at = |holds: &[TransferId], number: usize| match number {
            0 => holds.first().copied(),
            1 => holds.last().copied(),
            _ if open.is_empty() => None,
            _ => Some(open[number % open.len()]),
        };
        match *one {
            Move::Transfer {
                debit,
                credit,
                amount,
                ceiling,
                again,
            } => {
                let earlier = self.transfers.last().copied().filter(|_| again);
                let id = earlier.unwrap_or_else(|| self.new_id());
                self.transfers.push(id);
                Order::Transfer {
                    id,
                    debit,
                    credit,
                    amount,
                    ceiling,
                    hold: None,
                }
            }
            Move::Hold {
                debit,
                credit,
                amount,
                ceiling,
                lasts_ms,
            } => {
                let id = self.new_id();
                self.holds.push(id);
                let ends_ms = lasts_ms.map(|lasts_ms| self.now_ms + lasts_ms);
                Order::Transfer {
                    id,
                    debit,
                    credit,
                    amount,
                    ceiling,
                    hold: Some(ends_ms),
                }
            }
            Move::Capture {
                hold,
                amount,
                release_rest,
            } => {
                let hold = hold_at(&self.holds, hold).unwrap_or_else(|| self.new_id());
                let id = self.new_id();
                Order::Capture {
                    hold,
                    id,
                    amount,
                    release_rest,
                }
            }
            Move::Release { hold } => {
                let hold = hold_at(&self.holds, hold).unwrap_or_else(|| self.new_id());
                Order::Release { hold }
            }
        }
    }

    async fn batch(&mut self, clock_ms: i64, moves: &[Move]) -> Result<(), TestCaseError> {
        self.now_ms += clock_ms;
        self.clock.set(self.now_ms);
        let orders: Vec<Order> = moves.iter().map(|one| self.order(one)).collect();
        let expected = self.model.batch(self.now_ms, &orders);
        let batch = Batch {
            id: BatchId::from_parts(1, self.random()),
            command: None,
            steps: orders.iter().map(step).collect(),
        };
        for store in &self.stores {
            let found = store.commit(batch.clone()).await;
            let found = match found {
                Ok(commit) => {
                    prop_assert!(!commit.replayed);
                    prop_assert_eq!(commit.at_ms, self.model.last_ms);
                    Ok(())
                }
                Err(CommitError::Refused(refusal)) => Err(refusal.code()),
                Err(CommitError::Store(error)) => {
                    return Err(TestCaseError::fail(format!("the store failed: {error}")));
                }
            };
            prop_assert_eq!(found, expected, "{:?}", orders);
        }
        match expected {
            Ok(()) => {
                count("committed");
                if orders
                    .iter()
                    .any(|order| matches!(order, Order::Capture { .. }))
                {
                    count("captured");
                }
            }
            Err(code) => {
                count("refused");
                *REFUSALS.lock().unwrap().entry(code).or_insert(0) += 1;
            }
        }
        self.last = Some((batch, expected.is_ok()));
        Ok(())
    }

    /// The last batch again: done before, it is replayed and changes nothing. A refused one is
    /// not known, so it is left alone.
    async fn resubmit(&mut self) -> Result<(), TestCaseError> {
        if let Some((batch, true)) = &self.last {
            for store in &self.stores {
                let commit = store.commit(batch.clone()).await;
                let commit = commit.map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert!(commit.replayed);
            }
            count("resubmitted");
        }
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), TestCaseError> {
        if self.stores.len() > 1 {
            let store = self.stores.pop().unwrap();
            store.close().await.unwrap();
            self.open_file();
            count("reopened");
        }
        Ok(())
    }

    /// The sums hold, nobody is below a floor, and the model agrees.
    async fn check(&self) -> Result<(), TestCaseError> {
        for store in &self.stores {
            let mut sums: BTreeMap<String, [i128; 4]> = BTreeMap::new();
            for (account, balance) in store.balances(None, 1_000).await.unwrap() {
                let sum = sums.entry(account.asset().to_string()).or_default();
                sum[0] += balance.debits_posted;
                sum[1] += balance.credits_posted;
                sum[2] += i128::from(balance.debits_pending);
                sum[3] += i128::from(balance.credits_pending);
            }
            for (asset, [debits, credits, debits_pending, credits_pending]) in sums {
                prop_assert_eq!(debits, credits, "posted of {}", &asset);
                prop_assert_eq!(debits_pending, credits_pending, "pending of {}", &asset);
            }
            for (place, (account, grows_by_debits, floor)) in accounts().into_iter().enumerate() {
                let found = store.balance(&account).await.unwrap();
                let found = Totals {
                    debits: found.debits_posted,
                    credits: found.credits_posted,
                    debits_pending: found.debits_pending.into(),
                    credits_pending: found.credits_pending.into(),
                };
                prop_assert_eq!(found, self.model.of(place), "{}", account);
                let spendable = if grows_by_debits {
                    found.debits - found.credits - found.credits_pending
                } else {
                    found.credits - found.debits - found.debits_pending
                };
                prop_assert!(floor.is_none_or(|floor| spendable >= floor), "{}", account);
            }
            for (id, hold) in &self.model.holds {
                let found = store.hold(*id).await.unwrap();
                let left = found.map(|state| i128::from(state.remaining));
                prop_assert_eq!(left, Some(hold.left), "{}", id);
            }
        }
        Ok(())
    }

    /// At the end: each account's rows add up to its totals, and all stores have the same rows.
    async fn check_rows(&self) -> Result<(), TestCaseError> {
        for (place, (account, grows_by_debits, _)) in accounts().into_iter().enumerate() {
            let mut seen = Vec::new();
            for store in &self.stores {
                let rows = store.transfers(&account, None, 1_000).await.unwrap();
                let (mut debits, mut credits) = (0, 0);
                for row in rows.iter().rev() {
                    let is_debit = row.debit == account;
                    let total = if is_debit { &mut debits } else { &mut credits };
                    *total += i128::from(row.amount);
                    let balance: i128 = if grows_by_debits {
                        debits - credits
                    } else {
                        credits - debits
                    };
                    let after = if is_debit {
                        row.debit_balance_after
                    } else {
                        row.credit_balance_after
                    };
                    prop_assert_eq!(
                        i128::from(after),
                        balance,
                        "after {} of {}",
                        row.id,
                        account
                    );
                }
                let totals = self.model.of(place);
                prop_assert_eq!((debits, credits), (totals.debits, totals.credits));
                seen.push(rows);
            }
            prop_assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
        }
        Ok(())
    }
}

fn step(order: &Order) -> Step {
    let at = |place: usize| accounts()[place].0;
    match *order {
        Order::Transfer {
            id,
            debit,
            credit,
            amount,
            ceiling,
            hold,
        } => {
            let transfer = NewTransfer {
                id,
                debit: at(debit),
                credit: at(credit),
                amount,
                kind: TransferKind::Charge,
                reference: "property".to_owned(),
                credit_ceiling: ceiling,
            };
            match hold {
                None => Step::Transfer(transfer),
                Some(expires_at_ms) => Step::Hold(NewHold {
                    transfer,
                    expires_at_ms,
                }),
            }
        }
        Order::Capture {
            hold,
            id,
            amount,
            release_rest,
        } => Step::Capture {
            hold,
            id,
            amount,
            release_rest,
        },
        Order::Release { hold } => Step::Release { hold },
    }
}

#[test]
fn any_sequence_keeps_the_sums_and_agrees_with_the_model() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(96);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&actions(), |actions| {
        runtime.block_on(async {
            let mut run = Run::new();
            for action in &actions {
                match action {
                    Action::Batch { clock_ms, moves } => run.batch(*clock_ms, moves).await?,
                    Action::Resubmit => run.resubmit().await?,
                    Action::Reopen => run.reopen().await?,
                }
                run.check().await?;
            }
            run.reopen().await?;
            run.check().await?;
            run.check_rows().await
        })
    });
    for (name, times) in NAMES.iter().zip(&HAPPENED) {
        println!("{name}: {}", times.load(Ordering::SeqCst));
    }
    println!("{:?}", REFUSALS.lock().unwrap());
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    for code in [
        "ledger.accounts_do_not_fit",
        "ledger.ceiling_reached",
        "ledger.duplicate_id",
        "ledger.hold_exceeded",
        "ledger.hold_expired",
        "ledger.hold_not_open",
        "ledger.insufficient_funds",
        "ledger.not_positive",
        "ledger.overflow",
    ] {
        assert!(
            REFUSALS.lock().unwrap().contains_key(code),
            "{code} never happened"
        );
    }
}
