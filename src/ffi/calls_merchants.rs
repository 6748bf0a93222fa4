//! Calls about merchants, tills, payouts and points.

use super::{
    CreateMerchantRequest, CreatePointsProgramRequest, FlashError, Flashkit, Merchant,
    MerchantBalance, PairTillRequest, PairedTill, Payout, PayoutPage, PayoutQuote, PointsBalance,
    PointsProgram, RedeemPointsRequest, Redemption, RequestPayoutRequest, RevokeTillRequest, Till,
    TransferPage,
};

#[uniffi::export]
impl Flashkit {
    /// Takes a merchant in. Issuer only.
    ///
    /// Errors: `command.*`, `access.*`.
    pub async fn create_merchant(
        &self,
        credential: String,
        request: CreateMerchantRequest,
    ) -> Result<Merchant, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .settlement()
                .create(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// A merchant. The issuer, or one of its tills.
    ///
    /// Errors: `settlement.merchant_not_found`, `access.*`.
    pub async fn get_merchant(
        &self,
        credential: String,
        merchant_id: String,
    ) -> Result<Merchant, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .settlement()
                .get(&caller, merchant_id.parse()?)
                .await?
                .into())
        })
        .await
    }

    /// Gives a till its credential. Repeated with the same key it answers the same one. Issuer only.
    ///
    /// Errors: `settlement.merchant_not_found`, `command.*`, `access.*`.
    pub async fn pair_till(
        &self,
        credential: String,
        request: PairTillRequest,
    ) -> Result<PairedTill, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .settlement()
                .pair_till(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// Takes a till's credential away. Issuer only.
    ///
    /// Errors: `settlement.till_not_found`, `access.revoked` when it was before, `access.*`.
    pub async fn revoke_till(
        &self,
        credential: String,
        request: RevokeTillRequest,
    ) -> Result<Till, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .settlement()
                .revoke_till(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// What a merchant is owed. The issuer, or one of its tills.
    ///
    /// Errors: `settlement.merchant_not_found`, `access.*`.
    pub async fn merchant_balance(
        &self,
        credential: String,
        merchant_id: String,
    ) -> Result<MerchantBalance, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .settlement()
                .balance(&caller, merchant_id.parse()?)
                .await?
                .into())
        })
        .await
    }

    /// What moved on a merchant's account, newest first, before the position `before`; at most
    /// `limit` (1 to 1,000). The issuer, or one of its tills.
    ///
    /// Errors: `access.*`.
    #[uniffi::method(default(before = None, limit = 100))]
    pub async fn merchant_history(
        &self,
        credential: String,
        merchant_id: String,
        before: Option<i64>,
        limit: u32,
    ) -> Result<TransferPage, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let settlement = engine.settlement();
            let page = settlement
                .history(&caller, merchant_id.parse()?, before, limit)
                .await?;
            Ok(page.into())
        })
        .await
    }

    /// What a payout of everything would come to now. The issuer, or a till of the merchant.
    ///
    /// Errors: `settlement.merchant_not_found`, `access.*`.
    pub async fn quote_payout(
        &self,
        credential: String,
        merchant_id: String,
    ) -> Result<PayoutQuote, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .settlement()
                .quote_payout(&caller, merchant_id.parse()?)
                .await?
                .into())
        })
        .await
    }

    /// Pays a merchant out to its own node. The answer says how the payout stands once the node was
    /// asked; the outcome follows as an event and in `get_payout`. Issuer only.
    ///
    /// Errors: `settlement.*`, `lightning.bad_invoice`, `lightning.wrong_network`,
    /// `lightning.no_node`, `command.*`, `access.*`.
    pub async fn request_payout(
        &self,
        credential: String,
        request: RequestPayoutRequest,
    ) -> Result<Payout, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .settlement()
                .request_payout(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// A payout as it stands now. The issuer, or a till of the merchant.
    ///
    /// Errors: `settlement.payout_not_found`, `access.*`.
    pub async fn get_payout(
        &self,
        credential: String,
        payout_id: String,
    ) -> Result<Payout, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .settlement()
                .payout(&caller, payout_id.parse()?)
                .await?
                .into())
        })
        .await
    }

    /// A merchant's payouts, oldest first, after the payout `after`; at most `limit` (1 to 1,000).
    /// The issuer, or a till of the merchant.
    ///
    /// Errors: `access.*`.
    #[uniffi::method(default(after = None, limit = 100))]
    pub async fn list_payouts(
        &self,
        credential: String,
        merchant_id: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<PayoutPage, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let after = after.map(|id| id.parse()).transpose()?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let settlement = engine.settlement();
            let page = settlement
                .payouts(&caller, merchant_id.parse()?, after, limit)
                .await?;
            Ok(page.into())
        })
        .await
    }

    /// Makes a points program; the merchant's card sales earn points from now on. Issuer only.
    ///
    /// Errors: `settlement.merchant_not_found`, `reward.merchant_has_program`, `command.*`,
    /// `access.*`.
    pub async fn create_points_program(
        &self,
        credential: String,
        request: CreatePointsProgramRequest,
    ) -> Result<PointsProgram, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .rewards()
                .create(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// A points program. Any credential.
    ///
    /// Errors: `reward.program_not_found`, `access.*`.
    pub async fn get_points_program(
        &self,
        credential: String,
        program_id: String,
    ) -> Result<PointsProgram, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .rewards()
                .get(&caller, program_id.parse()?)
                .await?
                .into())
        })
        .await
    }

    /// The points on a card. Its holder, the issuer, or any till.
    ///
    /// Errors: `reward.program_not_found`, `access.*`.
    pub async fn points_balance(
        &self,
        credential: String,
        card_id: String,
        program_id: String,
    ) -> Result<PointsBalance, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let (card, program) = (card_id.parse()?, program_id.parse()?);
            Ok(engine
                .rewards()
                .points(&caller, card, program)
                .await?
                .into())
        })
        .await
    }

    /// Turns points into money on the card that has them. Its holder, or the issuer.
    ///
    /// Errors: `reward.program_not_found`, `reward.insufficient_points`, `card.frozen`,
    /// `money.not_positive`, `access.*`.
    pub async fn redeem_points(
        &self,
        credential: String,
        request: RedeemPointsRequest,
    ) -> Result<Redemption, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .rewards()
                .redeem(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }
}
