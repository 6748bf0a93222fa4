//! Spends that pay a refund of an invoice: their money is on hold for the refund, and what becomes
//! of all of them says how it stands.

use std::collections::BTreeSet;

use super::model::{Coin, Spend, SpendOutput, SpendState, SubmitSpend, WalletOwner};
use super::sending::again;
use super::spends::{Draft, MAX_COINS, check_fee, txid_of};
use super::{COINS, SPENDS, WalletError, Wallets, rules};
use crate::Error;
use crate::chain::{BlockId, ChainError, Standing, confirmations};
use crate::core::Decision;
use crate::ids::{RefundId, SpendId};
use crate::ledger::Step;
use crate::refunds::{self, OnChain, RefundError};

/// With so many confirmations what spends the same coins has won for good.
const SURE: u32 = 6;
/// How often coins are chosen where the fee comes off the amount.
const MAX_CHOICES: u32 = 20;
/// A fee of more than this, and of more than a tenth of what is sent, is one that a person has to
/// have said.
const HIGH_FEE_SAT: u64 = 50_000;
/// The most spends that are made for one refund.
const MAX_SPENDS: usize = 1_000;

/// What a refund asks a wallet of the operator's for.
pub(crate) struct RefundSpend {
    pub(crate) refund: RefundId,
    pub(crate) address: String,
    pub(crate) amount_sat: u64,
    /// The fee is taken from the amount.
    pub(crate) fee_off_amount: bool,
    pub(crate) fee_sat_per_kvb: Option<u64>,
    /// The issuer has said which fee: it is not bounded by what is sent.
    pub(crate) is_any_fee_meant: bool,
}

impl Wallets {
    /// A spend of the operator's newest wallet, prepared, and the steps that keep it.
    pub(crate) async fn spend_for_refund(
        &self,
        order: RefundSpend,
    ) -> Result<(Spend, Vec<Step>), Error> {
        check_fee(order.fee_sat_per_kvb)?;
        let mut prepared = self.prepared(&order, order.amount_sat).await?;
        if order.fee_off_amount {
            // Each choice of coins has a fee of its own: what is sent and what it costs are no
            // more than the amount.
            let (mut fee_sat, mut tries) = (0, MAX_CHOICES);
            while prepared.answer.fee_sat > fee_sat {
                fee_sat = prepared.answer.fee_sat;
                let left_sat = order.amount_sat.checked_sub(fee_sat);
                let left_sat = left_sat.filter(|left| *left > 0 && tries > 0);
                let msat = |sat: u64| i64::try_from(sat).unwrap_or(i64::MAX).saturating_mul(1_000);
                let left_sat = left_sat.ok_or(RefundError::FeeTakesAll {
                    amount_msat: msat(order.amount_sat),
                    fee_msat: msat(fee_sat),
                })?;
                tries -= 1;
                prepared = self.prepared(&order, left_sat).await?;
            }
        }
        let Decision { mut steps, answer } = prepared;
        let sent_sat: u64 = answer.outputs.iter().map(|output| output.amount_sat).sum();
        let fee_sat = answer.fee_sat;
        if !order.is_any_fee_meant && fee_sat > HIGH_FEE_SAT.max(sent_sat / 10) {
            return Err(WalletError::FeeTooHigh { fee_sat }.into());
        }
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

    /// What became of a spend, of those that stand otherwise in the same commit and of the coin
    /// that is written in it says what became of the refunds they were made for.
    pub(super) async fn refunds_followed(
        &self,
        news: &[Spend],
        coin: Option<&Coin>,
        tip: Option<BlockId>,
    ) -> Result<Vec<Step>, Error> {
        let refunds: BTreeSet<RefundId> = news.iter().filter_map(|spend| spend.refund).collect();
        let mut told = Vec::new();
        for refund in refunds {
            let now = self.refund_on_chain(refund, news, coin, tip).await?;
            let steps = refunds::follow(&self.core, refund, now).await?;
            if !steps.is_empty() {
                told.push((!matches!(now, OnChain::InBlock { .. }), refund, steps));
            }
        }
        // They may be of one invoice: what left is written first, and the others after it.
        told.sort_by_key(|(is_not_there, refund, _)| (*is_not_there, *refund));
        let mut told = told.into_iter();
        let mut steps = told.next().map_or(Vec::new(), |(_, _, steps)| steps);
        let now_ms = self.core.clock.now_ms();
        steps.extend(told.map(|(_, refund, _)| refunds::ask_at(refund, now_ms)));
        Ok(steps)
    }

    /// The job that asks the chain what became of a refund that nobody waits for any more.
    pub(crate) async fn check_refund(&self, id: RefundId) -> Result<(), Error> {
        let core = &self.core;
        let tip = core.chain()?.tip().await?;
        let asked = core.settle(|| async {
            let now = self.refund_on_chain(id, &[], None, Some(tip)).await?;
            let steps = refunds::follow(core, id, now).await?;
            Ok(Some(match steps.is_empty() {
                true => vec![refunds::asked(core, id).await?],
                false => steps,
            }))
        });
        asked.await.map(drop)
    }

    async fn refund_on_chain(
        &self,
        refund: RefundId,
        news: &[Spend],
        coin: Option<&Coin>,
        tip: Option<BlockId>,
    ) -> Result<OnChain, Error> {
        let key = refund.to_string();
        let known = self.core.list(SPENDS, "refund", &key, None, MAX_SPENDS);
        let mut spends: Vec<Spend> = known.await?;
        let is_new = |spend: &Spend| news.iter().any(|new| new.id == spend.id);
        spends.retain(|spend| !is_new(spend));
        let new = news.iter().filter(|spend| spend.refund == Some(refund));
        spends.extend(new.cloned());
        let state = |state: SpendState| spends.iter().find(move |spend| spend.state == state);
        if let Some(spend) = state(SpendState::Confirmed) {
            let fee_sat = spend.fee_sat;
            return Ok(OnChain::InBlock { fee_sat });
        }
        let is_over =
            |spend: &Spend| matches!(spend.state, SpendState::Replaced | SpendState::Cancelled);
        if spends.iter().any(|spend| !is_over(spend)) {
            return Ok(OnChain::OnItsWay);
        }
        let why = match state(SpendState::Replaced) {
            Some(_) => "something else spends its coins",
            None => "the spend was given up",
        };
        for spend in &spends {
            if self.can_be_in_a_block(spend, coin, tip).await? {
                return Ok(OnChain::Unknown { why });
            }
        }
        Ok(OnChain::Impossible { why })
    }

    /// Whoever has a signed transaction can send it, until another one that spends the same is
    /// deep enough. The keys of the node's wallet sign nowhere else.
    async fn can_be_in_a_block(
        &self,
        spend: &Spend,
        coin: Option<&Coin>,
        tip: Option<BlockId>,
    ) -> Result<bool, Error> {
        if spend.txid.is_none() && self.load(spend.wallet).await?.value.is_node {
            return Ok(false);
        }
        let txid = txid_of(spend);
        for outpoint in &spend.coins {
            let written = coin.filter(|coin| coin.outpoint == *outpoint).cloned();
            let coin = match written {
                Some(coin) => Some(coin),
                None => self
                    .core
                    .load::<Coin>(COINS, outpoint)
                    .await?
                    .map(|found| found.value),
            };
            let Some(coin) = coin else { continue };
            let others = coin.spent_by.as_ref();
            let others = others.filter(|by| Some(&by.txid) != txid.as_ref());
            let block = others.and_then(|by| by.block).or(rules::lost_in(&coin));
            let depth = block
                .zip(tip)
                .and_then(|(block, tip)| confirmations(&Standing::Confirmed { block }, tip));
            if depth.is_some_and(|depth| depth >= SURE) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
