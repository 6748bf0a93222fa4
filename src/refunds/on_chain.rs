//! Refunds to an address on chain: the spend of a wallet is prepared in the commit that sets the
//! money aside, and what becomes of its transaction ends the refund.

use super::Refunds;
use super::model::Refund;
use crate::Error;
#[cfg(not(feature = "chain"))]
use crate::chain::ChainError;
use crate::ids::SpendId;
use crate::ledger::Step;

#[cfg(not(feature = "chain"))]
impl Refunds {
    pub(super) async fn to_chain(
        &self,
        _refund: &mut Refund,
        _address: &str,
        _fee_sat_per_kvb: Option<u64>,
    ) -> Result<Vec<Step>, Error> {
        Err(ChainError::NoWallet.into())
    }

    pub(super) async fn sign(&self, _spend: SpendId) {}
}

#[cfg(feature = "chain")]
mod with_wallets {
    use super::{Error, Refund, Refunds, SpendId, Step};
    use crate::core::{Core, Loaded};
    use crate::ids::{RefundId, TransferId};
    use crate::invoices::Invoices;
    use crate::ledger::{Account, NewHold, NewTransfer, TransferKind};
    use crate::payments::Holds;
    use crate::refunds::going::write;
    use crate::refunds::model::{RefundFeeBearer, RefundState};
    use crate::refunds::{REFUNDS, RefundError};
    use crate::wallets::{RefundSpend, Wallets};

    fn wallets(core: &std::sync::Arc<Core>) -> Wallets {
        Wallets::new(core.clone(), Invoices::new(core.clone()))
    }

    fn msat(sat: u64) -> i64 {
        i64::try_from(sat.saturating_mul(1_000)).unwrap_or(i64::MAX)
    }

    impl Refunds {
        /// The spend is prepared, and its output and fee are set aside.
        pub(in crate::refunds) async fn to_chain(
            &self,
            refund: &mut Refund,
            address: &str,
            fee_sat_per_kvb: Option<u64>,
        ) -> Result<Vec<Step>, Error> {
            let core = &self.core;
            let order = RefundSpend {
                refund: refund.id,
                address: address.to_owned(),
                amount_sat: u64::try_from(refund.sent_msat / 1_000).unwrap_or(0),
                fee_off_amount: refund.fee_bearer == RefundFeeBearer::Customer,
                fee_sat_per_kvb,
            };
            let (spend, prepared) = wallets(core).spend_for_refund(order).await?;
            let sent_sat = spend.outputs.first().map_or(0, |output| output.amount_sat);
            let fee_msat = msat(spend.fee_sat);
            refund.sent_msat = msat(sent_sat);
            refund.max_fee_msat = fee_msat;
            refund.spend = Some(spend.id);
            refund.state = RefundState::Sending;
            refund.posting.holds = Holds::new(core, 0, fee_msat)?;
            let fee_payer = match refund.fee_bearer {
                RefundFeeBearer::Merchant | RefundFeeBearer::Customer => refund.posting.payer,
                RefundFeeBearer::Operator => Account::routing_fees(),
            };
            let payer = refund.posting.payer;
            let holds = refund.posting.holds;
            let mut steps = write(refund, 0)?.to_vec();
            let sent = (holds.amount, payer, refund.sent_msat, TransferKind::Refund);
            steps.push(held(refund, sent));
            if let Some(fee) = holds.route {
                steps.push(held(
                    refund,
                    (fee, fee_payer, fee_msat, TransferKind::ChainFee),
                ));
            }
            steps.extend(prepared);
            Ok(steps)
        }

        /// The node's wallet signs at once; whatever comes of it, the spend's job goes on.
        pub(in crate::refunds) async fn sign(&self, spend: SpendId) {
            drop(wallets(&self.core).sign_for_refund(spend).await);
        }
    }

    fn held(
        refund: &Refund,
        (id, debit, amount, kind): (TransferId, Account, i64, TransferKind),
    ) -> Step {
        // No timeout: only what becomes of the transaction can end it.
        Step::Hold(NewHold {
            transfer: NewTransfer {
                id,
                debit,
                credit: Account::node_onchain(),
                amount,
                kind,
                reference: refund.id.to_string(),
                credit_ceiling: None,
            },
            expires_at_ms: None,
            usage: Vec::new(),
        })
    }

    async fn open(core: &Core, id: RefundId) -> Result<Option<Loaded<Refund>>, Error> {
        let found: Option<Loaded<Refund>> = core.load(REFUNDS, &id.to_string()).await?;
        let found = found.ok_or(RefundError::NotFound { refund: id })?;
        Ok((!found.value.state.is_final()).then_some(found))
    }

    /// A block has the transaction: what was set aside has left. A dearer one in its place, which
    /// the operator made, costs the operator what it costs more.
    pub(crate) async fn arrived_on_chain(
        core: &Core,
        id: RefundId,
        fee_sat: u64,
    ) -> Result<Vec<Step>, Error> {
        let Some(found) = open(core, id).await? else {
            return Ok(Vec::new());
        };
        let mut after = found.value.clone();
        after.state = RefundState::Succeeded;
        after.fee_msat = Some(msat(fee_sat));
        let mut steps = write(&after, found.version)?.to_vec();
        let new_id = || core.new_id(TransferId::from_parts);
        let taken_msat = msat(fee_sat).min(after.max_fee_msat);
        let amounts = [
            (Some(after.posting.holds.amount), after.sent_msat),
            (after.posting.holds.route, taken_msat),
        ];
        for (hold, amount) in amounts {
            let Some(hold) = hold else { continue };
            steps.push(Step::Capture {
                hold,
                id: new_id()?,
                amount,
                release_rest: true,
            });
        }
        let more_msat = msat(fee_sat).saturating_sub(taken_msat);
        if more_msat > 0 {
            steps.push(Step::Transfer(NewTransfer {
                id: new_id()?,
                debit: Account::routing_fees(),
                credit: Account::node_onchain(),
                amount: more_msat,
                kind: TransferKind::ChainFee,
                reference: after.id.to_string(),
                credit_ceiling: None,
            }));
        }
        steps.extend(after.ends(core, true).await?);
        Ok(steps)
    }

    /// Its transaction can never be in a block, or was given up before it left.
    pub(crate) async fn failed_on_chain(
        core: &Core,
        id: RefundId,
        detail: &str,
    ) -> Result<Vec<Step>, Error> {
        let Some(found) = open(core, id).await? else {
            return Ok(Vec::new());
        };
        let mut after = found.value.clone();
        after.state = RefundState::Failed;
        after.detail = Some(detail.to_owned());
        let mut steps = write(&after, found.version)?.to_vec();
        let holds = [Some(after.posting.holds.amount), after.posting.holds.route];
        let holds = holds.into_iter().flatten();
        steps.extend(holds.map(|hold| Step::Release { hold }));
        steps.extend(after.ends(core, false).await?);
        Ok(steps)
    }
}

#[cfg(feature = "chain")]
pub(crate) use with_wallets::{arrived_on_chain, failed_on_chain};
