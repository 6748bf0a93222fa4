//! Calls about cards.

use super::calls_charges::from_source;
use super::{
    ActivateCardRequest, Activation, Card, CardSnapshot, FlashError, Flashkit, FreezeCardRequest,
    Invoice, IssueCardRequest, ProgrammingKeys, SetCardLimitsRequest, TopUpCardRequest,
    TransferPage,
};

#[uniffi::export]
impl Flashkit {
    /// Makes a card for a chip. Issuer only.
    ///
    /// Errors: `card.bad_uid`, `card.already_issued`, `card.unknown_time_zone`, `command.*`,
    /// `access.*`.
    pub async fn issue_card(
        &self,
        credential: String,
        request: IssueCardRequest,
    ) -> Result<Card, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .issue(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// The keys that a card programmer writes on the chip with this number. Issuer only, and only
    /// until the card is activated.
    ///
    /// Errors: `card.not_found`, `card.keys_withheld`, `card.bad_uid`, `access.*`.
    pub async fn programming_keys(
        &self,
        credential: String,
        uid: String,
    ) -> Result<ProgrammingKeys, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine.cards().programming_keys(&caller, &uid).await?.into())
        })
        .await
    }

    /// Hands a card over: it can be used from now on, and its holder gets a credential. Issuer only.
    ///
    /// Errors: `card.not_found`, `card.not_active` when it was activated before, `access.*`.
    pub async fn activate_card(
        &self,
        credential: String,
        request: ActivateCardRequest,
    ) -> Result<Activation, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .activate(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// Sets what a card may do. Its holder alone.
    ///
    /// Errors: `card.not_found`, `card.unknown_time_zone`, `card.zone_changed_lately`,
    /// `command.out_of_bounds`, `access.*`.
    pub async fn set_card_limits(
        &self,
        credential: String,
        request: SetCardLimitsRequest,
    ) -> Result<Card, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .set_limits(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// Stops a card at once. Its holder, or the issuer.
    ///
    /// Errors: `card.not_found`, `card.not_active`, `card.frozen` when it is already, `access.*`.
    pub async fn freeze_card(
        &self,
        credential: String,
        request: FreezeCardRequest,
    ) -> Result<Card, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .freeze(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// Lets a frozen card be used again. Its holder alone.
    ///
    /// Errors: `card.not_found`, `card.not_active`, `access.*`.
    pub async fn unfreeze_card(
        &self,
        credential: String,
        request: FreezeCardRequest,
    ) -> Result<Card, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .unfreeze(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// An invoice whose payment goes on the card; see `create_invoice`.
    pub async fn top_up_card(
        &self,
        credential: String,
        request: TopUpCardRequest,
    ) -> Result<Invoice, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .cards()
                .top_up(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// What a tap shows: the card, its limits with what is used of them, and what moved last. The
    /// same tap can be charged afterwards, for two minutes after it was first looked at; one with
    /// a lower counter cannot be used any more. A tap is enough; no credential. `source` is
    /// whatever the host tells apart: from one that forges taps none is taken for a while.
    ///
    /// Errors: `card.tap_*`, `card.too_many_bad_taps`, `card.not_found`.
    #[uniffi::method(default(source = None))]
    pub async fn peek_card(
        &self,
        tap: String,
        source: Option<String>,
    ) -> Result<CardSnapshot, FlashError> {
        self.with_engine(|engine| async move {
            Ok(from_source(engine.cards(), source).peek(&tap).await?.into())
        })
        .await
    }

    /// A card as it stands now. Its holder, or the issuer.
    ///
    /// Errors: `card.not_found`, `access.*`.
    pub async fn get_card(
        &self,
        credential: String,
        card_id: String,
    ) -> Result<CardSnapshot, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine.cards().get(&caller, card_id.parse()?).await?.into())
        })
        .await
    }

    /// What moved on a card, newest first, before the position `before`; at most `limit` (1 to
    /// 1,000). Its holder, or the issuer.
    ///
    /// Errors: `access.*`.
    #[uniffi::method(default(before = None, limit = 100))]
    pub async fn card_history(
        &self,
        credential: String,
        card_id: String,
        before: Option<i64>,
        limit: u32,
    ) -> Result<TransferPage, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let cards = engine.cards();
            let page = cards
                .history(&caller, card_id.parse()?, before, limit)
                .await?;
            Ok(page.into())
        })
        .await
    }
}
