//! Records of payments that are waited for outside of ldk-node's locks.
//!
//! ldk-node keeps a record of every invoice that it makes, and holds the lock of all its records
//! until that is written: whoever asks for an invoice waits for the flushes of all who asked
//! before. Here the record is only *queued* under the lock, in the order of its key's writes, and
//! waited for once the lock was left, so that one flush serves all who wait.
//!
//! Nobody learns of the invoice before that flush, and nothing is committed upon it: after a crash
//! there is a record for every invoice of the books. What ldk-node has in memory a little earlier
//! is lost with the process, and was never told to anybody. Only records of payments are queued
//! so, by the one call that makes an invoice; never a monitor, never the channel manager.

use std::cell::RefCell;
use std::pin::Pin;

use ldk_node::lightning::io;

/// Where ldk-node keeps its records of payments.
pub(super) const PAYMENT_RECORDS: &str = "payments";

/// Completes once a queued write is durable; never where the node lost its place before.
pub(super) type Written = Pin<Box<dyn Future<Output = Result<(), io::Error>> + Send>>;

thread_local! {
    /// What this thread has queued so far, while it [queues](queueing).
    static QUEUED: RefCell<Option<Vec<Written>>> = const { RefCell::new(None) };
}

/// Ends the queueing of this thread, however it ends.
struct Queueing;

impl Drop for Queueing {
    fn drop(&mut self) {
        QUEUED.set(None);
    }
}

/// Does `work` on this thread. The records of payments that it writes are only queued: what is to
/// be waited for comes with its result.
pub(super) fn queueing<T>(work: impl FnOnce() -> T) -> (T, Vec<Written>) {
    QUEUED.set(Some(Vec::new()));
    let _ends = Queueing;
    let done = work();
    (done, QUEUED.take().unwrap_or_default())
}

/// Whether a write to this namespace is only queued, since this thread waits for it later.
pub(super) fn is_queued(primary_namespace: &str) -> bool {
    primary_namespace == PAYMENT_RECORDS && QUEUED.with_borrow(Option::is_some)
}

/// A write that was queued.
pub(super) fn queue(written: Written) {
    QUEUED.with_borrow_mut(|queued| queued.get_or_insert_default().push(written));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ldk_node::lightning::util::persist::KVStoreSync;
    use ldk_node::tokio::runtime::Handle;
    use ldk_node::tokio::{self, time::timeout};

    use super::super::health::NodeHealth;
    use super::super::kv::LdkStore;
    use super::super::lease::{Fence, Moment};
    use super::*;
    use crate::ports::SystemClock;
    use crate::store::{KeyValue, StoreError};
    use crate::testkit::faulty_store::FaultyKeyValue;

    async fn store(state: &FaultyKeyValue) -> LdkStore {
        let epoch = state.begin_epoch().await.expect("epoch");
        let health = Arc::new(NodeHealth::new(Arc::new(SystemClock)));
        let long = Duration::from_secs(3_600);
        let fence = Fence::new(epoch, Moment::now(&health), long, Arc::clone(&health));
        let (state, fence) = (Arc::new(state.clone()), Arc::new(fence));
        LdkStore::new(state, epoch, Handle::current(), health, fence)
    }

    fn write(store: &LdkStore, primary: &str, value: u8) {
        KVStoreSync::write(store, primary, "", "k", vec![value]).expect("written");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_queued_record_is_told_of_when_it_is_durable() {
        let state = FaultyKeyValue::new();
        let store = store(&state).await;
        state.fail_writes(usize::MAX, StoreError::Full);
        let ((), mut written) = queueing(|| write(&store, PAYMENT_RECORDS, 1));
        let mut first: Written = written.pop().expect("one was queued");
        assert!(written.is_empty());
        let early = timeout(Duration::from_millis(100), &mut first).await;
        assert!(early.is_err(), "it was told of, and is not written");
        assert!(!store.is_idle(), "a stop would not wait for it");
        // A later write of the same record is the one that stays.
        let ((), later) = queueing(|| write(&store, PAYMENT_RECORDS, 2));
        state.heal();
        first.await.expect("the first");
        for later in later {
            later.await.expect("the second");
        }
        assert!(!is_queued(PAYMENT_RECORDS));
        assert_eq!(state.value(PAYMENT_RECORDS, "", "k"), Some(vec![2]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_else_is_queued() {
        let state = FaultyKeyValue::new();
        let store = store(&state).await;
        let ((), written) = queueing(|| {
            write(&store, "peers", 1);
            write(&store, "", 1);
        });
        assert!(written.is_empty());
        assert_eq!(state.applied().len(), 2, "they waited for none");
        write(&store, PAYMENT_RECORDS, 1);
        assert_eq!(state.applied().len(), 3, "outside of it the writer waits");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            queueing(|| panic!("a call of ldk-node"));
        }));
        assert!(panicked.is_err());
        assert!(!is_queued(PAYMENT_RECORDS), "it still queues");
    }
}
