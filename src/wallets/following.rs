//! Following: what the coins of a wallet say became of its spends.
//!
//! Nothing ends a spend for good. One whose block is gone is on its way again, and what it booked
//! is undone; one that was replaced, or was cancelled after it had been signed, may still be in a
//! block one day, and is then booked like any other.

use bitcoin::{ScriptBuf, Transaction, Witness};

use super::looking::spending;
use super::model::{Coin, Spend, SpendState, WalletOwner};
use super::sending::{again, leaves_msat, leaving};
use super::spends::{txid_of, write_spend};
use super::watching::corrupt;
use super::{COINS, SPENDS, Wallets, rules};
use crate::Error;
use crate::chain::View;
use crate::core::{Loaded, emit};
use crate::ids::{SpendId, TransferId};
use crate::ledger::{Account, NewReversal, NewTransfer, Step, TransferKind};
use crate::store::DocumentQuery;

/// The most spends that replaced one another, and the most of one transaction.
const MAX_REPLACED: usize = 20;

impl Wallets {
    /// The steps for the spends that a coin tells of, which was `before` and is `coin` now: those
    /// it was set aside for, and whichever has the transaction that spends it, or did.
    pub(super) async fn follow_spends(
        &self,
        before: Option<&Coin>,
        coin: &mut Coin,
        view: &View,
    ) -> Result<Vec<Step>, Error> {
        let concerned = self.concerned(before, coin, spending(coin, view)).await?;
        // What is no more is spent by nothing.
        let spent_by = coin.spent_by.clone();
        let spent_by = spent_by.filter(|_| rules::lost_in(coin).is_none());
        let is_its = |spend: &Spend| {
            let by = spent_by.as_ref();
            by.is_some_and(|by| txid_of(spend).as_ref() == Some(&by.txid))
        };
        // Two that were prepared alike have one transaction, which is booked once.
        let its = concerned.iter().filter(|spend| is_its(&spend.value));
        let its = its.min_by_key(|spend| (rank(spend.value.state), spend.value.id));
        let its = its.map(|spend| spend.value.id);
        let is_in_block = rules::lost_in(coin).is_some()
            || coin.spent_by.as_ref().is_some_and(|by| by.block.is_some());
        let mut spends: Vec<Spend> = concerned.iter().map(|spend| spend.value.clone()).collect();
        let mut news = Vec::new();
        for spend in concerned {
            let is_the_one = its == Some(spend.value.id);
            if is_its(&spend.value) && !is_the_one {
                continue;
            }
            if let Some(state) = next(spend.value.state, is_the_one, is_in_block) {
                news.push((spend, state));
            }
        }
        if coin.reserved_by.is_none() {
            coin.reserved_by = its;
        }
        let is_lost = |news: &&(Loaded<Spend>, SpendState)| news.1 == SpendState::Replaced;
        let lost: Vec<SpendId> = news
            .iter()
            .filter(is_lost)
            .map(|(lost, _)| lost.value.id)
            .collect();
        let mut steps = Vec::new();
        for (spend, state) in &news {
            steps.extend(self.brought_to(spend, *state, coin.first_seen_ms).await?);
            if *state == SpendState::Replaced {
                steps.extend(self.set_free(&spend.value, &lost, Some(&mut *coin)).await?);
            }
        }
        for spend in &mut spends {
            let new = news.iter().find(|(new, _)| new.value.id == spend.id);
            spend.state = new.map_or(spend.state, |(_, state)| *state);
        }
        let followed = self.refunds_followed(&spends, Some(&*coin), Some(view.tip));
        steps.extend(followed.await?);
        Ok(steps)
    }

    async fn concerned(
        &self,
        before: Option<&Coin>,
        coin: &Coin,
        spending: Option<&Transaction>,
    ) -> Result<Vec<Loaded<Spend>>, Error> {
        let mut found: Vec<Loaded<Spend>> = Vec::new();
        let mut next = coin.reserved_by;
        for _ in 0..MAX_REPLACED {
            let Some(id) = next else { break };
            let spend = self.load_spend(id).await?;
            next = spend.value.replaces;
            found.push(spend);
        }
        let then = before.and_then(|before| before.spent_by.as_ref());
        let by = [coin.spent_by.as_ref(), then].into_iter().flatten();
        let unsigned = spending.map(unsigned_id);
        for txid in by.map(|by| &by.txid).chain(&unsigned) {
            let query = DocumentQuery::under(SPENDS, "transaction", txid, MAX_REPLACED);
            for (_, document) in self.core.store.documents(query).await? {
                let value: Spend = document.body.read().map_err(crate::core::unreadable)?;
                let version = document.version;
                found.push(Loaded { version, value });
            }
        }
        // A replacement has coins that what it replaces has not.
        found.retain(|spend| spend.value.coins.contains(&coin.outpoint));
        found.sort_by_key(|spend| spend.value.id);
        found.dedup_by_key(|spend| spend.value.id);
        // Signed and sent by whoever has the keys, and never given back: some signatures are part
        // of a transaction's id.
        if let (Some(transaction), Some(unsigned)) = (spending, unsigned) {
            for spend in &mut found {
                let is_it =
                    spend.value.txid.is_none() && txid_of(&spend.value).as_ref() == Some(&unsigned);
                if is_it {
                    spend.value.txid = Some(transaction.compute_txid().to_string());
                }
            }
        }
        Ok(found)
    }

    /// Brings a spend to a state, with what is booked for it, on hold and set aside there.
    async fn brought_to(
        &self,
        spend: &Loaded<Spend>,
        state: SpendState,
        again_at_ms: i64,
    ) -> Result<Vec<Step>, Error> {
        use SpendState::{Broadcast, Cancelled, Confirmed, Replaced};
        let before = &spend.value;
        let mut after = Spend {
            state,
            ..before.clone()
        };
        let mut moved = Vec::new();
        if before.state == Confirmed
            && let Some(of) = self.entry_of(before).await?
        {
            after.booked = None;
            moved.push(Step::Reverse(NewReversal {
                id: self.core.new_id(TransferId::from_parts)?,
                of,
                amount: leaves_msat(before),
                shortfall: None,
                usage: Vec::new(),
            }));
        }
        let wallet = self.load(before.wallet).await?.value;
        // What a refund sends is on hold by the refund.
        let is_ours = wallet.owner == WalletOwner::Operator && before.refund.is_none();
        match (state, before.hold) {
            (Confirmed, _) if is_ours => {
                let id = self.core.new_id(TransferId::from_parts)?;
                (after.hold, after.booked) = (None, Some(id));
                moved.push(entry(before, id));
            }
            (Broadcast, None) if is_ours => {
                let hold = self.core.new_id(TransferId::from_parts)?;
                after.hold = Some(hold);
                moved.push(leaving(&after, hold));
            }
            (Replaced, Some(hold)) => {
                after.hold = None;
                moved.push(Step::Release { hold });
            }
            _ => {}
        }
        let event = match state {
            Confirmed => "wallet.spend_confirmed",
            Replaced => "wallet.spend_replaced",
            _ => "wallet.spend_broadcast",
        };
        let mut steps = vec![write_spend(&after, spend.version)?];
        steps.extend(moved);
        steps.push(emit(event, before.id.to_string(), &after)?);
        // What nobody wanted any more is only watched.
        if state == Broadcast && before.state != Cancelled {
            steps.push(again(before.id, again_at_ms));
        }
        Ok(steps)
    }

    /// What a spend booked when a block had it, if it did.
    async fn entry_of(&self, spend: &Spend) -> Result<Option<TransferId>, Error> {
        if spend.booked.is_some() {
            return Ok(spend.booked);
        }
        // Of before spends named it: its id came from the spend's own.
        let text = spend.id.to_string();
        let digits = text.rsplit('_').next().unwrap_or("");
        let id: TransferId = format!("tr_{digits}")
            .parse()
            .map_err(|_| corrupt("an id"))?;
        Ok(self.core.store.transfer(id).await?.map(|row| row.id))
    }

    /// The steps that have a spend's coins be spent again: by what it was to replace, as long as
    /// that may come to something, or else by anyone. `lost` are spends that come to nothing in
    /// the same commit, and `writing` is a coin that is written in it anyway.
    pub(super) async fn set_free(
        &self,
        spend: &Spend,
        lost: &[SpendId],
        writing: Option<&mut Coin>,
    ) -> Result<Vec<Step>, Error> {
        let (mut heirs, mut next) = (Vec::new(), spend.replaces);
        for _ in 0..MAX_REPLACED {
            let Some(id) = next else { break };
            let heir = self.load_spend(id).await?.value;
            next = heir.replaces;
            let is_over = matches!(heir.state, SpendState::Replaced | SpendState::Cancelled);
            if !is_over && !lost.contains(&id) {
                heirs.push(heir);
            }
        }
        let heir_of = |outpoint: &String| {
            let mut heirs = heirs.iter();
            let heir = heirs.find(|heir| heir.coins.contains(outpoint));
            heir.map(|heir| heir.id)
        };
        let mut others: Vec<&String> = spend.coins.iter().collect();
        if let Some(coin) = writing {
            others.retain(|outpoint| **outpoint != coin.outpoint);
            if coin.reserved_by == Some(spend.id) {
                coin.reserved_by = heir_of(&coin.outpoint);
            }
        }
        let mut steps = Vec::new();
        for outpoint in others {
            let coin: Option<Loaded<Coin>> = self.core.load(COINS, outpoint).await?;
            if let Some(coin) = coin.filter(|coin| coin.value.reserved_by == Some(spend.id)) {
                let free = Coin {
                    reserved_by: heir_of(outpoint),
                    ..coin.value
                };
                steps.push(rules::write_coin(&free, coin.version)?);
            }
        }
        Ok(steps)
    }
}

/// The id of a transaction before it was signed.
fn unsigned_id(transaction: &Transaction) -> String {
    let mut unsigned = transaction.clone();
    for input in &mut unsigned.input {
        input.script_sig = ScriptBuf::new();
        input.witness = Witness::new();
    }
    unsigned.compute_txid().to_string()
}

/// Which of several with one transaction is the one: what is booked, then what is on its way.
fn rank(state: SpendState) -> u8 {
    match state {
        SpendState::Confirmed => 0,
        SpendState::Broadcast => 1,
        SpendState::Broadcasting => 2,
        SpendState::Refused => 3,
        SpendState::Prepared => 4,
        SpendState::Replaced => 5,
        SpendState::Cancelled => 6,
    }
}

/// Where a spend stands by what spends one of its coins now; `None` where it stands so already.
fn next(state: SpendState, is_its: bool, is_in_block: bool) -> Option<SpendState> {
    use SpendState::{Broadcast, Cancelled, Confirmed, Replaced};
    let next = match (is_its, is_in_block) {
        (true, true) => Confirmed,
        (true, false) => Broadcast,
        (false, true) if state == Cancelled => Cancelled,
        (false, true) => Replaced,
        // What was in a block and is not any more.
        (false, false) if state == Confirmed => Broadcast,
        // One that lost stays lost until it is seen: its owner may have paid by another since.
        (false, false) => state,
    };
    (next != state).then_some(next)
}

/// What leaves the books: what was on hold for it, or all at once where nothing is.
fn entry(spend: &Spend, id: TransferId) -> Step {
    let amount = leaves_msat(spend);
    match spend.hold {
        Some(hold) => Step::Capture {
            hold,
            id,
            amount,
            release_rest: true,
        },
        None => Step::Transfer(NewTransfer {
            id,
            debit: Account::operator_capital(),
            credit: Account::node_onchain(),
            amount,
            kind: TransferKind::Capital,
            reference: spend.id.to_string(),
            credit_ceiling: None,
        }),
    }
}
