//! The port of the node's state.

use std::sync::Arc;
use std::time::Duration;

use super::tree::Tree;
use super::{OrderedStore, writing};
use crate::ports::BoxFuture;
use crate::store::group_commit::Lane;
use crate::store::{KeyPath, KeyValue, KeyValueWrite, NodeHolder, NodeLease, StoreError};

type Answer<A> = BoxFuture<'static, Result<A, StoreError>>;

/// Said by whoever runs a node on a place that does not notice that it was copied, or put back to what
/// it was before: a node that runs on an older state of its channels loses them. The host sees to it
/// that no copy of the place is ever opened with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiesAreNotNoticed;

/// The node's state beside the books of an [`OrderedStore`].
pub struct NodeState<T: Tree>(Arc<OrderedStore<T>>);

impl<T: Tree> OrderedStore<T> {
    /// The node's state in the same place.
    pub fn node_state(self: &Arc<Self>, _: CopiesAreNotNoticed) -> NodeState<T> {
        NodeState(self.clone())
    }
}

impl<T: Tree> KeyValue for NodeState<T> {
    fn begin_epoch(&self) -> Answer<u64> {
        self.0.change(Lane::Node, |open| {
            open.lease = NodeLease::default();
            writing::next_epoch(&mut open.to)
        })
    }

    fn take_lease(&self, holder: NodeHolder, lasts: Duration) -> Answer<u64> {
        self.0.change(Lane::Node, move |open| {
            open.lease.check(holder, open.at_ms)?;
            open.lease = NodeLease::new(holder.0, open.at_ms, lasts);
            writing::next_epoch(&mut open.to)
        })
    }

    fn renew_lease(&self, epoch: u64, lasts: Duration) -> Answer<()> {
        self.0.change(Lane::Node, move |open| {
            writing::check_epoch(&open.to, epoch)?;
            open.lease = NodeLease::new(open.lease.holder, open.at_ms, lasts);
            Ok(())
        })
    }

    fn release_lease(&self, epoch: u64) -> Answer<()> {
        self.0.change(Lane::Node, move |open| {
            writing::check_epoch(&open.to, epoch)?;
            open.lease = NodeLease::default();
            Ok(())
        })
    }

    fn write(&self, epoch: u64, change: KeyValueWrite) -> Answer<()> {
        self.0.change(Lane::Node, move |open| {
            writing::check_epoch(&open.to, epoch)?;
            writing::write_node(&mut open.to, &change);
            Ok(())
        })
    }

    fn read(&self, path: KeyPath) -> Answer<Option<Vec<u8>>> {
        self.0.ask(move |books| books.node_value(&path))
    }

    fn list(&self, primary: String, secondary: String) -> Answer<Vec<String>> {
        self.0
            .ask(move |books| books.node_keys(&primary, &secondary))
    }
}
