//! Carries out a batch: the only code that changes the books.

use super::account::Account;
use super::balance::Balance;
use super::batch::{Batch, Commit, NewDocument, Step, UsageWindow};
use super::chart_of_accounts::Side;
use super::refusal::Refusal;
use super::state::State;
use super::transfer::{HoldState, NewHold, NewTransfer, TransferRow};
use crate::ids::TransferId;

/// A batch was not carried out. The store must undo what was written of it.
#[derive(Debug)]
pub enum ApplyError<E> {
    /// A guard did not hold.
    Refused(Refusal),
    /// The store failed.
    Store(E),
}

impl<E> From<Refusal> for ApplyError<E> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Carries out `batch` as of `at_ms`, which must not be less than that of any commit before.
///
/// A batch id or a command that was done before answers what it answered then, and does nothing.
pub fn apply<S: State>(
    state: &mut S,
    batch: &Batch,
    at_ms: i64,
) -> Result<Commit, ApplyError<S::Error>> {
    if let Some(done) = state.commit_of_batch(batch.id).map_err(ApplyError::Store)? {
        return Ok(Commit {
            replayed: true,
            ..done
        });
    }
    if let Some(command) = &batch.command
        && let Some((fingerprint, done)) =
            state.command(&command.scope).map_err(ApplyError::Store)?
    {
        if fingerprint != command.fingerprint {
            return Err(Refusal::KeyReused.into());
        }
        return Ok(Commit {
            replayed: true,
            ..done
        });
    }
    let mut books = Books {
        state,
        at_ms,
        step: 0,
    };
    for (index, step) in batch.steps.iter().enumerate() {
        books.step = index;
        books.carry_out(step)?;
    }
    let answer = batch.command.as_ref().map(|command| command.answer.clone());
    let commit = Commit {
        at_ms,
        answer,
        replayed: false,
    };
    if let Some(command) = &batch.command {
        state
            .put_command(&command.scope, &command.fingerprint, &commit)
            .map_err(ApplyError::Store)?;
    }
    let scope = batch.command.as_ref().map(|command| command.scope.as_str());
    state
        .put_commit(batch.id, scope, &commit)
        .map_err(ApplyError::Store)?;
    Ok(commit)
}

/// Which way a change of totals goes.
#[derive(Clone, Copy)]
enum Totals {
    Posted,
    Pending,
}

struct Books<'a, S: State> {
    state: &'a mut S,
    at_ms: i64,
    step: usize,
}

type Done<S> = Result<(), ApplyError<<S as State>::Error>>;

impl<S: State> Books<'_, S> {
    fn carry_out(&mut self, step: &Step) -> Done<S> {
        match step {
            Step::Transfer(transfer) => self.transfer(transfer),
            Step::Hold(hold) => self.hold(hold),
            Step::Capture {
                hold,
                id,
                amount,
                release_rest,
            } => self.capture(*hold, *id, *amount, *release_rest),
            Step::Release { hold } => self.release(*hold),
            Step::Put(document) => self.put(document),
            Step::Require {
                collection,
                id,
                version,
            } => self.require(collection, id, *version),
            Step::Claim { name, by } => self.claim(name, by),
            Step::Advance { counter, to } => self.advance(counter, *to),
            Step::Use {
                window,
                amount,
                limit,
            } => self.use_window(window, *amount, *limit),
            Step::Unuse { window, amount } => self.unuse(window, *amount),
            Step::Emit(event) => self.state.append_event(event, self.at_ms).map_err(store),
            Step::Due(job) => self.state.put_due(job).map_err(store),
            Step::Done { kind, object } => self.state.remove_due(kind, object).map_err(store),
        }
    }

    fn transfer(&mut self, transfer: &NewTransfer) -> Done<S> {
        self.check_new(transfer)?;
        self.check_debit(&transfer.debit, transfer.amount)?;
        self.check_credit(&transfer.credit, transfer.amount, transfer.credit_ceiling)?;
        self.post(transfer.id, transfer, transfer.amount)
    }

    fn hold(&mut self, hold: &NewHold) -> Done<S> {
        let transfer = &hold.transfer;
        self.check_new(transfer)?;
        self.check_debit(&transfer.debit, transfer.amount)?;
        self.check_credit(&transfer.credit, transfer.amount, transfer.credit_ceiling)?;
        self.move_pending(transfer, transfer.amount)?;
        let state = HoldState {
            hold: hold.clone(),
            remaining: transfer.amount,
        };
        self.state.put_hold(&state).map_err(store)
    }

    fn capture(
        &mut self,
        hold: TransferId,
        id: TransferId,
        amount: i64,
        release_rest: bool,
    ) -> Done<S> {
        let step = self.step;
        let mut state = self.open_hold(hold)?;
        if let Some(expired_at_ms) = state.hold.expires_at_ms
            && self.at_ms >= expired_at_ms
        {
            return Err(Refusal::HoldExpired {
                step,
                id: hold,
                expired_at_ms,
            }
            .into());
        }
        if amount <= 0 {
            return Err(Refusal::NotPositive { step, amount }.into());
        }
        if amount > state.remaining {
            let remaining = state.remaining;
            return Err(Refusal::HoldExceeded {
                step,
                id: hold,
                remaining,
                asked: amount,
            }
            .into());
        }
        if self.state.transfer_exists(id).map_err(store)? {
            return Err(Refusal::DuplicateId { step, id }.into());
        }
        let freed = if release_rest {
            state.remaining
        } else {
            amount
        };
        let transfer = state.hold.transfer.clone();
        self.move_pending(&transfer, -freed)?;
        // The guards of both accounts held when the money was set aside and have counted it
        // since, so the posting itself cannot break them.
        self.post(id, &transfer, amount)?;
        state.remaining -= freed;
        self.state.put_hold(&state).map_err(store)
    }

    fn release(&mut self, hold: TransferId) -> Done<S> {
        let mut state = self.open_hold(hold)?;
        let transfer = state.hold.transfer.clone();
        self.move_pending(&transfer, -state.remaining)?;
        state.remaining = 0;
        self.state.put_hold(&state).map_err(store)
    }

    fn open_hold(&mut self, id: TransferId) -> Result<HoldState, ApplyError<S::Error>> {
        match self.state.hold(id).map_err(store)? {
            Some(state) if state.remaining > 0 => Ok(state),
            _ => Err(Refusal::HoldNotOpen {
                step: self.step,
                id,
            }
            .into()),
        }
    }

    fn check_new(&mut self, transfer: &NewTransfer) -> Done<S> {
        let (
            step,
            NewTransfer {
                id,
                debit,
                credit,
                amount,
                ..
            },
        ) = (self.step, transfer);
        if *amount <= 0 {
            return Err(Refusal::NotPositive {
                step,
                amount: *amount,
            }
            .into());
        }
        if debit == credit || debit.asset() != credit.asset() {
            return Err(Refusal::AccountsDoNotFit {
                step,
                debit: *debit,
                credit: *credit,
            }
            .into());
        }
        if self.state.transfer_exists(*id).map_err(store)? {
            return Err(Refusal::DuplicateId { step, id: *id }.into());
        }
        Ok(())
    }

    fn check_debit(&mut self, account: &Account, amount: i64) -> Done<S> {
        match account.kind().side() {
            Side::Credit => self.check_floor(account, amount),
            Side::Debit => self.check_ceiling(account, amount, None),
        }
    }

    fn check_credit(&mut self, account: &Account, amount: i64, ceiling: Option<i64>) -> Done<S> {
        match account.kind().side() {
            Side::Debit => self.check_floor(account, amount),
            Side::Credit => self.check_ceiling(account, amount, ceiling),
        }
    }

    /// The account loses `amount`: may it?
    fn check_floor(&mut self, account: &Account, amount: i64) -> Done<S> {
        let Some(floor) = account.kind().floor() else {
            return Ok(());
        };
        let balance = self.state.balance(account).map_err(store)?;
        let spendable = balance.available(account.kind().side()) - i128::from(floor);
        if spendable < i128::from(amount) {
            let available = i64::try_from(spendable.max(0)).unwrap_or(i64::MAX);
            return Err(Refusal::InsufficientFunds {
                step: self.step,
                account: *account,
                available,
                needed: amount,
            }
            .into());
        }
        Ok(())
    }

    /// The account gains `amount`: may it?
    fn check_ceiling(&mut self, account: &Account, amount: i64, ceiling: Option<i64>) -> Done<S> {
        let balance = self.state.balance(account).map_err(store)?;
        let after = balance.highest(account.kind().side()) + i128::from(amount);
        if let Some(ceiling) = ceiling
            && after > i128::from(ceiling)
        {
            let (step, account) = (self.step, *account);
            return Err(Refusal::CeilingReached {
                step,
                account,
                ceiling,
            }
            .into());
        }
        if after > i128::from(i64::MAX) {
            return Err(Refusal::Overflow {
                step: self.step,
                account: *account,
            }
            .into());
        }
        Ok(())
    }

    fn post(&mut self, id: TransferId, transfer: &NewTransfer, amount: i64) -> Done<S> {
        let debit = self.change(&transfer.debit, Side::Debit, Totals::Posted, amount)?;
        let credit = self.change(&transfer.credit, Side::Credit, Totals::Posted, amount)?;
        let row = TransferRow {
            position: 0,
            id,
            at_ms: self.at_ms,
            debit: transfer.debit,
            credit: transfer.credit,
            amount,
            kind: transfer.kind,
            reference: transfer.reference.clone(),
            debit_balance_after: self.narrow(&transfer.debit, &debit)?,
            credit_balance_after: self.narrow(&transfer.credit, &credit)?,
        };
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
                *pending = pending.checked_add(amount).ok_or(overflow)?;
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

    fn put(&mut self, document: &NewDocument) -> Done<S> {
        self.require(document.collection, &document.id, document.read_version)?;
        self.state
            .put_document(document, document.read_version + 1)
            .map_err(store)
    }

    fn require(&mut self, collection: &'static str, id: &str, version: i64) -> Done<S> {
        if self.state.document_version(collection, id).map_err(store)? == version {
            return Ok(());
        }
        Err(Refusal::Conflict {
            step: self.step,
            collection,
            id: id.into(),
        }
        .into())
    }

    fn claim(&mut self, name: &str, by: &str) -> Done<S> {
        if let Some(holder) = self.state.claim(name).map_err(store)? {
            let (step, name) = (self.step, name.into());
            return Err(Refusal::AlreadyClaimed {
                step,
                name,
                by: holder,
            }
            .into());
        }
        self.state.put_claim(name, by).map_err(store)
    }

    fn advance(&mut self, counter: &str, to: i64) -> Done<S> {
        if let Some(current) = self.state.counter(counter).map_err(store)?
            && to <= current
        {
            return Err(Refusal::CounterNotAdvanced {
                step: self.step,
                counter: counter.into(),
                current,
                given: to,
            }
            .into());
        }
        self.state.put_counter(counter, to).map_err(store)
    }

    fn use_window(&mut self, window: &UsageWindow, amount: i64, limit: i64) -> Done<S> {
        let (step, subject) = (self.step, window.subject.clone());
        if amount <= 0 {
            return Err(Refusal::NotPositive { step, amount }.into());
        }
        if self.at_ms < window.start_ms || self.at_ms >= window.end_ms {
            return Err(Refusal::OutsideWindow { step, subject }.into());
        }
        let used = self.state.usage(window).map_err(store)?;
        match used.checked_add(amount) {
            Some(after) if after <= limit => self.state.put_usage(window, after).map_err(store),
            _ => Err(Refusal::UsageExceeded {
                step,
                subject,
                limit,
                used,
                asked: amount,
            }
            .into()),
        }
    }

    fn unuse(&mut self, window: &UsageWindow, amount: i64) -> Done<S> {
        if amount <= 0 {
            return Err(Refusal::NotPositive {
                step: self.step,
                amount,
            }
            .into());
        }
        let used = self.state.usage(window).map_err(store)?;
        self.state
            .put_usage(window, used.saturating_sub(amount).max(0))
            .map_err(store)
    }
}

fn store<E>(error: E) -> ApplyError<E> {
    ApplyError::Store(error)
}
