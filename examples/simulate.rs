//! Runs the simulator on any number of seeds:
//!
//! ```text
//! cargo run --example simulate -- [--seeds 1000] [--from 1] [--steps 2000] [--bug LosesEvents]
//! ```
//!
//! Prints what was found and how often everything happened; ends with 1 when anything was found.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use flashkit::testkit::simulator::{PlantedBug, Simulation, Tally};

struct Options {
    seeds: u64,
    from: u64,
    steps: usize,
    bug: Option<PlantedBug>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seeds: 1_000,
        from: 1,
        steps: 2_000,
        bug: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().ok_or(format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| error.to_string());
        match name.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--steps" => options.steps = usize::try_from(number()?).unwrap_or(usize::MAX),
            "--bug" => {
                let known = PlantedBug::ALL.iter().copied();
                let bug = known.clone().find(|bug| format!("{bug:?}") == value);
                let names: Vec<_> = known.map(|bug| format!("{bug:?}")).collect();
                options.bug = Some(bug.ok_or(format!("one of {}", names.join(", ")))?);
            }
            _ => return Err(format!("no option {name}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let Options {
        seeds,
        from,
        steps,
        bug,
    } = options;
    let (next, found) = (AtomicU64::new(from), AtomicU64::new(0));
    let all = Mutex::new(Tally::default());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= from.saturating_add(seeds) {
                        return;
                    }
                    let run = Simulation { seed, steps, bug }.run();
                    if let Some(finding) = &run.finding {
                        found.fetch_add(1, Ordering::SeqCst);
                        println!("seed {seed}, {finding}");
                    }
                    if let Ok(mut all) = all.lock() {
                        all.add(&run.tally);
                    }
                }
            });
        }
    });
    if let Ok(all) = all.lock() {
        println!("{all}");
        for name in all.never() {
            println!("never: {name}");
        }
    }
    let found = found.into_inner();
    println!("{seeds} seeds of {steps} steps, {found} with findings");
    ExitCode::from(u8::from(found > 0))
}
