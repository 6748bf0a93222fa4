//! The simulator, as CI runs it: no seed finds anything, everything happens, the same seed gives
//! the same run, and every bug that is planted is found.
//!
//! Any number of seeds: `cargo run --example simulate -- --seeds 5000`.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use flashkit::testkit::simulator::{PlantedBug, Run, Simulation, Tally};

const SEEDS: u64 = 200;
const STEPS: usize = 2_000;
/// How many of them are run twice.
const TWICE: u64 = 20;
/// Within so many seeds a planted bug must be found.
const SEEDS_FOR_A_BUG: u64 = 100;
/// Where the search for a bug that few seeds find begins: where it was found last. The others
/// follow, so that nothing but time depends on it.
const FOUND_AT: [(PlantedBug, u64); 3] = [
    (PlantedBug::ForgetsLooks, 10),
    (PlantedBug::ForgetsRefunds, 24),
    (PlantedBug::PaysByBookAndNetwork, 44),
];

/// What came of the seeds from 1 on: every simulation has one thread, and each of ours has some.
fn run_all(seeds: u64) -> Vec<Run> {
    let next = AtomicU64::new(1);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut runs = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed > seeds {
                return runs;
            }
            runs.push((seed, Simulation::new(seed, STEPS).run()));
        }
    };
    let mut runs = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let runs = threads.into_iter().flat_map(|it| it.join().unwrap());
        runs.collect::<Vec<_>>()
    });
    runs.sort_by_key(|(seed, _)| *seed);
    runs.into_iter().map(|(_, run)| run).collect()
}

static RUNS: LazyLock<Vec<Run>> = LazyLock::new(|| run_all(SEEDS));

#[test]
fn no_seed_finds_anything_and_everything_happens() {
    let mut tally = Tally::default();
    let mut findings = Vec::new();
    for (seed, run) in (1..).zip(RUNS.iter()) {
        tally.add(&run.tally);
        if let Some(finding) = &run.finding {
            findings.push(format!("seed {seed}, {finding}"));
        }
    }
    let polls: u64 = RUNS.iter().map(|run| run.polls).sum();
    println!("{SEEDS} seeds of {STEPS} steps, {polls} polls\n{tally}");
    assert_eq!(findings, Vec::<String>::new());
    assert_eq!(tally.never(), Vec::<&str>::new(), "never happened");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let again = run_all(TWICE);
    for (seed, (first, second)) in (1..).zip(RUNS.iter().zip(&again)) {
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
    }
    let traces: BTreeSet<&str> = again.iter().map(|run| run.trace.as_str()).collect();
    assert_eq!(traces.len(), again.len(), "other seeds give other runs");
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in PlantedBug::ALL {
        let first = FOUND_AT.iter().find(|(known, _)| known == bug);
        let first = first.map_or(1, |(_, seed)| *seed);
        let found = (first..=SEEDS_FOR_A_BUG).chain(1..first).find_map(|seed| {
            let run = Simulation::new(seed, STEPS).with(*bug).run();
            run.finding.map(|finding| (seed, finding))
        });
        match found {
            Some((seed, finding)) => println!("{bug:?}: seed {seed}, {finding}"),
            None => missed.push(bug),
        }
    }
    assert_eq!(missed, Vec::<&PlantedBug>::new());
}
