//! A day in a cookshop in Kingston, on real parts: two Lightning nodes, a chain, a card, points
//! and the books behind them, all in this process.
//!
//! ```text
//! cargo run --example quickstart                 # go on in ./data/quickstart, or begin there
//! cargo run --example quickstart -- --fresh      # begin anew
//! cargo run --example quickstart -- --trace      # payment hashes as both nodes know them
//! ```
//!
//! It can be stopped at any moment; the next run goes on where it was.

mod notebook;
mod print;
mod story;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use flashkit::lightning::LightningNode;
use flashkit::lightning::ldk::LdkNode;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What was asked for on the command line.
pub struct Options {
    folder: PathBuf,
    fresh: bool,
    trace: bool,
}

const USAGE: &str = "cargo run --example quickstart -- [--fresh] [--trace] [--data FOLDER]";

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        folder: PathBuf::from("data/quickstart"),
        fresh: false,
        trace: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--fresh" => options.fresh = true,
            "--trace" => options.trace = true,
            "--data" => {
                options.folder = words.next().ok_or("--data needs a folder")?.into();
            }
            _ => return Err(format!("usage: {USAGE}").into()),
        }
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(failure) => return report(&failure),
    };
    let nodes = Nodes::default();
    let told = tokio::select! {
        told = story::run(&options, &nodes) => told,
        _ = tokio::signal::ctrl_c() => {
            println!("\n   … stopping the nodes; run it again to go on");
            Err("stopped by Ctrl-C".into())
        }
    };
    // A node that is stopped writes its state down; one that is killed may lose its channel.
    let stopped = nodes.stop().await;
    match told.and(stopped) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    eprintln!("\nquickstart: {failure}");
    ExitCode::FAILURE
}

/// The nodes that run, to be stopped whatever happens.
#[derive(Default)]
pub struct Nodes(Mutex<Vec<Arc<LdkNode>>>);

impl Nodes {
    pub fn add(&self, node: &Arc<LdkNode>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(node.clone());
    }

    async fn stop(&self) -> Result<(), Failure> {
        let nodes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut stopped = Ok(());
        for node in nodes {
            // One that cannot be stopped is no reason to kill the other.
            stopped = stopped.and(node.stop().await);
        }
        Ok(stopped?)
    }
}
