//! An address that a host gives, as the books keep it.

use bitcoin::address::{Address, NetworkUnchecked};

use super::error::InvoiceError;

/// No address is longer.
const MAX_CHARACTERS: usize = 100;

/// The one spelling of an address of this network. One address has several (bech32 may stand in
/// capitals), and under each it would be given out, and looked for, as another.
pub(super) fn canonical(text: &str, network: &str) -> Result<String, InvoiceError> {
    if text.len() > MAX_CHARACTERS {
        return Err(InvoiceError::BadAddress);
    }
    let address: Address<NetworkUnchecked> = text.parse().map_err(|_| InvoiceError::BadAddress)?;
    let wrong = |_| InvoiceError::WrongNetwork {
        expected: network.to_owned(),
    };
    let network: bitcoin::Network = network.parse().map_err(|_| InvoiceError::WrongNetwork {
        expected: network.to_owned(),
    })?;
    let address = address.require_network(network).map_err(wrong)?;
    Ok(address.to_string())
}
