//! A store in memory as a whole: written as a stream and taken from one.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use async_trait::async_trait;

use super::MemoryStore;
use super::arriving::Into;
use super::departing::Copied;
use super::tables::Tables;
use crate::ids::TransferId;
use crate::ledger::{ChainHead, TransferKind};
use crate::store::moving::{Leave, arrive, depart, does_not_follow, is_channel_state, pieces};
use crate::store::{
    Arrival, ByteSource, KeyPath, KeyValueWrite, MoveError, NodeState, StoreAdmin, StoreError,
    StoreHealth,
};

#[async_trait]
impl StoreAdmin for MemoryStore {
    async fn verify(&self) -> Result<Vec<String>, StoreError> {
        let wrong = wrong_in(&*self.lock()?);
        Ok(wrong.into_iter().collect())
    }

    async fn backup(&self, _to: &Path) -> Result<(), MoveError> {
        let what = "files";
        Err(MoveError::NotSupported { what })
    }

    async fn export(&self, node: NodeState) -> Result<Box<dyn ByteSource>, MoveError> {
        let copied = {
            let now_ms = self.clock.now_ms();
            let mut tables = self.lock()?;
            if node == NodeState::HandOver {
                tables.hand_over(now_ms)?;
            }
            Copied::new(&tables)
        };
        let leave = (node == NodeState::HandOver).then(|| {
            let store = self.clone();
            let leave: Leave = Box::pin(async move { store.lock()?.leave() });
            leave
        });
        Ok(Box::new(Written::new(copied, leave)))
    }

    async fn import(
        &self,
        mut source: Box<dyn ByteSource>,
        kept: &[ChainHead],
    ) -> Result<Arrival, MoveError> {
        let mut sink = Into::default();
        let arrived = arrive(source.as_mut(), kept, &mut sink).await?;
        let mut new = sink.tables;
        if let Some(wrong) = wrong_in(&new) {
            return Err(does_not_follow(&arrived, wrong));
        }
        if !arrived.has_node_state {
            new.node_locked = Some(StoreError::StaleNodeState {
                found: -1,
                expected: None,
            });
        }
        let mut tables = self.lock()?;
        if !Copied::new(&tables).rows.is_empty() {
            return Err(MoveError::NotEmpty);
        }
        *tables = new;
        drop(tables);
        self.committed.notify(usize::MAX);
        Ok(arrived)
    }

    async fn health(&self) -> Result<StoreHealth, StoreError> {
        let tables = self.lock()?;
        Ok(StoreHealth {
            schema_version: 0,
            known_schema_version: 0,
            commits: i64::try_from(tables.commits.len()).unwrap_or(i64::MAX),
            node_locked: tables.node_locked.clone(),
        })
    }
}

impl Tables {
    /// Ends the node and the books, before anything of them leaves.
    fn hand_over(&mut self, now_ms: i64) -> Result<(), StoreError> {
        match &self.node_locked {
            Some(StoreError::NodeHandedOver) if !self.has_departed => return Ok(()),
            Some(locked) => return Err(locked.clone()),
            None => {}
        }
        self.node_lease.check_free(now_ms)?;
        self.node_epoch += 1;
        self.node_locked = Some(StoreError::NodeHandedOver);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.has_departed, true) {
            return Err(StoreError::NodeHandedOver);
        }
        Ok(())
    }
}

impl MemoryStore {
    pub(super) fn forget_channels_now(
        &self,
        instead: Vec<KeyValueWrite>,
    ) -> Result<bool, StoreError> {
        let mut tables = self.lock()?;
        match tables.node_locked.clone() {
            None => return Ok(false),
            Some(StoreError::StaleNodeState { .. }) => {}
            Some(other) => return Err(other),
        }
        let is_old = |path: &KeyPath| is_channel_state(&path.primary, &path.secondary, &path.key);
        tables.node.retain(|path, _| !is_old(path));
        for change in instead {
            match change {
                KeyValueWrite::Put { path, value } => tables.node.insert(path, value),
                KeyValueWrite::Remove { path } => tables.node.remove(&path),
            };
        }
        tables.node_locked = None;
        Ok(true)
    }
}

/// What does not follow from the journal and should.
fn wrong_in(tables: &Tables) -> Option<String> {
    let mut scopes = HashSet::new();
    for commit in &tables.commits {
        if let Some(scope) = &commit.scope {
            let command = tables.commands.get(scope);
            let is_its_own = command.is_some_and(|(_, made)| made.at_ms == commit.at_ms);
            if !is_its_own || !scopes.insert(scope) {
                return Some(format!(
                    "the command of commit {} is missing",
                    commit.position
                ));
            }
        }
    }
    if tables.commands.len() != scopes.len() {
        return Some("a command has no commit".to_owned());
    }
    let mut undone: HashMap<TransferId, i64> = HashMap::new();
    for row in &tables.transfers {
        if let (TransferKind::Reversal, Some(of)) = (row.kind, row.follows) {
            let sum = undone.entry(of).or_default();
            *sum = sum.saturating_add(row.amount);
        }
    }
    let is_so = undone == tables.reversed;
    (!is_so).then(|| "something else was undone than the transfers say".to_owned())
}

/// The stream of a copy: written while it is read, on whatever thread reads it.
struct Written {
    source: Box<dyn ByteSource>,
    writing: Option<crate::ports::BoxFuture<'static, ()>>,
}

impl Written {
    fn new(copied: Copied, leave: Option<Leave>) -> Self {
        let (to, source) = pieces();
        let writing = Box::pin(async move { depart(&copied, leave, &to).await });
        Self {
            source,
            writing: Some(writing),
        }
    }
}

impl ByteSource for Written {
    fn next_piece(&mut self) -> crate::ports::BoxFuture<'_, Result<Option<Vec<u8>>, MoveError>> {
        Box::pin(async move {
            let mut taking = self.source.next_piece();
            std::future::poll_fn(|context| {
                if let Some(writing) = &mut self.writing
                    && writing.as_mut().poll(context).is_ready()
                {
                    self.writing = None;
                }
                taking.as_mut().poll(context)
            })
            .await
        })
    }
}
