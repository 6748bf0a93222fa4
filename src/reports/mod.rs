//! What the books say as a whole.

mod audit;
mod error;
mod journal;
pub(crate) mod statement;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Core};
use crate::ledger::{Account, Balance, Side};
use crate::money::Asset;

pub use audit::{Audit, BooksDifference, Control, Untied};
pub use error::ReportError;
pub use journal::{HeadKey, JournalVerdict, SignedHeads, TrustedHeads};
pub use statement::{
    ExportFormat, ExportPage, KindTotal, Statement, StatementPage, StatementPeriod, StatementRow,
};

/// One line of the trial balance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialBalanceLine {
    /// The account.
    pub account: Account,
    /// The side on which it grows.
    pub side: Side,
    /// Its balance, counted towards that side, in the asset's unit.
    pub balance: i128,
    /// All debits and credits, those on hold apart.
    pub totals: Balance,
}

/// The totals of one asset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetTotals {
    /// All debits that were posted.
    pub debits: i128,
    /// All credits that were posted.
    pub credits: i128,
    /// All debits on hold.
    pub debits_pending: i128,
    /// All credits on hold.
    pub credits_pending: i128,
}

/// Every account that was ever used, and the totals of each asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialBalance {
    /// The accounts, in the order of their text.
    pub lines: Vec<TrialBalanceLine>,
    /// The totals by asset.
    pub totals: BTreeMap<Asset, AssetTotals>,
}

impl TrialBalance {
    /// True when debits equal credits for every asset, posted and on hold.
    pub fn is_balanced(&self) -> bool {
        self.totals.values().all(|totals| {
            totals.debits == totals.credits && totals.debits_pending == totals.credits_pending
        })
    }
}

/// The handle for reports.
#[derive(Clone)]
pub struct Reports {
    core: Arc<Core>,
}

impl Reports {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The trial balance, of one moment between two commits, whatever moves meanwhile. Issuer
    /// only.
    ///
    /// # Errors
    /// `access.*`, `store.*`.
    pub async fn trial_balance(
        &self,
        credential: &Credential,
    ) -> Result<Answer<TrialBalance>, Error> {
        self.core.authenticate(credential).await?.require_issuer()?;
        let as_of_ms = self.core.clock.now_ms();
        let mut report = TrialBalance {
            lines: Vec::new(),
            totals: BTreeMap::new(),
        };
        for (account, balance) in self.core.store.balances(None, usize::MAX).await? {
            add(&mut report, account, balance);
        }
        Ok(Answer {
            as_of_ms,
            value: report,
        })
    }

    /// The totals of one account. Issuer only.
    ///
    /// # Errors
    /// `access.*`, `store.*`.
    pub async fn account(
        &self,
        credential: &Credential,
        account: Account,
    ) -> Result<Answer<Balance>, Error> {
        self.core.authenticate(credential).await?.require_issuer()?;
        let as_of_ms = self.core.clock.now_ms();
        Ok(Answer {
            as_of_ms,
            value: self.core.balance(&account).await?,
        })
    }

    /// What was posted to an account up to and with a time in the past, towards the account's
    /// side, in the asset's unit. Issuer only.
    ///
    /// # Errors
    /// `access.*`, `store.*`.
    pub async fn balance_at(
        &self,
        credential: &Credential,
        account: Account,
        at_ms: i64,
    ) -> Result<Answer<i64>, Error> {
        self.core.authenticate(credential).await?.require_issuer()?;
        Ok(Answer {
            as_of_ms: at_ms,
            value: self.core.store.balance_at(&account, at_ms).await?,
        })
    }
}

fn add(report: &mut TrialBalance, account: Account, totals: Balance) {
    let side = account.kind().side();
    let sums = report.totals.entry(account.asset()).or_default();
    sums.debits += totals.debits_posted;
    sums.credits += totals.credits_posted;
    sums.debits_pending += i128::from(totals.debits_pending);
    sums.credits_pending += i128::from(totals.credits_pending);
    let balance = totals.posted(side);
    report.lines.push(TrialBalanceLine {
        account,
        side,
        balance,
        totals,
    });
}
