//! Descriptors: what a person gives, as two descriptors of public keys. Pure.

use std::str::FromStr;

use bdk_wallet::descriptor::{ExtendedDescriptor, IntoWalletDescriptor};
use bdk_wallet::miniscript::descriptor::{DescriptorPublicKey, DescriptorType, Wildcard};
use bdk_wallet::miniscript::{DefiniteDescriptorKey, Descriptor, ForEachKey};
use bitcoin::bip32::{ChildNumber, Xpriv};
use bitcoin::secp256k1::Secp256k1;
use bitcoin::{Address, Network, ScriptBuf, base58};

use super::error::WalletError;
use super::model::{Keychain, WalletSource, XpubKind};

/// No descriptor that a person has is longer.
const MAX_LENGTH: usize = 10_000;
/// The account of the node's seed that these wallets are of: the node's own is 0.
const NODE_ACCOUNT: u32 = 21;

/// The addresses of a wallet.
#[derive(Debug, Clone)]
pub(super) struct Descriptors {
    external: ExtendedDescriptor,
    change: ExtendedDescriptor,
}

impl Descriptors {
    /// Reads what a person gives, or the record of a wallet.
    pub(super) fn read(source: &WalletSource, network: Network) -> Result<Self, WalletError> {
        let (external, change) = match source {
            WalletSource::Node => return Err(bad("the node's wallet has no text")),
            WalletSource::Xpub { xpub, script } => of_xpub(xpub, *script, network)?,
            WalletSource::Descriptor { external, change } => of_text(external, change, network)?,
        };
        for descriptor in [&external, &change] {
            check(descriptor)?;
        }
        // Addresses of one kind for everything: change of another kind would stand out.
        if external.desc_type() != change.desc_type() {
            return Err(bad("change is of another kind"));
        }
        Ok(Self { external, change })
    }

    /// The wallet of an account of the node's seed (BIP 84).
    pub(super) fn of_seed(seed: &[u8; 64], network: Network) -> Result<Self, WalletError> {
        let secp = Secp256k1::new();
        let master = Xpriv::new_master(network, seed).map_err(|_| bad("the seed gives no key"))?;
        let coin = u32::from(network != Network::Bitcoin);
        let path = format!("84'/{coin}'/{NODE_ACCOUNT}'");
        let steps: bitcoin::bip32::DerivationPath =
            path.parse().map_err(|_| bad("the seed gives no key"))?;
        let account = master
            .derive_priv(&secp, &steps)
            .map_err(|_| bad("the seed gives no key"))?;
        let xpub = bitcoin::bip32::Xpub::from_priv(&secp, &account);
        let fingerprint = master.fingerprint(&secp);
        let text = format!("[{fingerprint}/{path}]{xpub}");
        let source = WalletSource::Xpub {
            xpub: text,
            script: Some(XpubKind::SegwitV0),
        };
        Self::read(&source, network)
    }

    pub(super) fn of(&self, keychain: Keychain) -> &ExtendedDescriptor {
        match keychain {
            Keychain::External => &self.external,
            Keychain::Change => &self.change,
        }
    }

    /// The descriptor of one address.
    pub(super) fn at(
        &self,
        keychain: Keychain,
        index: u32,
    ) -> Result<Descriptor<DefiniteDescriptorKey>, WalletError> {
        self.of(keychain)
            .at_derivation_index(index)
            .map_err(|_| WalletError::Exhausted)
    }

    pub(super) fn script(&self, keychain: Keychain, index: u32) -> Result<ScriptBuf, WalletError> {
        Ok(self.at(keychain, index)?.script_pubkey())
    }

    /// The two as texts with their checksums.
    pub(super) fn texts(&self) -> (String, String) {
        (self.external.to_string(), self.change.to_string())
    }

    /// True where a signer wants the whole of the transactions that are spent from.
    pub(super) fn is_taproot(&self) -> bool {
        self.external.desc_type() == DescriptorType::Tr
    }
}

/// The address of a script.
pub(super) fn address_of(script: &ScriptBuf, network: Network) -> Result<String, WalletError> {
    Address::from_script(script, network)
        .map(|address| address.to_string())
        .map_err(|_| bad("its outputs have no address"))
}

/// Reads an address of a network.
pub(super) fn script_of(address: &str, network: Network) -> Result<ScriptBuf, WalletError> {
    if address.len() > 200 {
        return Err(WalletError::BadAddress);
    }
    let parsed = Address::from_str(address).map_err(|_| WalletError::BadAddress)?;
    parsed
        .require_network(network)
        .map(|address| address.script_pubkey())
        .map_err(|_| wrong(network))
}

pub(super) fn network_of(name: &str) -> Result<Network, WalletError> {
    name.parse().map_err(|_| WalletError::WrongNetwork {
        network: name.to_owned(),
    })
}

fn bad(reason: &str) -> WalletError {
    WalletError::BadDescriptor {
        reason: reason.to_owned(),
    }
}

fn wrong(network: Network) -> WalletError {
    WalletError::WrongNetwork {
        network: network.to_string(),
    }
}

fn of_text(
    external: &str,
    change: &Option<String>,
    network: Network,
) -> Result<(ExtendedDescriptor, ExtendedDescriptor), WalletError> {
    let external = parse(external, network)?;
    match change {
        Some(_) if external.is_multipath() => Err(bad("it has paths for change of its own")),
        Some(change) => Ok((external, parse(change, network)?)),
        None if external.is_multipath() => {
            let both = external.into_single_descriptors();
            match both.unwrap_or_default().as_slice() {
                [external, change] => Ok((external.clone(), change.clone())),
                _ => Err(bad("it has other than two paths")),
            }
        }
        // Without one for change, change goes to the same addresses as everything.
        None => Ok((external.clone(), external)),
    }
}

fn parse(text: &str, network: Network) -> Result<ExtendedDescriptor, WalletError> {
    if text.len() > MAX_LENGTH {
        return Err(bad("it is too long"));
    }
    let text = text.trim();
    let (body, checksum) = match text.split_once('#') {
        Some((body, checksum)) => (body, Some(checksum)),
        None => (text, None),
    };
    if let Some(given) = checksum {
        let right = bdk_wallet::descriptor::checksum::calc_checksum(body);
        if right.ok().as_deref() != Some(given) {
            return Err(bad("its checksum is wrong"));
        }
    }
    let secp = Secp256k1::new();
    // Read so that private keys are found, and dropped at once where there are any.
    let (descriptor, keys) = ExtendedDescriptor::parse_descriptor(&secp, body)
        .map_err(|_| bad("it is no descriptor"))?;
    if !keys.is_empty() {
        return Err(WalletError::PrivateKey);
    }
    // The check of networks knows no multipath keys.
    let singles = if descriptor.is_multipath() {
        let singles = descriptor.clone().into_single_descriptors();
        singles.map_err(|_| bad("its paths do not fit"))?
    } else {
        vec![descriptor.clone()]
    };
    for single in singles {
        use bdk_wallet::descriptor::DescriptorError;
        use bdk_wallet::keys::KeyError;
        match single.into_wallet_descriptor(&secp, network) {
            Ok(_) => {}
            Err(DescriptorError::Key(KeyError::InvalidNetwork)) => return Err(wrong(network)),
            Err(_) => return Err(bad("its keys do not fit")),
        }
    }
    Ok(descriptor)
}

fn check(descriptor: &ExtendedDescriptor) -> Result<(), WalletError> {
    if !descriptor.has_wildcard() {
        return Err(bad("it has one address alone: it must end in /*"));
    }
    let hardened = |key: &DescriptorPublicKey| match key {
        DescriptorPublicKey::XPub(key) => {
            let mut steps = key.derivation_path.into_iter();
            key.wildcard == Wildcard::Hardened || steps.any(ChildNumber::is_hardened)
        }
        DescriptorPublicKey::MultiXPub(_) => true,
        DescriptorPublicKey::Single(_) => false,
    };
    if descriptor.for_any_key(hardened) {
        return Err(bad("it needs a private key for its addresses"));
    }
    descriptor
        .sanity_check()
        .map_err(|_| bad("it is not sane: a signer may be left out, or a key is there twice"))?;
    match descriptor.desc_type() {
        DescriptorType::Bare => Err(bad("its outputs have no address")),
        _ => Ok(()),
    }
}

/// Prefixes of SLIP 132 and what they say: of the main network or a test network, of which kind.
const PREFIXES: [([u8; 4], bool, Option<XpubKind>); 6] = [
    ([0x04, 0x88, 0xb2, 0x1e], true, None),
    ([0x04, 0x9d, 0x7c, 0xb2], true, Some(XpubKind::NestedSegwit)),
    ([0x04, 0xb2, 0x47, 0x46], true, Some(XpubKind::SegwitV0)),
    ([0x04, 0x35, 0x87, 0xcf], false, None),
    (
        [0x04, 0x4a, 0x52, 0x62],
        false,
        Some(XpubKind::NestedSegwit),
    ),
    ([0x04, 0x5f, 0x1c, 0xf6], false, Some(XpubKind::SegwitV0)),
];
/// The same of private keys.
const PRIVATE: [[u8; 4]; 6] = [
    [0x04, 0x88, 0xad, 0xe4],
    [0x04, 0x9d, 0x78, 0x78],
    [0x04, 0xb2, 0x43, 0x0c],
    [0x04, 0x35, 0x83, 0x94],
    [0x04, 0x4a, 0x4e, 0x28],
    [0x04, 0x5f, 0x18, 0xbc],
];

/// An extended public key, with or without its origin (`[fingerprint/84h/0h/0h]`): receiving
/// addresses below 0, change below 1 (BIP 44, 49, 84, 86).
fn of_xpub(
    text: &str,
    script: Option<XpubKind>,
    network: Network,
) -> Result<(ExtendedDescriptor, ExtendedDescriptor), WalletError> {
    let text = text.trim();
    let (origin, key) = match text.rfind(']') {
        Some(end) => text.split_at(end + 1),
        None => ("", text),
    };
    let mut bytes = base58::decode_check(key).map_err(|_| bad("it is no extended key"))?;
    let prefix = bytes
        .get(..4)
        .and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let prefix = prefix.ok_or_else(|| bad("it is no extended key"))?;
    if PRIVATE.contains(&prefix) {
        return Err(WalletError::PrivateKey);
    }
    let known = PREFIXES.iter().find(|(known, ..)| *known == prefix);
    let (_, is_main, says) = known.ok_or_else(|| bad("it is no extended public key"))?;
    if *is_main != (network == Network::Bitcoin) {
        return Err(wrong(network));
    }
    if says.is_some() && script.is_some() && *says != script {
        return Err(bad("its prefix says another kind of address"));
    }
    let plain = PREFIXES
        .iter()
        .find(|(_, main, kind)| main == is_main && kind.is_none());
    if let (Some((plain, ..)), Some(place)) = (plain, bytes.get_mut(..4)) {
        place.copy_from_slice(plain);
    }
    let key = base58::encode_check(&bytes);
    let text = |chain: u8| {
        let key = format!("{origin}{key}/{chain}/*");
        match says.or(script).unwrap_or(XpubKind::SegwitV0) {
            XpubKind::Legacy => format!("pkh({key})"),
            XpubKind::NestedSegwit => format!("sh(wpkh({key}))"),
            XpubKind::SegwitV0 => format!("wpkh({key})"),
            XpubKind::Taproot => format!("tr({key})"),
        }
    };
    Ok((parse(&text(0), network)?, parse(&text(1), network)?))
}

/// Signs what of a PSBT is the node's account's to sign.
pub(super) fn sign(
    mut psbt: bitcoin::Psbt,
    seed: &[u8; 64],
    network: Network,
) -> Result<bitcoin::Psbt, WalletError> {
    let secp = Secp256k1::new();
    let master = Xpriv::new_master(network, seed).map_err(|_| bad("the seed gives no key"))?;
    // What it cannot sign is found by the check of the whole.
    drop(psbt.sign(&master, &secp));
    Ok(psbt)
}

/// What a wallet's keys come to, to be compared with what its signers show before it is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletPreview {
    /// The descriptor of what is received, with its checksum.
    pub external: String,
    /// The descriptor of change.
    pub change: String,
    /// Its first address.
    pub first_address: String,
}

impl WalletPreview {
    /// Reads keys as [`Wallets::add`](super::Wallets::add) does, for a network: `bitcoin`,
    /// `testnet`, `signet` or `regtest`.
    ///
    /// # Errors
    /// `wallet.private_key`, `wallet.wrong_network`, `wallet.bad_descriptor`; the latter also for
    /// the node's wallet, which has no text.
    pub fn of(source: &WalletSource, network: &str) -> Result<Self, WalletError> {
        let network = network_of(network)?;
        let descriptors = Descriptors::read(source, network)?;
        let (external, change) = descriptors.texts();
        let first = descriptors.script(Keychain::External, 0)?;
        Ok(Self {
            external,
            change,
            first_address: address_of(&first, network)?,
        })
    }
}
