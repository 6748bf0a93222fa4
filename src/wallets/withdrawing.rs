//! A whole wallet to one address: in as many transactions as it takes.

use sha2::{Digest, Sha256};

use super::model::{
    Coin, NodeFunds, Spend, SpendOutput, SpendState, SubmitSpend, WithdrawEverything, Withdrawal,
};
use super::spends::{Draft, MAX_COINS, check_fee};
use super::{WalletError, Wallets, psbt};
use crate::Error;
use crate::access::Credential;
use crate::chain::ChainError;
use crate::core::{Answer, Caller, CommandError, Decision, Executed, IdempotencyKey, emit};

impl Wallets {
    /// Sends everything that a wallet has to one address, in as many transactions as its coins
    /// take. The node's wallet is signed for and broadcast at once; of any other the spends wait
    /// to be signed, each by itself, and are given back with
    /// [`submit_spend`](Self::submit_spend). Called again after it was interrupted, it goes on
    /// where it stopped; once it was answered, nothing more is sent for the same key.
    ///
    /// Left alone are coins in no block that are not the wallet's own change, those that are set
    /// aside for other spends or kept back by a label (BIP 329), and those that cost more than they bring: see
    /// [`Withdrawal::left_sat`]. What the node has in channels, and in the wallet that it opens
    /// them from, is not in any of these wallets: of the node's, [`Withdrawal::node`] says how much
    /// that is, and [`drain_node`](Self::drain_node) takes all of it.
    ///
    /// # Errors
    /// `wallet.not_found`, `wallet.bad_address`, `wallet.wrong_network`,
    /// `wallet.insufficient_funds` where there is nothing to send, `chain.dust` where it is too
    /// little, `wallet.fee_too_high`, `chain.no_fee_rate`, `command.*`, `access.*`.
    pub async fn withdraw_everything(
        &self,
        credential: &Credential,
        command: WithdrawEverything,
    ) -> Result<Answer<Withdrawal>, Error> {
        let (wallets, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let (caller, _) = wallets.admitted(&credential, command.wallet).await?;
                check_fee(command.fee_sat_per_kvb)?;
                if !(1..=MAX_COINS).contains(&command.coins_in_one()) {
                    let (field, bounds) = ("max_coins", "1 to 500");
                    return Err(CommandError::OutOfBounds { field, bounds }.into());
                }
                let executed: Executed<Withdrawal> = wallets
                    .core
                    .execute_new(
                        &caller,
                        "wallets.withdraw_everything",
                        &command.key,
                        &command,
                        || wallets.withdraw_all(&caller, &command),
                    )
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// One spend after another, each under a key of its own that follows from the command's; then
    /// the answer, which ends it.
    async fn withdraw_all(
        &self,
        caller: &Caller,
        command: &WithdrawEverything,
    ) -> Result<Decision<Withdrawal>, Error> {
        let is_node = self.load(command.wallet).await?.value.is_node;
        let mut spends: Vec<Spend> = Vec::new();
        loop {
            let number = spends.len();
            match self.withdraw_part(caller, command, number).await {
                Ok(spend) if is_node => {
                    let submit = SubmitSpend {
                        key: part_key(&command.key, number)?,
                        spend: spend.id,
                        psbt: None,
                    };
                    spends.push(self.sent(caller, &submit).await?);
                }
                Ok(spend) => spends.push(spend),
                Err(error) if number > 0 && is_nothing(&error) => break,
                Err(error) => return Err(error),
            }
        }
        let node = match is_node {
            true => self.node_funds().await,
            false => None,
        };
        let left = self.core.unspent(command.wallet).await?;
        let is_sent = |coin: &Coin| {
            let by = coin.reserved_by;
            by.is_some_and(|id| spends.iter().any(|spend| spend.id == id))
        };
        let left = left.iter().filter(|(_, coin)| !is_sent(coin));
        let answer = Withdrawal {
            wallet: command.wallet,
            address: command.address.clone(),
            amount_sat: spends
                .iter()
                .flat_map(|spend| &spend.outputs)
                .fold(0, |sum: u64, output: &SpendOutput| {
                    sum.saturating_add(output.amount_sat)
                }),
            fee_sat: spends
                .iter()
                .fold(0, |sum: u64, spend| sum.saturating_add(spend.fee_sat)),
            left_sat: left.fold(0, |sum: u64, (_, coin)| sum.saturating_add(coin.amount_sat)),
            spends: spends.iter().map(|spend| spend.id).collect(),
            node,
        };
        let steps = vec![emit(
            "wallet.withdrawn",
            command.wallet.to_string(),
            &answer,
        )?];
        Ok(Decision { steps, answer })
    }

    /// A node that cannot say keeps nothing from being sent.
    async fn node_funds(&self) -> Option<NodeFunds> {
        let has = self.core.node().ok()?.balances().await.ok()?;
        Some(NodeFunds {
            channels_msat: has.channels_msat,
            closing_msat: has.closing_msat,
            onchain_msat: has.onchain_msat,
        })
    }

    async fn withdraw_part(
        &self,
        caller: &Caller,
        command: &WithdrawEverything,
        number: usize,
    ) -> Result<Spend, Error> {
        let key = part_key(&command.key, number)?;
        let name = "wallets.withdraw_everything.prepare";
        let decide = || self.decide_part(command);
        let executed: Executed<Spend> = self
            .core
            .execute_new(caller, name, &key, command, decide)
            .await?;
        Ok(executed.answer.value)
    }

    async fn sent(&self, caller: &Caller, submit: &SubmitSpend) -> Result<Spend, Error> {
        let (name, decide) = ("wallets.withdraw_everything.submit", || {
            self.decide_submit(submit)
        });
        let executed: Executed<Spend> = self
            .core
            .execute_new(caller, name, &submit.key, submit, decide)
            .await?;
        let spend = executed.answer.value;
        if spend.state == SpendState::Broadcasting && !executed.replayed {
            // It is kept: what goes wrong now is tried again by its job.
            drop(self.broadcast(spend.id).await);
        }
        Ok(spend)
    }

    pub(super) async fn decide_part(
        &self,
        command: &WithdrawEverything,
    ) -> Result<Decision<Spend>, Error> {
        let wallet = self.load(command.wallet).await?;
        let descriptors = self.descriptors(&wallet.value)?;
        let fee_sat_per_kvb = self.fee_or_usual(command.fee_sat_per_kvb).await?;
        let mut required = Vec::new();
        for (version, coin) in self.free(command.wallet).await? {
            if coin.amount_sat > psbt::input_fee(&descriptors, coin.keychain, fee_sat_per_kvb)? {
                required.push((version, coin));
            }
        }
        required.sort_by_key(|(_, coin)| std::cmp::Reverse(coin.amount_sat));
        required.truncate(command.coins_in_one());
        let (address, amount_sat) = (command.address.clone(), 0);
        self.decide_spend(Draft {
            wallet: &wallet,
            required,
            optional: Vec::new(),
            outputs: vec![SpendOutput {
                address,
                amount_sat,
            }],
            is_everything: true,
            fee_sat_per_kvb,
            replaces: None,
            refund: None,
        })
        .await
    }
}

impl WithdrawEverything {
    fn coins_in_one(&self) -> usize {
        self.max_coins
            .map_or(MAX_COINS, |most| usize::try_from(most).unwrap_or(0))
    }
}

/// The key of one of a withdrawal's spends.
fn part_key(key: &IdempotencyKey, number: usize) -> Result<IdempotencyKey, Error> {
    let digest = Sha256::digest(key.to_string());
    Ok(format!("{}.{number}", hex::encode(digest)).parse()?)
}

/// Nothing is left that is worth sending, or not for the fee that it would take now.
pub(super) fn is_nothing(error: &Error) -> bool {
    matches!(
        error,
        Error::Wallet(WalletError::InsufficientFunds { .. } | WalletError::FeeTooHigh { .. })
            | Error::Chain(ChainError::Dust { .. })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_key_of_its_own_whatever_the_command_is_called() {
        let longest: IdempotencyKey = "k".repeat(128).parse().unwrap();
        let short: IdempotencyKey = "k".parse().unwrap();
        let keys = [
            part_key(&longest, 0).unwrap(),
            part_key(&longest, 1).unwrap(),
            part_key(&short, 0).unwrap(),
        ];
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
    }
}
