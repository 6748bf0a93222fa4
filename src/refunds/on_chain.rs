//! Refunds to an address on chain: the spend of a wallet is prepared in the commit that sets the
//! money aside, and what becomes of its transaction is followed.

use super::Refunds;
use super::model::Refund;
#[cfg(not(feature = "chain"))]
use super::model::ResolveRefund;
use crate::Error;
#[cfg(not(feature = "chain"))]
use crate::chain::ChainError;
#[cfg(not(feature = "chain"))]
use crate::core::{Caller, Decision};
use crate::ids::SpendId;
use crate::ledger::Step;

#[cfg(not(feature = "chain"))]
impl Refunds {
    pub(super) async fn to_chain(
        &self,
        _refund: &mut Refund,
        _address: &str,
        _fee: (Option<u64>, bool),
    ) -> Result<Vec<Step>, Error> {
        Err(ChainError::NoWallet.into())
    }

    pub(super) async fn chain_fee(
        &self,
        _caller: &Caller,
        asked_sat_per_kvb: Option<u64>,
    ) -> Result<(Option<u64>, bool), Error> {
        Ok((asked_sat_per_kvb, false))
    }

    pub(super) async fn sign(&self, _spend: SpendId) {}

    pub(super) async fn resolve_on_chain(
        &self,
        _command: &ResolveRefund,
    ) -> Result<Decision<Refund>, Error> {
        Err(ChainError::NoWallet.into())
    }
}

#[cfg(feature = "chain")]
mod with_wallets {
    use super::{Error, Refund, Refunds, SpendId, Step};
    use crate::core::{Caller, Core, Decision};
    use crate::ids::TransferId;
    use crate::invoices::Invoices;
    use crate::ledger::{Account, NewHold, NewTransfer, TransferKind};
    use crate::payments::Holds;
    use crate::refunds::RefundError;
    use crate::refunds::following::given_up;
    use crate::refunds::going::write;
    use crate::refunds::model::{RefundFeeBearer, RefundOutcome, RefundState, ResolveRefund};
    use crate::wallets::{RefundSpend, Wallets};

    /// What any node relays.
    const LEAST_SAT_PER_KVB: u64 = 1_000;

    fn wallets(core: &std::sync::Arc<Core>) -> Wallets {
        Wallets::new(core.clone(), Invoices::new(core.clone()))
    }

    pub(in crate::refunds) fn msat(sat: u64) -> i64 {
        i64::try_from(sat.saturating_mul(1_000)).unwrap_or(i64::MAX)
    }

    impl Refunds {
        /// The fee that was asked for, and whether the issuer did, who may mean any. More than what
        /// the next blocks take is the issuer's to ask for: what it costs leaves the operator's
        /// wallet.
        pub(in crate::refunds) async fn chain_fee(
            &self,
            caller: &Caller,
            asked_sat_per_kvb: Option<u64>,
        ) -> Result<(Option<u64>, bool), Error> {
            let issuer = caller.require_issuer();
            let Some(asked) = asked_sat_per_kvb else {
                return Ok((None, false));
            };
            if issuer.is_err() {
                let rates = self.core.chain()?.fee_rates().await?;
                if asked > rates.fast_sat_per_kvb.max(LEAST_SAT_PER_KVB) {
                    issuer?;
                }
                return Ok((Some(asked), false));
            }
            Ok((Some(asked), true))
        }

        /// The spend is prepared, and its output and fee are set aside.
        pub(in crate::refunds) async fn to_chain(
            &self,
            refund: &mut Refund,
            address: &str,
            (fee_sat_per_kvb, is_any_fee_meant): (Option<u64>, bool),
        ) -> Result<Vec<Step>, Error> {
            let core = &self.core;
            let order = RefundSpend {
                refund: refund.id,
                address: address.to_owned(),
                amount_sat: u64::try_from(refund.sent_msat / 1_000).unwrap_or(0),
                fee_off_amount: refund.fee_bearer == RefundFeeBearer::Customer,
                fee_sat_per_kvb,
                is_any_fee_meant,
            };
            let (spend, prepared) = wallets(core).spend_for_refund(order).await?;
            let sent_sat = spend.outputs.first().map_or(0, |output| output.amount_sat);
            let fee_msat = msat(spend.fee_sat);
            refund.sent_msat = msat(sent_sat);
            refund.max_fee_msat = fee_msat;
            refund.spend = Some(spend.id);
            refund.state = RefundState::Sending;
            refund.posting.holds = Holds::new(core, 0, fee_msat)?;
            let mut steps = write(refund, 0)?.to_vec();
            steps.extend(set_aside(refund));
            steps.extend(prepared);
            Ok(steps)
        }

        /// The node's wallet signs at once; whatever comes of it, the spend's job goes on.
        pub(in crate::refunds) async fn sign(&self, spend: SpendId) {
            drop(wallets(&self.core).sign_for_refund(spend).await);
        }

        /// Only the chain says that it arrived.
        pub(in crate::refunds) async fn resolve_on_chain(
            &self,
            command: &ResolveRefund,
        ) -> Result<Decision<Refund>, Error> {
            let found = self.require(command.refund).await?;
            let (refund, state) = (found.value.id, found.value.state);
            match (state, command.outcome) {
                (state, _) if state.is_final() => {
                    Err(RefundError::WrongState { refund, state }.into())
                }
                (RefundState::Unknown, RefundOutcome::Failed) => {
                    given_up(&self.core, &found, &command.reason).await
                }
                _ => Err(RefundError::InFlight { refund }.into()),
            }
        }
    }

    /// Who bears what the chain takes.
    pub(in crate::refunds) fn fee_payer(refund: &Refund) -> Account {
        match refund.fee_bearer {
            RefundFeeBearer::Merchant | RefundFeeBearer::Customer => refund.posting.payer,
            RefundFeeBearer::Operator => Account::routing_fees(),
        }
    }

    /// What is sent and what it may cost, on hold.
    pub(in crate::refunds) fn set_aside(refund: &Refund) -> Vec<Step> {
        let (payer, holds) = (refund.posting.payer, refund.posting.holds);
        let sent = (holds.amount, payer, refund.sent_msat, TransferKind::Refund);
        let mut steps = vec![held(refund, sent)];
        let (fee_payer, fee_msat) = (fee_payer(refund), refund.max_fee_msat);
        let fee = |hold| (hold, fee_payer, fee_msat, TransferKind::ChainFee);
        steps.extend(holds.route.map(|hold| held(refund, fee(hold))));
        steps
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
}

#[cfg(feature = "chain")]
pub(super) use with_wallets::{fee_payer, msat, set_aside};
