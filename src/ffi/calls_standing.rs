//! How the engine stands, and what brings its node back.

use super::{FlashError, Flashkit, Health, LostChannel, NodeStatus};

#[uniffi::export]
impl Flashkit {
    /// What keeps the books or the node's state from being written now; nothing is wrong where
    /// both are absent. Everything mends itself once its cause has gone.
    pub fn health(&self) -> Health {
        self.engine.health().into()
    }

    /// How the node stands.
    pub fn node_status(&self) -> NodeStatus {
        self.engine.node_status().into()
    }

    /// Recovers a node that `start` refused with `lightning.stale_state`, because the file was
    /// restored from a backup or copied: all that is known here of its channels is thrown away,
    /// for ever, their peers close them, and what is ours comes back on chain. The engine is
    /// started. **Only when the node runs nowhere else and its newest state is lost.** Answers
    /// the channels that are to be closed.
    ///
    /// Errors: `lightning.refused` where the node is not locked or was handed over,
    /// `lightning.no_node`, and those of `start`, which can be tried again by itself.
    pub async fn recover(&self) -> Result<Vec<LostChannel>, FlashError> {
        self.with_engine(|engine| async move {
            let channels = engine.recover().await?;
            Ok(channels.into_iter().map(Into::into).collect())
        })
        .await
    }
}
