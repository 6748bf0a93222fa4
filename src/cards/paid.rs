//! What became of a card's payments: as they are read, as a person says it, as the node tells it.

use super::Cards;
use super::life::require_reader_or_main;
use super::payment_model::{CardPayment, ResolveCardPayment};
use super::payment_rules as rules;
use crate::Error;
use crate::access::Credential;
use crate::core::Answer;
use crate::ids::{CardId, CardPaymentId};
use crate::payments::Said;

impl Cards {
    /// A payment of a card as it stands now. The card's holder or that of a card in its place, of a
    /// family card the main card's as well; a till of its merchant; or the issuer.
    ///
    /// # Errors
    /// `card.payment_not_found`, `access.*`.
    pub async fn get_payment(
        &self,
        credential: &Credential,
        payment: CardPaymentId,
    ) -> Result<Answer<CardPayment>, Error> {
        let caller = self.core.authenticate(credential).await?;
        let as_of_ms = self.core.clock.now_ms();
        let id = payment.to_string();
        let value = self.payments.load::<CardPayment>(&id).await?.value;
        match value.merchant {
            Some(merchant) if caller.require_seller(merchant).is_ok() => {}
            _ => require_reader_or_main(&self.core, &caller, value.card).await?,
        }
        Ok(Answer { as_of_ms, value })
    }

    /// The payments of a card, oldest first, after the payment `after`; at most `limit` (1 to
    /// 1,000). Whoever may read the card, as for [`get_payment`](Self::get_payment).
    ///
    /// # Errors
    /// `access.*`.
    pub async fn list_payments(
        &self,
        credential: &Credential,
        card: CardId,
        after: Option<CardPaymentId>,
        limit: usize,
    ) -> Result<Answer<Vec<CardPayment>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        require_reader_or_main(&self.core, &caller, card).await?;
        let as_of_ms = self.core.clock.now_ms();
        let (key, after) = (card.to_string(), after.map(|id| id.to_string()));
        let found = self
            .core
            .list(rules::PAYMENTS, "card", &key, after, limit)
            .await?;
        Ok(Answer {
            as_of_ms,
            value: found,
        })
    }

    /// A person says what became of a payment that the node cannot tell about any more. Should
    /// the node tell later that it arrived after all, that is booked against suspense. Issuer only.
    ///
    /// # Errors
    /// `card.payment_not_found`, `card.payment_final`, `card.payment_in_flight` when it is to be
    /// `failed` and the node's record says otherwise, `command.*`, `access.*`.
    pub async fn resolve_payment(
        &self,
        credential: &Credential,
        command: ResolveCardPayment,
    ) -> Result<Answer<CardPayment>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let operation = ("cards.resolve_payment", &command.key);
                let said = Said {
                    id: command.payment.to_string(),
                    outcome: command.outcome.into(),
                    reason: &command.reason,
                    asks_the_node: command.asks_the_node(),
                };
                let payments = &cards.payments;
                payments.said(&credential, operation, &command, said).await
            })
            .await
    }
}

/// What the node and the jobs say of payments.
impl Cards {
    /// The job that asks what became of a payment.
    pub(crate) async fn check_payment(&self, id: CardPaymentId) -> Result<(), Error> {
        self.payments.check::<CardPayment>(&id.to_string()).await
    }

    /// After a start: every open payment is asked about.
    pub(crate) async fn reconcile_payments(&self) -> Result<Option<Error>, Error> {
        self.payments.reconcile::<CardPayment>().await
    }
}
