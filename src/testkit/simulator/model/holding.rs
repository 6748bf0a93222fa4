//! Hold invoices: what is set aside for them, over the network and in the books, and taken or given
//! back later.

use super::invoices::{KnownInvoice, Standing, record};
use super::{Model, Truth, Wrong, not_lawful, parse, wrong};
use crate::ids::InvoiceId;
use crate::ledger::Account;
use crate::lightning::{PaymentDirection, PaymentHash, PaymentState};
use crate::testkit::simulator::tally::Transition;

/// So many blocks before it cannot be claimed any more, a payment goes back.
const MARGIN_BLOCKS: u32 = 6;

/// How many blocks may come between a decision and its commit.
const SLACK_BLOCKS: u32 = 2;

impl Model {
    /// What is set aside for an invoice may be taken from now on.
    pub(crate) fn ask_invoice_capture(&mut self, invoice: InvoiceId) {
        if let Some(invoice) = self.invoices.get_mut(&invoice) {
            invoice.is_captured = true;
        }
    }

    /// An invoice may be ended from now on.
    pub(crate) fn ask_cancel(&mut self, invoice: InvoiceId) {
        self.cancelling.insert(invoice);
    }

    pub(super) fn cancelled(
        &mut self,
        id: InvoiceId,
        invoice: &mut KnownInvoice,
    ) -> Result<(), Wrong> {
        if !self.cancelling.contains(&id) || invoice.is_cancelled {
            return wrong(
                "nothing happens that nobody asked for",
                "an invoice cancelled",
            );
        }
        invoice.is_cancelled = true;
        Ok(())
    }

    /// A payment that is set aside, or was: it stands otherwise now.
    pub(super) fn set_aside(
        &mut self,
        invoice: &KnownInvoice,
        at: usize,
        from: Standing,
        truth: &Truth<'_>,
    ) -> Result<(), Wrong> {
        let payment = &invoice.payments[at];
        let hash: PaymentHash = parse(&payment.reference)?;
        let transition = match payment.is_book {
            true => self.set_aside_in_books((invoice, at), from, hash, truth)?,
            false => self.set_aside_by_network((invoice, at), from, hash, truth)?,
        };
        self.fire(transition);
        Ok(())
    }

    fn set_aside_in_books(
        &mut self,
        (invoice, at): (&KnownInvoice, usize),
        from: Standing,
        hash: PaymentHash,
        truth: &Truth<'_>,
    ) -> Result<Transition, Wrong> {
        let payment = &invoice.payments[at];
        let (credit, amount_msat) = (payment.credit, payment.amount_msat);
        match (from, payment.standing) {
            (Standing::Void, Standing::Authorized) => {
                self.book_of_card(invoice, at);
                Ok(Transition::HeldByBook)
            }
            (Standing::Authorized, Standing::Settled) if invoice.is_captured => {
                let payer = self.payer_of(hash)?;
                self.books.pend(payer, credit, -amount_msat);
                self.books.post(payer, credit, amount_msat);
                self.net(invoice.owner, credit, payment.counted_msat);
                self.go_on(credit);
                Ok(Transition::HeldByBookTaken)
            }
            (Standing::Authorized, Standing::Void) => {
                let is_over = truth.latest_ms >= payment.held_until_ms;
                if !is_over && !invoice.is_cancelled {
                    return not_lawful("given back before its time");
                }
                let payer = self.payer_of(hash)?;
                self.books.pend(payer, credit, -amount_msat);
                Ok(match invoice.is_cancelled {
                    true => Transition::HeldByBookReturned,
                    false => Transition::HeldByBookOver,
                })
            }
            (_, to) => not_lawful(format!("from {from:?} to {to:?} in the books")),
        }
    }

    fn set_aside_by_network(
        &mut self,
        (invoice, at): (&KnownInvoice, usize),
        from: Standing,
        hash: PaymentHash,
        truth: &Truth<'_>,
    ) -> Result<Transition, Wrong> {
        let payment = &invoice.payments[at];
        let (node, credit) = (Account::node_channels(), payment.credit);
        let deadline = truth.port.deadline(hash).unwrap_or(u32::MAX);
        match (from, payment.standing) {
            (Standing::Void, Standing::Authorized) => {
                self.books.pend(node, credit, payment.amount_msat);
                Ok(Transition::HeldByNetwork)
            }
            (Standing::Authorized, Standing::Pending) if invoice.is_captured => {
                // Blocks that came while it was decided and committed are nobody's fault.
                if truth.height > deadline.saturating_add(SLACK_BLOCKS) {
                    return wrong("nothing is claimed too late", "a hold invoice captured");
                }
                Ok(Transition::HeldByNetworkTaken)
            }
            (Standing::Authorized, Standing::Returning) => {
                let is_near = truth.height + MARGIN_BLOCKS >= deadline;
                match (invoice.is_cancelled, is_near) {
                    (true, _) => Ok(Transition::HeldByNetworkCancelled),
                    (false, true) => Ok(Transition::HeldByNetworkOver),
                    (false, false) => not_lawful("given back before its time"),
                }
            }
            (Standing::Returning, Standing::Void) => {
                let is_kept = match record(truth, hash, PaymentDirection::Inbound) {
                    Some(record) if record.state == PaymentState::Pending => {
                        !truth.port.has_given_back(hash)
                    }
                    Some(record) => record.state == PaymentState::Succeeded,
                    None => false,
                };
                if is_kept {
                    return wrong("what is given back has gone back", "a hold invoice");
                }
                self.books.pend(node, credit, -payment.amount_msat);
                Ok(Transition::HeldByNetworkReturned)
            }
            (_, to) => not_lawful(format!("from {from:?} to {to:?}")),
        }
    }
}
