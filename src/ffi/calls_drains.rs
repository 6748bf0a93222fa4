//! Calls that take all that the node has to one address.

use super::{DrainNodeRequest, DrainPage, EndDrainRequest, FlashError, Flashkit, NodeDrain};

#[uniffi::export]
impl Flashkit {
    /// Takes all that the node's keys hold to one address: closes its channels, and sends what comes
    /// out of them, what is in its own wallet and in the operator's wallets of its seed. It is
    /// written down first and carried to its end by jobs, whatever happens in between: `get_drain` and
    /// the events `node.drain_*` say how far it is. Asked again while one goes on, with the same
    /// address, it answers that one. Issuer only.
    ///
    /// Errors: `wallet.owed`, `wallet.books_differ`, `wallet.draining`, `wallet.own_address`,
    /// `wallet.bad_address`, `wallet.wrong_network`, `lightning.unsupported`,
    /// `lightning.not_running`, `lightning.no_node`, `command.*`, `access.*`.
    pub async fn drain_node(
        &self,
        credential: String,
        request: DrainNodeRequest,
    ) -> Result<NodeDrain, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .wallets()
                .drain_node(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// Ends a drain as it stands, where what it waits for will not come: what blocks have is booked,
    /// and what it had on hold is given back. One that is done already is answered as it is. Issuer
    /// only.
    ///
    /// Errors: `wallet.drain_not_found`, `lightning.not_running`, `lightning.no_node`, `command.*`,
    /// `access.*`.
    pub async fn end_drain(
        &self,
        credential: String,
        request: EndDrainRequest,
    ) -> Result<NodeDrain, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .wallets()
                .end_drain(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// How far a drain is. Issuer only.
    ///
    /// Errors: `wallet.drain_not_found`, `access.*`.
    pub async fn get_drain(
        &self,
        credential: String,
        drain_id: String,
    ) -> Result<NodeDrain, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .wallets()
                .drain(&caller, drain_id.parse()?)
                .await?
                .into())
        })
        .await
    }

    /// All drains, oldest first, after the drain `after_drain_id`; at most `limit` (1 to 1,000).
    /// Issuer only.
    ///
    /// Errors: `access.*`.
    pub async fn list_drains(
        &self,
        credential: String,
        after_drain_id: Option<String>,
        limit: u32,
    ) -> Result<DrainPage, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let after = after_drain_id.map(|id| id.parse()).transpose()?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            Ok(engine.wallets().drains(&caller, after, limit).await?.into())
        })
        .await
    }
}
