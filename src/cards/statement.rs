//! Statements of a card, in its time zone.

use serde::{Deserialize, Serialize};

use super::life::require_reader;
use super::{Cards, load};
use crate::Error;
use crate::access::Credential;
use crate::core::Answer;
use crate::ids::CardId;
use crate::ledger::Account;
use crate::reports::statement::{self, ExportFormat, ExportPage};
use crate::reports::{Statement, StatementPage, StatementPeriod};

/// Which statement of which card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardStatementQuery {
    /// The card.
    pub card: CardId,
    /// The period, in the card's time zone.
    pub period: StatementPeriod,
}

impl Cards {
    /// What stood on a card when a period began, what moved in it by reason, and what stood at its
    /// end. Money that is set aside has not moved. Its holder or that of a card that came in its
    /// place, or the issuer; as for [`history`](Self::history).
    ///
    /// # Errors
    /// `card.not_found`, `report.bad_period`, `access.*`.
    pub async fn statement(
        &self,
        credential: &Credential,
        query: &CardStatementQuery,
    ) -> Result<Answer<Statement>, Error> {
        let (account, zone, as_of_ms) = self.statement_of(credential, query.card).await?;
        let value = statement::statement(&self.core, account, &zone, &query.period).await?;
        Ok(Answer { as_of_ms, value })
    }

    /// The rows of a statement, newest first, before a place: that of [`Statement::before`] for
    /// the first page, that of [`StatementPage::next`] for the next; `None` begins with what is
    /// newest now. At most `limit` (1 to 1,000). Its holder, or the issuer.
    ///
    /// # Errors
    /// As for [`statement`](Self::statement).
    pub async fn statement_rows(
        &self,
        credential: &Credential,
        query: &CardStatementQuery,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Answer<StatementPage>, Error> {
        let (account, zone, as_of_ms) = self.statement_of(credential, query.card).await?;
        let period = &query.period;
        let value = statement::rows(&self.core, account, &zone, period, before, limit).await?;
        Ok(Answer { as_of_ms, value })
    }

    /// The rows of a statement as the text of a file, part by part, as
    /// [`statement_rows`](Self::statement_rows) pages; the part with `before` of `None` has the
    /// names of the columns. Its holder, or the issuer.
    ///
    /// # Errors
    /// As for [`statement`](Self::statement).
    pub async fn export_statement(
        &self,
        credential: &Credential,
        query: &CardStatementQuery,
        format: ExportFormat,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Answer<ExportPage>, Error> {
        let page = self
            .statement_rows(credential, query, before, limit)
            .await?;
        let Answer { as_of_ms, value } = page;
        let value = statement::export(value, format, before.is_none())?;
        Ok(Answer { as_of_ms, value })
    }

    async fn statement_of(
        &self,
        credential: &Credential,
        card: CardId,
    ) -> Result<(Account, String, i64), Error> {
        let caller = self.core.authenticate(credential).await?;
        require_reader(&self.core, &caller, card).await?;
        let as_of_ms = self.core.clock.now_ms();
        let card = load(&self.core, card).await?.value;
        Ok((card.balance_account(), card.limits.time_zone, as_of_ms))
    }
}
