//! ldk-node's records in the words of the port.

use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning_types::payment::PaymentHash as LdkPaymentHash;
use ldk_node::payment::{
    PaymentDetails, PaymentDirection as LdkDirection, PaymentKind, PaymentStatus,
};
use ldk_node::{Event, NodeError};

use crate::lightning::{
    LightningError, LightningEvent, OfferId, PaymentDirection, PaymentHash, PaymentRecord,
    PaymentState,
};

/// Every amount of bitcoin fits: 21 million BTC are 2.1e18 msat.
pub(super) fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// An amount of the port as LDK takes it.
pub(super) fn unsigned(amount_msat: i64) -> Result<u64, LightningError> {
    u64::try_from(amount_msat)
        .ok()
        .filter(|amount| *amount > 0)
        .ok_or_else(|| refused(format!("{amount_msat} msat is no amount")))
}

pub(super) fn refused(reason: impl Into<String>) -> LightningError {
    LightningError::Refused {
        reason: reason.into(),
    }
}

pub(super) fn unknown(reason: impl Into<String>) -> LightningError {
    LightningError::Unknown {
        reason: reason.into(),
    }
}

/// An error of a call that has done nothing, unless what failed was the write after it.
pub(super) fn node_error(error: NodeError) -> LightningError {
    match error {
        NodeError::NotRunning => LightningError::NotRunning,
        NodeError::PersistenceFailed
        | NodeError::TxSyncFailed
        | NodeError::TxSyncTimeout
        | NodeError::WalletOperationTimeout
        | NodeError::FeerateEstimationUpdateFailed
        | NodeError::FeerateEstimationUpdateTimeout => unknown(error.to_string()),
        other => refused(other.to_string()),
    }
}

fn lightning_hash(kind: &PaymentKind) -> Option<LdkPaymentHash> {
    match kind {
        PaymentKind::Onchain { .. } => None,
        PaymentKind::Bolt11 { hash, .. }
        | PaymentKind::Bolt11Jit { hash, .. }
        | PaymentKind::Spontaneous { hash, .. } => Some(*hash),
        PaymentKind::Bolt12Offer { hash, .. } | PaymentKind::Bolt12Refund { hash, .. } => *hash,
    }
}

/// `None` for what is no Lightning payment, or has no hash yet (a BOLT12 offer not answered).
pub(super) fn payment_record(details: &PaymentDetails) -> Option<PaymentRecord> {
    let hash = lightning_hash(&details.kind)?;
    let (direction, fee_msat) = match details.direction {
        LdkDirection::Inbound => (PaymentDirection::Inbound, None),
        LdkDirection::Outbound => (
            PaymentDirection::Outbound,
            details.fee_paid_msat.map(signed),
        ),
    };
    Some(PaymentRecord {
        payment_hash: PaymentHash(hash.0),
        direction,
        state: match details.status {
            PaymentStatus::Pending => PaymentState::Pending,
            PaymentStatus::Succeeded => PaymentState::Succeeded,
            PaymentStatus::Failed => PaymentState::Failed,
        },
        amount_msat: details.amount_msat.map(signed),
        fee_msat,
    })
}

/// Whether there is more to be known of an event than it says: see [`lightning_event`].
pub(super) fn needs_more(event: &Event) -> bool {
    let needs_height = matches!(event, Event::PaymentClaimable { .. });
    needs_height || received_payment(event).is_some()
}

/// The payment that an event says has arrived.
pub(super) fn received_payment(event: &Event) -> Option<PaymentId> {
    match event {
        Event::PaymentReceived { payment_id, .. } => *payment_id,
        _ => None,
    }
}

/// `details` is the record of [`received_payment`], `height` that of the best block the node knows.
pub(super) fn lightning_event(
    event: Event,
    details: Option<&PaymentDetails>,
    height: u32,
) -> LightningEvent {
    let channel = |change: &str, channel_id: String| LightningEvent::ChannelChanged {
        change: change.into(),
        channel_id,
    };
    let other = |kind: &str| LightningEvent::Other { kind: kind.into() };
    match event {
        Event::PaymentClaimable {
            payment_hash,
            claimable_amount_msat,
            claim_deadline,
            ..
        } => LightningEvent::Claimable {
            payment_hash: PaymentHash(payment_hash.0),
            amount_msat: signed(claimable_amount_msat),
            blocks_left: claim_deadline.map(|deadline| deadline.saturating_sub(height)),
        },
        Event::PaymentReceived {
            payment_hash,
            amount_msat,
            ..
        } => {
            let (payment_hash, amount_msat) = (PaymentHash(payment_hash.0), signed(amount_msat));
            match details.map(|details| &details.kind) {
                Some(PaymentKind::Bolt12Offer { offer_id, .. }) => LightningEvent::OfferPaid {
                    offer: OfferId(offer_id.0),
                    payment_hash,
                    amount_msat,
                },
                _ => LightningEvent::Received {
                    payment_hash,
                    amount_msat,
                },
            }
        }
        Event::PaymentSuccessful {
            payment_hash,
            fee_paid_msat,
            ..
        } => LightningEvent::Sent {
            payment_hash: PaymentHash(payment_hash.0),
            fee_msat: fee_paid_msat.map(signed),
        },
        Event::PaymentFailed {
            payment_hash: Some(hash),
            reason,
            ..
        } => LightningEvent::SendFailed {
            payment_hash: PaymentHash(hash.0),
            reason: reason.map_or_else(|| "unknown".into(), |reason| format!("{reason:?}")),
        },
        Event::PaymentFailed { .. } => other("payment_failed_without_hash"),
        Event::ChannelPending { channel_id, .. } => channel("pending", channel_id.to_string()),
        Event::ChannelReady { channel_id, .. } => channel("ready", channel_id.to_string()),
        Event::ChannelClosed { channel_id, .. } => channel("closed", channel_id.to_string()),
        Event::PaymentForwarded { .. } => other("payment_forwarded"),
        Event::SplicePending { .. } => other("splice_pending"),
        Event::SpliceFailed { .. } => other("splice_failed"),
    }
}
