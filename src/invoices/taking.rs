//! Taking payments: decide, commit, claim, book.

use super::model::{Invoice, InvoicePurpose, InvoiceState};
use super::rules::{self, Arrival, Incoming};
use super::{CHECK_JOB, EXPIRE_JOB, INVOICES, Invoices};
use crate::Error;
use crate::cards::{self, Card};
use crate::core::{Loaded, emit};
use crate::ids::{InvoiceId, TransferId};
use crate::ledger::{Account, Refusal, Step};
use crate::lightning::{LightningError, PaymentDirection, PaymentHash, PaymentState};
use crate::treasury;

impl Invoices {
    async fn by_hash(&self, hash: PaymentHash) -> Result<Option<Loaded<Invoice>>, Error> {
        self.core
            .find(INVOICES, "payment_hash", &hash.to_string())
            .await
    }

    /// A payment waits: decide, commit, then claim or give it back. Called again for the same
    /// payment, it comes to the same end.
    pub(crate) async fn claimable(
        &self,
        hash: PaymentHash,
        amount_msat: i64,
        blocks_left: Option<u32>,
    ) -> Result<(), Error> {
        let accepted = self
            .core
            .settle(|| async move {
                let Some(invoice) = self.by_hash(hash).await? else {
                    return Ok(None);
                };
                let now_ms = self.core.clock.now_ms();
                let incoming = rules::incoming(&invoice.value, amount_msat, blocks_left, now_ms);
                if incoming != Incoming::Accept {
                    return Ok(None);
                }
                self.accept(&invoice).await
            })
            .await;
        match accepted {
            Ok(_) => {}
            // A guard said no (the card is full, the hash is taken by book): it goes back.
            Err(Error::Ledger(refusal)) if !refusal.should_decide_again() => {}
            Err(Error::Card(_)) => {}
            Err(error) => return Err(error),
        }
        // What stands in the books now says what is done with the payment.
        let node = self.core.node()?;
        match self.by_hash(hash).await? {
            Some(Loaded { value, .. })
                if value.state == InvoiceState::Processing && value.amount_msat == amount_msat =>
            {
                node.claim(hash, self.core.secrets.preimage(value.id), amount_msat)
                    .await?;
            }
            _ => match node.fail(hash).await {
                // The node knows nothing of it: there is nothing to give back.
                Ok(()) | Err(LightningError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            },
        }
        Ok(())
    }

    async fn accept(&self, invoice: &Loaded<Invoice>) -> Result<Option<Vec<Step>>, Error> {
        let hold = self.core.new_id(TransferId::from_parts)?;
        let mut steps = Vec::new();
        let to = match invoice.value.purpose {
            InvoicePurpose::Sale { merchant } => (Account::merchant_payable(merchant), None),
            InvoicePurpose::TopUp { card } => {
                let card: Loaded<Card> = cards::load_active(&self.core, card).await?;
                let (ceiling, held) = cards::programs::ceiling(&self.core, &card.value).await?;
                steps.extend(held);
                steps.push(cards::guard(&card));
                (card.value.balance_account(), ceiling)
            }
        };
        let check_at_ms = self.core.ask_again_at(self.core.clock.now_ms());
        steps.extend(rules::accept(invoice, hold, to, check_at_ms)?);
        Ok(Some(steps))
    }

    /// Money arrived: book it where it belongs, or in suspense.
    pub(crate) async fn received(&self, hash: PaymentHash, amount_msat: i64) -> Result<(), Error> {
        let booked = self
            .core
            .settle(|| async move {
                let now_ms = self.core.clock.now_ms();
                let id = self.core.new_id(TransferId::from_parts)?;
                let invoice = self.by_hash(hash).await?;
                match rules::arrival(hash, invoice.as_ref().map(|invoice| &invoice.value)) {
                    Arrival::Known => Ok(None),
                    Arrival::Accepted => match invoice {
                        Some(invoice) => {
                            let surplus = self.core.new_id(TransferId::from_parts)?;
                            rules::received(&invoice, amount_msat, id, surplus, now_ms)
                        }
                        None => Ok(None),
                    },
                    Arrival::Unmatched { claim: name } => {
                        let by = id.to_string();
                        let mut steps = vec![
                            Step::Claim { name, by },
                            emit("payment.unmatched", hash.to_string(), &amount_msat)?,
                        ];
                        steps.extend(treasury::suspend(id, amount_msat, hash, now_ms)?);
                        Ok(Some(steps))
                    }
                }
            })
            .await;
        match booked {
            // Told a second time.
            Err(Error::Ledger(Refusal::AlreadyClaimed { .. })) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The job that ends an invoice's time.
    pub(crate) async fn expire(&self, id: InvoiceId) -> Result<(), Error> {
        self.core
            .settle(|| async move {
                let now_ms = self.core.clock.now_ms();
                match self.load(id).await? {
                    Some(invoice) => rules::expire(&invoice, now_ms).map(Some),
                    None => Ok(Some(vec![Step::Done {
                        kind: EXPIRE_JOB,
                        object: id.to_string(),
                    }])),
                }
            })
            .await
            .map(drop)
    }

    /// The job that asks what became of a payment that is being taken.
    pub(crate) async fn check(&self, id: InvoiceId) -> Result<(), Error> {
        let Some(invoice) = self.load(id).await?.map(|invoice| invoice.value) else {
            let (kind, object) = (CHECK_JOB, id.to_string());
            let done = Step::Done { kind, object };
            return self.core.commit(vec![done]).await.map(drop);
        };
        if invoice.state == InvoiceState::Processing {
            self.core.node()?;
            let at_ms = self.core.ask_again_at(invoice.created_at_ms);
            let later = rules::check_later(&invoice, at_ms);
            self.core.commit(vec![later]).await?;
            return self.take_again(&invoice).await;
        }
        let done = rules::check_no_more(&invoice);
        self.core.commit(vec![done]).await.map(drop)
    }

    /// Claims a payment once more, or books it if the node has it.
    async fn take_again(&self, invoice: &Invoice) -> Result<(), Error> {
        if self.book_if_arrived(invoice).await? {
            return Ok(());
        }
        let preimage = self.core.secrets.preimage(invoice.id);
        let (node, hash) = (self.core.node()?, invoice.payment_hash);
        Ok(node.claim(hash, preimage, invoice.amount_msat).await?)
    }

    /// Books a payment that the node's record says has arrived. True when it does.
    pub(super) async fn book_if_arrived(&self, invoice: &Invoice) -> Result<bool, Error> {
        let hash = invoice.payment_hash;
        let record = self.core.node()?.payment(hash).await?;
        let arrived = record.filter(|record| {
            let inbound = record.direction == PaymentDirection::Inbound;
            inbound && record.state == PaymentState::Succeeded
        });
        match arrived.map(|record| record.amount_msat) {
            Some(Some(amount_msat)) => self.received(hash, amount_msat).await.map(|()| true),
            // Without an amount in the record, the event that waits in the queue has it.
            Some(None) => Ok(true),
            None => Ok(false),
        }
    }

    /// After a start: payments that were being taken are taken again. Events that wait in the
    /// node's queue say the same; whichever comes second changes nothing. One that cannot be
    /// dealt with does not keep the others waiting; its job stays and tries again.
    pub(crate) async fn reconcile(&self) -> Result<Option<Error>, Error> {
        let (mut after, mut problem) = (None, None);
        loop {
            let state = rules::state_key(InvoiceState::Processing);
            let page = self
                .core
                .list_each::<Invoice>(INVOICES, "state", state, after, 100)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(problem);
            };
            after = Some(last.clone());
            for (_, invoice) in page {
                let taken = match invoice {
                    Ok(invoice) => self.take_again(&invoice).await,
                    Err(unreadable) => Err(unreadable),
                };
                problem = taken.err().or(problem);
            }
        }
    }
}
