//! Scratch.
use flashkit::testkit::simulator::Simulation;

#[test]
fn one() {
    let from: u64 = std::env::var("FROM").map_or(1, |t| t.parse().unwrap());
    let many: u64 = std::env::var("MANY").map_or(1, |t| t.parse().unwrap());
    let steps: usize = std::env::var("STEPS").map_or(2000, |t| t.parse().unwrap());
    for seed in from..from + many {
        let begun = std::time::Instant::now();
        let run = Simulation::new(seed, steps).run();
        println!(
            "seed {seed}: {:?} {} polls {} {:?}",
            run.finding.as_ref().map(ToString::to_string),
            run.polls,
            &run.trace[..8],
            begun.elapsed()
        );
        if many == 1 {
            println!("{}", run.tally);
        }
    }
}
