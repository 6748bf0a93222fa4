//! The world around an engine: callers, payers, wallets, and what befalls the process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::chain::Chain;
use super::commands::{Call, Command, Meaning, Request, Slot, call, put_in, taken, transition_of};
use super::executor::{Step, at_once};
use super::ground::{Flushing, Ground, Weather};
use super::model::{Model, Truth, Wrong, wrong};
use super::node::FaultyNode;
use super::random::Random;
use super::scribe::Scribe;
use super::shopper::Shop;
use super::store::SimulatedStore;
use super::tally::{Fault, Transition};
use crate::Engine;
use crate::access::Credential;
use crate::core::{MasterSecret, Settings};
use crate::ledger::{Account, Balance, HoldState};
use crate::lightning::LightningNode;
use crate::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use crate::ports::Executor;
use crate::store::{CommitError, MAX_PAGE, MemoryStore, Store};

/// What runs in a process at the moment.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) engine: Engine,
    pub(super) issuer: Credential,
    pub(super) store: SimulatedStore,
}

/// A batch of a clerk on its way.
pub(super) struct ClerkCall {
    pub(super) name: String,
    pub(super) batch: crate::ledger::Batch,
    pub(super) slot: Slot<Result<crate::ledger::Commit, CommitError>>,
    pub(super) is_sent: bool,
    /// Two of it were on their way at once: one can be refused, and the other made.
    pub(super) was_doubled: bool,
}

/// Everything in a simulation.
pub(super) struct World {
    pub(super) ground: Arc<Ground>,
    pub(super) random: Random,
    pub(super) disk: MemoryStore,
    pub(super) node: FaultyNode,
    /// The node behind that, which tells the truth.
    pub(super) true_node: SimulatedNode,
    pub(super) customer: SimulatedNode,
    pub(super) shop: Shop,
    pub(super) chain: Chain,
    pub(super) model: Model,
    pub(super) commands: Vec<Command>,
    /// Those with a call on its way.
    flying: BTreeSet<usize>,
    pub(super) clerks: Vec<ClerkCall>,
    pub(super) made: i64,
    pub(super) polls: u64,
    scribe: Arc<Scribe>,
    starting: Slot<Process>,
    pub(super) process: Option<Process>,
    /// The process was told to stop.
    stopping: Option<Slot<()>>,
    /// The keys of all commands that stand in the books.
    keys: BTreeSet<String>,
    commits_read: i64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let ground = Arc::new(Ground::new(seed));
        let network = SimulatedNetwork::new(ground.clone());
        network.set_route_fee_msat(1_000);
        let true_node = network.node(0);
        let (customer, wallet) = (network.node(1_000_000_000_000_000), network.node(0));
        for node in [&customer, &wallet] {
            drop(at_once(node.start()));
        }
        Self {
            node: FaultyNode::new(&ground, true_node.clone()),
            random: Random::new(seed, "world"),
            disk: MemoryStore::new(ground.clone()),
            true_node,
            customer,
            shop: Shop::new(wallet),
            chain: Chain::default(),
            model: Model::default(),
            commands: Vec::new(),
            flying: BTreeSet::new(),
            clerks: Vec::new(),
            made: 0,
            polls: 0,
            scribe: Arc::default(),
            starting: Slot::default(),
            process: None,
            stopping: None,
            keys: BTreeSet::new(),
            commits_read: 0,
            ground,
        }
    }

    /// A name that nothing else has.
    pub(super) fn name(&mut self) -> String {
        self.made += 1;
        format!("n{}", self.made)
    }

    /// A new process on the disk as it is.
    pub(super) fn boot(&mut self) {
        self.starting = Slot::default();
        let (ground, disk, node) = (self.ground.clone(), self.disk.clone(), self.node.clone());
        let (ready, scribe) = (self.starting.clone(), self.scribe.clone());
        let boot = async move {
            loop {
                let store = SimulatedStore::open(&ground, &disk);
                match open(&ground, &store, &node).await {
                    Ok(engine) => {
                        while engine.start().await.is_err() {
                            ground.sleep(Duration::from_millis(200)).await;
                        }
                        let writes = scribe.write_on(ground.clone(), store.clone());
                        ground.executor.spawn(Box::pin(writes));
                        let issuer = engine.issuer();
                        let process = Process {
                            engine,
                            issuer,
                            store,
                        };
                        return put_in(&ready, process);
                    }
                    Err(_) => drop(store.close().await),
                }
                ground.sleep(Duration::from_millis(200)).await;
            }
        };
        self.ground.executor.spawn(Box::pin(boot));
    }

    /// The process dies where it stands.
    pub(super) fn crash(&mut self) {
        self.ground.struck(match self.ground.flushing() {
            _ if self.process.is_none() => Fault::CrashWhileStarting,
            Flushing::Decided => Fault::CrashBeforeFlush,
            Flushing::Flushed => Fault::CrashAfterFlush,
            Flushing::Nothing => Fault::Crash,
        });
        self.ground.executor.kill_all();
        self.ground.set_flushing(Flushing::Nothing);
        self.node.crash();
        self.process = None;
        self.stopping = None;
        for at in std::mem::take(&mut self.flying) {
            if let Some(command) = self.commands.get_mut(at) {
                command.calls.clear();
            }
        }
        for clerk in &mut self.clerks {
            clerk.is_sent = false;
        }
        self.chain.crash();
        self.boot();
    }

    /// The process is told to stop; once it has, another one is started.
    pub(super) fn stop(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        self.ground.struck(Fault::Restart);
        let stopped: Slot<()> = Slot::default();
        self.stopping = Some(stopped.clone());
        let ground = self.ground.clone();
        let stop = async move {
            while process.engine.stop().await.is_err() {
                ground.sleep(Duration::from_millis(50)).await;
            }
            put_in(&stopped, ());
        };
        self.ground.executor.spawn(Box::pin(stop));
    }

    /// One poll, and everything that can be seen after it.
    pub(super) fn poll(&mut self) -> Result<(), Wrong> {
        self.polls += 1;
        match self.ground.executor.step() {
            Step::Polled { task, ended } => {
                self.ground.trace(if ended { "end" } else { "poll" }, task);
            }
            Step::Advanced { now_ms } => self.ground.trace("time", now_ms),
            Step::Nothing => return wrong("the engine goes on", "nothing is left to do"),
        }
        if let Some(process) = taken(&self.starting) {
            self.process = Some(process);
        }
        if self.stopping.as_ref().and_then(taken).is_some() {
            self.stopping = None;
            self.boot();
        }
        self.read_disk()?;
        self.scribe.check(&self.disk)?;
        self.take_chain_answers();
        self.take_answers()
    }

    /// Reads what was written since the last time, and compares.
    fn read_disk(&mut self) -> Result<(), Wrong> {
        let commits = at_once(self.disk.commits(self.commits_read, MAX_PAGE));
        let commits = commits.and_then(Result::ok).unwrap_or_default();
        let Some(last) = commits.last() else {
            return Ok(());
        };
        self.commits_read = last.position;
        for commit in &commits {
            let key = commit.scope.as_deref().and_then(|it| it.rsplit('/').next());
            let Some(key) = key.filter(|key| !self.keys.contains(*key)) else {
                continue;
            };
            let refused = self.commands.iter().find(|command| command.key == key);
            if let Some(code) = refused.and_then(|command| command.refused) {
                let detail = format!("{key}: done after {code}");
                return wrong("what was refused for good stays undone", detail);
            }
            self.keys.insert(key.to_owned());
        }
        let events = at_once(self.disk.events(self.model.position, MAX_PAGE));
        let truth = Truth {
            node: &self.true_node,
            chain: &self.chain,
            latest_ms: self.ground.latest_ms(),
            port: &self.node,
            height: self.ground.height(),
        };
        for event in events.and_then(Result::ok).unwrap_or_default() {
            self.model.read(&event, &truth)?;
        }
        for transition in self.model.fired() {
            self.ground.went(transition);
        }
        for at in &self.flying {
            let calls = self.commands.get_mut(*at).map(|it| &mut it.calls);
            for seen in calls
                .into_iter()
                .flatten()
                .filter_map(|it| it.seen.as_mut())
            {
                self.model.look_again(seen);
            }
        }
        for account in self.model.books.touched() {
            self.compare(&account)
                .or_else(|wrong| self.compare_line(&account, wrong))?;
        }
        self.model.books.conserved()
    }

    pub(super) fn compare(&self, account: &Account) -> Result<(), Wrong> {
        let (_, stored, due) = self.stored(account);
        self.model.books.compare(account, stored, &due)
    }

    /// What a hold gives back to a card that was replaced stays there until a job looks, unless what
    /// was decided by then had seen that it had ended: a card has it, or the one in its place.
    fn compare_line(&self, account: &Account, found: Wrong) -> Result<(), Wrong> {
        let (model, now) = (&self.model, self.model.account_now(*account));
        let line = model.books.accounts();
        let line = line.filter(|it| model.account_now(**it) == now);
        let line: Vec<_> = line.map(|it| self.stored(it)).collect();
        match line.len() > 1 && model.books.have_together(&line) {
            true => Ok(()),
            false => Err(found),
        }
    }

    fn stored(&self, account: &Account) -> (Account, Balance, Vec<HoldState>) {
        let standing = at_once(self.disk.standing(account, self.model.last_ms, &[]));
        let standing = standing.and_then(Result::ok).unwrap_or_default();
        (*account, standing.balance, standing.ended)
    }

    /// Sends a command, or sends it again.
    pub(super) fn send(&mut self, at: usize) {
        let Some(process) = self.process.clone() else {
            return;
        };
        let Some(command) = self.commands.get_mut(at) else {
            return;
        };
        let slot = Slot::default();
        let was_done = self.keys.contains(&command.key);
        command.calls.push(Call {
            slot: Arc::clone(&slot),
            was_done,
            seen: self.model.seen(&command.key),
        });
        let (by, request) = (command.by.clone(), command.request.clone());
        self.flying.insert(at);
        self.ground.trace("command", at as u64);
        self.ground.executor.spawn(Box::pin(async move {
            let answer = call(process.engine, by, request).await;
            put_in(&slot, answer);
        }));
    }

    /// Makes a command and sends it.
    pub(super) fn command(&mut self, key: String, by: Credential, request: Request) -> usize {
        self.commands.push(Command {
            key,
            by,
            request,
            calls: Vec::new(),
            answer: None,
            is_over: false,
            refused: None,
            is_abuse: false,
        });
        self.send(self.commands.len() - 1);
        self.commands.len() - 1
    }

    fn take_answers(&mut self) -> Result<(), Wrong> {
        let mut landed = Vec::new();
        for at in &self.flying {
            let Some(command) = self.commands.get_mut(*at) else {
                continue;
            };
            let arrived = command.calls.iter().position(|call| call.has_arrived());
            let Some(call) = arrived.map(|call| command.calls.remove(call)) else {
                continue;
            };
            let Some(answer) = taken(&call.slot) else {
                continue;
            };
            let is_done = self.keys.contains(&command.key);
            landed.push((*at, command.answered(answer, &call, is_done)?, call.seen));
        }
        for (at, meaning, seen) in landed {
            let Some(command) = self.commands.get(at) else {
                continue;
            };
            if command.calls.is_empty() {
                self.flying.remove(&at);
            }
            match meaning {
                Meaning::First(value) => {
                    if let (Request::Peek(_), Some(seen)) = (&command.request, seen) {
                        let range = (seen.least_msat, seen.most_msat);
                        let latest_ms = self.ground.latest_ms();
                        self.model
                            .told_balance(&value, seen.card, range, latest_ms)?;
                        self.model.peeked(seen.card, seen.counter, latest_ms);
                        self.ground.went(Transition::Peeked);
                    }
                    self.shop.learn(&command.request, &value)?;
                }
                Meaning::Again => self.ground.went(Transition::Replayed),
                Meaning::Refused(code) => {
                    if let ("card.wrong_pin", Some(seen)) = (code, seen) {
                        let name = command.key.clone();
                        self.model.told_wrong_pin(seen.card, &name)?;
                    }
                    self.ground.trace(code, 0);
                    if let Some(transition) = transition_of(code) {
                        self.ground.went(transition);
                    }
                }
                Meaning::Unknown => {}
            }
        }
        self.take_clerk_answers()
    }

    fn take_clerk_answers(&mut self) -> Result<(), Wrong> {
        let mut at = 0;
        while let Some(clerk) = self.clerks.get_mut(at) {
            match taken(&clerk.slot) {
                None => at += 1,
                Some(Err(CommitError::Store(_))) => {
                    clerk.is_sent = false;
                    at += 1;
                }
                Some(Ok(_)) => {
                    let name = self.clerks.remove(at).name;
                    if !self.model.is_done(&name) {
                        return wrong("no acknowledged commit is lost", name);
                    }
                }
                Some(Err(CommitError::Refused(refusal))) => {
                    let clerk = self.clerks.remove(at);
                    self.ground.went(Transition::BatchRefused);
                    self.ground.trace(refusal.code(), 0);
                    if self.model.is_done(&clerk.name) && !clerk.was_doubled {
                        return wrong("what was refused left no trace", clerk.name);
                    }
                }
            }
        }
        Ok(())
    }

    /// Polls so often.
    pub(super) fn run(&mut self, polls: usize) -> Result<(), Wrong> {
        (0..polls).try_for_each(|_| self.poll())
    }

    /// Polls until it is so; false when it takes too long.
    pub(super) fn run_until(
        &mut self,
        most: usize,
        is_so: impl Fn(&Self) -> bool,
    ) -> Result<bool, Wrong> {
        for _ in 0..most {
            if is_so(self) {
                return Ok(true);
            }
            self.poll()?;
        }
        Ok(is_so(self))
    }

    /// Another weather, now and then.
    pub(super) fn change_weather(&mut self) {
        let weather = if self.random.chance(250) {
            Weather::Storm
        } else {
            Weather::Fair
        };
        self.ground.set_weather(weather);
    }
}

async fn open(
    ground: &Arc<Ground>,
    store: &SimulatedStore,
    node: &FaultyNode,
) -> Result<Engine, crate::Error> {
    let settings = Settings {
        job_lease_ms: 3_000,
        unknown_retry_ms: 1_000,
        authorization_ms: 40 * 60_000,
        keep_answers_ms: Some(36 * 3_600_000),
        ..Settings::default()
    };
    let (store, node): (Arc<dyn Store>, Arc<dyn LightningNode>) =
        (Arc::new(store.clone()), Arc::new(node.clone()));
    Engine::builder(store, MasterSecret::new([9; 32]))
        .network("regtest")
        .lightning(node)
        .clock(ground.clone())
        .entropy(ground.clone())
        .executor(Arc::new(ground.executor.clone()))
        .quick_hashes()
        .settings(settings)
        .open()
        .await
}
