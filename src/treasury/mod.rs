//! The operator's own money: what it puts into the node and takes out of it.
//!
//! Nothing of this is guessed from the node's balance: a person or the operator's program says
//! what happened, and the audit in [`reports`](crate::reports) shows what was not said.

mod error;
mod paid_back;
mod suspense;
mod withdrawal;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Core, Decision, Executed, IdempotencyKey, check_text, emit};
use crate::ids::{CapitalId, TransferId};
use crate::ledger::{Account, NewTransfer, Step, TransferKind};
use crate::money::Price;

pub use error::TreasuryError;
pub(crate) use paid_back::{give_part, put_back};
pub use suspense::{AssignSuspense, SuspenseItem, SuspensePart, SuspenseTarget};
pub(crate) use suspense::{item, suspend, suspend_on_chain};
pub(crate) use withdrawal::{follow, withdraw};

/// Where the operator's money lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapitalAccount {
    /// In the node's channels.
    Channels,
    /// On chain in the node's wallet.
    Onchain,
    /// Still with the issuer that cards were taken over from: it goes out of there as it comes in
    /// elsewhere.
    FormerIssuer,
}

/// Which way it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapitalDirection {
    /// Put in.
    In,
    /// Taken out, or used up by chain and channels.
    Out,
}

/// Books money that the operator put into the node or took out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookCapital {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// Where it lies.
    pub account: CapitalAccount,
    /// Which way it went.
    pub direction: CapitalDirection,
    /// How much.
    pub amount_msat: i64,
    /// Why, for whoever reads the books; at most 200 characters.
    pub reason: String,
}

/// Capital that was booked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capital {
    /// Its id.
    pub id: CapitalId,
    /// Where it lies.
    pub account: CapitalAccount,
    /// Which way it went.
    pub direction: CapitalDirection,
    /// How much.
    pub amount_msat: i64,
    /// Why.
    pub reason: String,
}

/// The handle for the operator's own money.
#[derive(Clone)]
pub struct Treasury {
    core: Arc<Core>,
}

impl Treasury {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Books capital. Issuer only.
    ///
    /// # Errors
    /// `money.not_positive`, `money.above_cap`, `command.*`, `access.*`.
    pub async fn book_capital(
        &self,
        credential: &Credential,
        command: BookCapital,
    ) -> Result<Answer<Capital>, Error> {
        let (core, credential) = (self.core.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                Price::Bitcoin {
                    amount_msat: command.amount_msat,
                }
                .validate()?;
                check_text("reason", &command.reason, 200, "200 characters")?;
                let decide = || async { decide(&core, &command) };
                let executed: Executed<Capital> = core
                    .execute(
                        &caller,
                        "treasury.book_capital",
                        &command.key,
                        &command,
                        decide,
                    )
                    .await?;
                Ok(executed.answer)
            })
            .await
    }
}

fn decide(core: &Core, command: &BookCapital) -> Result<Decision<Capital>, Error> {
    let BookCapital {
        account,
        direction,
        amount_msat,
        reason,
        ..
    } = command.clone();
    let capital = Capital {
        id: core.new_id(CapitalId::from_parts)?,
        account,
        direction,
        amount_msat,
        reason,
    };
    let mirror = match account {
        CapitalAccount::Channels => Account::node_channels(),
        CapitalAccount::Onchain => Account::node_onchain(),
        CapitalAccount::FormerIssuer => Account::former_issuer(),
    };
    let (debit, credit) = match direction {
        CapitalDirection::In => (mirror, Account::operator_capital()),
        CapitalDirection::Out => (Account::operator_capital(), mirror),
    };
    let reference = capital.id.to_string();
    let transfer = NewTransfer {
        id: core.new_id(TransferId::from_parts)?,
        debit,
        credit,
        amount: amount_msat,
        kind: TransferKind::Capital,
        reference: reference.clone(),
        credit_ceiling: None,
    };
    let steps = vec![
        Step::Transfer(transfer),
        emit("capital.booked", reference, &capital)?,
    ];
    Ok(Decision {
        steps,
        answer: capital,
    })
}
