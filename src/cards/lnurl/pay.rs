//! LNURL-pay: topping a card up.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::query::LnurlQuery;
use super::{LnurlReply, base};
use crate::Error;
use crate::cards::boltcard::TapError;
use crate::cards::error::CardError;
use crate::cards::payment_error::CardPaymentError;
use crate::cards::{Cards, current, load_active, programs, top_up_address};
use crate::ids::CardId;
use crate::invoices::Invoices;
use crate::money::{Asset, MAX_MSAT};

/// What the payer's wallet shows, and what the invoice commits to: LUD-06 hashes exactly this.
const METADATA: &str = r#"[["text/plain","Card top-up"]]"#;
const MIN_SENDABLE_MSAT: i64 = 1_000;

/// LUD-06.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PayRequest<'a> {
    tag: &'a str,
    min_sendable: i64,
    max_sendable: i64,
    metadata: &'a str,
    callback: &'a str,
    comment_allowed: u32,
}

#[derive(Serialize)]
struct PayReply {
    pr: String,
    routes: [String; 0],
}

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
            Ok((card, _)) => Ok(card.value.id),
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

    async fn top_up_by_lnurl(
        &self,
        card: CardId,
        query: &LnurlQuery,
        callback: &str,
        address: Option<&str>,
    ) -> Result<LnurlReply, Error> {
        let card = current(&self.core, card).await?.value.id;
        let max_sendable = self.room(card).await?;
        if max_sendable < MIN_SENDABLE_MSAT {
            return Err(CardPaymentError::Full { card }.into());
        }
        let malformed = |_| CardPaymentError::AmountNotWithinBounds {
            min_msat: MIN_SENDABLE_MSAT,
            max_msat: max_sendable,
        };
        let Some(amount) = query.one("amount").map_err(malformed)? else {
            return Ok(LnurlReply::json(
                200,
                &PayRequest {
                    tag: "payRequest",
                    min_sendable: MIN_SENDABLE_MSAT,
                    max_sendable,
                    metadata: METADATA,
                    callback,
                    comment_allowed: 0,
                },
            ));
        };
        let amount_msat = amount.parse::<i64>().ok();
        let amount_msat = amount_msat
            .filter(|amount| (MIN_SENDABLE_MSAT..=max_sendable).contains(amount))
            .ok_or(CardPaymentError::AmountNotWithinBounds {
                min_msat: MIN_SENDABLE_MSAT,
                max_msat: max_sendable,
            })?;
        let hash = hex::encode(Sha256::digest(METADATA));
        let invoices = Invoices::new(self.core.clone());
        let made = invoices.top_up_by_lnurl(card, amount_msat, hash, address);
        let pr = made.await?.bolt11;
        Ok(LnurlReply::json(200, &PayReply { pr, routes: [] }))
    }

    /// How much more may be on a card, what is on its way there counted.
    async fn room(&self, card: CardId) -> Result<i64, Error> {
        let card = load_active(&self.core, card).await?.value;
        // In another unit it is looked at when the money arrives.
        if card.unit != Asset::Btc {
            return Ok(MAX_MSAT);
        }
        let (ceiling_msat, _) = programs::ceiling(&self.core, &card).await?;
        let Some(ceiling_msat) = ceiling_msat else {
            return Ok(MAX_MSAT);
        };
        let account = card.balance_account();
        let balance = self.core.balance(&account).await?;
        let highest = balance.highest(account.kind().side());
        let room = i128::from(ceiling_msat).saturating_sub(highest);
        Ok(i64::try_from(room).unwrap_or(0).max(0))
    }
}
