//! Calls about the books as a whole. Issuer only.

use super::{
    AccountBalance, Audit, BookCapitalRequest, Capital, EngineEvent, FlashError, Flashkit,
    TrialBalance,
};
use crate::ledger::Account;

#[uniffi::export]
impl Flashkit {
    /// Books money that the operator put into the node or took out of it.
    ///
    /// Errors: `money.not_positive`, `money.above_cap`, `command.*`, `access.*`.
    pub async fn book_capital(
        &self,
        credential: String,
        request: BookCapitalRequest,
    ) -> Result<Capital, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .treasury()
                .book_capital(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// The trial balance.
    ///
    /// Errors: `access.*`, `store.*`.
    pub async fn trial_balance(&self, credential: String) -> Result<TrialBalance, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine.reports().trial_balance(&caller).await?.into())
        })
        .await
    }

    /// The totals of one account, given as in a trial balance: `kind/owner/asset`.
    ///
    /// Errors: `account.malformed`, `access.*`, `store.*`.
    pub async fn account_balance(
        &self,
        credential: String,
        account: String,
    ) -> Result<AccountBalance, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let account: Account = account.parse()?;
            let answer = engine.reports().account(&caller, account).await?;
            Ok(AccountBalance::new(account, answer))
        })
        .await
    }

    /// Compares the books with themselves and the control accounts with the node.
    ///
    /// Errors: `lightning.no_node`, `lightning.not_running`, `access.*`, `store.*`.
    pub async fn audit(&self, credential: String) -> Result<Audit, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine.reports().audit(&caller).await?.into())
        })
        .await
    }

    /// The next events of a reader, which is a name of the app's own choice; at most `limit` (1 to
    /// 1,000), oldest first, empty when there are none. They are answered again until they are
    /// acknowledged, also after the file was closed and opened again.
    ///
    /// Errors: `command.out_of_bounds` for a name longer than 100 characters, `access.*`, `store.*`.
    #[uniffi::method(default(limit = 100))]
    pub async fn next_events(
        &self,
        credential: String,
        reader: String,
        limit: u32,
    ) -> Result<Vec<EngineEvent>, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let events = engine.events().next(&caller, &reader, limit).await?;
            Ok(events.into_iter().map(EngineEvent::from).collect())
        })
        .await
    }

    /// The reader has dealt with everything up to this position. Never moves back.
    ///
    /// Errors: as for `next_events`.
    pub async fn acknowledge_events(
        &self,
        credential: String,
        reader: String,
        position: i64,
    ) -> Result<(), FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .events()
                .acknowledge(&caller, &reader, position)
                .await?)
        })
        .await
    }
}
