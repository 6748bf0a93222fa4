//! LNURL-pay: topping a card up.

use std::ops::RangeInclusive;

use super::base;
use crate::Error;
use crate::cards::boltcard::TapError;
use crate::cards::currency::TopUpTerms;
use crate::cards::error::CardError;
use crate::cards::payment_error::CardPaymentError;
use crate::cards::{Card, Cards, admit_top_up, current, load_active, programs, top_up_address};
use crate::exchange;
use crate::ids::{CardId, InvoiceId};
use crate::invoices::{AskedByLnurl, InvoicePurpose, Invoices};
use crate::lnurl::{
    LnurlQuery, LnurlReply, NotWithin, PayReply, PayRequest, asked_amount, description_hash,
};
use crate::money::{Asset, MAX_MSAT};

/// What the payer's wallet shows, and what the invoice commits to: LUD-06 hashes exactly this.
const METADATA: &str = r#"[["text/plain","Card top-up"]]"#;
const MIN_SENDABLE_MSAT: i64 = 1_000;

impl Cards {
    /// A card's own address, which says nothing of any tap.
    pub(super) async fn answer_top_up(&self, query: &LnurlQuery, address: &str) -> LnurlReply {
        let answered = async {
            let card = top_up_address::card_of(&self.core, address).await?;
            let callback = format!("{}/top-up/{address}", base(&self.core.settings.tap_url));
            self.top_up_by_lnurl(card, query, &callback, Some(address))
                .await
        };
        answered
            .await
            .unwrap_or_else(|error| LnurlReply::refused(&error))
    }

    /// The `p` of any tap of the card, as older apps have it: neither checked nor used up.
    pub(super) async fn answer_top_up_by_tap(&self, query: &LnurlQuery) -> LnurlReply {
        let answered = async {
            let p = query
                .one("p")
                .map_err(|_| CardPaymentError::TopUpAddressUnknown)?;
            let p = p.ok_or(CardPaymentError::TopUpAddressUnknown)?;
            let mut bytes = [0; 16];
            hex::decode_to_slice(p, &mut bytes)
                .map_err(|_| CardPaymentError::TopUpAddressUnknown)?;
            let card = self.card_of_p(&bytes).await?;
            let callback = format!("{}/pay?p={p}", base(&self.core.settings.tap_url));
            self.top_up_by_lnurl(card, query, &callback, None).await
        };
        answered
            .await
            .unwrap_or_else(|error| LnurlReply::refused(&error))
    }

    /// There is no signature to be wrong here: what is counted of a source is that it is no card's.
    async fn card_of_p(&self, p: &[u8; 16]) -> Result<CardId, Error> {
        let (source, now_ms) = (self.source.as_deref(), self.core.clock.now_ms());
        if let Some(source) = source {
            self.bad_taps.admit(source, now_ms)?;
        }
        match self.card_of(p, |_, _| Ok(())).await {
            Ok((card, _)) => self.alone_on_its_chip(&card.value).await,
            // Both say the same to whoever has read nothing but a `p`.
            Err(Error::Card(CardError::Tap(TapError::NotOurs) | CardError::NotFound)) => {
                if let Some(source) = source {
                    self.bad_taps.count(source, now_ms);
                }
                Err(CardError::Tap(TapError::NotOurs).into())
            }
            Err(error) => Err(error),
        }
    }

    /// A chip that was issued more than once has had more than one holder, and nobody can tell whose
    /// `p` it is: an app may have kept the one of a card before. One that came over again is the same
    /// holder's.
    async fn alone_on_its_chip(&self, card: &Card) -> Result<CardId, Error> {
        let all = self.all_of_hash(&card.chip).await?;
        let before = all.iter().find(|other| other.line() != card.line());
        match before {
            Some(_) => Err(CardPaymentError::TopUpAddressUnknown.into()),
            None => Ok(card.id),
        }
    }

    async fn top_up_by_lnurl(
        &self,
        card: CardId,
        query: &LnurlQuery,
        callback: &str,
        address: Option<&str>,
    ) -> Result<LnurlReply, Error> {
        let card = current(&self.core, card).await?.value.id;
        let (bounds, terms) = self.sendable(card).await?;
        let not_within = |NotWithin| CardPaymentError::AmountNotWithinBounds {
            min_msat: *bounds.start(),
            max_msat: *bounds.end(),
        };
        let Some(amount_msat) = asked_amount(query, &bounds).map_err(not_within)? else {
            let request: PayRequest<'_, ()> = PayRequest::new(&bounds, METADATA, callback);
            return Ok(LnurlReply::json(200, &request));
        };
        let core = &self.core;
        let in_currency = match terms {
            Some(terms) => Some(terms.price_of(core, amount_msat).await?),
            None => None,
        };
        let asked = AskedByLnurl {
            id: core.new_id(InvoiceId::from_parts)?,
            purpose: InvoicePurpose::TopUp { card },
            amount_msat,
            in_currency,
            description: "Card top-up".to_owned(),
            description_hash: description_hash(METADATA, ""),
            top_up_address: address.map(str::to_owned),
            pay_address: None,
            counted_under: format!("{card}/asked_top_ups"),
            per_hour: core.settings.top_up_invoices_per_hour,
        };
        let invoices = Invoices::new(core.clone());
        let made = invoices.asked_by_lnurl(asked, || async {
            let (_, guards) = admit_top_up(core, card, address, None).await?;
            Ok(guards)
        });
        let pr = made.await?.bolt11;
        Ok(LnurlReply::json(200, &PayReply::new(pr, None)))
    }

    /// The least and the most that can be sent to a card now, and how it goes on one in a currency: at
    /// the rate of now, by which nothing can be sent where there is none.
    async fn sendable(
        &self,
        card: CardId,
    ) -> Result<(RangeInclusive<i64>, Option<TopUpTerms>), Error> {
        let core = &self.core;
        let card = load_active(core, card).await?.value;
        let room = self.room(&card).await?;
        let (mut least_msat, mut terms) = (MIN_SENDABLE_MSAT, None);
        let most_msat = match card.unit {
            Asset::Fiat(unit) => {
                let now = TopUpTerms::of(core, &card, unit).await?;
                // How much more the operator gives is nobody's business who asks: but whether.
                exchange::require_left(core, unit, 1).await?;
                least_msat = least_msat.max(now.amount_msat(1)?);
                let most_msat = room.map(|room| now.most_msat(room)).transpose()?;
                terms = Some(now);
                most_msat.unwrap_or(MAX_MSAT)
            }
            _ => room.unwrap_or(MAX_MSAT),
        };
        if most_msat < least_msat {
            return Err(CardPaymentError::Full { card: card.id }.into());
        }
        Ok((least_msat..=most_msat, terms))
    }

    /// How much more may be on a card, in its unit, what is on its way there counted; `None` where
    /// nothing says so.
    async fn room(&self, card: &Card) -> Result<Option<i64>, Error> {
        let (ceiling, _) = programs::ceiling(&self.core, card).await?;
        let Some(ceiling) = ceiling else {
            return Ok(None);
        };
        let account = card.balance_account();
        let balance = self.core.balance(&account).await?;
        let highest = balance.highest(account.kind().side());
        let room = i128::from(ceiling).saturating_sub(highest);
        Ok(Some(i64::try_from(room).unwrap_or(0).max(0)))
    }
}
