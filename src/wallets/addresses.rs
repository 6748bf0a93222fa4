//! Addresses: given out once each, and counted.

use super::descriptor::{self, Descriptors};
use super::model::{
    Coin, Keychain, NewAddress, Wallet, WalletAddress, WalletBalance, WalletOwner, WalletSource,
};
use super::{ADDRESSES, COINS, WalletError, Wallets, rules};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Decision, Executed, Loaded, check_text, emit, unreadable};
use crate::ids::{InvoiceId, WalletId};
use crate::ledger::Step;
use crate::store::{DocumentPosition, DocumentQuery, MAX_PAGE};

/// How long an address that was asked for by hand is looked at often: a day.
pub(super) const HOT_MS: i64 = 24 * 3_600_000;

impl Wallets {
    /// A new address of a wallet, never given out before and never again, and never paid as far as
    /// the chain's source can say: one with an index by script is asked. The issuer, and whoever
    /// sells for its merchant.
    ///
    /// # Errors
    /// `wallet.not_found`, `wallet.exhausted`, `wallet.addresses_used`, `chain.unreachable`,
    /// `chain.bad_answer`, `command.*`, `access.*`.
    pub async fn new_address(
        &self,
        credential: &Credential,
        command: NewAddress,
    ) -> Result<Answer<WalletAddress>, Error> {
        let (wallets, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                check_text("label", &command.label, 200, "200 characters")?;
                let (caller, _) = wallets.admitted(&credential, command.wallet).await?;
                let decide = || async {
                    let hot_until_ms = wallets.core.clock.now_ms().saturating_add(HOT_MS);
                    let (wallet, mut address) = wallets.fresh(command.wallet).await?;
                    address.label.clone_from(&command.label);
                    address.hot_until_ms = hot_until_ms;
                    let steps = wallets.give_out(&wallet, &address)?;
                    Ok(Decision {
                        steps,
                        answer: address,
                    })
                };
                let executed: Executed<WalletAddress> = wallets
                    .core
                    .execute_new(
                        &caller,
                        "wallets.new_address",
                        &command.key,
                        &command,
                        decide,
                    )
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// An address for an invoice, from the newest wallet of its merchant or else of the operator,
    /// with the steps that give it out; `None` where neither has one.
    pub(crate) async fn address_for(
        &self,
        invoice: InvoiceId,
        merchant: Option<crate::ids::MerchantId>,
        hot_until_ms: i64,
    ) -> Result<Option<(WalletAddress, WalletOwner, Vec<Step>)>, Error> {
        let mut wallet = None;
        if let Some(merchant) = merchant {
            let owner = WalletOwner::Merchant { merchant };
            wallet = self.core.newest_wallet(owner).await?;
        }
        if wallet.is_none() {
            wallet = self.core.newest_wallet(WalletOwner::Operator).await?;
        }
        let Some(wallet) = wallet else {
            return Ok(None);
        };
        let (wallet, mut address) = self.fresh(wallet.value.id).await?;
        address.invoice = Some(invoice);
        address.hot_until_ms = hot_until_ms;
        let steps = self.give_out(&wallet, &address)?;
        Ok(Some((address, wallet.value.owner, steps)))
    }

    /// The next address of a wallet.
    pub(super) fn next(
        &self,
        wallet: &Loaded<Wallet>,
        keychain: Keychain,
    ) -> Result<(WalletAddress, Descriptors), Error> {
        let descriptors = self.descriptors(&wallet.value)?;
        let index = rules::next_index(&wallet.value, keychain);
        let address = self.derive(&wallet.value, &descriptors, keychain, index)?;
        Ok((address, descriptors))
    }

    /// The steps that give an address out: the wallet's number goes on in the same commit.
    pub(super) fn give_out(
        &self,
        wallet: &Loaded<Wallet>,
        address: &WalletAddress,
    ) -> Result<Vec<Step>, Error> {
        let after = rules::after_giving_out(&wallet.value, address)?;
        let now_ms = self.core.clock.now_ms();
        Ok(vec![
            rules::write_wallet(&after, wallet.version)?,
            rules::write_address(address, 0, now_ms)?,
            emit(
                "wallet.address_given_out",
                address.wallet.to_string(),
                address,
            )?,
        ])
    }

    pub(super) fn descriptors(&self, wallet: &Wallet) -> Result<Descriptors, WalletError> {
        let source = WalletSource::Descriptor {
            external: wallet.external.clone(),
            change: Some(wallet.change.clone()),
        };
        Descriptors::read(&source, self.network()?)
    }

    pub(super) fn derive(
        &self,
        wallet: &Wallet,
        descriptors: &Descriptors,
        keychain: Keychain,
        index: u32,
    ) -> Result<WalletAddress, WalletError> {
        let script = descriptors.script(keychain, index)?;
        Ok(WalletAddress {
            address: descriptor::address_of(&script, self.network()?)?,
            script: script.to_hex_string(),
            wallet: wallet.id,
            keychain,
            index,
            invoice: None,
            label: String::new(),
            is_used: false,
            hot_until_ms: 0,
        })
    }

    /// The coins of a wallet, in the order of their outpoints, after `after`; at most `limit` (1
    /// to 1,000). Those that are spent or gone are left out.
    ///
    /// # Errors
    /// `wallet.not_found`, `access.*`.
    pub async fn coins(
        &self,
        credential: &Credential,
        wallet: WalletId,
        after: Option<String>,
        limit: usize,
    ) -> Result<Answer<Vec<Coin>>, Error> {
        self.admitted(credential, wallet).await?;
        let as_of_ms = self.core.clock.now_ms();
        let key = wallet.to_string();
        let value = self.core.list(COINS, "unspent", &key, after, limit).await?;
        Ok(Answer { as_of_ms, value })
    }

    /// The addresses of a wallet that were given out to be paid, by their numbers, from the
    /// number `from` on; at most `limit` (1 to 1,000).
    ///
    /// # Errors
    /// `wallet.not_found`, `access.*`.
    pub async fn addresses(
        &self,
        credential: &Credential,
        wallet: WalletId,
        from: u32,
        limit: usize,
    ) -> Result<Answer<Vec<WalletAddress>>, Error> {
        self.admitted(credential, wallet).await?;
        let as_of_ms = self.core.clock.now_ms();
        let page = self.address_page(wallet, from, None, limit).await?;
        let value = page.into_iter().map(|(_, address)| address).collect();
        Ok(Answer { as_of_ms, value })
    }

    async fn address_page(
        &self,
        wallet: WalletId,
        from: u32,
        after: Option<DocumentPosition>,
        limit: usize,
    ) -> Result<Vec<(DocumentPosition, WalletAddress)>, Error> {
        let query = DocumentQuery {
            collection: ADDRESSES,
            index: "number",
            from: rules::number_key(wallet, Keychain::External, from),
            to: Some(rules::number_key(wallet, Keychain::External, u32::MAX)),
            after,
            limit,
        };
        let rows = self.core.store.documents(query).await?;
        rows.into_iter()
            .map(|(position, document)| {
                let value = document.body.read().map_err(unreadable)?;
                Ok((position, value))
            })
            .collect()
    }

    /// What a wallet has, and the gap limit that finds it.
    ///
    /// # Errors
    /// `wallet.not_found`, `access.*`.
    pub async fn balance(
        &self,
        credential: &Credential,
        wallet: WalletId,
    ) -> Result<Answer<WalletBalance>, Error> {
        let (_, found) = self.admitted(credential, wallet).await?;
        let as_of_ms = self.core.clock.now_ms();
        let mut value = WalletBalance {
            wallet,
            confirmed_sat: 0,
            waiting_sat: 0,
            reserved_sat: 0,
            coins: 0,
            gap_limit: 0,
            addresses: found.value.next_external,
        };
        for (_, coin) in self.core.unspent(wallet).await? {
            rules::count(&mut value, &coin);
        }
        let (mut after, mut gap) = (None, rules::Gap::default());
        loop {
            let page = self.address_page(wallet, 0, after, MAX_PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (_, address) in &page {
                gap.pass(address.is_used);
            }
        }
        value.gap_limit = gap.limit();
        Ok(Answer { as_of_ms, value })
    }
}

impl crate::core::Core {
    /// All coins of a wallet that can be spent, with their versions.
    pub(super) async fn unspent(&self, wallet: WalletId) -> Result<Vec<(i64, Coin)>, Error> {
        let (key, mut after, mut coins) = (wallet.to_string(), None, Vec::new());
        loop {
            let query = DocumentQuery {
                after,
                ..DocumentQuery::under(COINS, "unspent", &key, MAX_PAGE)
            };
            let page = self.store.documents(query).await?;
            let Some((last, _)) = page.last() else {
                return Ok(coins);
            };
            after = Some(last.clone());
            for (_, document) in page {
                let coin = document.body.read().map_err(unreadable)?;
                coins.push((document.version, coin));
            }
        }
    }

    /// What the operator's wallets have on chain, in blocks and waiting.
    pub(crate) async fn operator_coins_msat(&self) -> Result<(i64, i64), Error> {
        let key = rules::owner_key(WalletOwner::Operator);
        let (mut after, mut confirmed, mut waiting) = (None, 0_i64, 0_i64);
        loop {
            let page: Vec<Wallet> = self.list(super::WALLETS, "owner", &key, after, 100).await?;
            let Some(last) = page.last() else {
                return Ok((confirmed, waiting));
            };
            after = Some(last.id.to_string());
            for wallet in page {
                for (_, coin) in self.unspent(wallet.id).await? {
                    let msat = i64::try_from(coin.amount_sat.saturating_mul(1_000));
                    let sum = if coin.confirmations > 0 {
                        &mut confirmed
                    } else {
                        &mut waiting
                    };
                    *sum = sum.saturating_add(msat.unwrap_or(i64::MAX));
                }
            }
        }
    }
}
