//! Money that matches nothing: it waits for a person, who assigns it once.

use serde::{Deserialize, Serialize};

use super::{Treasury, TreasuryError};
use crate::Error;
use crate::access::Credential;
use crate::core::{
    Answer, Core, Decision, Executed, IdempotencyKey, Loaded, check_text, emit, put,
};
use crate::ids::{CardId, MerchantId, TransferId};
use crate::invoices::Outpoint;
use crate::ledger::{Account, NewTransfer, Step, TransferKind};
use crate::lightning::PaymentHash;

const SUSPENSE: &str = "suspense";

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
    /// The chain took it away again: there is nothing to assign.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// How that is known, as whoever assigned it says.
    pub reason: Option<String>,
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
        withdrawn: false,
        reason: None,
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

/// The step that ends the waiting of an amount whose transfer is undone in the same commit; none
/// where it waits no more.
pub(crate) async fn withdraw(core: &Core, item: TransferId) -> Result<Option<Step>, Error> {
    let found: Option<Loaded<SuspenseItem>> = core.load(SUSPENSE, &item.to_string()).await?;
    let Some(found) = found.filter(|found| found.value.assigned_to.is_none()) else {
        return Ok(None);
    };
    let after = SuspenseItem {
        withdrawn: true,
        ..found.value
    };
    write(&after, found.version).map(Some)
}

/// An amount in suspense as it stands.
pub(crate) async fn item(
    core: &Core,
    item: TransferId,
) -> Result<Option<Loaded<SuspenseItem>>, Error> {
    core.load(SUSPENSE, &item.to_string()).await
}

/// The steps that give an amount which waits to whom it belongs, `account`.
pub(crate) fn give(
    core: &Core,
    found: &Loaded<SuspenseItem>,
    to: SuspenseTarget,
    account: Account,
    reason: String,
) -> Result<Vec<Step>, Error> {
    let after = SuspenseItem {
        assigned_to: Some(to),
        reason: Some(reason),
        ..found.value.clone()
    };
    let id = core.new_id(TransferId::from_parts)?;
    let (way, item) = ((Account::suspense(), account), after.id.to_string());
    let kind = TransferKind::Assigned;
    Ok(vec![
        moved(id, way, after.amount_msat, kind, item.clone()),
        write(&after, found.version)?,
        emit("suspense.assigned", item, &after)?,
    ])
}

/// A positive amount goes from the first account to the second, a negative one back.
fn moved(
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

fn write(item: &SuspenseItem, read_version: i64) -> Result<Step, Error> {
    let state = if item.withdrawn {
        "withdrawn"
    } else if item.assigned_to.is_some() {
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
        if found.value.assigned_to.is_some() || found.value.withdrawn {
            return Err(TreasuryError::SuspenseAssigned { item }.into());
        }
        let (owner, account) = self.target(command.to).await?;
        let after = SuspenseItem {
            assigned_to: Some(command.to),
            reason: Some(command.reason.clone()),
            ..found.value
        };
        let transfer = moved(
            self.core.new_id(TransferId::from_parts)?,
            (Account::suspense(), account),
            after.amount_msat,
            TransferKind::Assigned,
            item.to_string(),
        );
        let mut steps = vec![transfer, write(&after, found.version)?];
        steps.extend(owner);
        if after.amount_msat > 0 {
            steps.extend(crate::cards::onward(&self.core, account).await?);
            if let SuspenseTarget::Merchant { merchant } = command.to {
                let id = self.core.new_id(TransferId::from_parts)?;
                let (amount, reference) = (after.amount_msat, item.to_string());
                steps.extend(crate::settlement::recover(merchant, amount, id, reference));
            }
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
