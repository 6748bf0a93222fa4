//! The steps that move money, and their guards.

use super::account::Account;
use super::apply::{ApplyError, Books, Done, store};
use super::balance::{Balance, MOST_DUE_RELEASES};
use super::chart_of_accounts::Side;
use super::refusal::Refusal;
use super::state::State;
use super::transfer::{
    HoldChange, HoldChangeRow, HoldState, NewHold, NewReversal, NewTransfer, TransferKind,
    TransferRow,
};
use crate::ids::TransferId;

/// How many holds that have ended are given back at a time, and how often: it bounds a commit.
const DUE_RELEASES: usize = 64;
const DUE_RELEASE_PAGES: usize = MOST_DUE_RELEASES / DUE_RELEASES;

/// Which way a change of totals goes.
#[derive(Clone, Copy)]
enum Totals {
    Posted,
    Pending,
}

impl<S: State> Books<'_, S> {
    pub(super) fn transfer(&mut self, transfer: &NewTransfer) -> Done<S> {
        self.check_new(transfer)?;
        self.check_room(transfer)?;
        self.post(transfer.id, None, transfer, transfer.amount)
    }

    pub(super) fn transfer_up_to(&mut self, transfer: &NewTransfer) -> Done<S> {
        self.check_new(transfer)?;
        let NewTransfer { debit, credit, .. } = transfer;
        let room = self
            .room_to_debit(debit)?
            .min(self.room_to_credit(credit, transfer.credit_ceiling)?);
        let amount = at_most(transfer.amount, room);
        if amount == 0 {
            return Ok(());
        }
        self.post(transfer.id, None, transfer, amount)
    }

    pub(super) fn reverse(&mut self, reversal: &NewReversal) -> Done<S> {
        let NewReversal { of, amount, .. } = reversal;
        let Some(undone) = self.state.transfer(*of).map_err(store)? else {
            return Err(self.nothing_to_reverse(reversal)?.into());
        };
        let (back, owed) = self.check_reversal(reversal, &undone)?;
        let reversed = self.state.reversed(*of).map_err(store)?;
        let standing = undone.amount.saturating_sub(reversed);
        if *amount > standing {
            return Err(Refusal::ReversalExceeded {
                step: self.step,
                account: back.debit,
                id: *of,
                standing,
                asked: *amount,
            }
            .into());
        }
        let from_account = match &owed {
            Some(_) => at_most(*amount, self.room_to_debit(&back.debit)?),
            None => *amount,
        };
        let parts = [
            (Some(back), from_account),
            (owed, amount.saturating_sub(from_account)),
        ];
        for (transfer, amount) in parts {
            if let Some(transfer) = transfer
                && amount > 0
            {
                let transfer = NewTransfer { amount, ..transfer };
                self.check_room(&transfer)?;
                self.post(transfer.id, Some(*of), &transfer, amount)?;
            }
        }
        for window in &reversal.usage {
            self.unuse(window, *amount)?;
        }
        self.state
            .put_reversed(*of, reversed.saturating_add(*amount))
            .map_err(store)
    }

    /// The transfer that goes back, and the one that is owed where the account has too little.
    fn check_reversal(
        &mut self,
        reversal: &NewReversal,
        undone: &TransferRow,
    ) -> Result<(NewTransfer, Option<NewTransfer>), ApplyError<S::Error>> {
        let back = NewTransfer {
            id: reversal.id,
            debit: undone.credit,
            credit: undone.debit,
            amount: reversal.amount,
            kind: TransferKind::Reversal,
            reference: undone.reference.clone(),
            credit_ceiling: None,
        };
        let owed = reversal.shortfall.as_ref().map(|shortfall| NewTransfer {
            id: shortfall.id,
            debit: shortfall.receivable,
            ..back.clone()
        });
        self.check_form(&back)?;
        if let Some(owed) = &owed {
            self.check_form(owed)?;
            if owed.debit.kind().side() != Side::Debit {
                return Err(self.do_not_fit(owed).into());
            }
        }
        self.check_id(&back)?;
        if let Some(owed) = &owed {
            if owed.id == back.id {
                return Err(self.duplicate_id(owed).into());
            }
            self.check_id(owed)?;
        }
        Ok((back, owed))
    }

    /// What is wrong with a reversal of a transfer that is not there.
    fn nothing_to_reverse(
        &mut self,
        reversal: &NewReversal,
    ) -> Result<Refusal, ApplyError<S::Error>> {
        let (step, id) = (self.step, reversal.id);
        if reversal.amount <= 0 {
            return Ok(self.not_positive(reversal.amount, None));
        }
        if self.state.transfer_exists(id).map_err(store)? {
            let account = None;
            return Ok(Refusal::DuplicateId { step, account, id });
        }
        let id = reversal.of;
        Ok(Refusal::TransferNotFound { step, id })
    }

    pub(super) fn hold(&mut self, hold: &NewHold) -> Done<S> {
        let transfer = &hold.transfer;
        self.check_new(transfer)?;
        self.check_room(transfer)?;
        self.move_pending(transfer, transfer.amount)?;
        let state = HoldState {
            hold: hold.clone(),
            remaining: transfer.amount,
        };
        self.change_hold(&state, HoldChange::Held, transfer.amount)
    }

    pub(super) fn capture(
        &mut self,
        hold: TransferId,
        id: TransferId,
        amount: i64,
        release_rest: bool,
    ) -> Done<S> {
        let step = self.step;
        let found = self.state.hold(hold).map_err(store)?;
        let account = found.as_ref().map(|state| state.hold.transfer.debit);
        if amount <= 0 {
            return Err(self.not_positive(amount, account).into());
        }
        if self.state.transfer_exists(id).map_err(store)? {
            return Err(Refusal::DuplicateId { step, account, id }.into());
        }
        let mut state = self.still_open(hold, found)?;
        let account = state.hold.transfer.debit;
        if let Some(expired_at_ms) = state.hold.expires_at_ms
            && self.at_ms >= expired_at_ms
        {
            return Err(Refusal::HoldExpired {
                step,
                account,
                id: hold,
                expired_at_ms,
            }
            .into());
        }
        if amount > state.remaining {
            let remaining = state.remaining;
            return Err(Refusal::HoldExceeded {
                step,
                account,
                id: hold,
                remaining,
                asked: amount,
            }
            .into());
        }
        let transfer = state.hold.transfer.clone();
        self.move_pending(&transfer, -amount)?;
        // The guards of both accounts held when the money was set aside and have counted it
        // since, so the posting itself cannot break them.
        self.post(id, Some(hold), &transfer, amount)?;
        state.remaining -= amount;
        self.change_hold(&state, HoldChange::Captured, amount)?;
        if release_rest && state.remaining > 0 {
            self.give_back(state, HoldChange::Released)?;
        }
        Ok(())
    }

    pub(super) fn release(&mut self, hold: TransferId) -> Done<S> {
        let found = self.state.hold(hold).map_err(store)?;
        let state = self.still_open(hold, found)?;
        self.give_back(state, HoldChange::Released)
    }

    fn give_back(&mut self, mut state: HoldState, change: HoldChange) -> Done<S> {
        let rest = state.remaining;
        self.move_pending(&state.hold.transfer, -rest)?;
        state.remaining = 0;
        self.change_hold(&state, change, rest)?;
        for window in &state.hold.usage {
            self.unuse(window, rest)?;
        }
        Ok(())
    }

    fn change_hold(&mut self, state: &HoldState, change: HoldChange, amount: i64) -> Done<S> {
        self.state.put_hold(state).map_err(store)?;
        let row = HoldChangeRow {
            position: 0,
            commit: self.commit,
            hold: state.hold.clone(),
            change,
            amount,
            remaining: state.remaining,
        };
        self.digest.hold_change(&row);
        self.state.append_hold_change(&row).map_err(store)
    }

    fn still_open(&self, id: TransferId, found: Option<HoldState>) -> Result<HoldState, Refusal> {
        let account = found.as_ref().map(|state| state.hold.transfer.debit);
        let step = self.step;
        found
            .filter(|state| state.remaining > 0)
            .ok_or(Refusal::HoldNotOpen { step, account, id })
    }

    fn check_new(&mut self, transfer: &NewTransfer) -> Done<S> {
        self.check_form(transfer)?;
        self.check_id(transfer)
    }

    fn check_form(&self, transfer: &NewTransfer) -> Result<(), Refusal> {
        let NewTransfer {
            debit,
            credit,
            amount,
            ..
        } = transfer;
        if *amount <= 0 {
            return Err(self.not_positive(*amount, Some(*debit)));
        }
        if debit == credit || debit.asset() != credit.asset() {
            return Err(self.do_not_fit(transfer));
        }
        Ok(())
    }

    fn check_id(&mut self, transfer: &NewTransfer) -> Done<S> {
        if self.state.transfer_exists(transfer.id).map_err(store)? {
            return Err(self.duplicate_id(transfer).into());
        }
        Ok(())
    }

    fn duplicate_id(&self, transfer: &NewTransfer) -> Refusal {
        Refusal::DuplicateId {
            step: self.step,
            account: Some(transfer.debit),
            id: transfer.id,
        }
    }

    fn not_positive(&self, amount: i64, account: Option<Account>) -> Refusal {
        Refusal::NotPositive {
            step: self.step,
            account,
            amount,
        }
    }

    fn do_not_fit(&self, transfer: &NewTransfer) -> Refusal {
        Refusal::AccountsDoNotFit {
            step: self.step,
            debit: transfer.debit,
            credit: transfer.credit,
        }
    }

    /// Whatever loses by it must have it, and whatever gains must have room for it: the floors
    /// are looked at before the ceilings.
    fn check_room(&mut self, transfer: &NewTransfer) -> Done<S> {
        self.check_loser(transfer)?;
        self.check_gainer(transfer)
    }

    fn check_loser(&mut self, transfer: &NewTransfer) -> Done<S> {
        if transfer.debit.kind().side() == Side::Credit {
            self.check_floor(&transfer.debit, transfer.amount)?;
        }
        if transfer.credit.kind().side() == Side::Debit {
            self.check_floor(&transfer.credit, transfer.amount)?;
        }
        Ok(())
    }

    fn check_gainer(&mut self, transfer: &NewTransfer) -> Done<S> {
        let NewTransfer { debit, credit, .. } = transfer;
        let (amount, ceiling) = (transfer.amount, transfer.credit_ceiling);
        if credit.kind().side() == Side::Credit {
            self.check_ceiling(credit, amount, ceiling)?;
        }
        if debit.kind().side() == Side::Debit {
            self.check_ceiling(debit, amount, None)?;
        }
        Ok(())
    }

    /// How much an account may be debited.
    fn room_to_debit(&mut self, account: &Account) -> Result<i128, ApplyError<S::Error>> {
        match account.kind().side() {
            Side::Credit => Ok(self.spendable(account)?.unwrap_or(i128::MAX)),
            Side::Debit => self.room_below(account, None),
        }
    }

    /// How much an account may be credited.
    fn room_to_credit(
        &mut self,
        account: &Account,
        ceiling: Option<i64>,
    ) -> Result<i128, ApplyError<S::Error>> {
        match account.kind().side() {
            Side::Debit => Ok(self.spendable(account)?.unwrap_or(i128::MAX)),
            Side::Credit => self.room_below(account, ceiling),
        }
    }

    /// What lies above the account's floor, holds counted; `None` for one without a floor.
    fn spendable(&mut self, account: &Account) -> Result<Option<i128>, ApplyError<S::Error>> {
        let Some(floor) = account.kind().floor() else {
            return Ok(None);
        };
        let balance = self.without_due_holds(account)?;
        Ok(Some(
            balance.available(account.kind().side()) - i128::from(floor),
        ))
    }

    /// Gives back the holds on an account that have ended by now, whether or not a job has run;
    /// answers its totals after that.
    pub(super) fn without_due_holds(
        &mut self,
        account: &Account,
    ) -> Result<Balance, ApplyError<S::Error>> {
        let balance = self.state.balance(account).map_err(store)?;
        if balance.debits_pending == 0 && balance.credits_pending == 0 {
            return Ok(balance);
        }
        for _ in 0..DUE_RELEASE_PAGES {
            let due = self
                .state
                .due_holds(account, self.at_ms, DUE_RELEASES)
                .map_err(store)?;
            let is_last = due.len() < DUE_RELEASES;
            for state in due {
                self.give_back(state, HoldChange::Expired)?;
            }
            if is_last {
                break;
            }
        }
        self.state.balance(account).map_err(store)
    }

    /// What an account may still gain: below a ceiling, and at all.
    fn room_below(
        &mut self,
        account: &Account,
        ceiling: Option<i64>,
    ) -> Result<i128, ApplyError<S::Error>> {
        let highest = self.highest(account, ceiling.is_some())?;
        Ok(i128::from(ceiling.unwrap_or(i64::MAX)) - highest)
    }

    /// The most an account can become with what is on hold; where that is limited, without the
    /// holds that have ended.
    fn highest(
        &mut self,
        account: &Account,
        is_limited: bool,
    ) -> Result<i128, ApplyError<S::Error>> {
        let balance = if is_limited {
            self.without_due_holds(account)?
        } else {
            self.state.balance(account).map_err(store)?
        };
        Ok(balance.highest(account.kind().side()))
    }

    /// The account loses `amount`: may it?
    fn check_floor(&mut self, account: &Account, amount: i64) -> Done<S> {
        match self.spendable(account)? {
            Some(spendable) if spendable < i128::from(amount) => Err(Refusal::InsufficientFunds {
                step: self.step,
                account: *account,
                available: at_most(i64::MAX, spendable),
                needed: amount,
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// The account gains `amount`: may it?
    fn check_ceiling(&mut self, account: &Account, amount: i64, ceiling: Option<i64>) -> Done<S> {
        let after = self.highest(account, ceiling.is_some())? + i128::from(amount);
        let (step, account) = (self.step, *account);
        if let Some(ceiling) = ceiling
            && after > i128::from(ceiling)
        {
            return Err(Refusal::CeilingReached {
                step,
                account,
                ceiling,
            }
            .into());
        }
        if after > i128::from(i64::MAX) {
            return Err(Refusal::Overflow { step, account }.into());
        }
        Ok(())
    }

    /// Is the account where it must be after the steps before?
    pub(super) fn within(
        &mut self,
        account: &Account,
        lowest: Option<i64>,
        highest: Option<i64>,
    ) -> Done<S> {
        let (balance, side) = (self.without_due_holds(account)?, account.kind().side());
        let too_low = lowest.is_some_and(|lowest| balance.available(side) < i128::from(lowest));
        let too_high = highest.is_some_and(|highest| balance.highest(side) > i128::from(highest));
        if too_low || too_high {
            return Err(Refusal::OutOfBounds {
                step: self.step,
                account: *account,
                lowest,
                highest,
            }
            .into());
        }
        Ok(())
    }

    fn post(
        &mut self,
        id: TransferId,
        follows: Option<TransferId>,
        transfer: &NewTransfer,
        amount: i64,
    ) -> Done<S> {
        let debit = self.change(&transfer.debit, Side::Debit, Totals::Posted, amount)?;
        let credit = self.change(&transfer.credit, Side::Credit, Totals::Posted, amount)?;
        let row = TransferRow {
            position: 0,
            commit: self.commit,
            id,
            follows,
            at_ms: self.at_ms,
            debit: transfer.debit,
            credit: transfer.credit,
            amount,
            kind: transfer.kind,
            reference: transfer.reference.clone(),
            debit_balance_after: self.narrow(&transfer.debit, &debit)?,
            credit_balance_after: self.narrow(&transfer.credit, &credit)?,
        };
        self.digest.transfer(&row);
        self.state.append_transfer(&row).map_err(store)
    }

    fn move_pending(&mut self, transfer: &NewTransfer, amount: i64) -> Done<S> {
        self.change(&transfer.debit, Side::Debit, Totals::Pending, amount)?;
        self.change(&transfer.credit, Side::Credit, Totals::Pending, amount)?;
        Ok(())
    }

    fn change(
        &mut self,
        account: &Account,
        side: Side,
        totals: Totals,
        amount: i64,
    ) -> Result<Balance, ApplyError<S::Error>> {
        let mut balance = self.state.balance(account).map_err(store)?;
        let overflow = Refusal::Overflow {
            step: self.step,
            account: *account,
        };
        match (totals, side) {
            (Totals::Posted, Side::Debit) => balance.debits_posted += i128::from(amount),
            (Totals::Posted, Side::Credit) => balance.credits_posted += i128::from(amount),
            (Totals::Pending, side) => {
                let pending = match side {
                    Side::Debit => &mut balance.debits_pending,
                    Side::Credit => &mut balance.credits_pending,
                };
                // Below nothing only where the books were edited: more would be spendable then
                // than there is.
                let after = pending.checked_add(amount).filter(|after| *after >= 0);
                *pending = after.ok_or(overflow)?;
            }
        }
        self.state.put_balance(account, &balance).map_err(store)?;
        Ok(balance)
    }

    fn narrow(&self, account: &Account, balance: &Balance) -> Result<i64, ApplyError<S::Error>> {
        i64::try_from(balance.posted(account.kind().side())).map_err(|_| {
            Refusal::Overflow {
                step: self.step,
                account: *account,
            }
            .into()
        })
    }
}

/// As much of `amount` as there is room for, never less than nothing.
fn at_most(amount: i64, room: i128) -> i64 {
    i64::try_from(room.max(0)).map_or(amount, |room| amount.min(room))
}
