//! What the promises are checked with.

use std::fmt::Debug;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::{ContractViolation, FIRST_MS, FreshStore};
use crate::ids::{BatchId, CardId, MerchantId, ProgramId, TransferId};
use crate::ledger::{
    Account, Balance, Batch, CommandRecord, Commit, DueJob, NewDocument, NewEvent, NewHold,
    NewTransfer, Refusal, Step, TransferKind, UsageWindow,
};
use crate::ports::BoxFuture;
use crate::store::{
    CommitError, DocumentPosition, DocumentQuery, KeyValue, MAX_PAGE, Store, StoreError,
};

pub(super) type Kept<T = ()> = Result<T, ContractViolation>;

/// A promise in the making.
pub(super) struct Probe<'a> {
    fresh: &'a FreshStore,
    promise: &'static str,
}

pub(super) const DAY_MS: i64 = 86_400_000;

/// An id that is the same in every run.
fn random_part(number: u64) -> [u8; 10] {
    let mut random = [0; 10];
    if let Some(end) = random.last_chunk_mut() {
        *end = number.to_be_bytes();
    }
    random
}

pub(super) fn card(number: u64) -> Account {
    Account::card_balance(CardId::from_parts(1, random_part(number)))
}

pub(super) fn merchant() -> Account {
    Account::merchant_payable(MerchantId::from_parts(1, random_part(1)))
}

pub(super) fn points(number: u64) -> Account {
    let program = ProgramId::from_parts(1, random_part(1));
    Account::points_balance(CardId::from_parts(1, random_part(number)), program)
}

/// The window of one day that the clock first stands in.
pub(super) fn window(subject: &str) -> UsageWindow {
    UsageWindow {
        subject: subject.into(),
        start_ms: FIRST_MS,
        end_ms: FIRST_MS + DAY_MS,
    }
}

pub(super) fn usage(subject: &str, amount: i64, limit: i64) -> Step {
    let window = window(subject);
    Step::Use {
        window,
        amount,
        limit,
    }
}

pub(super) fn event(object: &str) -> Step {
    Step::Emit(NewEvent {
        kind: "contract.checked",
        object: object.into(),
        body: serde_json::json!({ "object": object }).into(),
    })
}

pub(super) fn claim(name: &str, by: &str) -> Step {
    let (name, by) = (name.into(), by.into());
    Step::Claim { name, by }
}

pub(super) fn advance(counter: &str, to: i64) -> Step {
    let counter = counter.into();
    Step::Advance { counter, to }
}

pub(super) fn due(kind: &str, object: &str, due_at_ms: i64) -> Step {
    let (kind, object) = (kind.into(), object.into());
    Step::Due(DueJob {
        kind,
        object,
        due_at_ms,
    })
}

pub(super) fn put(id: &str, read_version: i64, keys: &[(&'static str, &str)]) -> Step {
    Step::Put(NewDocument {
        collection: "thing",
        id: id.into(),
        read_version,
        body: serde_json::json!({ "id": id, "written": read_version + 1 }).into(),
        index_keys: keys
            .iter()
            .map(|(index, key)| (*index, (*key).into()))
            .collect(),
    })
}

pub(super) fn by_index(index: &'static str, from: &str, to: Option<&str>) -> DocumentQuery {
    DocumentQuery {
        collection: "thing",
        index,
        from: from.into(),
        to: to.map(Into::into),
        after: None,
        limit: MAX_PAGE,
    }
}

/// All of them at once: each is polled before any is waited for.
pub(super) async fn all_at_once<T>(mut futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *result = Some(ready);
            }
        }
        if results.iter().all(Option::is_some) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// Polls once: true when it is not ready yet.
pub(super) async fn is_pending<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

impl<'a> Probe<'a> {
    pub(super) fn new(fresh: &'a FreshStore, promise: &'static str) -> Self {
        Self { fresh, promise }
    }

    pub(super) fn store(&self) -> &'a dyn Store {
        self.fresh.store.as_ref()
    }

    pub(super) fn node(&self) -> &'a dyn KeyValue {
        self.fresh.key_value.as_ref()
    }

    pub(super) fn set_clock(&self, now_ms: i64) {
        self.fresh.clock.set(now_ms);
    }

    pub(super) fn id(&self) -> TransferId {
        TransferId::from_parts(1, random_part(self.fresh.number()))
    }

    pub(super) fn batch(&self, command: Option<CommandRecord>, steps: Vec<Step>) -> Batch {
        let id = BatchId::from_parts(1, random_part(self.fresh.number()));
        Batch {
            id,
            command,
            steps: steps.into(),
        }
    }

    pub(super) fn new_transfer(&self, debit: Account, credit: Account, amount: i64) -> NewTransfer {
        NewTransfer {
            id: self.id(),
            debit,
            credit,
            amount,
            kind: TransferKind::Charge,
            reference: "contract".into(),
            credit_ceiling: None,
        }
    }

    pub(super) fn transfer(&self, debit: Account, credit: Account, amount: i64) -> Step {
        Step::Transfer(self.new_transfer(debit, credit, amount))
    }

    /// A transfer that the credited account may not exceed `ceiling` by.
    pub(super) fn capped(&self, credit: Account, amount: i64, ceiling: i64) -> NewTransfer {
        NewTransfer {
            credit_ceiling: Some(ceiling),
            ..self.new_transfer(Account::node_channels(), credit, amount)
        }
    }

    /// Puts money on an account from outside.
    pub(super) fn fund(&self, account: Account, amount: i64) -> Step {
        self.transfer(Account::node_channels(), account, amount)
    }

    pub(super) fn hold(
        &self,
        debit: Account,
        credit: Account,
        amount: i64,
        expires_at_ms: Option<i64>,
    ) -> (TransferId, Step) {
        let transfer = self.new_transfer(debit, credit, amount);
        let hold = NewHold {
            transfer,
            expires_at_ms,
            usage: Vec::new(),
        };
        (hold.transfer.id, Step::Hold(hold))
    }

    pub(super) fn capture(&self, hold: TransferId, amount: i64, release_rest: bool) -> Step {
        Step::Capture {
            hold,
            id: self.id(),
            amount,
            release_rest,
        }
    }

    pub(super) fn read<T>(&self, answer: Result<T, StoreError>) -> Kept<T> {
        let promise = self.promise;
        answer.map_err(|error| ContractViolation::Failed { promise, error })
    }

    pub(super) fn done<T>(&self, answer: Result<T, CommitError>) -> Kept<T> {
        let promise = self.promise;
        answer.map_err(|error| match error {
            CommitError::Refused(refusal) => ContractViolation::Refused { promise, refusal },
            CommitError::Store(error) => ContractViolation::Failed { promise, error },
        })
    }

    pub(super) async fn commit(&self, steps: Vec<Step>) -> Kept<Commit> {
        self.done(self.store().commit(self.batch(None, steps)).await)
    }

    /// The batch must be refused with this code.
    pub(super) async fn refused(
        &self,
        what: &'static str,
        code: &'static str,
        steps: Vec<Step>,
    ) -> Kept<Refusal> {
        let answer = self.store().commit(self.batch(None, steps)).await;
        self.is_refusal(what, code, answer)
    }

    pub(super) fn is_refusal(
        &self,
        what: &'static str,
        code: &'static str,
        answer: Result<Commit, CommitError>,
    ) -> Kept<Refusal> {
        match answer {
            Err(CommitError::Refused(refusal)) => {
                self.same(what, refusal.code(), code)?;
                Ok(refusal)
            }
            other => Err(self.broken(what, &code, &other)),
        }
    }

    pub(super) fn same<T: Debug + PartialEq>(
        &self,
        what: &'static str,
        found: T,
        expected: T,
    ) -> Kept {
        if found == expected {
            return Ok(());
        }
        Err(self.broken(what, &expected, &found))
    }

    fn broken(
        &self,
        what: &'static str,
        expected: &dyn Debug,
        found: &dyn Debug,
    ) -> ContractViolation {
        ContractViolation::Broken {
            promise: self.promise,
            what,
            expected: format!("{expected:?}"),
            found: format!("{found:?}"),
        }
    }

    pub(super) async fn balance(&self, account: Account) -> Kept<Balance> {
        self.read(self.store().balance(&account).await)
    }

    /// What an account can spend.
    pub(super) async fn available(&self, account: Account) -> Kept<i128> {
        Ok(self
            .balance(account)
            .await?
            .available(account.kind().side()))
    }

    /// What is used within a window: a refusal tells, and changes nothing.
    pub(super) async fn used(&self, subject: &str) -> Kept<i64> {
        let what = "usage above its limit";
        let steps = vec![usage(subject, i64::MAX, -1)];
        match self.refused(what, "ledger.usage_exceeded", steps).await? {
            Refusal::UsageExceeded { used, .. } => Ok(used),
            other => Err(self.broken(what, &"the usage", &other)),
        }
    }

    /// All jobs, and nobody has a lease then: none counts beside one that ends when it begins.
    pub(super) async fn jobs(&self) -> Kept<Vec<DueJob>> {
        let late_ms = FIRST_MS + 1_000 * DAY_MS;
        self.read(
            self.store()
                .lease_due(late_ms, Duration::ZERO, &[], MAX_PAGE)
                .await,
        )
    }

    pub(super) async fn positions(&self, query: DocumentQuery) -> Kept<Vec<DocumentPosition>> {
        let found = self.read(self.store().documents(query).await)?;
        Ok(found.into_iter().map(|(position, _)| position).collect())
    }

    /// The ids that a query finds.
    pub(super) async fn ids(&self, query: DocumentQuery) -> Kept<Vec<String>> {
        let found = self.positions(query).await?;
        Ok(found.into_iter().map(|position| position.id).collect())
    }
}
