//! Any sequence of operations keeps the sums, and an independent model agrees with every store.
//!
//! The model is written from the design alone: it takes nothing of the engine but ids, amounts
//! and accounts, and has its own table of what each kind of account may do.

mod commit_times;
mod model;
mod moves;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flashkit::ids::{BatchId, TransferId};
use flashkit::ledger::{Batch, NewHold, NewReversal, NewTransfer, Shortfall, Step, TransferKind};
use flashkit::store::{CommitError, MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use model::{How, Model, Order, Totals, accounts};
use moves::{Action, Move, actions};

const FIRST_MS: i64 = 1_700_000_000_000;

/// How often what happened: a property that never meets a refusal shows little.
static HAPPENED: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];
const NAMES: [&str; 6] = [
    "committed",
    "refused",
    "captured",
    "reversed",
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
    /// The model after each commit, and when that was.
    history: Vec<(i64, Model)>,
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
            history: Vec::new(),
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
                up_to,
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
                    how: if up_to { How::UpTo } else { How::Now },
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
                    how: How::Hold { ends_ms },
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
            Move::Reverse {
                transfer,
                amount,
                receivable,
            } => {
                let standing: Vec<_> = self.model.transfers.keys().copied().collect();
                let of = match transfer {
                    0 => None,
                    number => standing.get(number % standing.len().max(1)).copied(),
                };
                Order::Reverse {
                    id: self.new_id(),
                    of: of.unwrap_or_else(|| self.new_id()),
                    amount,
                    shortfall: receivable.map(|account| (self.new_id(), account)),
                }
            }
            Move::Within {
                account,
                lowest,
                highest,
            } => Order::Within {
                account,
                lowest,
                highest,
            },
        }
    }

    async fn batch(&mut self, clock_ms: i64, moves: &[Move]) -> Result<(), TestCaseError> {
        self.now_ms += clock_ms;
        self.clock.jump(self.now_ms);
        let orders: Vec<Order> = moves.iter().map(|one| self.order(one)).collect();
        let expected = self.model.batch(self.now_ms, &orders);
        let batch = Batch {
            id: BatchId::from_parts(1, self.random()),
            command: None,
            steps: Arc::new(orders.iter().map(step).collect()),
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
                self.history.push((self.model.last_ms, self.model.clone()));
                count("committed");
                if orders
                    .iter()
                    .any(|order| matches!(order, Order::Capture { .. }))
                {
                    count("captured");
                }
                if orders
                    .iter()
                    .any(|order| matches!(order, Order::Reverse { .. }))
                {
                    count("reversed");
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

    /// At the end: what an account had at any time is what the model had then.
    async fn check_the_past(&self) -> Result<(), TestCaseError> {
        let mut times: Vec<i64> = vec![FIRST_MS - 1_000];
        for (at_ms, _) in &self.history {
            times.extend([at_ms - 1, *at_ms, at_ms + 1]);
        }
        for at_ms in times {
            let then = self.history.iter().rfind(|(time, _)| *time <= at_ms);
            for (place, (account, ..)) in accounts().into_iter().enumerate() {
                let expected = then.map_or(0, |(_, model)| model.balance(place).0);
                for store in &self.stores {
                    let found = store.balance_at(&account, at_ms).await.unwrap();
                    prop_assert_eq!(i128::from(found), expected, "{} at {}", account, at_ms);
                }
            }
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
            how,
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
            match how {
                How::Now => Step::Transfer(transfer),
                How::UpTo => Step::TransferUpTo(transfer),
                How::Hold { ends_ms } => Step::Hold(NewHold {
                    transfer,
                    expires_at_ms: ends_ms,
                    usage: Vec::new(),
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
        Order::Reverse {
            id,
            of,
            amount,
            shortfall,
        } => Step::Reverse(NewReversal {
            id,
            of,
            amount,
            shortfall: shortfall.map(|(id, account)| Shortfall {
                id,
                receivable: at(account),
            }),
            usage: Vec::new(),
        }),
        Order::Within {
            account,
            lowest,
            highest,
        } => Step::Within {
            account: at(account),
            lowest,
            highest,
        },
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
            run.check_rows().await?;
            run.check_the_past().await
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
        "ledger.out_of_bounds",
        "ledger.overflow",
        "ledger.reversal_exceeded",
        "ledger.transfer_not_found",
    ] {
        assert!(
            REFUSALS.lock().unwrap().contains_key(code),
            "{code} never happened"
        );
    }
}
