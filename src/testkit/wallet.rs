//! A wallet on a Lightning node: the customer who pays, the merchant who is paid out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use event_listener::Event;

use crate::lightning::{
    Bolt11Details, Dispatch, InvoiceRequest, LightningError, LightningEvent, LightningNode,
    PaymentHash, PaymentRequest, Preimage,
};
use crate::ports::{Entropy, SystemEntropy};

/// A wallet that takes what it asked for and pays what it is told to.
pub struct Wallet {
    node: Arc<dyn LightningNode>,
    /// Where the preimages of its invoices are kept, one file each; in memory if there is none.
    folder: Option<PathBuf>,
    state: Mutex<State>,
    changed: Event,
}

#[derive(Default)]
struct State {
    preimages: HashMap<PaymentHash, Preimage>,
    /// How payments of ours ended: sent, or why not.
    ended: HashMap<PaymentHash, Result<(), String>>,
    received: HashMap<PaymentHash, i64>,
    holds: bool,
    is_holding: bool,
}

/// A wallet could not do what it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// The node said no.
    #[error(transparent)]
    Lightning(#[from] LightningError),
    /// The payment went back.
    #[error("the payment failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
    /// The preimage could not be made or kept.
    #[error("the preimage could not be kept: {reason}")]
    Preimage {
        /// Why.
        reason: String,
    },
}

impl Wallet {
    /// A wallet on a node that was started.
    pub fn new(node: Arc<dyn LightningNode>, folder: Option<&Path>) -> Self {
        let folder = folder.map(Path::to_owned);
        Self {
            node,
            folder,
            state: Mutex::default(),
            changed: Event::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Deals with the node's events until the node stops; to be run beside everything else.
    pub async fn run(self: Arc<Self>) {
        while let Ok(event) = self.node.next_event().await {
            if self.deal_with(event).await.is_err() || self.node.acknowledge().await.is_err() {
                return;
            }
            self.changed.notify(usize::MAX);
        }
    }

    async fn deal_with(&self, event: LightningEvent) -> Result<(), LightningError> {
        match event {
            LightningEvent::Claimable {
                payment_hash,
                amount_msat,
                ..
            } => {
                self.while_it_holds().await;
                match self.preimage(payment_hash) {
                    Some(preimage) => {
                        self.node.claim(payment_hash, preimage, amount_msat).await?;
                    }
                    None => self.node.fail(payment_hash).await?,
                }
            }
            LightningEvent::Received {
                payment_hash,
                amount_msat,
            } => {
                *self.lock().received.entry(payment_hash).or_default() += amount_msat;
            }
            LightningEvent::Sent { payment_hash, .. } => {
                self.lock().ended.insert(payment_hash, Ok(()));
            }
            LightningEvent::SendFailed {
                payment_hash,
                reason,
            } => {
                self.lock().ended.insert(payment_hash, Err(reason));
            }
            _ => {}
        }
        Ok(())
    }

    /// While this is set, what comes in is neither taken nor given back: it stays on its way.
    pub fn hold(&self, holds: bool) {
        self.lock().holds = holds;
        self.changed.notify(usize::MAX);
    }

    /// Whether something came in that it holds.
    pub fn is_holding(&self) -> bool {
        self.lock().is_holding
    }

    async fn while_it_holds(&self) {
        loop {
            let changed = self.changed.listen();
            {
                let mut state = self.lock();
                state.is_holding = state.holds;
                if !state.holds {
                    return;
                }
            }
            changed.await;
        }
    }

    fn preimage(&self, hash: PaymentHash) -> Option<Preimage> {
        if let Some(preimage) = self.lock().preimages.get(&hash) {
            return Some(preimage.clone());
        }
        let text = std::fs::read_to_string(self.folder.as_ref()?.join(hash.to_string())).ok()?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes).ok()?;
        Some(Preimage::new(bytes))
    }

    fn new_preimage(&self) -> Result<Preimage, WalletError> {
        let failed = |reason: String| WalletError::Preimage { reason };
        let mut bytes = [0; 32];
        SystemEntropy
            .fill(&mut bytes)
            .map_err(|error| failed(error.to_string()))?;
        let preimage = Preimage::new(bytes);
        let hash = preimage.payment_hash();
        if let Some(folder) = &self.folder {
            std::fs::create_dir_all(folder)
                .and_then(|()| std::fs::write(folder.join(hash.to_string()), hex::encode(bytes)))
                .map_err(|error| failed(error.to_string()))?;
        }
        self.lock().preimages.insert(hash, preimage.clone());
        Ok(preimage)
    }

    /// An invoice of the wallet's own.
    ///
    /// # Errors
    /// When the node or the disk says no.
    pub async fn invoice(&self, amount_msat: i64, label: &str) -> Result<String, WalletError> {
        let request = InvoiceRequest {
            payment_hash: self.new_preimage()?.payment_hash(),
            amount_msat: Some(amount_msat),
            description: label.to_owned(),
            description_hash: None,
            expiry_seconds: 3_600,
        };
        Ok(self.node.create_invoice(request).await?)
    }

    /// Asks the node to pay, and does not wait.
    ///
    /// # Errors
    /// When the node says no at once.
    pub async fn send(&self, bolt11: &str) -> Result<PaymentHash, WalletError> {
        let invoice: Bolt11Details = bolt11.parse()?;
        let max_fee_msat = invoice.amount_msat.unwrap_or(0) / 100 + 50_000;
        let request = PaymentRequest {
            bolt11: bolt11.to_owned(),
            amount_msat: None,
            max_fee_msat,
            max_lock_blocks: None,
        };
        match self.node.pay(request).await? {
            Dispatch::Refused { reason } => Err(WalletError::Failed { reason }),
            Dispatch::Accepted | Dispatch::AlreadyKnown => Ok(invoice.payment_hash),
        }
    }

    /// Waits until a payment of ours has ended.
    ///
    /// # Errors
    /// When it went back.
    pub async fn sent(&self, hash: PaymentHash) -> Result<(), WalletError> {
        loop {
            let changed = self.changed.listen();
            if let Some(ended) = self.lock().ended.get(&hash).cloned() {
                return ended.map_err(|reason| WalletError::Failed { reason });
            }
            changed.await;
        }
    }

    /// Pays, and waits until it is paid.
    ///
    /// # Errors
    /// When the node says no, or the payment went back.
    pub async fn pay(&self, bolt11: &str) -> Result<PaymentHash, WalletError> {
        let hash = self.send(bolt11).await?;
        self.sent(hash).await?;
        Ok(hash)
    }

    /// What was received under a hash, in all.
    pub fn received_msat(&self, hash: PaymentHash) -> i64 {
        self.lock().received.get(&hash).copied().unwrap_or(0)
    }
}
