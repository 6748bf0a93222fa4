//! Pure decisions about receipts: no I/O, no clock.

use jiff::tz::TimeZone;

use super::lines::{self, Sold};
use super::model::{Receipt, ReceiptKind, ReceiptPayment, ReceiptRate, ReceiptSettings};
use crate::invoices::{Invoice, InvoicePaymentState, InvoiceState, MarkedAs, Rail};
use crate::money::Quote;

const VERSION: u32 = 1;

/// What a receipt is issued with, beside the invoice.
pub(super) struct Issue<'a> {
    pub(super) number: u64,
    pub(super) kind: ReceiptKind,
    pub(super) network: &'a str,
    pub(super) now_ms: i64,
    pub(super) settings: &'a ReceiptSettings,
    pub(super) zone: &'a TimeZone,
    /// The merchant's name; empty for the operator.
    pub(super) seller: &'a str,
}

/// The receipt of an invoice as it stands.
pub(super) fn compose(invoice: &Invoice, issue: &Issue<'_>) -> Receipt {
    let taxes = invoice.options.lines.iter().map(|line| line.tax_minor);
    let mut receipt = Receipt {
        version: VERSION,
        number: issue.number,
        kind: issue.kind,
        merchant: invoice.purpose.merchant(),
        invoice: invoice.id,
        network: issue.network.to_owned(),
        issued_at_ms: issue.now_ms,
        language: issue.settings.language,
        time_zone: issue.settings.time_zone.clone(),
        order_reference: invoice.options.order_reference.clone(),
        description: invoice.description.clone(),
        description_hash: invoice.description_hash.clone(),
        price: invoice.price,
        amount_msat: invoice.amount_msat,
        tax_minor: taxes.fold(0, i64::saturating_add),
        tip_minor: invoice.options.tip_minor,
        rate: invoice.quote.as_ref().map(rate),
        payments: payments(invoice),
        overpaid_msat: invoice.flags.overpaid_msat,
        underpaid_msat: invoice.flags.underpaid_msat,
        refunded_msat: invoice.flags.refunded_msat,
        reorged_msat: invoice.flags.reorged_msat,
        marked_paid_at_ms: marked_paid_at_ms(invoice),
        lines: Vec::new(),
    };
    let sold = Sold {
        settings: issue.settings,
        seller: issue.seller,
        items: &invoice.options.lines,
        tax_included: invoice.options.tax_included,
    };
    receipt.lines = lines::write(&receipt, &sold, issue.zone);
    receipt
}

fn rate(quote: &Quote) -> ReceiptRate {
    ReceiptRate {
        rate: quote.rate,
        currency: quote.currency,
        source: quote.source.clone(),
        observed_at_ms: quote.observed_at_ms,
    }
}

/// The payments that are booked. What is in suspense is nobody's yet.
fn payments(invoice: &Invoice) -> Vec<ReceiptPayment> {
    let booked = invoice
        .payments
        .iter()
        .filter(|payment| payment.state == InvoicePaymentState::Settled && !payment.suspended);
    let address = invoice.on_chain.as_ref().map(|rail| rail.address.clone());
    booked
        .map(|payment| ReceiptPayment {
            rail: payment.rail,
            reference: payment.reference.clone(),
            amount_msat: payment.amount_msat,
            at_ms: payment.at_ms,
            address: address.clone().filter(|_| payment.rail == Rail::OnChain),
        })
        .collect()
}

fn marked_paid_at_ms(invoice: &Invoice) -> Option<i64> {
    let mark = invoice.flags.marked.as_ref();
    let paid = mark.filter(|mark| mark.as_state == MarkedAs::Settled);
    paid.map(|mark| mark.at_ms)
}

/// True when a receipt that was issued no longer says how the invoice stands.
pub(super) fn is_outdated(issued: &Receipt, invoice: &Invoice) -> bool {
    let flags = &invoice.flags;
    issued.payments != payments(invoice)
        || issued.refunded_msat != flags.refunded_msat
        || issued.reorged_msat != flags.reorged_msat
        || issued.marked_paid_at_ms != marked_paid_at_ms(invoice)
}

/// True when a change of an invoice is one that its seller owes a receipt for.
pub(super) fn is_news(before: &Invoice, after: &Invoice) -> bool {
    let settled = |invoice: &Invoice| invoice.state == InvoiceState::Settled;
    settled(before) != settled(after)
        || before.flags.refunded_msat != after.flags.refunded_msat
        || (settled(after) && payments(before) != payments(after))
}
