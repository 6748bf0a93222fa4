//! The steps of a merchant with a hardware wallet: its public key is all that the engine gets.
//!
//! A software signer stands where the device would be: it shows an account's public key, and signs
//! a PSBT that it is shown. Everything else is as it would be with the device: replace
//! [`Device`] by the file, the QR code or the cable that yours takes.
//!
//! ```sh
//! cargo run --example hardware_wallet
//! ```

use std::error::Error;
use std::sync::Arc;

use flashkit::chain::Esplora;
use flashkit::chain::bitcoin::bip32::{DerivationPath, Xpriv, Xpub};
use flashkit::chain::bitcoin::secp256k1::Secp256k1;
use flashkit::chain::bitcoin::{Network, Psbt};
use flashkit::ports::{Entropy, SystemClock, SystemEntropy};
use flashkit::settlement::{CreateMerchant, PayoutTerms};
use flashkit::store::MemoryStore;
use flashkit::testkit::chain::RegtestChain;
use flashkit::wallets::{
    AddWallet, NewAddress, PrepareSpend, SpendTarget, SubmitSpend, WalletOwner, WalletSource,
};
use flashkit::{Engine, MasterSecret};

/// Where the device would be. Its keys never leave it.
struct Device {
    master: Xpriv,
}

impl Device {
    fn new() -> Result<Self, Box<dyn Error>> {
        let mut seed = [0; 32];
        SystemEntropy.fill(&mut seed)?;
        let master = Xpriv::new_master(Network::Regtest, &seed)?;
        Ok(Self { master })
    }

    /// What its "export public key" shows: the key of the first account (BIP 84) with its origin,
    /// which the device later knows its own coins by.
    fn public_key(&self) -> Result<String, Box<dyn Error>> {
        let secp = Secp256k1::new();
        let path: DerivationPath = "84'/1'/0'".parse()?;
        let account = Xpub::from_priv(&secp, &self.master.derive_priv(&secp, &path)?);
        Ok(format!(
            "[{}/{path}]{account}",
            self.master.fingerprint(&secp)
        ))
    }

    /// What it does when a person holds the button: signs what the PSBT says is its own.
    fn sign(&self, psbt: &str) -> Result<String, Box<dyn Error>> {
        let mut psbt: Psbt = psbt.parse()?;
        psbt.sign(&self.master, &Secp256k1::new())
            .map_err(|(_, errors)| format!("the device cannot sign: {errors:?}"))?;
        Ok(psbt.to_string())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let chain = Arc::new(RegtestChain::in_memory());
    let server = chain.clone().serve().await?;
    chain.mine(101)?;
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let engine = Engine::builder(store, MasterSecret::new([1; 32]))
        .network("regtest")
        .chain(Arc::new(Esplora::new(&server.url())?))
        .open()
        .await?;
    let issuer = engine.issuer();
    let merchant = CreateMerchant {
        key: "merchant".parse()?,
        name: "Mavis's cookshop".to_owned(),
        terms: PayoutTerms::default(),
        category: None,
    };
    let merchant = engine.settlement().create(&issuer, merchant).await?.id;

    println!("1. The device shows its public key; the engine makes a wallet of it.");
    let device = Device::new()?;
    let wallets = engine.wallets();
    let wallet = AddWallet {
        key: "wallet".parse()?,
        owner: WalletOwner::Merchant { merchant },
        name: "the blue device".to_owned(),
        source: WalletSource::Xpub {
            xpub: device.public_key()?,
            script: None,
        },
        used_addresses: 0,
        birthday_height: None,
    };
    let wallet = wallets.add(&issuer, wallet).await?.value;
    println!("   {}", wallet.external);

    println!("2. Every customer gets an address of its own.");
    for (number, sats) in [(1, 40_000), (2, 25_000), (3, 90_000)] {
        let address = NewAddress {
            key: format!("customer-{number}").parse()?,
            wallet: wallet.id,
            label: format!("customer {number}"),
        };
        let address = wallets.new_address(&issuer, address).await?;
        chain.fund(&address.address, sats)?;
        println!("   {} is paid {sats} sat", address.address);
    }
    chain.mine(1)?;
    // An engine that was started does this by itself, every ten seconds.
    wallets.look_now(&issuer).await?;
    let balance = wallets.balance(&issuer, wallet.id).await?;
    println!(
        "   the wallet has {} sat in {} coins; the books owe nobody for them",
        balance.confirmed_sat, balance.coins
    );

    println!("3. Everything is to go to another wallet: one command makes the PSBT.");
    let spend = PrepareSpend {
        key: "everything".parse()?,
        wallet: wallet.id,
        target: SpendTarget::Everything {
            address: "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080".to_owned(),
        },
        fee_sat_per_kvb: None,
    };
    let spend = wallets.prepare_spend(&issuer, spend).await?.value;
    println!(
        "   {} sat, and {} sat for the miner",
        spend
            .outputs
            .iter()
            .map(|output| output.amount_sat)
            .sum::<u64>(),
        spend.fee_sat
    );

    println!("4. The device signs; the engine checks, keeps, and broadcasts it.");
    let submit = SubmitSpend {
        key: "signed".parse()?,
        spend: spend.id,
        psbt: Some(device.sign(&spend.psbt)?),
    };
    let sent = wallets.submit_spend(&issuer, submit).await?.value;
    println!("   {}", sent.txid.unwrap_or_default());
    chain.mine(1)?;
    wallets.look_now(&issuer).await?;
    let spend = wallets.spend(&issuer, spend.id).await?;
    let left = wallets.balance(&issuer, wallet.id).await?;
    println!(
        "   it is {:?}, and {} sat are left",
        spend.state, left.confirmed_sat
    );

    engine.stop().await?;
    Ok(())
}
