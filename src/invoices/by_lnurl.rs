//! An invoice that somebody asked for at a card's address.

use super::model::{Invoice, InvoicePurpose, InvoiceState};
use super::options::InvoiceOptions;
use super::payment::InvoiceFlags;
use super::{Invoices, steps};
use crate::Error;
use crate::cards;
use crate::ids::{CardId, InvoiceId};
use crate::money::Price;

/// LUD-06 has wallets pay at once; this is for one that asks its owner first.
const EXPIRY_SECONDS: u32 = 3_600;

impl Invoices {
    /// An invoice for exactly this amount, whose payment goes on a card; `description_hash` is of
    /// the metadata that the payer was shown. Nobody needs a credential for it, and who asks twice
    /// gets two.
    pub(crate) async fn top_up_by_lnurl(
        &self,
        card: CardId,
        amount_msat: i64,
        description_hash: String,
        address: Option<&str>,
    ) -> Result<Invoice, Error> {
        let core = &self.core;
        let price = Price::Bitcoin { amount_msat };
        price.validate()?;
        let now_ms = core.clock.now_ms();
        let id = core.new_id(InvoiceId::from_parts)?;
        let mut invoice = Invoice {
            id,
            purpose: InvoicePurpose::TopUp { card },
            price: Some(price),
            amount_msat,
            quote: None,
            description: "Card top-up".to_owned(),
            payment_hash: core.secrets.preimage(id).payment_hash(),
            bolt11: String::new(),
            state: InvoiceState::New,
            created_at_ms: now_ms,
            expires_at_ms: now_ms.saturating_add(i64::from(EXPIRY_SECONDS) * 1_000),
            received_msat: 0,
            options: InvoiceOptions::default(),
            flags: InvoiceFlags::default(),
            payments: Vec::new(),
            lightning: Vec::new(),
            offer: None,
            on_chain: None,
            unavailable: Vec::new(),
            refund_due_msat: 0,
            sequence: 1,
            hold: None,
            top_up_address: address.map(str::to_owned),
            description_hash: Some(description_hash),
        };
        // Made before the commit: without one nobody learns of it, and it cannot be claimed.
        let rails = self.make_rails(&mut invoice, EXPIRY_SECONDS).await?;
        core.settle(|| async {
            let (_, mut batch) = cards::admit_top_up(core, card, address).await?;
            batch.extend(rails.clone());
            batch.extend(steps::create(&invoice)?);
            Ok(Some(batch))
        })
        .await?;
        Ok(invoice)
    }
}
