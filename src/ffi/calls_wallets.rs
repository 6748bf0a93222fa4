//! Calls about wallets on chain.

use super::{
    AddWalletRequest, FlashError, Flashkit, ImportLabelsRequest, LabelsImported, NewAddressRequest,
    Wallet, WalletAddress, WalletBalance, WalletOwner, WalletPage,
};

#[uniffi::export]
impl Flashkit {
    /// Adds a wallet: a merchant's own, or the operator's. What it was paid before is no receipt of
    /// these books. Issuer only.
    ///
    /// Errors: `wallet.private_key`, `wallet.wrong_network`, `wallet.bad_descriptor`,
    /// `wallet.exists`, `settlement.merchant_not_found`, `chain.*`, `command.*`, `access.*`.
    pub async fn add_wallet(
        &self,
        credential: String,
        request: AddWalletRequest,
    ) -> Result<Wallet, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .wallets()
                .add(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// A wallet. The issuer, and whoever sells for its merchant.
    ///
    /// Errors: `wallet.not_found`, `access.*`.
    pub async fn get_wallet(
        &self,
        credential: String,
        wallet_id: String,
    ) -> Result<Wallet, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .wallets()
                .get(&caller, wallet_id.parse()?)
                .await?
                .into())
        })
        .await
    }

    /// The wallets of the operator or of a merchant, oldest first, after the wallet
    /// `after_wallet_id`; at most `limit` (1 to 1,000).
    ///
    /// Errors: `access.*`.
    pub async fn list_wallets(
        &self,
        credential: String,
        owner: WalletOwner,
        after_wallet_id: Option<String>,
        limit: u32,
    ) -> Result<WalletPage, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let after = after_wallet_id.map(|id| id.parse()).transpose()?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            Ok(engine
                .wallets()
                .list(&caller, owner.try_into()?, after, limit)
                .await?
                .into())
        })
        .await
    }

    /// What a wallet has, as far as the chain was looked at.
    ///
    /// Errors: `wallet.not_found`, `access.*`.
    pub async fn wallet_balance(
        &self,
        credential: String,
        wallet_id: String,
    ) -> Result<WalletBalance, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .wallets()
                .balance(&caller, wallet_id.parse()?)
                .await?
                .into())
        })
        .await
    }

    /// A new address of a wallet, never given out before and never again. The issuer, and whoever
    /// sells for its merchant.
    ///
    /// Errors: `wallet.not_found`, `wallet.exhausted`, `wallet.addresses_used`, `chain.*`,
    /// `command.*`, `access.*`.
    pub async fn new_address(
        &self,
        credential: String,
        request: NewAddressRequest,
    ) -> Result<WalletAddress, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .wallets()
                .new_address(&caller, request.try_into()?)
                .await?
                .value
                .into())
        })
        .await
    }

    /// Takes labels in from another wallet (BIP 329), as lines of JSON: all types, and fields that are
    /// not known. Where a line is no record nothing is taken in, and the error's detail has the
    /// numbers of all such lines.
    ///
    /// Errors: `wallet.not_found`, `wallet.bad_label`, `wallet.too_many_labels`, `command.*`,
    /// `access.*`.
    pub async fn import_labels(
        &self,
        credential: String,
        request: ImportLabelsRequest,
    ) -> Result<LabelsImported, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .wallets()
                .import_labels(&caller, request.try_into()?)
                .await?
                .value
                .into())
        })
        .await
    }

    /// The labels of a wallet, for another wallet (BIP 329), as lines of JSON: those of its addresses
    /// and unspent coins, and every record that was ever taken in, with all of its fields.
    ///
    /// Errors: `wallet.not_found`, `access.*`.
    pub async fn export_labels(
        &self,
        credential: String,
        wallet_id: String,
    ) -> Result<String, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let wallets = engine.wallets();
            Ok(wallets
                .export_labels(&caller, wallet_id.parse()?)
                .await?
                .value)
        })
        .await
    }
}
