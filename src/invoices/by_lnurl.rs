//! An invoice that somebody asked for at a card's address.

use super::model::{Invoice, InvoicePurpose, InvoiceState};
use super::rules;
use crate::Error;
use crate::cards;
use crate::core::Core;
use crate::ids::{CardId, InvoiceId};
use crate::lightning::InvoiceRequest;
use crate::money::Price;

/// LUD-06 has wallets pay at once; this is for one that asks its owner first.
const EXPIRY_SECONDS: u32 = 3_600;

/// An invoice for exactly this amount, whose payment goes on a card; `description_hash` is of the
/// metadata that the payer was shown. Nobody needs a credential for it, and who asks twice gets
/// two.
pub(crate) async fn top_up_by_lnurl(
    core: &Core,
    card: CardId,
    amount_msat: i64,
    description_hash: [u8; 32],
    address: Option<&str>,
) -> Result<Invoice, Error> {
    let price = Price::Bitcoin { amount_msat };
    price.validate()?;
    let now_ms = core.clock.now_ms();
    let id = core.new_id(InvoiceId::from_parts)?;
    let payment_hash = core.secrets.preimage(id).payment_hash();
    // Made before the commit: without one nobody learns of it, and it cannot be claimed.
    let bolt11 = core
        .node()?
        .create_invoice(InvoiceRequest {
            payment_hash,
            amount_msat: Some(amount_msat),
            description: "Card top-up".to_owned(),
            description_hash: Some(description_hash),
            expiry_seconds: EXPIRY_SECONDS,
        })
        .await?;
    let invoice = Invoice {
        id,
        purpose: InvoicePurpose::TopUp { card },
        price,
        amount_msat,
        quote: None,
        description: "Card top-up".to_owned(),
        payment_hash,
        bolt11,
        state: InvoiceState::New,
        created_at_ms: now_ms,
        expires_at_ms: now_ms.saturating_add(i64::from(EXPIRY_SECONDS) * 1_000),
        received_msat: 0,
        hold: None,
        top_up_address: address.map(str::to_owned),
    };
    core.settle(|| async {
        let (_, mut steps) = cards::admit_top_up(core, card, address).await?;
        steps.extend(rules::create(&invoice)?);
        Ok(Some(steps))
    })
    .await?;
    Ok(invoice)
}
