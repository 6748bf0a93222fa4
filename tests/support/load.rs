//! A load that keeps a store's writer busy without a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flashkit::ids::{BatchId, TransferId};
use flashkit::ledger::{Account, Batch, NewTransfer, Step, TransferKind};
use flashkit::store::Store;
use tokio::task::JoinHandle;

/// How many transfers a batch of the load has.
const STEPS: u64 = 2;

/// Many tasks that commit as fast as they are answered.
pub struct Load {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins with as many tasks, all of which write to the same two accounts of the operator.
    pub fn on(store: &Arc<dyn Store>, tasks: u64) -> Self {
        let (stop, commits) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let next_id = Arc::<AtomicU64>::default();
        let tasks = (0..tasks).map(|_| {
            let (store, stop) = (store.clone(), stop.clone());
            let (commits, next_id) = (commits.clone(), next_id.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    store.commit(batch(&next_id)).await.unwrap();
                    commits.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let tasks = tasks.collect();
        Self {
            stop,
            commits,
            tasks,
        }
    }

    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Ends it; every commit was made.
    pub async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.commits.load(Ordering::Relaxed)
    }

    /// What `commits` of the load have moved.
    pub fn moved(commits: u64) -> i128 {
        i128::from(commits) * i128::from(STEPS)
    }
}

fn batch(next_id: &AtomicU64) -> Batch {
    let number = next_id.fetch_add(1, Ordering::Relaxed);
    let random = |step: u64| {
        let mut bytes = [0xa5; 10];
        bytes[2..].copy_from_slice(&(number * STEPS + step).to_be_bytes());
        bytes
    };
    let steps = (0..STEPS).map(|step| {
        Step::Transfer(NewTransfer {
            id: TransferId::from_parts(1, random(step)),
            debit: Account::routing_fees(),
            credit: Account::operator_capital(),
            amount: 1,
            kind: TransferKind::Capital,
            reference: "load".to_owned(),
            credit_ceiling: None,
        })
    });
    Batch {
        id: BatchId::from_parts(1, random(0)),
        command: None,
        steps: Arc::new(steps.collect()),
    }
}
