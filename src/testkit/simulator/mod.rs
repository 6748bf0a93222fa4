//! A whole engine in a seeded world, on one thread: the same seed gives the same run, to the last
//! poll.
//!
//! Everything that an engine does not decide by itself is a port, so all of it is the
//! simulation's: who is next to run, what the clock shows, what is drawn, what the store and the
//! node answer. Real [`Engine`](crate::Engine)s run in it, one process after the other upon the
//! same disk, with the group commit of the real stores. Callers charge cards, keep tabs, pay
//! invoices over Lightning, on chain and by book, let them be held, guess PINs, replace cards and
//! share balances, hand in what they took offline, undo charges and invoices, ask for payouts, send
//! twice, and ask again with the same key when they get no answer; clerks use the ledger's batches
//! directly. Meanwhile groups fail, answers are lost, the node tells late, twice or in another
//! order, or does not know; the chain replaces, spends twice and reorganises what was paid; the
//! clock jumps; the process dies between any two polls.
//!
//! After every flush a model that takes nothing of the engine but ids, names of accounts and
//! amounts reads the events that were written, judges whether each was lawful, and must come to the
//! same balances. At the end all weather is calm, everything that is open must come to its end, and
//! the whole is compared with the model, the node, the merchants' wallet and the journal.
//!
//! ```
//! use flashkit::testkit::simulator::Simulation;
//!
//! let run = Simulation::new(7, 50).run();
//! assert!(run.finding.is_none(), "{run:?}");
//! ```

mod bugs;
mod chain;
mod clerks;
mod commands;
mod end;
mod executor;
mod ground;
mod holds;
mod life;
mod model;
mod node;
mod offline;
mod orders;
mod pins;
mod random;
mod refunds;
mod scribe;
mod shopper;
mod store;
mod tally;
mod tills;
mod world;
mod writer;

use std::fmt;

pub use bugs::PlantedBug;
pub use tally::{Fault, Tally, Transition};

use model::Wrong;
use world::World;

/// What is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simulation {
    /// Says everything that happens.
    pub seed: u64,
    /// How many times something befalls the world. The engine gets a few polls after each.
    pub steps: usize,
    /// A bug to be found.
    pub bug: Option<PlantedBug>,
}

/// What the simulator found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// At which step; the number of all of them when it was at the end.
    pub step: usize,
    /// What must hold and did not.
    pub check: &'static str,
    /// How it was seen.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            step,
            check,
            detail,
        } = self;
        write!(f, "step {step}: {check}, but: {detail}")
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The digest of every poll, every commit, every event of the node and every fault, in their
    /// order: 64 hex digits.
    pub trace: String,
    /// How often everything happened.
    pub tally: Tally,
    /// How many polls there were.
    pub polls: u64,
    /// `None` when everything held.
    pub finding: Option<Finding>,
}

impl Simulation {
    /// An honest simulation.
    pub fn new(seed: u64, steps: usize) -> Self {
        let bug = None;
        Self { seed, steps, bug }
    }

    /// The same with a bug planted in it.
    pub fn with(self, bug: PlantedBug) -> Self {
        let bug = Some(bug);
        Self { bug, ..self }
    }

    /// Runs it to its end, or to the first thing that does not hold.
    pub fn run(self) -> Run {
        let mut world = World::new(self.seed);
        let mut step = 0;
        let outcome = self.live(&mut world, &mut step);
        world.ground.executor.kill_all();
        let finding = outcome.err().map(|Wrong { check, detail }| Finding {
            step,
            check,
            detail,
        });
        Run {
            trace: world.ground.digest(),
            tally: world.ground.tally(),
            polls: world.polls,
            finding,
        }
    }

    fn live(self, world: &mut World, step: &mut usize) -> Result<(), Wrong> {
        world.set_up()?;
        world.ground.plant(self.bug);
        while *step < self.steps {
            world.step()?;
            *step += 1;
        }
        world.calm_down()?;
        world.compare_all()
    }
}
