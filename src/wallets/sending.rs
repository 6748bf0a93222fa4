//! Signed spends: kept first, then broadcast, and followed until a block has them.

use std::collections::BTreeSet;

use bitcoin::Transaction;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};

use super::descriptor::sign;
use super::model::{Coin, Spend, SpendState, SubmitSpend, WalletOwner};
use super::spends::write_spend;
use super::watching::corrupt;
use super::{COINS, TRANSACTIONS, WalletError, Wallets, psbt, rules};
use crate::Error;
use crate::access::Credential;
use crate::chain::{BROADCAST_JOB, ChainError};
use crate::core::{Answer, Decision, Loaded, emit};
use crate::ids::{SpendId, TransferId};
use crate::ledger::{Account, DueJob, NewHold, NewTransfer, Step, TransferKind};

/// A spend of more coins is noticed by any of them in its turn.
const MAX_WARMED: usize = 50;

impl Wallets {
    /// Takes a signed PSBT back: checks that it is that of the spend and signed by enough, keeps
    /// the transaction, and broadcasts it, now and again until a block has it. What leaves a
    /// wallet of the operator's is on hold in the books until then.
    ///
    /// The answer may come before the network has it: see [`Spend::state`].
    ///
    /// # Errors
    /// `wallet.spend_not_found`, `wallet.spend_state`, `wallet.bad_psbt`, `wallet.foreign_psbt`,
    /// `wallet.not_signed`, `command.*`, `access.*`.
    pub async fn submit_spend(
        &self,
        credential: &Credential,
        command: SubmitSpend,
    ) -> Result<Answer<Spend>, Error> {
        let (wallets, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let (name, id) = ("wallets.submit_spend", command.spend);
                let decide = || wallets.decide_submit(&command);
                let executed = wallets
                    .of_spend(&credential, id, (name, &command.key), &command, decide)
                    .await?;
                if !executed.replayed {
                    // It is kept: what goes wrong now is tried again by its job.
                    drop(wallets.broadcast(id).await);
                }
                Ok(executed.answer)
            })
            .await
    }

    pub(super) async fn decide_submit(
        &self,
        command: &SubmitSpend,
    ) -> Result<Decision<Spend>, Error> {
        let spend = self.load_spend(command.spend).await?;
        let before = &spend.value;
        let (id, state) = (before.id, before.state);
        if !matches!(state, SpendState::Prepared | SpendState::Refused) {
            return Err(WalletError::SpendState { spend: id, state }.into());
        }
        let wallet = self.load(before.wallet).await?.value;
        let ours = psbt::parse(&before.psbt)?;
        let signed = match &command.psbt {
            Some(text) => psbt::parse(text)?,
            None if wallet.is_node => {
                let entropy = self.core.secrets.node_entropy();
                sign(ours.clone(), &entropy, self.network()?)?
            }
            None => {
                let reason = "no signature".to_owned();
                return Err(WalletError::NotSigned { reason }.into());
            }
        };
        let transaction = psbt::finish(&ours, signed)?;
        let txid = transaction.compute_txid().to_string();
        let mut after = Spend {
            state: SpendState::Broadcasting,
            txid: Some(txid.clone()),
            transaction: Some(serialize_hex(&transaction)),
            refusal: None,
            ..before.clone()
        };
        let mut steps = Vec::new();
        let is_held = before.hold.is_some() || before.refund.is_some();
        if wallet.owner == WalletOwner::Operator && !is_held {
            let hold = self.core.new_id(TransferId::from_parts)?;
            after.hold = Some(hold);
            steps.push(leaving(&after, hold));
        }
        steps.insert(0, write_spend(&after, spend.version)?);
        steps.push(again(id, self.core.clock.now_ms()));
        steps.push(emit("wallet.spend_signed", id.to_string(), &after)?);
        let mut warmed = BTreeSet::new();
        for outpoint in before.coins.iter().take(MAX_WARMED) {
            if let Some(coin) = self.core.load::<Coin>(COINS, outpoint).await?
                && warmed.insert(coin.value.script.clone())
            {
                steps.extend(self.mark_used(&coin.value).await?);
            }
        }
        // Its change is spent from one day.
        let kept: Option<Loaded<String>> = self.core.load(TRANSACTIONS, &txid).await?;
        if kept.is_none() {
            steps.push(rules::keep(&transaction, 0)?);
        }
        Ok(Decision {
            steps,
            answer: after,
        })
    }

    /// The job that broadcasts a spend, until a block has it or something else spends its coins. One
    /// that the network refuses waits for a person, unless it is a refund's.
    pub(crate) async fn broadcast(&self, id: SpendId) -> Result<(), Error> {
        self.sign_if_refund(id).await?;
        let spend = self.load_spend(id).await?.value;
        let wanted = match spend.state {
            SpendState::Broadcasting | SpendState::Broadcast => true,
            // A refund waits for nobody: what is refused while the mempool is full is taken later.
            SpendState::Refused => spend.refund.is_some(),
            _ => false,
        };
        let Some(transaction) = spend.transaction.as_ref().filter(|_| wanted) else {
            let (kind, object) = (BROADCAST_JOB, id.to_string());
            return self
                .core
                .commit(vec![Step::Done { kind, object }])
                .await
                .map(drop);
        };
        let at_ms = self.core.ask_again_at(spend.created_at_ms);
        self.core.commit(vec![again(id, at_ms)]).await?;
        let transaction: Transaction =
            deserialize_hex(transaction).map_err(|_| corrupt("a transaction"))?;
        let taken = match self.core.chain()?.broadcast(&transaction).await {
            Ok(()) => Ok(()),
            Err(ChainError::TransactionRefused { reason }) => Err(reason),
            // It may have been taken: asked again.
            Err(unknown) => return Err(unknown.into()),
        };
        self.core
            .settle(|| async { after_broadcast(&self.load_spend(id).await?, &taken) })
            .await
            .map(drop)
    }
}

fn after_broadcast(
    spend: &Loaded<Spend>,
    taken: &Result<(), String>,
) -> Result<Option<Vec<Step>>, Error> {
    let before = &spend.value;
    match (before.state, taken) {
        (SpendState::Broadcasting, _) | (SpendState::Refused, Ok(())) => {}
        // It was there before; that it is not taken again says nothing by itself.
        _ => return Ok(None),
    }
    let (after, event) = match taken {
        Ok(()) => (SpendState::Broadcast, "wallet.spend_broadcast"),
        Err(_) => (SpendState::Refused, "wallet.spend_refused"),
    };
    let after = Spend {
        state: after,
        refusal: taken.as_ref().err().cloned(),
        ..before.clone()
    };
    Ok(Some(vec![
        write_spend(&after, spend.version)?,
        emit(event, before.id.to_string(), &after)?,
    ]))
}

/// What leaves the wallet: all outputs but the change, and the fee.
pub(super) fn leaves_msat(spend: &Spend) -> i64 {
    let sent = spend.outputs.iter().map(|output| output.amount_sat);
    let sat = sent.fold(spend.fee_sat, u64::saturating_add);
    i64::try_from(sat.saturating_mul(1_000)).unwrap_or(i64::MAX)
}

/// The hold of what leaves a wallet of the operator's.
pub(super) fn leaving(spend: &Spend, hold: TransferId) -> Step {
    // No timeout: only what becomes of the transaction can end it.
    Step::Hold(NewHold {
        transfer: NewTransfer {
            id: hold,
            debit: Account::operator_capital(),
            credit: Account::node_onchain(),
            amount: leaves_msat(spend),
            kind: TransferKind::Capital,
            reference: spend.id.to_string(),
            credit_ceiling: None,
        },
        expires_at_ms: None,
        usage: Vec::new(),
    })
}

/// The step that has a spend broadcast (again).
pub(super) fn again(id: SpendId, due_at_ms: i64) -> Step {
    Step::Due(DueJob {
        kind: BROADCAST_JOB.to_owned(),
        object: id.to_string(),
        due_at_ms,
    })
}
