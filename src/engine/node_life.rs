//! The node's life in an engine: started here, waited for, lost, taken over.

use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Which, Work, first_of};
use crate::Error;
use crate::core::{NodeStatus, emit};
use crate::lightning::{LightningError, LightningNode};

/// How long the engine waits after an event of the node could not be dealt with.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How long a node that was just started is given to say what it has to say.
const SILENCE: Duration = Duration::from_millis(250);
/// How often an instance that stands by asks for the node.
const STANDBY_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether a node may run again that was locked.
const LOCKED_EVERY: Duration = Duration::from_secs(10);

impl Engine {
    /// Starts the node, or stands by; from then on either goes on in the background.
    pub(super) async fn begin_node(&self, node: &Arc<dyn LightningNode>) -> Result<(), Error> {
        match self.come_up(node).await {
            Err(Error::Lightning(LightningError::HeldElsewhere { .. })) => {
                self.core.set_node_status(NodeStatus::Standby);
            }
            other => other?,
        }
        let (engine, node) = (self.clone(), node.clone());
        self.core
            .executor
            .spawn(Box::pin(async move { engine.live(node).await }));
        Ok(())
    }

    /// After `stopping` was set.
    pub(super) async fn end_node(&self, node: &Arc<dyn LightningNode>) -> Result<(), Error> {
        let _no_start_meanwhile = self.life.node.take().await;
        node.stop().await?;
        self.core.set_node_status(NodeStatus::Stopped);
        Ok(())
    }

    async fn come_up(&self, node: &Arc<dyn LightningNode>) -> Result<(), Error> {
        let _one_at_a_time = self.life.node.take().await;
        if self.is_stopping() {
            return Err(LightningError::NotRunning.into());
        }
        node.start().await?;
        // What the node has to say comes first: an outcome that waits in its queue must not
        // be asked about, since a node forgets in time what it has told.
        while self.deal_with_waiting(node).await? {}
        let problem = self.invoices.reconcile().await?;
        let problem = self.settlement.reconcile().await?.or(problem);
        let problem = self.cards.reconcile_payments().await?.or(problem);
        let problem = self.refunds.reconcile().await?.or(problem);
        self.note(Work::Jobs, problem);
        self.core.set_node_status(NodeStatus::Running);
        Ok(())
    }

    /// Deals with an event that waits, if there is one.
    async fn deal_with_waiting(&self, node: &Arc<dyn LightningNode>) -> Result<bool, Error> {
        let (first, silence) = (node.clone(), self.core.executor.sleep(SILENCE));
        let event = Box::pin(async move { drop(first.next_event().await) });
        if first_of(event, silence).await == Which::Right {
            return Ok(false);
        }
        self.deal_with_next(node.as_ref()).await.map(|()| true)
    }

    async fn live(self, node: Arc<dyn LightningNode>) {
        while !self.is_stopping() {
            match self.core.node_status() {
                NodeStatus::Standby | NodeStatus::Locked => self.try_to_take_over(&node).await,
                _ => self.listen(&node).await,
            }
        }
    }

    async fn listen(&self, node: &Arc<dyn LightningNode>) {
        let dealt = self.deal_with_next(node.as_ref()).await;
        let displaced = match &dealt {
            Err(Error::Lightning(displaced @ LightningError::Displaced { .. })) => {
                Some(displaced.to_string())
            }
            _ => None,
        };
        let failed = dealt.is_err();
        self.note(Work::Events, dealt.err());
        if let Some(reason) = displaced {
            self.core.set_node_status(NodeStatus::Standby);
            self.tell("node.displaced", node, &reason).await;
        } else if failed {
            self.pause(RETRY_AFTER).await;
        }
    }

    async fn try_to_take_over(&self, node: &Arc<dyn LightningNode>) {
        match self.come_up(node).await {
            Ok(()) => {
                self.note(Work::Events, None);
                self.tell("node.taken_over", node, "").await;
            }
            Err(Error::Lightning(LightningError::HeldElsewhere { .. })) => {
                self.core.set_node_status(NodeStatus::Standby);
                self.note(Work::Events, None);
                self.pause(STANDBY_EVERY).await;
            }
            Err(error @ Error::Lightning(LightningError::StaleState { .. })) => {
                self.core.set_node_status(NodeStatus::Locked);
                self.note(Work::Events, Some(error));
                self.pause(LOCKED_EVERY).await;
            }
            Err(error) => {
                self.note(Work::Events, Some(error));
                self.pause(STANDBY_EVERY).await;
            }
        }
    }

    /// For whoever reads the events; that nobody can be told changes nothing.
    async fn tell(&self, kind: &'static str, node: &Arc<dyn LightningNode>, reason: &str) {
        let told = match emit(kind, node.node_id(), &reason) {
            Ok(event) => self.core.commit(vec![event]).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            self.note(Work::Jobs, Some(error));
        }
    }
}
