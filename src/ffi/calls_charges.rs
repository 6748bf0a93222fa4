//! Calls about sales that are paid with cards, and about PINs.

use super::{
    AuthorizeCardRequest, CaptureChargeRequest, CardPinStatus, Charge, ChargeCardRequest,
    ChargePage, FlashError, Flashkit, RefundChargeRequest, ReleaseChargeRequest, SetCardPinRequest,
    UnlockCardPinRequest,
};
use crate::cards::Cards;

/// The handle for taps from a source.
pub(super) fn from_source(cards: Cards, source: Option<String>) -> Cards {
    match source {
        Some(source) => cards.from_source(&source),
        None => cards,
    }
}

#[uniffi::export]
impl Flashkit {
    /// Pays a sale with a tapped card: the card is debited, the merchant credited and the points
    /// given in one commit, which uses the tap up. Tills only; the merchant is the till's.
    ///
    /// Errors: `card.tap_*`, `card.too_many_bad_taps`, `card.frozen`, `card.not_active`,
    /// `card.insufficient_funds`, `card.limit_exceeded`, `card.too_many_taps`, `card.pin_required`,
    /// `card.pin_not_set`, `card.wrong_pin`, `card.pin_locked`, `money.*`, `rate.*`, `command.*`,
    /// `access.*`.
    pub async fn charge_card(
        &self,
        credential: String,
        request: ChargeCardRequest,
    ) -> Result<Charge, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let cards = from_source(engine.cards(), request.source.clone());
            Ok(cards.charge(&caller, request.try_into()?).await?.into())
        })
        .await
    }

    /// Sets money of a tapped card aside for a sale that is not done yet, and uses the tap up. It is
    /// captured or released by the charge's id, and comes back by itself when its time is up. Tills
    /// only; the merchant is the till's.
    ///
    /// Errors: `card.tap_*`, `card.too_many_bad_taps`, `card.frozen`, `card.not_active`,
    /// `card.insufficient_funds`, `card.limit_exceeded`, `card.too_many_taps`, `card.pin_required`,
    /// `card.pin_not_set`, `card.wrong_pin`, `card.pin_locked`, `money.*`, `rate.*`, `command.*`,
    /// `access.*`.
    pub async fn authorize_card(
        &self,
        credential: String,
        request: AuthorizeCardRequest,
    ) -> Result<Charge, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let cards = from_source(engine.cards(), request.source.clone());
            Ok(cards.authorize(&caller, request.try_into()?).await?.into())
        })
        .await
    }

    /// Takes what was authorised, or less of it: the rest is given back. A till of the merchant, or
    /// the issuer.
    ///
    /// Errors: `card.charge_not_found`, `card.charge_not_open`, `card.authorization_expired`,
    /// `card.capture_exceeds_hold`, `money.not_positive`, `command.*`, `access.*`.
    pub async fn capture_charge(
        &self,
        credential: String,
        request: CaptureChargeRequest,
    ) -> Result<Charge, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .capture(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// Gives back all that was authorised. A till of the merchant, or the issuer.
    ///
    /// Errors: `card.charge_not_found`, `card.charge_not_open`, `card.authorization_expired`,
    /// `command.*`, `access.*`.
    pub async fn release_charge(
        &self,
        credential: String,
        request: ReleaseChargeRequest,
    ) -> Result<Charge, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .release(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// Undoes a charge or a part of it, from what the merchant has here; the points of that part go
    /// back. A till of the merchant, or the issuer.
    ///
    /// Errors: `card.charge_not_found`, `card.charge_not_captured`, `card.refund_exceeds_charge`,
    /// `card.refund_not_covered`, `card.charge_not_refundable`, `money.not_positive`, `command.*`,
    /// `access.*`.
    pub async fn refund_charge(
        &self,
        credential: String,
        request: RefundChargeRequest,
    ) -> Result<Charge, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .refund(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// A charge as it stands now. A till of its merchant, the card's holder, or the issuer.
    ///
    /// Errors: `card.charge_not_found`, `access.*`.
    pub async fn get_charge(
        &self,
        credential: String,
        charge_id: String,
    ) -> Result<Charge, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let cards = engine.cards();
            Ok(cards.get_charge(&caller, charge_id.parse()?).await?.into())
        })
        .await
    }

    /// The charges of a merchant, oldest first, after the charge `after`; at most `limit` (1 to
    /// 1,000). A till of the merchant, or the issuer.
    ///
    /// Errors: `access.*`.
    #[uniffi::method(default(after = None, limit = 100))]
    pub async fn list_charges(
        &self,
        credential: String,
        merchant_id: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<ChargePage, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let after = after.map(|id| id.parse()).transpose()?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let cards = engine.cards();
            let page = cards
                .list_charges(&caller, merchant_id.parse()?, after, limit)
                .await?;
            Ok(page.into())
        })
        .await
    }

    /// Sets a card's PIN, or changes it. From which amount on it is asked for say the card's limits.
    /// Its holder alone.
    ///
    /// Errors: `card.bad_pin`, `card.not_found`, `command.*`, `access.*`.
    pub async fn set_card_pin(
        &self,
        credential: String,
        request: SetCardPinRequest,
    ) -> Result<CardPinStatus, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .set_pin(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// Lets a PIN be tried again that was wrong too often. The card's holder, or the issuer.
    ///
    /// Errors: `card.pin_not_set`, `command.*`, `access.*`.
    pub async fn unlock_card_pin(
        &self,
        credential: String,
        request: UnlockCardPinRequest,
    ) -> Result<CardPinStatus, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .unlock_pin(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// How the PIN of a card stands. Its holder, or the issuer.
    ///
    /// Errors: `access.*`.
    pub async fn card_pin_status(
        &self,
        credential: String,
        card_id: String,
    ) -> Result<CardPinStatus, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let cards = engine.cards();
            Ok(cards.pin_status(&caller, card_id.parse()?).await?.into())
        })
        .await
    }
}
