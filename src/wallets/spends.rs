//! Spends: prepared, signed elsewhere, taken back, replaced, given up.

use bitcoin::{Amount, OutPoint, TxOut};
use serde::Serialize;

use super::addresses::HOT_MS;
use super::descriptor::{self, Descriptors};
use super::model::{
    BumpSpend, CancelSpend, Coin, Keychain, PrepareSpend, Spend, SpendOutput, SpendState,
    SpendTarget, Wallet, WalletAddress,
};
use super::psbt::{self, Built, Order, Spendable};
use super::watching::corrupt;
use super::{COINS, SPENDS, WalletError, Wallets, rules};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, CommandError, Decision, Executed, IdempotencyKey, Loaded, emit, put};
use crate::ids::{RefundId, SpendId, WalletId};
use crate::ledger::Step;

/// Fees that somebody may mean, in satoshis for 1,000 virtual bytes.
const FEES: std::ops::RangeInclusive<u64> = 1_000..=10_000_000;
const MAX_OUTPUTS: usize = 100;
/// The most coins in one transaction: what any network relays, with room to spare.
pub(super) const MAX_COINS: usize = 500;

/// What a PSBT is made from.
pub(super) struct Draft<'a> {
    pub(super) wallet: &'a Loaded<Wallet>,
    pub(super) required: Vec<(i64, Coin)>,
    pub(super) optional: Vec<(i64, Coin)>,
    pub(super) outputs: Vec<SpendOutput>,
    pub(super) is_everything: bool,
    pub(super) fee_sat_per_kvb: u64,
    pub(super) replaces: Option<&'a Spend>,
    /// The refund that it pays; of a replacement, what it replaces says so.
    pub(super) refund: Option<RefundId>,
}

impl Wallets {
    /// Chooses coins for a spend, sets them aside, and makes the PSBT that the wallet's signers
    /// sign. Of the operator's wallets the issuer, of a merchant's also whoever sells for it.
    ///
    /// # Errors
    /// `wallet.not_found`, `wallet.bad_address`, `wallet.wrong_network`, `chain.dust`,
    /// `wallet.insufficient_funds`, `wallet.fee_too_high`, `chain.no_fee_rate`,
    /// `command.out_of_bounds`, `command.*`, `access.*`.
    pub async fn prepare_spend(
        &self,
        credential: &Credential,
        command: PrepareSpend,
    ) -> Result<Answer<Spend>, Error> {
        let (wallets, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let (caller, _) = wallets.admitted(&credential, command.wallet).await?;
                check_fee(command.fee_sat_per_kvb)?;
                if let SpendTarget::Pay { outputs } = &command.target
                    && !(1..=MAX_OUTPUTS).contains(&outputs.len())
                {
                    let (field, bounds) = ("outputs", "1 to 100");
                    return Err(CommandError::OutOfBounds { field, bounds }.into());
                }
                let executed: Executed<Spend> = wallets
                    .core
                    .execute_new(
                        &caller,
                        "wallets.prepare_spend",
                        &command.key,
                        &command,
                        || wallets.decide_prepare(&command),
                    )
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_prepare(&self, command: &PrepareSpend) -> Result<Decision<Spend>, Error> {
        let wallet = self.load(command.wallet).await?;
        let fee_sat_per_kvb = self.fee_or_usual(command.fee_sat_per_kvb).await?;
        let mut free = self.free(command.wallet).await?;
        let (outputs, is_everything) = match &command.target {
            SpendTarget::Pay { outputs } => (outputs.clone(), false),
            SpendTarget::Everything { address } => {
                let (address, amount_sat) = (address.clone(), 0);
                (
                    vec![SpendOutput {
                        address,
                        amount_sat,
                    }],
                    true,
                )
            }
        };
        // The largest first: what is left out of too many is worth the least.
        free.sort_by_key(|(_, coin)| std::cmp::Reverse(coin.amount_sat));
        free.truncate(MAX_COINS);
        let (required, optional) = if is_everything {
            (free, Vec::new())
        } else {
            (Vec::new(), free)
        };
        self.decide_spend(Draft {
            wallet: &wallet,
            required,
            optional,
            outputs,
            is_everything,
            fee_sat_per_kvb,
            replaces: None,
            refund: None,
        })
        .await
    }

    /// The fee that was asked for, or what the chain's server says for the next hour.
    pub(super) async fn fee_or_usual(&self, asked: Option<u64>) -> Result<u64, Error> {
        if let Some(fee) = asked {
            return Ok(fee);
        }
        let rates = self.core.chain()?.fee_rates().await?;
        Ok(rates.normal_sat_per_kvb.clamp(*FEES.start(), *FEES.end()))
    }

    /// Coins that a new spend may take: in a block, or our own change, not set aside, and not kept
    /// back by the wallet's user (BIP 329, `spendable`).
    pub(super) async fn free(&self, wallet: WalletId) -> Result<Vec<(i64, Coin)>, Error> {
        let mut coins = self.core.unspent(wallet).await?;
        let frozen = self.frozen(wallet).await?;
        coins.retain(|(_, coin)| {
            let is_sure = coin.confirmations > 0 || coin.keychain == Keychain::Change;
            is_sure && coin.reserved_by.is_none() && !frozen.contains(&coin.outpoint)
        });
        Ok(coins)
    }

    /// Makes a spend again with a higher fee, to the same addresses: the coins are the same, and
    /// more where the change does not pay for it. The one that was broadcast stays valid until a
    /// block has either.
    ///
    /// # Errors
    /// `wallet.spend_not_found`, `wallet.spend_state`, `wallet.fee_too_low`,
    /// `wallet.insufficient_funds`, `chain.dust`, `command.*`, `access.*`.
    pub async fn bump_spend(
        &self,
        credential: &Credential,
        command: BumpSpend,
    ) -> Result<Answer<Spend>, Error> {
        let (wallets, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let (name, id) = ("wallets.bump_spend", command.spend);
                let decide = || wallets.decide_bump(&command);
                let executed = wallets
                    .of_spend(&credential, id, (name, &command.key), &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_bump(&self, command: &BumpSpend) -> Result<Decision<Spend>, Error> {
        check_fee(Some(command.fee_sat_per_kvb))?;
        let spend = self.load_spend(command.spend).await?;
        let before = &spend.value;
        let (id, state) = (before.id, before.state);
        let can = matches!(state, SpendState::Broadcasting | SpendState::Broadcast);
        if !can {
            return Err(WalletError::SpendState { spend: id, state }.into());
        }
        let wallet = self.load(before.wallet).await?;
        let mut required = Vec::new();
        for outpoint in &before.coins {
            let coin: Option<Loaded<Coin>> = self.core.load(COINS, outpoint).await?;
            let coin = coin.ok_or_else(|| corrupt("a coin"))?;
            // Another replacement has it already.
            if coin.value.reserved_by != Some(id) {
                return Err(WalletError::SpendState { spend: id, state }.into());
            }
            required.push((coin.version, coin.value));
        }
        let optional = if before.is_everything {
            Vec::new()
        } else {
            let mut free = self.free(before.wallet).await?;
            // A replacement spends no unconfirmed coin that the first did not spend (BIP 125).
            free.retain(|(_, coin)| coin.confirmations > 0);
            free
        };
        let decision = self
            .decide_spend(Draft {
                wallet: &wallet,
                required,
                optional,
                outputs: before.outputs.clone(),
                is_everything: before.is_everything,
                fee_sat_per_kvb: command.fee_sat_per_kvb,
                replaces: Some(before),
                refund: before.refund,
            })
            .await?;
        let built = psbt::parse(&decision.answer.psbt)?;
        let vbytes = decision.answer.fee_sat.saturating_mul(1_000) / command.fee_sat_per_kvb;
        let least = psbt::least_replacement(before.fee_sat, vbytes);
        if decision.answer.fee_sat < least || built.inputs.is_empty() {
            let minimum_sat_per_kvb = before
                .fee_sat_per_kvb
                .saturating_add(psbt::RELAY_SAT_PER_KVB);
            return Err(WalletError::FeeTooLow {
                minimum_sat_per_kvb,
            }
            .into());
        }
        Ok(decision)
    }

    pub(super) async fn decide_spend(&self, draft: Draft<'_>) -> Result<Decision<Spend>, Error> {
        let core = &self.core;
        let wallet = &draft.wallet.value;
        let descriptors = self.descriptors(wallet)?;
        let mut change = match draft.replaces.and_then(|replaced| replaced.change_index) {
            // The change of what is replaced goes where it went.
            Some(index) => self.derive(wallet, &descriptors, Keychain::Change, index)?,
            None => self.next(draft.wallet, Keychain::Change)?.0,
        };
        change.hot_until_ms = core.clock.now_ms().saturating_add(HOT_MS);
        let built = self.build(&draft, &descriptors, &change).await?;
        let id = core.new_id(SpendId::from_parts)?;
        let mut outputs = draft.outputs.clone();
        for (output, sent) in outputs.iter_mut().zip(&built.sent_sat) {
            output.amount_sat = *sent;
        }
        let has_change = built.change_sat > 0;
        let spend = Spend {
            id,
            wallet: wallet.id,
            state: SpendState::Prepared,
            psbt: built.psbt.to_string(),
            outputs,
            is_everything: draft.is_everything,
            change_sat: built.change_sat,
            fee_sat: built.fee_sat,
            fee_sat_per_kvb: draft.fee_sat_per_kvb,
            coins: built.coins.iter().map(ToString::to_string).collect(),
            change_index: has_change.then_some(change.index),
            replaces: draft.replaces.map(|replaced| replaced.id),
            txid: None,
            transaction: None,
            refusal: None,
            hold: None,
            booked: None,
            refund: draft.refund,
            created_at_ms: core.clock.now_ms(),
        };
        let mut steps = vec![
            write_spend(&spend, 0)?,
            emit("wallet.spend_prepared", id.to_string(), &spend)?,
        ];
        let is_new = draft
            .replaces
            .is_none_or(|replaced| replaced.change_index.is_none());
        if has_change && is_new {
            steps.extend(self.give_out(draft.wallet, &change)?);
        }
        for (version, coin) in draft.required.iter().chain(&draft.optional) {
            if spend.coins.contains(&coin.outpoint) {
                let after = Coin {
                    reserved_by: Some(id),
                    ..coin.clone()
                };
                steps.push(rules::write_coin(&after, *version)?);
            }
        }
        Ok(Decision {
            steps,
            answer: spend,
        })
    }

    async fn build(
        &self,
        draft: &Draft<'_>,
        descriptors: &Descriptors,
        change: &WalletAddress,
    ) -> Result<Built, Error> {
        let network = self.network()?;
        let outputs = draft.outputs.iter().map(|output| {
            Ok(TxOut {
                value: Amount::from_sat(output.amount_sat),
                script_pubkey: descriptor::script_of(&output.address, network)?,
            })
        });
        let mut seed = [0; 16];
        self.core.entropy.fill(&mut seed)?;
        let script = bitcoin::ScriptBuf::from_hex(&change.script);
        let script = script.map_err(|_| corrupt("a script"))?;
        psbt::build(Order {
            descriptors,
            required: self.spendable(&draft.required).await?,
            optional: self.spendable(&draft.optional).await?,
            outputs: outputs.collect::<Result<_, WalletError>>()?,
            is_everything: draft.is_everything,
            change: (script, Keychain::Change, change.index),
            fee_sat_per_kvb: draft.fee_sat_per_kvb,
            seed,
        })
    }

    async fn spendable(&self, coins: &[(i64, Coin)]) -> Result<Vec<Spendable>, Error> {
        let mut spendable = Vec::new();
        for (_, coin) in coins {
            let outpoint: OutPoint = coin.outpoint.parse().map_err(|_| corrupt("an outpoint"))?;
            spendable.push(Spendable {
                outpoint,
                keychain: coin.keychain,
                index: coin.index,
                from: self.core.wallet_transaction(outpoint.txid).await?,
            });
        }
        Ok(spendable)
    }

    /// Gives up a spend that was not signed, or that the network does not take: its coins can be
    /// spent again. Whoever has signed it can still send it, until something else has spent one of
    /// its coins: it is followed, and a refund that it was for is `unknown` until then.
    ///
    /// # Errors
    /// `wallet.spend_not_found`, `wallet.spend_state` once it was broadcast, `command.*`,
    /// `access.*`.
    pub async fn cancel_spend(
        &self,
        credential: &Credential,
        command: CancelSpend,
    ) -> Result<Answer<Spend>, Error> {
        let (wallets, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let (name, id) = ("wallets.cancel_spend", command.spend);
                let decide = || wallets.decide_cancel(id);
                let executed = wallets
                    .of_spend(&credential, id, (name, &command.key), &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// Carries out a command about a spend, for whoever may spend of its wallet.
    pub(super) async fn of_spend<C, F, Fut>(
        &self,
        credential: &Credential,
        spend: SpendId,
        (name, key): (&'static str, &IdempotencyKey),
        command: &C,
        decide: F,
    ) -> Result<Executed<Spend>, Error>
    where
        C: Serialize,
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Decision<Spend>, Error>>,
    {
        let spend = self.load_spend(spend).await?;
        let (caller, _) = self.admitted(credential, spend.value.wallet).await?;
        self.core.execute(&caller, name, key, command, decide).await
    }

    pub(super) async fn decide_cancel(&self, id: SpendId) -> Result<Decision<Spend>, Error> {
        let spend = self.load_spend(id).await?;
        let before = &spend.value;
        let state = before.state;
        if !matches!(state, SpendState::Prepared | SpendState::Refused) {
            return Err(WalletError::SpendState { spend: id, state }.into());
        }
        let after = Spend {
            state: SpendState::Cancelled,
            hold: None,
            ..before.clone()
        };
        let mut steps = vec![
            write_spend(&after, spend.version)?,
            emit("wallet.spend_cancelled", id.to_string(), &after)?,
        ];
        steps.extend(before.hold.map(|hold| Step::Release { hold }));
        let news = std::slice::from_ref(&after);
        steps.extend(self.refunds_followed(news, None, None).await?);
        steps.extend(self.set_free(before, &[], None).await?);
        Ok(Decision {
            steps,
            answer: after,
        })
    }

    /// A spend as it stands now.
    ///
    /// # Errors
    /// `wallet.spend_not_found`, `access.*`.
    pub async fn spend(
        &self,
        credential: &Credential,
        spend: SpendId,
    ) -> Result<Answer<Spend>, Error> {
        let found = self.load_spend(spend).await?;
        self.admitted(credential, found.value.wallet).await?;
        let as_of_ms = self.core.clock.now_ms();
        let value = found.value;
        Ok(Answer { as_of_ms, value })
    }

    /// The spends of a wallet, oldest first, after the spend `after`; at most `limit` (1 to
    /// 1,000).
    ///
    /// # Errors
    /// `wallet.not_found`, `access.*`.
    pub async fn spends(
        &self,
        credential: &Credential,
        wallet: WalletId,
        after: Option<SpendId>,
        limit: usize,
    ) -> Result<Answer<Vec<Spend>>, Error> {
        self.admitted(credential, wallet).await?;
        let as_of_ms = self.core.clock.now_ms();
        let (key, after) = (wallet.to_string(), after.map(|id| id.to_string()));
        let value = self.core.list(SPENDS, "wallet", &key, after, limit).await?;
        Ok(Answer { as_of_ms, value })
    }

    pub(super) async fn load_spend(&self, spend: SpendId) -> Result<Loaded<Spend>, Error> {
        let found = self.core.load(SPENDS, &spend.to_string()).await?;
        Ok(found.ok_or(WalletError::SpendNotFound { spend })?)
    }
}

/// The id of a spend's transaction. Before it is signed that is what it will be, unless its inputs
/// are of a kind whose signatures are part of it.
pub(super) fn txid_of(spend: &Spend) -> Option<String> {
    let unsigned = || {
        let psbt = psbt::parse(&spend.psbt).ok()?;
        Some(psbt.unsigned_tx.compute_txid().to_string())
    };
    spend.txid.clone().or_else(unsigned)
}

pub(super) fn write_spend(spend: &Spend, read_version: i64) -> Result<Step, Error> {
    let mut keys = vec![("wallet", spend.wallet.to_string())];
    keys.extend(txid_of(spend).map(|txid| ("transaction", txid)));
    keys.extend(spend.refund.map(|refund| ("refund", refund.to_string())));
    put(SPENDS, spend.id.to_string(), read_version, spend, keys)
}

pub(super) fn check_fee(fee_sat_per_kvb: Option<u64>) -> Result<(), CommandError> {
    match fee_sat_per_kvb {
        Some(fee) if !FEES.contains(&fee) => {
            let (field, bounds) = ("fee_sat_per_kvb", "1,000 to 10,000,000");
            Err(CommandError::OutOfBounds { field, bounds })
        }
        _ => Ok(()),
    }
}
