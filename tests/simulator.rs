//! Scratch.
use flashkit::testkit::simulator::*;

#[test]
fn one() {
    let from: u64 = std::env::var("FROM").map_or(1, |t| t.parse().unwrap());
    let many: u64 = std::env::var("MANY").map_or(1, |t| t.parse().unwrap());
    let steps: usize = std::env::var("STEPS").map_or(2000, |t| t.parse().unwrap());
    let mut all = Tally::default();
    for seed in from..from + many {
        let begun = std::time::Instant::now();
        let run = Simulation::new(seed, steps).run();
        println!("seed {seed}: {:?} {} polls {} {:?}", run.finding.as_ref().map(ToString::to_string), run.polls, &run.trace[..8], begun.elapsed());
        all.add(&run.tally);
    }
    println!("{all}");
}

#[test]
fn bugs() {
    for bug in PlantedBug::ALL {
        let mut found = None;
        for seed in 1..=30 {
            if let Some(finding) = Simulation::new(seed, 2000).with(*bug).run().finding {
                found = Some((seed, finding.to_string()));
                break;
            }
        }
        println!("{bug:?}: {found:?}");
    }
}
#[test]
fn same() {
    for seed in 1..=20 {
        let (a, b) = (Simulation::new(seed, 2000).run(), Simulation::new(seed, 2000).run());
        assert_eq!(a.trace, b.trace, "{seed}");
    }
}
