//! What the mechanism knows of a payment, and what a kind of payment says of itself.

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::core::Core;
use crate::ids::TransferId;
use crate::ledger::{Account, Step, TransferKind, UsageWindow};
use crate::lightning::PaymentHash;
use crate::settlement::PaidByBook;

/// How a payment that leaves stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its money is on hold and the node has been asked, or is about to be.
    Sending,
    /// Whether it was sent is not known. The money stays on hold and the node is asked again.
    Unknown,
    /// It arrived.
    Succeeded,
    /// It failed for good: nothing is in flight and the money is its payer's again.
    Failed,
}

impl Standing {
    /// True when nothing will change any more.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// How often the node was asked to send: written down before each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempts {
    /// How many attempts can have been made.
    pub(crate) begun: u32,
    /// What the node answered to the last of several was not written down: it may be on its way
    /// although nothing else says so.
    pub(crate) in_doubt: bool,
}

impl Default for Attempts {
    /// The intent counts as the first: it is followed by one at once.
    fn default() -> Self {
        Self {
            begun: 1,
            in_doubt: false,
        }
    }
}

impl Attempts {
    /// None can have been made: the node is in another instance, which counts its first before it
    /// makes it.
    pub(super) fn none() -> Self {
        Self {
            begun: 0,
            in_doubt: false,
        }
    }

    /// One more is about to be made.
    pub(super) fn begin(self) -> Self {
        Self {
            begun: self.begun.saturating_add(1),
            in_doubt: true,
        }
    }

    /// One more was made, and taken by the node.
    pub(super) fn accepted(self) -> Self {
        Self {
            in_doubt: false,
            ..self.begin()
        }
    }

    /// None was made: the node knows one before, and perhaps has it in its record.
    pub(super) fn known(self, is_recorded: bool) -> Self {
        Self {
            begun: self.begun.max(1),
            in_doubt: !is_recorded,
        }
    }
}

/// The holds of a payment; the ones for nothing are left out. One that was paid by book has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holds {
    pub(crate) amount: TransferId,
    pub(crate) fee: Option<TransferId>,
    pub(crate) route: Option<TransferId>,
    /// What a payer in a currency sets aside of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exchanged: Option<TransferId>,
}

impl Holds {
    /// As many as are needed.
    pub(crate) fn new(core: &Core, fee_msat: i64, max_route_fee_msat: i64) -> Result<Self, Error> {
        let new_hold = || core.new_id(TransferId::from_parts);
        Ok(Self {
            amount: new_hold()?,
            fee: (fee_msat > 0).then(new_hold).transpose()?,
            route: (max_route_fee_msat > 0).then(new_hold).transpose()?,
            exchanged: None,
        })
    }
}

/// What a payer whose unit is a currency sets aside of it: the operator's bitcoin is what leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exchanged {
    pub(crate) payer: Account,
    /// The most that the payment can come to, in the unit.
    pub(crate) most: i64,
}

/// A payment as the mechanism sees it, whatever it is for.
#[derive(Debug, Clone)]
pub(crate) struct Leaving<'a> {
    /// The id of its record.
    pub(crate) id: String,
    pub(crate) payment_hash: PaymentHash,
    pub(crate) bolt11: &'a str,
    /// Where the bitcoin comes from.
    pub(crate) payer: Account,
    /// Who pays for it in a currency; `None` where the payer has bitcoin.
    pub(crate) exchanged: Option<Exchanged>,
    /// What the transfer of the amount is called.
    pub(crate) kind: TransferKind,
    pub(crate) amount_msat: i64,
    /// What the operator keeps, and what that transfer is called.
    pub(crate) fee: (TransferKind, i64),
    pub(crate) max_route_fee_msat: i64,
    /// Who bears what the route costs; `None` for the operator.
    pub(crate) route_payer: Option<Account>,
    /// For how many blocks the route may lock the money up; `None` for what the node allows.
    pub(crate) max_lock_blocks: Option<u32>,
    /// Where what is set aside was counted as used: what does not leave is given back there.
    pub(crate) usage: Vec<UsageWindow>,
    pub(crate) created_at_ms: i64,
    pub(crate) standing: Standing,
    /// It is set aside in the books for a hold invoice of this engine, and the node knows nothing
    /// of it.
    pub(crate) in_books: bool,
    pub(crate) attempts: Attempts,
    pub(crate) holds: Holds,
}

/// How a payment stands from now on.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) standing: Standing,
    pub(crate) reason: Option<String>,
    /// What the route cost, of one that succeeded, where that is known.
    pub(crate) route_fee_msat: Option<i64>,
}

/// What became of a payment, as a person says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded { route_fee_msat: Option<i64> },
    Failed,
}

/// What of the record of any payment the mechanism writes itself, wherever a kind keeps it.
pub(crate) struct Written<'a> {
    /// Why it failed, or what is not known.
    pub(crate) reason: &'a mut Option<String>,
    /// What the route cost.
    pub(crate) route_fee_msat: &'a mut Option<i64>,
    pub(crate) attempts: &'a mut Attempts,
    /// What proves that an invoice of this engine was paid.
    pub(crate) by_book: &'a mut Option<PaidByBook>,
}

/// A kind of payment: the record that is kept of each, and what else it brings about.
#[async_trait]
pub(crate) trait Outgoing:
    Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Where the records are.
    const COLLECTION: &'static str;
    /// The job that asks what became of one.
    const CHECK_JOB: &'static str;

    /// What the mechanism is to know of it.
    fn leaving(&self) -> Leaving<'_>;
    /// What the mechanism writes of it itself.
    fn written(&mut self) -> Written<'_>;
    /// It stands there from now on.
    fn stands(&mut self, standing: Standing);
    /// The keys under which it is found besides `payment_hash` and `state`.
    fn owner_keys(&self) -> Vec<(&'static str, String)>;
    /// The event that says how it stands, and the object that it is about.
    fn event(&self) -> (&'static str, String);
    /// There is no such record.
    fn missing(id: &str) -> Error;
    /// It has ended, so that nobody can say otherwise.
    fn has_ended(&self) -> Error;
    /// The node's record says that it has not failed.
    fn is_in_flight(&self) -> Error;

    /// What a payer in a currency pays of one that arrived: the record with it, and the steps. They
    /// belong to the success, and cannot be left out.
    async fn exchanged(self, _core: &Core) -> Result<(Self, Vec<Step>), Error> {
        Ok((self, Vec::new()))
    }

    /// What else is posted in the commit that records its success: the record with it, and the
    /// steps. Where these are refused, success is recorded without them.
    async fn when_succeeded(self, _core: &Core) -> Result<(Self, Vec<Step>), Error> {
        Ok((self, Vec::new()))
    }

    /// What of that could not be posted, said in the commit that records its success without it.
    async fn left_out(self, _core: &Core) -> Result<(Self, Vec<Step>), Error> {
        Ok((self, Vec::new()))
    }

    /// The record, standing otherwise.
    fn changed(&self, change: Change) -> Self {
        let mut after = self.clone();
        after.stands(change.standing);
        let written = after.written();
        *written.reason = change.reason;
        *written.route_fee_msat = change.route_fee_msat;
        after
    }

    /// The record, with other attempts.
    fn with_attempts(&self, attempts: Attempts) -> Self {
        let mut after = self.clone();
        *after.written().attempts = attempts;
        after
    }

    /// The record, with what proves that an invoice of this engine was paid.
    fn with_proof(mut self, proof: PaidByBook) -> Self {
        *self.written().by_book = Some(proof);
        self
    }

    /// What is posted in the commit that ends it, however it ends: `standing` says how.
    async fn when_ended(&self, _core: &Core, _standing: Standing) -> Result<Vec<Step>, Error> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the node knows of it: never again is it taken for one that nobody has begun.
    #[test]
    fn what_the_node_knows_was_begun() {
        for is_recorded in [true, false] {
            let in_doubt = !is_recorded;
            for begun in 0..3_u32 {
                let attempts = Attempts {
                    begun,
                    in_doubt: true,
                };
                let begun = begun.max(1);
                assert_eq!(attempts.known(is_recorded), Attempts { begun, in_doubt });
            }
        }
        let first = Attempts::none().begin();
        assert_eq!((first.begun, first.in_doubt), (1, true));
        assert_eq!(Attempts::none().accepted(), Attempts::default());
    }
}
