//! The Lightning port: what the engine asks of a node, and what a node tells it.
//!
//! The engine owns the preimages of its invoices, so a node never settles an incoming payment by
//! itself: it reports it as [`LightningEvent::Claimable`], the engine decides and commits, and
//! only then calls [`LightningNode::claim`] or [`LightningNode::fail`].
//!
//! Adapters: [`ldk`] (a real node in this process) and `testkit`'s simulated network.

mod closing;
mod error;
#[cfg(feature = "ldk")]
pub mod ldk;
mod recovery;
#[cfg(feature = "testkit")]
pub mod simulated;
mod types;

use async_trait::async_trait;

pub use closing::{OnchainSend, OnchainWallet, OpenChannel};
pub use error::LightningError;
pub use recovery::LostChannel;
pub use types::{
    Bolt11Details, Dispatch, InvoiceRequest, LightningEvent, NodeBalances, NodeTrouble, Offer,
    OfferId, OfferRequest, ParseOfferIdError, ParsePaymentHashError, PaymentDirection, PaymentHash,
    PaymentRecord, PaymentRequest, PaymentState, Preimage,
};

/// A Lightning node.
///
/// Every call may be repeated: all of them are idempotent by payment hash. A call that returns an
/// error of [`LightningError::Unknown`] may have had its effect.
#[async_trait]
pub trait LightningNode: Send + Sync {
    /// Starts the node; calls made before answer [`LightningError::NotRunning`]. Where several
    /// instances share a database, all but one are answered [`LightningError::HeldElsewhere`], and
    /// may ask again.
    async fn start(&self) -> Result<(), LightningError>;

    /// Stops the node and waits until it writes nothing more. Idempotent.
    async fn stop(&self) -> Result<(), LightningError>;

    /// The node's public key, 66 hex digits.
    fn node_id(&self) -> String;

    /// The BOLT11 text of an invoice under a payment hash of the engine's.
    ///
    /// The node does not look whether a channel could carry the payment: whoever asks does, by
    /// [`balances`](Self::balances).
    async fn create_invoice(&self, request: InvoiceRequest) -> Result<String, LightningError>;

    /// An offer (BOLT 12). What is paid by it is told by [`LightningEvent::OfferPaid`], any number
    /// of times.
    ///
    /// # Errors
    /// [`LightningError::Refused`] of a node that makes none, or has no peer to be found by.
    async fn create_offer(&self, request: OfferRequest) -> Result<Offer, LightningError> {
        let _ = request;
        Err(LightningError::Refused {
            reason: "this kind of node makes no offers".to_owned(),
        })
    }

    /// An invoice like [`create_invoice`](Self::create_invoice)'s, for whose payment the node's
    /// liquidity provider opens a channel when it comes (LSPS2, *just in time*), and keeps no more
    /// than `max_fee_msat` of it. What it kept is said by
    /// [`skimmed_fee_msat`](Self::skimmed_fee_msat).
    ///
    /// # Errors
    /// [`LightningError::NoLiquidityProvider`]; [`LightningError::Refused`] where the provider asks
    /// for more, or does not answer.
    async fn create_just_in_time_invoice(
        &self,
        request: InvoiceRequest,
        max_fee_msat: i64,
    ) -> Result<String, LightningError> {
        let _ = (request, max_fee_msat);
        Err(LightningError::NoLiquidityProvider)
    }

    /// What a liquidity provider kept of an incoming payment that waits or arrived, for the channel
    /// it opened for it; zero of any other.
    async fn skimmed_fee_msat(&self, payment_hash: PaymentHash) -> Result<i64, LightningError> {
        let _ = payment_hash;
        Ok(0)
    }

    /// Reveals the preimage and takes the incoming payment. Repeated, or with nothing to claim,
    /// it changes nothing; that the money arrived is said by [`LightningEvent::Received`] alone.
    async fn claim(
        &self,
        payment_hash: PaymentHash,
        preimage: Preimage,
        amount_msat: i64,
    ) -> Result<(), LightningError>;

    /// Gives an incoming payment back to its sender at no cost. Idempotent.
    async fn fail(&self, payment_hash: PaymentHash) -> Result<(), LightningError>;

    /// Asks the node to send. Idempotent by payment hash: while an earlier attempt is pending, or
    /// after one succeeded, the answer is [`Dispatch::AlreadyKnown`] and nothing is sent.
    async fn pay(&self, request: PaymentRequest) -> Result<Dispatch, LightningError>;

    /// The node's own record of a payment. **`None` proves nothing**: a node hands a payment to
    /// the network before it writes its record.
    async fn payment(
        &self,
        payment_hash: PaymentHash,
    ) -> Result<Option<PaymentRecord>, LightningError>;

    /// What the node suffers from, while it does; `None` also of one that cannot tell.
    fn trouble(&self) -> Option<NodeTrouble> {
        None
    }

    /// What the node holds right now.
    async fn balances(&self) -> Result<NodeBalances, LightningError>;

    /// How much the channels can take in now, in msat, as [`balances`](Self::balances) says it: for
    /// every invoice that is made, so that a node should tell it without counting all it has.
    async fn inbound_capacity_msat(&self) -> Result<i64, LightningError> {
        Ok(self.balances().await?.inbound_capacity_msat)
    }

    /// The height of the best block that the node knows; `None` of one that cannot tell, and then a
    /// payment that is set aside goes back by the node's own rules.
    async fn best_block_height(&self) -> Result<Option<u32>, LightningError> {
        Ok(None)
    }

    /// Waits for the oldest event that has not been acknowledged. The same event is returned
    /// again, after a restart too, until [`acknowledge`](Self::acknowledge) is called. There is
    /// one consumer. A node that lost its place to another instance has stopped by itself, and
    /// answers [`LightningError::Displaced`] until it is started again.
    async fn next_event(&self) -> Result<LightningEvent, LightningError>;

    /// Makes a node startable whose state is not the newest there was
    /// ([`LightningError::StaleState`]): all it knows of its channels is thrown away for ever. Once
    /// it is started and connected to their peers, these close the channels, and what is ours is
    /// swept. It must not run anywhere else. Answers the channels.
    ///
    /// # Errors
    /// [`LightningError::Refused`]: nothing was changed. A node that is not locked is not recovered.
    async fn recover(&self) -> Result<Vec<LostChannel>, LightningError> {
        Err(LightningError::Refused {
            reason: "this kind of node cannot be recovered".to_owned(),
        })
    }

    /// The channels that [`recover`](Self::recover) would throw away, and whose peers have to be
    /// met afterwards. Changes nothing.
    ///
    /// # Errors
    /// [`LightningError::Refused`] of a node that runs, and where what is kept cannot be read.
    async fn lost_channels(&self) -> Result<Vec<LostChannel>, LightningError> {
        Ok(Vec::new())
    }

    /// The channels that are open.
    ///
    /// # Errors
    /// [`LightningError::Unsupported`] of a node whose channels others look after.
    async fn open_channels(&self) -> Result<Vec<OpenChannel>, LightningError> {
        unsupported("to tell its channels")
    }

    /// Closes one of [`open_channels`](Self::open_channels): together with the peer, or where it is
    /// forced by broadcasting the own last state, after which our part is locked for a day or more.
    /// What is ours comes to the node's own wallet by itself.
    ///
    /// # Errors
    /// [`LightningError::Refused`] of what cannot be closed now, because its peer is away for
    /// example; [`LightningError::Unsupported`].
    async fn close_open_channel(&self, channel: &str, force: bool) -> Result<(), LightningError> {
        let _ = (channel, force);
        unsupported("to close channels")
    }

    /// The node's own wallet on chain, after a look at the chain that began with this call.
    ///
    /// # Errors
    /// [`LightningError::Unsupported`] of a node that has none.
    async fn onchain_wallet(&self) -> Result<OnchainWallet, LightningError> {
        unsupported("to tell its wallet on chain")
    }

    /// Sends all that the node's own wallet has to an address, but for what it keeps there to get
    /// its part out of channels that are open; of one without channels nothing is kept. The fee is
    /// in satoshis for 1,000 virtual bytes, 1,000 to 1,000,000, or what the node thinks right.
    /// Answers the transaction's id: it is broadcast, and in a block when the chain says so.
    ///
    /// The books are told by whoever asked, as of all that enters and leaves this wallet. Asked
    /// again where it is not known what came of it, it sends what is there then.
    ///
    /// # Errors
    /// [`LightningError::Refused`] where nothing was sent; [`LightningError::Unsupported`].
    async fn send_all_onchain(
        &self,
        address: &str,
        fee_sat_per_kvb: Option<u64>,
    ) -> Result<String, LightningError> {
        let _ = (address, fee_sat_per_kvb);
        unsupported("to send on chain")
    }

    /// Drops the event that `next_event` returned; called after the engine's commit, once an
    /// event.
    async fn acknowledge(&self) -> Result<(), LightningError>;
}

fn unsupported<T>(what: &str) -> Result<T, LightningError> {
    let what = what.to_owned();
    Err(LightningError::Unsupported { what })
}
