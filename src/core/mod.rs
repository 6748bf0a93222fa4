//! What every handle shares: load, decide, commit, answer.

mod chain_troubles;
mod command;
mod documents;
mod draining;
mod fingerprint;
mod last_blocks;
mod secrets;
mod sweep;
mod turns;

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

pub use command::{Answer, CommandError, IdempotencyKey};
pub use secrets::MasterSecret;

pub(crate) use chain_troubles::ChainTroubles;
pub(crate) use command::{Caller, Decision, Executed, check_text, unreadable};
pub(crate) use documents::{Loaded, emit, put};
#[cfg(feature = "chain")]
pub(crate) use draining::draining;
#[cfg(feature = "chain")]
pub(crate) use last_blocks::LastBlocks;
pub(crate) use last_blocks::SeenTip;
pub(crate) use secrets::Secrets;
pub(crate) use sweep::{Sweep, Sweeps};
pub(crate) use turns::{NamedTurns, Turn, Turns};

use crate::Error;
use crate::chain::{ChainError, ChainSource};
use crate::ids::{BatchId, CredentialId};
use crate::ledger::{Account, Balance, Batch, Commit, Step, UsageWindow};
use crate::lightning::{LightningError, LightningNode};
use crate::ports::{Clock, Entropy, Executor};
use crate::rates::{RatePolicy, RateSource};
use crate::store::commit_time::MOST_AHEAD_MS;
use crate::store::{CommitError, Store, StoreError};

/// What the host can set; the defaults are for a shop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How old a rate may be and how long a quote holds.
    pub rates: RatePolicy,
    /// Where the taps of newly written cards point, without scheme: `pay.example.com/boltcard`.
    pub tap_url: String,
    /// The host at which sellers' addresses are answered, without scheme: `pay.example.com`, with a
    /// port if there is one. It must stay: addresses that were printed are of this host.
    #[serde(default = "localhost")]
    pub pay_url: String,
    /// How long a job belongs to the engine that took it, in milliseconds.
    pub job_lease_ms: i64,
    /// How soon a payment whose outcome is not known is asked about again, in milliseconds.
    pub unknown_retry_ms: i64,
    /// How long the answers of commands are kept for whoever asks again with the same key, in
    /// milliseconds; `None` for ever. The keys themselves stay taken: a command is never done
    /// twice, however late it comes again.
    pub keep_answers_ms: Option<i64>,
    /// How long what was authorised on a card is set aside for its merchant, in milliseconds; a
    /// day by default.
    #[serde(default = "a_day_in_ms")]
    pub authorization_ms: i64,
    /// How long a tap can be charged after it was first looked at, in milliseconds; two minutes
    /// by default.
    #[serde(default = "two_minutes_in_ms")]
    pub tap_valid_ms: i64,
    /// How BOLT11 invoices are paid with cards.
    #[serde(default)]
    pub card_payments: CardPaymentSettings,
    /// For how many blocks the money of a refund or a payout over Lightning may be locked up, the last
    /// hop counted: whoever is paid can leave it waiting as long. Three days by default, 432: 144 that
    /// the widest of common wallets ask for of the last hop, and two hops of 144 before it.
    #[serde(default = "three_days_in_blocks")]
    pub max_lock_blocks: u32,
    /// How often the chain is looked at, in milliseconds; every ten seconds by default.
    #[serde(default = "ten_seconds_in_ms")]
    pub chain_poll_ms: i64,
    /// How long after a card expired its money becomes the operator's, in milliseconds, if nobody
    /// had it replaced or retired and its program says nothing else; `None` for never, which is the
    /// default.
    #[serde(default)]
    pub breakage_after_ms: Option<i64>,
    /// How many invoices anybody may ask for in an hour at the top-up addresses of one card; 60
    /// by default.
    #[serde(default = "sixty")]
    pub top_up_invoices_per_hour: u32,
    /// True, the default, while the `p` of any tap of a card is an address to top it up, as apps in
    /// the field have it. Whoever holds the card cannot revoke those: false ends them for all cards,
    /// and leaves each card the address that its holder can renew.
    #[serde(default = "yes")]
    pub top_up_by_tap: bool,
}

/// How BOLT11 invoices of others are paid with cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardPaymentSettings {
    /// The fixed part of what the route may cost.
    pub route_base_msat: i64,
    /// The proportional part, in hundredths of a percent of what is paid; 0 to 10,000.
    pub route_bps: u32,
    /// True when the card bears what the route costs: it is set aside beside the amount, and what
    /// the route does not cost comes back. False when the operator does, of what a till asked for;
    /// where no till took a tap it is always the card. A card's program can say otherwise of tills.
    pub card_bears_route: bool,
    /// How many payments of a card may be on their way at once.
    pub max_in_flight: u32,
    /// For how many blocks a route may lock a card's money up, the last hop counted: whoever is
    /// paid can leave the payment waiting as long. A card's program can say another number. By
    /// default 240, some forty hours: 80 that LND asks for of the last hop by default (LDK and Core
    /// Lightning ask for less), and two hops before it of 80, or one of 144. Less than a day is too
    /// little for the tills that most wallets have.
    pub max_lock_blocks: u32,
    /// How long a till that asks by LNURL waits for the outcome, in milliseconds; after that it
    /// is told that the payment is pending.
    pub wait_ms: u64,
}

impl Default for CardPaymentSettings {
    /// The card bears the route, at most 0.5 % and 10 sat; three payments at once, each for at
    /// most 240 blocks; five seconds.
    fn default() -> Self {
        Self {
            route_base_msat: 10_000,
            route_bps: 50,
            card_bears_route: true,
            max_in_flight: 3,
            max_lock_blocks: 240,
            wait_ms: 5_000,
        }
    }
}

fn localhost() -> String {
    "localhost".to_owned()
}

fn yes() -> bool {
    true
}

fn sixty() -> u32 {
    60
}

fn three_days_in_blocks() -> u32 {
    432
}

fn ten_seconds_in_ms() -> i64 {
    10_000
}

fn two_minutes_in_ms() -> i64 {
    120_000
}

fn a_day_in_ms() -> i64 {
    24 * 3_600_000
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rates: RatePolicy::default(),
            tap_url: "localhost/boltcard".to_owned(),
            pay_url: localhost(),
            job_lease_ms: 30_000,
            unknown_retry_ms: 2_000,
            keep_answers_ms: None,
            authorization_ms: a_day_in_ms(),
            tap_valid_ms: two_minutes_in_ms(),
            card_payments: CardPaymentSettings::default(),
            max_lock_blocks: three_days_in_blocks(),
            chain_poll_ms: ten_seconds_in_ms(),
            breakage_after_ms: None,
            top_up_invoices_per_hour: sixty(),
            top_up_by_tap: yes(),
        }
    }
}

/// How the node of an engine stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// The engine was built without one.
    None,
    /// It was not started, or was stopped.
    #[default]
    Stopped,
    /// It runs here.
    Running,
    /// Another instance on the same books runs it, or did until its lease ran out: this one takes
    /// over when it can. Everything that stays in the books works; sends wait for the one that
    /// has the node.
    Standby,
    /// Its state may not be the newest there was (the database was restored, copied or promoted),
    /// so that it does not run on it. The books work.
    Locked,
}

/// What a hash costs whoever tries PINs, with Argon2id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HashCost {
    pub(crate) memory_kib: u32,
    pub(crate) passes: u32,
}

impl Default for HashCost {
    /// As OWASP's *Password Storage Cheat Sheet* has them for a server, with one lane: 19 MiB, two
    /// passes.
    fn default() -> Self {
        Self {
            memory_kib: 19_456,
            passes: 2,
        }
    }
}

/// The ports and settings of one engine.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) lightning: Option<Arc<dyn LightningNode>>,
    /// Without a node here: another instance on these books has one.
    pub(crate) lightning_elsewhere: bool,
    pub(crate) node_status: Mutex<NodeStatus>,
    pub(crate) network: String,
    pub(crate) chain: Option<Arc<dyn ChainSource>>,
    pub(crate) rates: Arc<dyn RateSource>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) secrets: Secrets,
    pub(crate) hash_cost: HashCost,
    pub(crate) issuer: CredentialId,
    pub(crate) settings: Settings,
    /// Since when the clock and the time of commits are apart; 0 while they are not.
    pub(crate) apart_since_ms: AtomicI64,
    /// Looks at what a clock that was far ahead has put off.
    pub(crate) sweeps: Sweeps,
    /// The calls of one command are carried out one after the other.
    pub(crate) command_turns: NamedTurns,
    /// Receipts are issued one after the other: each takes the number after the last.
    pub(crate) receipt_turns: Turns,
    /// The node is emptied by one round after the other: two that look at the same coins would send
    /// them twice.
    #[cfg_attr(
        not(feature = "chain"),
        allow(dead_code, reason = "only wallets take it")
    )]
    pub(crate) drain_turns: Turns,
    /// What the watch of the chain cannot do now.
    pub(crate) chain_troubles: ChainTroubles,
}

/// How often a command is decided again when what it read has changed under it.
const MAX_DECISIONS: usize = 32;
/// However long nothing is known of a payment: after this time the node is asked again.
const RAREST_RETRY_MS: i64 = 600_000;
/// How long ago a batch was decided at the most that is submitted now.
const DECIDED_WITHIN_MS: i64 = 60_000;
/// How often the same batch is submitted again when its outcome is not known.
const MAX_SUBMISSIONS: usize = 5;

impl Core {
    pub(crate) fn node(&self) -> Result<&Arc<dyn LightningNode>, LightningError> {
        self.lightning.as_ref().ok_or(LightningError::NoNode)
    }

    #[cfg_attr(
        not(feature = "chain"),
        allow(dead_code, reason = "only wallets ask it")
    )]
    pub(crate) fn chain(&self) -> Result<&Arc<dyn ChainSource>, ChainError> {
        self.chain.as_ref().ok_or(ChainError::NotConfigured)
    }

    pub(crate) fn node_status(&self) -> NodeStatus {
        if self.lightning.is_none() {
            return NodeStatus::None;
        }
        let status = self.node_status.lock();
        *status.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_node_status(&self, status: NodeStatus) {
        let now = self.node_status.lock();
        *now.unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// True when what the node is asked has to wait for another instance, or for a person.
    pub(crate) fn node_is_away(&self) -> bool {
        use NodeStatus::{Locked, None, Standby};
        matches!(self.node_status(), None | Standby | Locked)
    }

    /// A new id; `make` is the id's own `from_parts`.
    pub(crate) fn new_id<T>(&self, make: fn(u64, [u8; 10]) -> T) -> Result<T, Error> {
        let mut random = [0; 10];
        self.entropy.fill(&mut random)?;
        Ok(make(self.clock.now_ms().max(0).cast_unsigned(), random))
    }

    /// Commits steps that no caller's command is behind: node events and due jobs.
    pub(crate) async fn commit(&self, steps: Vec<Step>) -> Result<Commit, Error> {
        self.submit(Batch {
            id: self.new_id(BatchId::from_parts)?,
            command: None,
            steps: steps.into(),
        })
        .await
    }

    /// Submits a batch; an unknown outcome is resolved by submitting the same batch again.
    pub(crate) async fn submit(&self, mut batch: Batch) -> Result<Commit, Error> {
        self.set_jobs_by_believed_time(&mut batch);
        let mut answer = self.store.commit(batch.clone()).await;
        for _ in 1..MAX_SUBMISSIONS {
            if answer != Err(CommitError::Store(StoreError::OutcomeUnknown)) {
                break;
            }
            answer = match self.store.commit(batch.clone()).await {
                // That it was not made now says nothing of the time before.
                Err(CommitError::Store(_)) => Err(StoreError::OutcomeUnknown.into()),
                known => known,
            };
        }
        Ok(answer?)
    }

    /// A clock that is far ahead and not believed puts nothing off until then: what is set by it
    /// is due as much earlier as it is ahead.
    fn set_jobs_by_believed_time(&self, batch: &mut Batch) {
        let is_due = |step: &Step| matches!(step, Step::Due(_));
        if !batch.steps.iter().any(is_due) {
            return;
        }
        let (now_ms, books_ms) = (self.clock.now_ms(), self.commit_time_ms());
        let ahead_ms = now_ms.saturating_sub(books_ms);
        // An engine's clock that is not its store's may differ from it by less.
        if ahead_ms <= MOST_AHEAD_MS {
            return;
        }
        // What is due at once was decided some time before this.
        let decided_ms = now_ms.saturating_sub(DECIDED_WITHIN_MS);
        for step in Arc::make_mut(&mut batch.steps) {
            if let Step::Due(job) = step
                && job.due_at_ms >= decided_ms
            {
                job.due_at_ms = job.due_at_ms.saturating_sub(ahead_ms);
            }
        }
    }

    /// When a commit that is decided now will be, as far as can be told: windows of usage are
    /// chosen for it. Where another instance was further, the first refusal lets the store know.
    pub(crate) fn commit_time_ms(&self) -> i64 {
        self.store.commit_time_ms()
    }

    /// The totals of an account as they are now: holds that have ended count as given back.
    pub(crate) async fn balance(&self, account: &Account) -> Result<Balance, Error> {
        let balance = self.store.balance(account).await?;
        if balance.debits_pending == 0 && balance.credits_pending == 0 {
            return Ok(balance);
        }
        Ok(self.balance_and_usage(account, &[]).await?.0)
    }

    /// The totals of an account, and what is used within each of some windows: as a commit that
    /// debits it finds them now, which first gives back the holds that have ended.
    pub(crate) async fn balance_and_usage(
        &self,
        account: &Account,
        windows: &[UsageWindow],
    ) -> Result<(Balance, Vec<i64>), Error> {
        let at_ms = self.commit_time_ms();
        let standing = self.store.standing(account, at_ms, windows).await?;
        Ok(standing.given_back(account, windows))
    }

    /// When to ask a node again about what began at `since_ms`: soon at first, then ever more
    /// rarely, after a quarter of the time that has passed.
    pub(crate) fn ask_again_at(&self, since_ms: i64) -> i64 {
        let now_ms = self.clock.now_ms();
        let soonest = self.settings.unknown_retry_ms;
        let wait_ms = now_ms.saturating_sub(since_ms) / 4;
        now_ms.saturating_add(wait_ms.clamp(soonest, soonest.max(RAREST_RETRY_MS)))
    }

    /// Decides and commits until nothing that was read has changed in between. `decide` answers
    /// `None` when there is nothing to do (any more).
    pub(crate) async fn settle<F, Fut>(&self, decide: F) -> Result<Option<Commit>, Error>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Option<Vec<Step>>, Error>>,
    {
        for _ in 1..MAX_DECISIONS {
            let Some(steps) = decide().await? else {
                return Ok(None);
            };
            match self.commit(steps).await {
                Err(Error::Ledger(refusal)) if refusal.should_decide_again() => {}
                answer => return answer.map(Some),
            }
        }
        Err(CommandError::Contended.into())
    }
}
