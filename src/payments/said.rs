//! What is said of payments from outside, whatever they are for: by the node, and by a person where
//! the node cannot tell.

use std::future::Future;

use serde::Serialize;

use super::Payments;
use super::model::{Outcome, Outgoing};
use crate::Error;
use crate::access::Credential;
use crate::cards::CardPayment;
use crate::core::{Answer, Decision, Executed, IdempotencyKey, check_text};
use crate::lightning::PaymentHash;
use crate::refunds::Refund;
use crate::settlement::Payout;

/// What a person says became of a payment.
pub(crate) struct Said<'a> {
    /// The id of its record.
    pub(crate) id: String,
    pub(crate) outcome: Outcome,
    /// How that is known.
    pub(crate) reason: &'a str,
    /// It must not contradict the node's record.
    pub(crate) asks_the_node: bool,
}

impl Payments {
    /// The node says that a payment of ours arrived. One that is of no kind is booked against
    /// suspense.
    pub(crate) async fn arrived_there(
        &self,
        hash: PaymentHash,
        fee_msat: Option<i64>,
    ) -> Result<(), Error> {
        let is_known = self.sent::<Payout>(hash, fee_msat).await?
            || self.sent::<CardPayment>(hash, fee_msat).await?
            || self.sent::<Refund>(hash, fee_msat).await?;
        match is_known {
            true => Ok(()),
            false => self.unexpected(hash, None, fee_msat).await,
        }
    }

    /// The node says that an attempt failed for good. Of none of ours, nothing is to be done.
    pub(crate) async fn failed_there(&self, hash: PaymentHash, reason: &str) -> Result<(), Error> {
        let _is_known = self.attempt_failed::<Payout>(hash, reason).await?
            || self.attempt_failed::<CardPayment>(hash, reason).await?
            || self.attempt_failed::<Refund>(hash, reason).await?;
        Ok(())
    }

    /// A person says what became of a payment that the node cannot tell about any more; nothing is
    /// sent meanwhile. Issuer only.
    pub(crate) async fn said<P: Outgoing, C: Serialize>(
        &self,
        credential: &Credential,
        operation: (&'static str, &IdempotencyKey),
        command: &C,
        said: Said<'_>,
    ) -> Result<Answer<P>, Error> {
        let Said {
            id,
            outcome,
            reason,
            asks_the_node,
        } = said;
        let (id, command) = (&id, &command);
        let said = |besides| {
            let decide = move || self.resolve::<P>(id, outcome, reason, (asks_the_node, besides));
            self.by_word(credential, operation, command, reason, decide)
        };
        // As where the node says so: what else belongs to it is posted where it can be.
        super::sending::with_or_without(said).await
    }

    /// The same, decided in another way: of what the node has never known.
    pub(crate) async fn by_word<P, C, F, Fut>(
        &self,
        credential: &Credential,
        (operation, key): (&'static str, &IdempotencyKey),
        command: &C,
        reason: &str,
        decide: F,
    ) -> Result<Answer<P>, Error>
    where
        P: Outgoing,
        C: Serialize,
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Decision<P>, Error>>,
    {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer()?;
        check_text("reason", reason, 200, "200 characters")?;
        let _nothing_is_sent = self.sending.take().await;
        let executed: Executed<P> = self
            .core
            .execute(&caller, operation, key, command, decide)
            .await?;
        Ok(executed.answer)
    }
}
