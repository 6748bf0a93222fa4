//! Spends that pay a refund of an invoice: their money is on hold for the refund, and what becomes
//! of them ends it.

use super::Wallets;
use super::model::{Coin, Spend, SpendOutput, SpendState, SubmitSpend, WalletOwner};
use super::sending::again;
use super::spends::{Draft, MAX_COINS, check_fee};
use crate::Error;
use crate::chain::ChainError;
use crate::core::Decision;
use crate::ids::{RefundId, SpendId};
use crate::ledger::Step;
use crate::refunds::{self, RefundError};

/// What a refund asks a wallet of the operator's for.
pub(crate) struct RefundSpend {
    pub(crate) refund: RefundId,
    pub(crate) address: String,
    pub(crate) amount_sat: u64,
    /// The fee is taken from the amount.
    pub(crate) fee_off_amount: bool,
    pub(crate) fee_sat_per_kvb: Option<u64>,
}

impl Wallets {
    /// A spend of the operator's newest wallet, prepared, and the steps that keep it.
    pub(crate) async fn spend_for_refund(
        &self,
        order: RefundSpend,
    ) -> Result<(Spend, Vec<Step>), Error> {
        check_fee(order.fee_sat_per_kvb)?;
        let whole = self.prepared(&order, order.amount_sat).await?;
        let Decision { steps, answer } = match order.fee_off_amount {
            false => whole,
            true => {
                let fee_sat = whole.answer.fee_sat;
                let left_sat = order
                    .amount_sat
                    .checked_sub(fee_sat)
                    .filter(|left| *left > 0);
                let msat = |sat: u64| i64::try_from(sat).unwrap_or(i64::MAX).saturating_mul(1_000);
                let left_sat = left_sat.ok_or(RefundError::FeeTakesAll {
                    amount_msat: msat(order.amount_sat),
                    fee_msat: msat(fee_sat),
                })?;
                self.prepared(&order, left_sat).await?
            }
        };
        let mut steps = steps;
        // Should nobody come to sign it, its job does.
        steps.push(again(answer.id, self.core.clock.now_ms()));
        Ok((answer, steps))
    }

    async fn prepared(
        &self,
        order: &RefundSpend,
        amount_sat: u64,
    ) -> Result<Decision<Spend>, Error> {
        let wallet = self.core.newest_wallet(WalletOwner::Operator).await?;
        let wallet = wallet.ok_or(ChainError::NoWallet)?;
        let mut free = self.free(wallet.value.id).await?;
        free.sort_by_key(|(_, coin)| std::cmp::Reverse(coin.amount_sat));
        free.truncate(MAX_COINS);
        let address = order.address.clone();
        self.decide_spend(Draft {
            wallet: &wallet,
            required: Vec::new(),
            optional: free,
            outputs: vec![SpendOutput {
                address,
                amount_sat,
            }],
            is_everything: false,
            fee_sat_per_kvb: self.fee_or_usual(order.fee_sat_per_kvb).await?,
            replaces: None,
            refund: Some(order.refund),
        })
        .await
    }

    /// The node's wallet signs what a refund prepared, and it is broadcast.
    pub(crate) async fn sign_for_refund(&self, id: SpendId) -> Result<(), Error> {
        self.broadcast(id).await
    }

    /// Signs a spend of the node's wallet that a refund prepared, if nobody has.
    pub(super) async fn sign_if_refund(&self, id: SpendId) -> Result<(), Error> {
        let command = SubmitSpend {
            key: "refund".parse()?,
            spend: id,
            psbt: None,
        };
        let signed = self.core.settle(|| async {
            let spend = self.load_spend(id).await?.value;
            let waits = spend.refund.is_some() && spend.state == SpendState::Prepared;
            if !waits || !self.load(spend.wallet).await?.value.is_node {
                return Ok(None);
            }
            Ok(Some(self.decide_submit(&command).await?.steps))
        });
        signed.await.map(drop)
    }

    /// What happened to a coin of a spend and those it replaced says what became of their refund.
    pub(super) async fn refund_followed(
        &self,
        spends: &[Spend],
        coin: &Coin,
    ) -> Result<Vec<Step>, Error> {
        let Some(refund) = spends.iter().find_map(|spend| spend.refund) else {
            return Ok(Vec::new());
        };
        let by = coin.spent_by.as_ref().filter(|by| by.block.is_some());
        let Some(by) = by else { return Ok(Vec::new()) };
        let core = &self.core;
        match spends
            .iter()
            .find(|spend| spend.txid.as_ref() == Some(&by.txid))
        {
            Some(spend) => refunds::arrived_on_chain(core, refund, spend.fee_sat).await,
            None => {
                let detail = "something else spends its coins";
                refunds::failed_on_chain(core, refund, detail).await
            }
        }
    }

    /// A spend was given up. A replacement that was, leaves the refund to what it was to replace.
    pub(super) async fn refund_cancelled(&self, spend: &Spend) -> Result<Vec<Step>, Error> {
        match (spend.refund, spend.replaces) {
            (Some(refund), None) => {
                refunds::failed_on_chain(&self.core, refund, "the spend was given up").await
            }
            _ => Ok(Vec::new()),
        }
    }
}
