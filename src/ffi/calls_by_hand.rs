//! Calls about what only a person can decide.

use super::{
    Activation, AssignSuspenseRequest, FlashError, Flashkit, GiveUpInvoiceRequest, Invoice, Payout,
    RenewHolderRequest, ResolvePayoutRequest, SuspenseItem,
};

#[uniffi::export]
impl Flashkit {
    /// Says what became of a payout that the node cannot tell about. Issuer only.
    ///
    /// Errors: `settlement.payout_not_found`, `settlement.payout_final`,
    /// `settlement.payout_in_flight`, `command.*`, `access.*`.
    pub async fn resolve_payout(
        &self,
        credential: String,
        request: ResolvePayoutRequest,
    ) -> Result<Payout, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .settlement()
                .resolve_payout(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// Gives up on a payment that is being taken and does not arrive. Issuer only.
    ///
    /// Errors: `invoice.not_found`, `invoice.not_processing`, `command.*`, `access.*`.
    pub async fn give_up_invoice(
        &self,
        credential: String,
        request: GiveUpInvoiceRequest,
    ) -> Result<Invoice, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .invoices()
                .give_up(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// Takes a holder's credential away and makes a new one. Issuer only.
    ///
    /// Errors: `card.not_found`, `card.not_active`, `command.*`, `access.*`.
    pub async fn renew_holder(
        &self,
        credential: String,
        request: RenewHolderRequest,
    ) -> Result<Activation, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .renew_holder(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// What waits in suspense, oldest first, after the item `after_item_id`; at most `limit` (1
    /// to 1,000). Issuer only.
    ///
    /// Errors: `access.*`.
    pub async fn list_suspense(
        &self,
        credential: String,
        after_item_id: Option<String>,
        limit: u32,
    ) -> Result<Vec<SuspenseItem>, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let after = after_item_id.map(|id| id.parse()).transpose()?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let found = engine.treasury().suspense(&caller, after, limit).await?;
            Ok(found.value.into_iter().map(Into::into).collect())
        })
        .await
    }

    /// Assigns an amount in suspense to whoever it belongs to, once. Issuer only.
    ///
    /// Errors: `treasury.suspense_not_found`, `treasury.suspense_assigned`,
    /// `ledger.insufficient_funds`, `card.not_found`, `settlement.merchant_not_found`,
    /// `command.*`, `access.*`.
    pub async fn assign_suspense(
        &self,
        credential: String,
        request: AssignSuspenseRequest,
    ) -> Result<SuspenseItem, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let treasury = engine.treasury();
            let assigned = treasury
                .assign_suspense(&caller, request.try_into()?)
                .await?;
            Ok(assigned.value.into())
        })
        .await
    }
}
