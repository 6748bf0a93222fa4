//! A node that is as bad as a node may be: upon a simulated one, so that its money is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::bugs::PlantedBug;
use super::executor::at_once;
use super::ground::Ground;
use super::tally::Fault;
use crate::lightning::simulated::SimulatedNode;
use crate::lightning::{
    Bolt11Details, Dispatch, InvoiceRequest, LightningError, LightningEvent, LightningNode,
    NodeBalances, PaymentDirection, PaymentHash, PaymentRecord, PaymentRequest, Preimage,
};

/// The engine's node. It keeps its events until they are acknowledged, whatever becomes of the
/// process.
#[derive(Clone)]
pub(super) struct FaultyNode {
    ground: Arc<Ground>,
    node: SimulatedNode,
    mailbox: Arc<Mutex<Mailbox>>,
}

#[derive(Default)]
struct Mailbox {
    letters: Vec<Letter>,
    written: u64,
    /// The one that was told and not acknowledged.
    told: Option<u64>,
    /// Payments that were sent before their record was written.
    unrecorded: BTreeSet<PaymentHash>,
    /// From which block on a payment that came cannot be claimed any more.
    deadlines: BTreeMap<PaymentHash, u32>,
    /// Payments that the engine gave back: whoever pays may send one again.
    given_back: BTreeSet<PaymentHash>,
}

#[derive(Clone)]
struct Letter {
    number: u64,
    event: LightningEvent,
    not_before_ms: u64,
}

impl FaultyNode {
    pub(super) fn new(ground: &Arc<Ground>, node: SimulatedNode) -> Self {
        Self {
            ground: ground.clone(),
            node,
            mailbox: Arc::default(),
        }
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process dies: what was told and not acknowledged is told again.
    pub(super) fn crash(&self) {
        drop(at_once(self.node.stop()));
        if self.mailbox().told.take().is_some() {
            self.ground.struck(Fault::EventLost);
        }
    }

    /// From which block on a payment that came cannot be claimed any more.
    pub(super) fn deadline(&self, hash: PaymentHash) -> Option<u32> {
        self.mailbox().deadlines.get(&hash).copied()
    }

    /// A payment that came was given back, whatever came by its hash since.
    pub(super) fn has_given_back(&self, hash: PaymentHash) -> bool {
        self.mailbox().given_back.contains(&hash)
    }

    /// The payments whose deadline has come.
    pub(super) fn overdue(&self) -> Vec<PaymentHash> {
        let (mailbox, height) = (self.mailbox(), self.ground.height());
        let deadlines = mailbox.deadlines.iter();
        let overdue = deadlines.filter(|(_, deadline)| **deadline <= height);
        overdue.map(|(hash, _)| *hash).collect()
    }

    /// How many events wait, at least.
    pub(super) fn waiting(&self) -> usize {
        let is_untold = matches!(at_once(self.node.next_event()), Some(Ok(_)));
        self.mailbox().letters.len() + usize::from(is_untold)
    }

    /// Puts what the simulated node has to say into the mailbox.
    fn fetch(&self) {
        while let Some(Ok(event)) = at_once(self.node.next_event()) {
            drop(at_once(self.node.acknowledge()));
            if let LightningEvent::Claimable { payment_hash, .. } = &event {
                let blocks = u32::try_from(self.ground.between(10, 40)).unwrap_or(10);
                let deadline = self.ground.height() + blocks;
                // What is paid once more is judged as the first time: that is what was set aside.
                let mut mailbox = self.mailbox();
                mailbox.deadlines.entry(*payment_hash).or_insert(deadline);
            }
            let late = self.ground.strikes(Fault::EventLate, 250);
            let wait_ms = if late {
                self.ground.between(100, 8_000)
            } else {
                0
            };
            self.post(event.clone(), wait_ms);
            if self.ground.strikes(Fault::EventTwice, 200) {
                let wait_ms = self.ground.between(0, 10_000);
                self.post(self.again(event), wait_ms);
            }
        }
    }

    fn again(&self, event: LightningEvent) -> LightningEvent {
        if !self.ground.has(PlantedBug::TellsTwiceAsNew) {
            return event;
        }
        match event {
            LightningEvent::Received {
                payment_hash: PaymentHash(mut hash),
                amount_msat,
            } => {
                hash[0] ^= 1;
                let payment_hash = PaymentHash(hash);
                LightningEvent::Received {
                    payment_hash,
                    amount_msat,
                }
            }
            other => other,
        }
    }

    fn post(&self, event: LightningEvent, wait_ms: i64) {
        let not_before_ms = self
            .ground
            .executor
            .now_ms()
            .saturating_add(wait_ms.unsigned_abs());
        let mut mailbox = self.mailbox();
        mailbox.written += 1;
        let letter = Letter {
            number: mailbox.written,
            event,
            not_before_ms,
        };
        mailbox.letters.push(letter);
    }

    /// The next event to be told, or how long to wait for one that comes late.
    fn next_letter(&self) -> Result<LightningEvent, Option<Duration>> {
        let now_ms = self.ground.executor.now_ms();
        let mut mailbox = self.mailbox();
        let told = mailbox.told;
        if let Some(letter) = mailbox.letters.iter().find(|it| Some(it.number) == told) {
            return Ok(self.as_of_now(letter.event.clone(), &mailbox));
        }
        let due: Vec<usize> = (0..mailbox.letters.len())
            .filter(|at| mailbox.letters[*at].not_before_ms <= now_ms)
            .collect();
        let Some(first) = due.first().copied() else {
            let next_ms = mailbox.letters.iter().map(|it| it.not_before_ms).min();
            let wait_ms = next_ms.map(|next_ms| next_ms.saturating_sub(now_ms));
            return Err(wait_ms.map(Duration::from_millis));
        };
        let mut chosen = first;
        if due.len() > 1 && self.ground.strikes(Fault::EventsReordered, 300) {
            let at = usize::try_from(self.ground.dice()).unwrap_or(0) % due.len();
            chosen = due[at];
        }
        let letter = &mailbox.letters[chosen];
        let (number, event) = (letter.number, letter.event.clone());
        mailbox.told = Some(number);
        let event = self.as_of_now(event, &mailbox);
        drop(mailbox);
        self.record(&event);
        Ok(event)
    }

    /// How many blocks are left is told as it is by then.
    fn as_of_now(&self, event: LightningEvent, mailbox: &Mailbox) -> LightningEvent {
        match event {
            LightningEvent::Claimable {
                payment_hash,
                amount_msat,
                ..
            } => {
                let deadline = mailbox.deadlines.get(&payment_hash);
                LightningEvent::Claimable {
                    blocks_left: deadline.map(|it| it.saturating_sub(self.ground.height())),
                    payment_hash,
                    amount_msat,
                }
            }
            other => other,
        }
    }

    fn record(&self, event: &LightningEvent) {
        let (kind, hash, number) = match event {
            LightningEvent::Claimable {
                payment_hash,
                amount_msat,
                ..
            } => ("claimable", payment_hash, *amount_msat),
            LightningEvent::Received {
                payment_hash,
                amount_msat,
            } => ("received", payment_hash, *amount_msat),
            LightningEvent::Sent {
                payment_hash,
                fee_msat,
            } => ("sent", payment_hash, fee_msat.unwrap_or(0)),
            LightningEvent::SendFailed { payment_hash, .. } => ("send failed", payment_hash, 0),
            _ => return,
        };
        self.ground.trace(kind, number.cast_unsigned());
        self.ground.trace(&hash.to_string(), 0);
    }

    async fn send(&self, request: PaymentRequest) -> Result<Dispatch, LightningError> {
        let ground = &self.ground;
        let hash = request.bolt11.parse::<Bolt11Details>()?.payment_hash;
        ground.linger(3).await;
        if ground.strikes(Fault::NotSentUnknown, 80) {
            return Err(unknown());
        }
        if ground.strikes(Fault::SendRefused, 60) {
            let reason = "no route".to_owned();
            return Ok(Dispatch::Refused { reason });
        }
        // Handed to the network before its record is written.
        let dispatch = self.node.pay(request).await?;
        if dispatch == Dispatch::Accepted {
            self.mailbox().unrecorded.insert(hash);
        }
        ground.linger(20).await;
        if ground.strikes(Fault::SentUnknown, 120) {
            if ground.has(PlantedBug::ReadsUnknownAsFailed) {
                let reason = "unknown".to_owned();
                return Ok(Dispatch::Refused { reason });
            }
            return Err(unknown());
        }
        if dispatch == Dispatch::Accepted {
            self.mailbox().unrecorded.remove(&hash);
        }
        Ok(dispatch)
    }
}

fn unknown() -> LightningError {
    LightningError::Unknown {
        reason: "simulated".to_owned(),
    }
}

#[async_trait]
impl LightningNode for FaultyNode {
    async fn start(&self) -> Result<(), LightningError> {
        self.ground.linger(5).await;
        if self.ground.strikes(Fault::NodeNotStarted, 150) {
            let reason = "simulated".to_owned();
            return Err(LightningError::StartFailed { reason });
        }
        self.node.start().await
    }

    async fn stop(&self) -> Result<(), LightningError> {
        self.mailbox().told = None;
        self.node.stop().await
    }

    fn node_id(&self) -> String {
        "simulated".to_owned()
    }

    async fn create_invoice(&self, request: InvoiceRequest) -> Result<String, LightningError> {
        if self.ground.strikes(Fault::InvoiceNotMade, 40) {
            return Err(LightningError::NotRunning);
        }
        self.node.create_invoice(request).await
    }

    async fn claim(
        &self,
        payment_hash: PaymentHash,
        preimage: Preimage,
        amount_msat: i64,
    ) -> Result<(), LightningError> {
        self.ground.linger(2).await;
        if !self.ground.strikes(Fault::ClaimUnknown, 120) {
            return self.node.claim(payment_hash, preimage, amount_msat).await;
        }
        if self.ground.dice().is_multiple_of(2) {
            self.node.claim(payment_hash, preimage, amount_msat).await?;
        }
        Err(unknown())
    }

    async fn fail(&self, payment_hash: PaymentHash) -> Result<(), LightningError> {
        self.ground.linger(2).await;
        self.node.fail(payment_hash).await?;
        self.mailbox().given_back.insert(payment_hash);
        Ok(())
    }

    async fn pay(&self, request: PaymentRequest) -> Result<Dispatch, LightningError> {
        self.send(request).await
    }

    async fn payment(
        &self,
        payment_hash: PaymentHash,
    ) -> Result<Option<PaymentRecord>, LightningError> {
        self.ground.linger(2).await;
        if self.ground.strikes(Fault::RecordUnknown, 60) {
            return Err(unknown());
        }
        let record = self.node.payment(payment_hash).await?;
        let unrecorded = self.mailbox().unrecorded.contains(&payment_hash);
        Ok(record.filter(|record| {
            let is_missing = unrecorded && record.direction == PaymentDirection::Outbound;
            if is_missing {
                self.ground.struck(Fault::RecordMissing);
            }
            !is_missing
        }))
    }

    async fn balances(&self) -> Result<NodeBalances, LightningError> {
        self.node.balances().await
    }

    async fn best_block_height(&self) -> Result<Option<u32>, LightningError> {
        self.ground.linger(2).await;
        let knows = !self.ground.has(PlantedBug::KnowsNoHeight);
        Ok(knows.then(|| self.ground.height()))
    }

    async fn next_event(&self) -> Result<LightningEvent, LightningError> {
        loop {
            self.fetch();
            let wait = match self.next_letter() {
                Ok(event) => return Ok(event),
                Err(wait) => wait,
            };
            // Either something comes, or the time of a late one does. A stopped node says so.
            let mut came = Box::pin(self.node.next_event());
            let mut late = wait.map(|wait| self.ground.sleep(wait));
            let stopped = std::future::poll_fn(|context| {
                if let std::task::Poll::Ready(came) = came.as_mut().poll(context) {
                    return std::task::Poll::Ready(came.err());
                }
                match late.as_mut().map(|late| late.as_mut().poll(context)) {
                    Some(std::task::Poll::Ready(())) => std::task::Poll::Ready(None),
                    _ => std::task::Poll::Pending,
                }
            })
            .await;
            if let Some(error) = stopped {
                return Err(error);
            }
        }
    }

    async fn acknowledge(&self) -> Result<(), LightningError> {
        if self.ground.strikes(Fault::AcknowledgementLost, 60) {
            return Err(unknown());
        }
        let mut mailbox = self.mailbox();
        let told = mailbox.told.take();
        mailbox.letters.retain(|letter| Some(letter.number) != told);
        Ok(())
    }
}
