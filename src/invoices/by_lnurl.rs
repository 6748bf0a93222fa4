//! An invoice that somebody asked for at an address, of a card or of a seller.

use super::model::{Invoice, InvoicePurpose, InvoiceState};
use super::options::InvoiceOptions;
use super::payment::{InvoiceFlags, InvoicePaymentState, Rail};
use super::{Invoices, proof, rules, steps};
use crate::Error;
use crate::core::{CommandError, Core};
use crate::ids::InvoiceId;
use crate::ledger::{CalendarPeriod, CalendarZone, Step};
use crate::lightning::PaymentHash;
use crate::money::{Price, Quote};
use crate::settlement;

/// LUD-06 has wallets pay at once; this is for one that asks its owner first. Where there is a rate,
/// no longer than that holds.
const EXPIRY_SECONDS: u32 = 3_600;

/// What is asked for.
pub(crate) struct AskedByLnurl {
    pub(crate) id: InvoiceId,
    pub(crate) purpose: InvoicePurpose,
    pub(crate) amount_msat: i64,
    /// What it comes to in the unit of a card in a currency, and the rate of that.
    pub(crate) in_currency: Option<(Price, Quote)>,
    pub(crate) description: String,
    /// Of the metadata that the payer was shown: 64 hex digits.
    pub(crate) description_hash: String,
    pub(crate) top_up_address: Option<String>,
    pub(crate) pay_address: Option<String>,
    /// Whose invoices are counted, and how many there may be in an hour. Anybody can ask.
    pub(crate) counted_under: String,
    pub(crate) per_hour: u32,
}

impl Invoices {
    /// An invoice for exactly this amount. Nobody needs a credential for it, and who asks twice
    /// gets two, within the number of an hour; `guards` is what must hold when it is made.
    pub(crate) async fn asked_by_lnurl<F, Fut>(
        &self,
        asked: AskedByLnurl,
        guards: F,
    ) -> Result<Invoice, Error>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Vec<Step>, Error>>,
    {
        let core = &self.core;
        let in_bitcoin = Price::Bitcoin {
            amount_msat: asked.amount_msat,
        };
        in_bitcoin.validate()?;
        let (price, quote) = match asked.in_currency {
            Some((price, quote)) => (price, Some(quote)),
            None => (in_bitcoin, None),
        };
        let (now_ms, id) = (core.clock.now_ms(), asked.id);
        let expiry_seconds = rules::expiry(EXPIRY_SECONDS, quote.as_ref(), now_ms);
        let merchant = asked.purpose.merchant();
        let mut invoice = Invoice {
            id,
            purpose: asked.purpose,
            price: Some(price),
            amount_msat: asked.amount_msat,
            quote,
            description: asked.description,
            payment_hash: core.secrets.preimage(id).payment_hash(),
            bolt11: String::new(),
            state: InvoiceState::New,
            created_at_ms: now_ms,
            expires_at_ms: now_ms.saturating_add(i64::from(expiry_seconds) * 1_000),
            received_msat: 0,
            options: InvoiceOptions {
                rules: self.rules_of(merchant).await?,
                ..InvoiceOptions::default()
            },
            flags: InvoiceFlags::default(),
            payments: Vec::new(),
            lightning: Vec::new(),
            offer: None,
            on_chain: None,
            unavailable: Vec::new(),
            refund_due_msat: 0,
            sequence: 1,
            hold: None,
            top_up_address: asked.top_up_address,
            pay_address: asked.pay_address,
            description_hash: Some(asked.description_hash),
        };
        guards().await?;
        // In a commit of its own: for one too many, nothing is made at the node.
        let counted = self.count(&asked.counted_under, asked.per_hour)?;
        core.settle(|| async { Ok(Some(vec![counted.clone()])) })
            .await?;
        // Made before the commit: without one nobody learns of it, and it cannot be claimed.
        let rails = self.make_rails(&mut invoice, expiry_seconds).await?;
        core.settle(|| async {
            let mut batch = guards().await?;
            if let Some(merchant) = merchant {
                batch.push(settlement::guard_merchant(core, merchant).await?);
            }
            batch.extend(rails.clone());
            batch.extend(steps::create(&invoice)?);
            Ok(Some(batch))
        })
        .await?;
        Ok(invoice)
    }

    /// Counts one invoice in its hour. Guard: there are not as many yet.
    fn count(&self, under: &str, per_hour: u32) -> Result<Step, Error> {
        let zone = CalendarZone {
            name: "UTC",
            before: None,
        };
        let at_ms = self.core.commit_time_ms();
        let window = zone.window(under.to_owned(), CalendarPeriod::Hour, at_ms);
        // Only a clock beyond every calendar has no hour.
        let window = window.map_err(|_| CommandError::OutOfBounds {
            field: "now",
            bounds: "a time that a calendar has",
        })?;
        Ok(Step::Use {
            window,
            amount: 1,
            limit: per_hour.into(),
        })
    }
}

/// The secret of one of an invoice's payment hashes, once its payment is booked and the secret is
/// out; `None` before, and for one that a person said was paid.
pub(crate) fn released(core: &Core, invoice: &Invoice, hash: PaymentHash) -> Option<String> {
    let payment = invoice.payment(&hash.to_string())?;
    let by_hash = matches!(payment.rail, Rail::Lightning | Rail::Book);
    let booked = payment.state == InvoicePaymentState::Settled;
    (by_hash && booked).then(|| proof(core, invoice, hash))
}
