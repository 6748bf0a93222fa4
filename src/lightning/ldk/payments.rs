//! Payments, as ldk-node makes and takes them. All of these block.

use ldk_node::bitcoin::hashes::{Hash, sha256};
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::routing::router::RouteParametersConfig;
use ldk_node::lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description, Sha256};
use ldk_node::lightning_types::payment::{PaymentHash as LdkPaymentHash, PaymentPreimage};
use ldk_node::payment::{PaymentDirection as LdkDirection, PaymentKind, PaymentStatus};
use ldk_node::{Node, NodeError};

use super::records::{node_error, refused, signed, unknown, unsigned};
use crate::lightning::{
    Dispatch, InvoiceRequest, LightningError, Offer, OfferId, OfferRequest, PaymentHash, Preimage,
};

pub(super) fn ldk_hash(hash: PaymentHash) -> LdkPaymentHash {
    LdkPaymentHash(hash.0)
}

fn description(request: &InvoiceRequest) -> Result<Bolt11InvoiceDescription, LightningError> {
    Ok(match request.description_hash {
        Some(hash) => Bolt11InvoiceDescription::Hash(Sha256(sha256::Hash::from_byte_array(hash))),
        None => {
            let description = Description::new(request.description.clone());
            Bolt11InvoiceDescription::Direct(
                description.map_err(|error| refused(error.to_string()))?,
            )
        }
    })
}

/// ldk-node would put a record of its own over one that exists.
fn require_unused(node: &Node, hash: LdkPaymentHash) -> Result<(), LightningError> {
    match node.payment(&PaymentId(hash.0)) {
        Some(record)
            if record.direction == LdkDirection::Outbound
                || record.status == PaymentStatus::Succeeded =>
        {
            Err(refused("this payment hash was used already"))
        }
        _ => Ok(()),
    }
}

pub(super) fn create_invoice(
    node: &Node,
    request: &InvoiceRequest,
) -> Result<String, LightningError> {
    let description = description(request)?;
    let (hash, expiry) = (ldk_hash(request.payment_hash), request.expiry_seconds);
    require_unused(node, hash)?;
    let payments = node.bolt11_payment();
    let invoice = match request.amount_msat {
        Some(amount_msat) => {
            payments.receive_for_hash(unsigned(amount_msat)?, &description, expiry, hash)
        }
        None => payments.receive_variable_amount_for_hash(&description, expiry, hash),
    };
    invoice
        .map(|invoice| invoice.to_string())
        .map_err(node_error)
}

/// Connects to the provider and asks it for its prices, so that it takes two round trips.
pub(super) fn create_just_in_time_invoice(
    node: &Node,
    request: &InvoiceRequest,
    max_fee_msat: i64,
) -> Result<String, LightningError> {
    let description = description(request)?;
    let (hash, expiry) = (ldk_hash(request.payment_hash), request.expiry_seconds);
    require_unused(node, hash)?;
    let Some(amount_msat) = request.amount_msat else {
        return Err(refused("a channel is opened for an amount"));
    };
    let most = Some(unsigned(max_fee_msat)?);
    let payments = node.bolt11_payment();
    payments
        .receive_via_jit_channel_for_hash(unsigned(amount_msat)?, &description, expiry, most, hash)
        .map(|invoice| invoice.to_string())
        .map_err(node_error)
}

pub(super) fn skimmed_fee_msat(node: &Node, hash: LdkPaymentHash) -> i64 {
    match node.payment(&PaymentId(hash.0)).map(|record| record.kind) {
        Some(PaymentKind::Bolt11Jit {
            counterparty_skimmed_fee_msat: Some(fee_msat),
            ..
        }) => signed(fee_msat),
        _ => 0,
    }
}

pub(super) fn create_offer(node: &Node, request: &OfferRequest) -> Result<Offer, LightningError> {
    let (text, expiry) = (&request.description, Some(request.expiry_seconds));
    let payments = node.bolt12_payment();
    let offer = match request.amount_msat {
        Some(amount_msat) => payments.receive(unsigned(amount_msat)?, text, expiry, None),
        None => payments.receive_variable_amount(text, expiry),
    };
    let offer = offer.map_err(node_error)?;
    Ok(Offer {
        id: OfferId(offer.id().0),
        text: offer.to_string(),
    })
}

pub(super) fn fail(node: &Node, hash: LdkPaymentHash) -> Result<(), LightningError> {
    match node.payment(&PaymentId(hash.0)) {
        Some(record) if record.direction == LdkDirection::Inbound => {
            // Failing what succeeded would change nothing but the record, and that to a lie.
            if record.status == PaymentStatus::Succeeded {
                return Ok(());
            }
            node.bolt11_payment()
                .fail_for_hash(hash)
                .map_err(node_error)
        }
        _ => Err(refused("no invoice has this payment hash")),
    }
}

pub(super) fn claim(
    node: &Node,
    hash: LdkPaymentHash,
    preimage: &Preimage,
    amount_msat: u64,
) -> Result<(), LightningError> {
    match node.payment(&PaymentId(hash.0)) {
        Some(record) if record.direction == LdkDirection::Inbound => {
            let preimage = PaymentPreimage(*preimage.expose());
            node.bolt11_payment()
                .claim_for_hash(hash, amount_msat, preimage)
                .map_err(node_error)
        }
        _ => Err(refused("no invoice has this payment hash")),
    }
}

pub(super) fn pay(
    node: &Node,
    invoice: &Bolt11Invoice,
    amount_msat: Option<u64>,
    max_fee_msat: u64,
    max_lock_blocks: Option<u32>,
) -> Result<Dispatch, LightningError> {
    let refused = |reason: String| Ok(Dispatch::Refused { reason });
    let id = PaymentId(*AsRef::<[u8; 32]>::as_ref(invoice.payment_hash()));
    // ldk-node answers DuplicatePayment for it, which would be taken for a payment under way.
    let record = node.payment(&id);
    if record.is_some_and(|record| record.direction == LdkDirection::Inbound) {
        return refused("the invoice is this node's own".into());
    }
    let mut route = RouteParametersConfig {
        max_total_routing_fee_msat: Some(max_fee_msat),
        ..RouteParametersConfig::default()
    };
    if let Some(blocks) = max_lock_blocks {
        route.max_total_cltv_expiry_delta = route.max_total_cltv_expiry_delta.min(blocks);
    }
    let payments = node.bolt11_payment();
    let sent = match amount_msat {
        Some(amount_msat) => payments.send_using_amount(invoice, amount_msat, Some(route)),
        None => payments.send(invoice, Some(route)),
    };
    match sent {
        Ok(_) => Ok(Dispatch::Accepted),
        Err(NodeError::DuplicatePayment) => Ok(Dispatch::AlreadyKnown),
        Err(NodeError::NotRunning) => Err(LightningError::NotRunning),
        Err(error @ (NodeError::PaymentSendingFailed | NodeError::InvalidInvoice)) => {
            refused(error.to_string())
        }
        // The HTLC may be out already: the record is written after it.
        Err(error) => Err(unknown(error.to_string())),
    }
}
