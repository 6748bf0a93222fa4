//! Money that matches nothing: it waits for a person, who assigns it once.

use serde::{Deserialize, Serialize};

use super::{Treasury, TreasuryError};
use crate::Error;
use crate::access::Credential;
use crate::core::{
    Answer, Core, Decision, Executed, IdempotencyKey, Loaded, check_text, emit, put,
};
use crate::ids::{CardId, MerchantId, RefundId, TransferId};
use crate::invoices::Outpoint;
use crate::ledger::{Account, NewTransfer, Owner, Step, TransferKind};
use crate::lightning::PaymentHash;

pub(super) const SUSPENSE: &str = "suspense";

/// One amount in suspense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspenseItem {
    /// The transfer that put it there.
    pub id: TransferId,
    /// The Lightning payment it came by, or went by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_hash: Option<PaymentHash>,
    /// The output on chain that it came by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outpoint: Option<Outpoint>,
    /// What arrived and matches nothing; below zero what left and matches nothing.
    pub amount_msat: i64,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
    /// Whose it turned out to be; `None` while it waits.
    pub assigned_to: Option<SuspenseTarget>,
    /// The transfer that gave it to whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<TransferId>,
    /// The chain took it away again: there is nothing to assign, and what was assigned was taken
    /// back as far as its owner still had it; the rest is owed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// The item that it waits as since the chain gave it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned_as: Option<TransferId>,
    /// How that is known, as whoever assigned it says.
    pub reason: Option<String>,
    /// What of it was paid back by refunds of the invoice that it came for, or is about to be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refunds: Vec<SuspensePart>,
}

/// What of an amount in suspense goes back by a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspensePart {
    /// The refund.
    pub refund: RefundId,
    /// How much.
    pub amount_msat: i64,
    /// The transfer that gave it to whoever the invoice is of, who pays it back.
    pub transfer: TransferId,
}

impl SuspenseItem {
    /// What of it refunds have taken, or are about to.
    pub fn refunded_msat(&self) -> i64 {
        let parts = self.refunds.iter().map(|part| part.amount_msat);
        parts.fold(0, i64::saturating_add)
    }

    /// What of it waits: all but what goes back by refunds. Zero of one that is assigned.
    pub fn waiting_msat(&self) -> i64 {
        match self.assigned_to.is_some() || self.withdrawn {
            true => 0,
            false => self.rest_msat(),
        }
    }

    pub(super) fn rest_msat(&self) -> i64 {
        self.amount_msat.saturating_sub(self.refunded_msat())
    }
}

/// Whose an amount in suspense turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum SuspenseTarget {
    /// A card's.
    Card {
        /// The card.
        card: CardId,
    },
    /// A merchant's.
    Merchant {
        /// The merchant.
        merchant: MerchantId,
    },
    /// The operator's own.
    Operator,
}

/// Assigns an amount in suspense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignSuspense {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The item.
    pub item: TransferId,
    /// Whose it is. What left without reason is taken from there.
    pub to: SuspenseTarget,
    /// How that is known; at most 200 characters.
    pub reason: String,
}

/// The steps that put an amount in suspense: what arrived, or below zero what left.
pub(crate) fn suspend(
    id: TransferId,
    amount_msat: i64,
    payment_hash: PaymentHash,
    since_ms: i64,
) -> Result<[Step; 2], Error> {
    suspend_by(
        id,
        amount_msat,
        (Some(payment_hash), None),
        Account::node_channels(),
        since_ms,
    )
}

/// The steps that put an amount in suspense that arrived on chain.
pub(crate) fn suspend_on_chain(
    id: TransferId,
    amount_msat: i64,
    outpoint: Outpoint,
    since_ms: i64,
) -> Result<[Step; 2], Error> {
    let wallet = Account::node_onchain();
    suspend_by(id, amount_msat, (None, Some(outpoint)), wallet, since_ms)
}

fn suspend_by(
    id: TransferId,
    amount_msat: i64,
    (payment_hash, outpoint): (Option<PaymentHash>, Option<Outpoint>),
    mirror: Account,
    since_ms: i64,
) -> Result<[Step; 2], Error> {
    let item = SuspenseItem {
        id,
        payment_hash,
        outpoint,
        amount_msat,
        since_ms,
        assigned_to: None,
        assignment: None,
        withdrawn: false,
        returned_as: None,
        reason: None,
        refunds: Vec::new(),
    };
    let reference = match (payment_hash, outpoint) {
        (Some(hash), _) => hash.to_string(),
        (None, Some(outpoint)) => outpoint.to_string(),
        (None, None) => id.to_string(),
    };
    let transfer = moved(
        id,
        (mirror, Account::suspense()),
        amount_msat,
        TransferKind::Unmatched,
        reference,
    );
    Ok([transfer, write(&item, 0)?])
}

/// An amount in suspense as it stands.
pub(crate) async fn item(
    core: &Core,
    item: TransferId,
) -> Result<Option<Loaded<SuspenseItem>>, Error> {
    core.load(SUSPENSE, &item.to_string()).await
}

/// A positive amount goes from the first account to the second, a negative one back.
pub(super) fn moved(
    id: TransferId,
    (from, to): (Account, Account),
    amount_msat: i64,
    kind: TransferKind,
    reference: String,
) -> Step {
    let (debit, credit) = if amount_msat < 0 {
        (to, from)
    } else {
        (from, to)
    };
    Step::Transfer(NewTransfer {
        id,
        debit,
        credit,
        amount: amount_msat.saturating_abs(),
        kind,
        reference,
        credit_ceiling: None,
    })
}

/// What the owner owes for a credit that vanished is taken out of what is assigned to it.
fn recover(
    account: Account,
    amount: i64,
    item: TransferId,
    new_id: impl Fn() -> Result<TransferId, Error>,
) -> Result<Option<Step>, Error> {
    let Some(owed) = receivable(&account) else {
        return Ok(None);
    };
    Ok(Some(Step::TransferUpTo(NewTransfer {
        id: new_id()?,
        debit: account,
        credit: owed,
        amount,
        kind: TransferKind::Recovered,
        reference: item.to_string(),
        credit_ceiling: None,
    })))
}

/// Where stands what the owner of an account owes for a credit that vanished.
pub(super) fn receivable(account: &Account) -> Option<Account> {
    match account.owner() {
        Owner::Card(card) => Some(Account::card_receivable(card)),
        Owner::Merchant(merchant) => Some(Account::merchant_receivable(merchant)),
        Owner::Operator | Owner::Program(_) => None,
    }
}

pub(super) fn write(item: &SuspenseItem, read_version: i64) -> Result<Step, Error> {
    let state = if item.withdrawn {
        "withdrawn"
    } else if item.waiting_msat() == 0 {
        "assigned"
    } else {
        "open"
    };
    let keys = vec![("state", state.to_owned())];
    put(SUSPENSE, item.id.to_string(), read_version, item, keys)
}

impl Treasury {
    /// What waits in suspense, oldest first, after the item `after`; at most `limit` (1 to
    /// 1,000). Issuer only.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn suspense(
        &self,
        credential: &Credential,
        after: Option<TransferId>,
        limit: usize,
    ) -> Result<Answer<Vec<SuspenseItem>>, Error> {
        self.core.authenticate(credential).await?.require_issuer()?;
        let as_of_ms = self.core.clock.now_ms();
        let after = after.map(|id| id.to_string());
        let value = self
            .core
            .list(SUSPENSE, "state", "open", after, limit)
            .await?;
        Ok(Answer { as_of_ms, value })
    }

    /// Assigns an amount in suspense to whoever it belongs to, once. Issuer only.
    ///
    /// # Errors
    /// `treasury.suspense_not_found`, `treasury.suspense_assigned`, `ledger.insufficient_funds`
    /// when more is to be taken than there is, `card.not_found`,
    /// `settlement.merchant_not_found`, `command.*`, `access.*`.
    pub async fn assign_suspense(
        &self,
        credential: &Credential,
        command: AssignSuspense,
    ) -> Result<Answer<SuspenseItem>, Error> {
        let (treasury, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &treasury.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                check_text("reason", &command.reason, 200, "200 characters")?;
                let executed: Executed<SuspenseItem> = core
                    .execute(
                        &caller,
                        "treasury.assign_suspense",
                        &command.key,
                        &command,
                        || treasury.decide_assign(&command),
                    )
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// The account of whoever an amount belongs to, and what holds of them in the commit.
    async fn target(&self, to: SuspenseTarget) -> Result<(Option<Step>, Account), Error> {
        Ok(match to {
            SuspenseTarget::Card { card } => {
                let card = crate::cards::current(&self.core, card).await?;
                crate::cards::require_bitcoin(&card.value)?;
                let account = card.value.balance_account();
                (Some(crate::cards::guard(&card)), account)
            }
            SuspenseTarget::Merchant { merchant } => (
                Some(crate::settlement::guard_merchant(&self.core, merchant).await?),
                Account::merchant_payable(merchant),
            ),
            SuspenseTarget::Operator => (None, Account::operator_capital()),
        })
    }

    async fn decide_assign(
        &self,
        command: &AssignSuspense,
    ) -> Result<Decision<SuspenseItem>, Error> {
        let item = command.item;
        let found: Option<Loaded<SuspenseItem>> =
            self.core.load(SUSPENSE, &item.to_string()).await?;
        let found = found.ok_or(TreasuryError::SuspenseNotFound { item })?;
        let waiting_msat = found.value.waiting_msat();
        if waiting_msat == 0 {
            return Err(TreasuryError::SuspenseAssigned { item }.into());
        }
        let (owner, account) = self.target(command.to).await?;
        let id = self.core.new_id(TransferId::from_parts)?;
        let after = SuspenseItem {
            assigned_to: Some(command.to),
            assignment: Some(id),
            reason: Some(command.reason.clone()),
            ..found.value
        };
        let transfer = moved(
            id,
            (Account::suspense(), account),
            waiting_msat,
            TransferKind::Assigned,
            item.to_string(),
        );
        let mut steps = vec![transfer, write(&after, found.version)?];
        steps.extend(owner);
        if waiting_msat > 0 {
            let new_id = || self.core.new_id(TransferId::from_parts);
            steps.extend(recover(account, waiting_msat, item, new_id)?);
            steps.extend(crate::cards::onward(&self.core, account).await?);
        } else {
            steps.extend(crate::cards::look_at_balance(&self.core, account, item).await?);
        }
        steps.push(emit("suspense.assigned", item.to_string(), &after)?);
        Ok(Decision {
            steps,
            answer: after,
        })
    }
}
