//! Carries out a batch: the only code that changes the books.

use super::batch::{Batch, Commit, NewDocument, Step, UsageWindow};
use super::journal::{ChainHash, CommitDigest, CommitRow};
use super::refusal::Refusal;
use super::state::{Rows, State};
use super::transfer::NewHold;

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
    let place = state.commit_place().map_err(ApplyError::Store)?;
    let mut books = Books {
        state,
        at_ms,
        commit: place.position,
        digest: CommitDigest::default(),
        steps: &batch.steps,
        step: 0,
    };
    for (index, step) in batch.steps.iter().enumerate() {
        books.step = index;
        books.carry_out(step)?;
    }
    let digest = books.digest;
    let commit = Commit {
        at_ms,
        answer: batch.command.as_ref().map(|command| command.answer.clone()),
        replayed: false,
    };
    if let Some(command) = &batch.command {
        state
            .put_command(&command.scope, &command.fingerprint, &commit)
            .map_err(ApplyError::Store)?;
    }
    let mut row = CommitRow {
        position: place.position,
        writer: place.head.writer,
        sequence: place.head.sequence.saturating_add(1),
        batch: batch.id,
        at_ms,
        scope: batch.command.as_ref().map(|command| command.scope.clone()),
        hash: ChainHash::GENESIS,
    };
    row.hash = digest.seal(place.head.hash, &row);
    state.put_commit(&row, &commit).map_err(ApplyError::Store)?;
    Ok(commit)
}

/// A batch being carried out.
pub(super) struct Books<'a, S: State> {
    pub(super) state: &'a mut S,
    pub(super) at_ms: i64,
    /// The position of the commit.
    pub(super) commit: i64,
    /// Covers what is written, for the commit's hash.
    pub(super) digest: CommitDigest,
    /// All steps of the batch.
    steps: &'a [Step],
    /// The step at hand.
    pub(super) step: usize,
}

pub(super) type Done<S> = Result<(), ApplyError<<S as Rows>::Error>>;

impl<S: State> Books<'_, S> {
    fn carry_out(&mut self, step: &Step) -> Done<S> {
        match step {
            Step::Transfer(transfer) => self.transfer(transfer),
            Step::TransferUpTo(transfer) => self.transfer_up_to(transfer),
            Step::Reverse(reversal) => self.reverse(reversal),
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
            Step::Within {
                account,
                lowest,
                highest,
            } => self.within(account, *lowest, *highest),
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
            let account = None;
            return Err(Refusal::NotPositive {
                step,
                account,
                amount,
            }
            .into());
        }
        if self.at_ms < window.start_ms || self.at_ms >= window.end_ms {
            let at_ms = self.at_ms;
            return Err(Refusal::OutsideWindow {
                step,
                subject,
                at_ms,
            }
            .into());
        }
        let mut used = self.state.usage(window).map_err(store)?;
        let room = |used: i64| used.checked_add(amount).filter(|after| *after <= limit);
        if room(used).is_none() {
            self.give_back_for_later_steps()?;
            used = self.state.usage(window).map_err(store)?;
        }
        match room(used) {
            Some(after) => self.state.put_usage(window, after).map_err(store),
            None => Err(Refusal::UsageExceeded {
                step,
                subject,
                limit,
                used,
                asked: amount,
            }
            .into()),
        }
    }

    /// Gives back the holds that have ended on the accounts which later steps debit: what they
    /// used up must not stand in the way of those steps.
    fn give_back_for_later_steps(&mut self) -> Done<S> {
        for step in self.steps.iter().skip(self.step) {
            let (Step::Transfer(transfer)
            | Step::TransferUpTo(transfer)
            | Step::Hold(NewHold { transfer, .. })) = step
            else {
                continue;
            };
            self.without_due_holds(&transfer.debit)?;
        }
        Ok(())
    }

    pub(super) fn unuse(&mut self, window: &UsageWindow, amount: i64) -> Done<S> {
        if amount <= 0 {
            return Err(Refusal::NotPositive {
                step: self.step,
                account: None,
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

pub(super) fn store<E>(error: E) -> ApplyError<E> {
    ApplyError::Store(error)
}
