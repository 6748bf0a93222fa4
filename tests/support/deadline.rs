//! A deadline that holds although every thread of the runtime hangs.

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is being done, by name. Dropped in time, it does nothing; otherwise the process ends and
/// says what hung.
pub struct Deadline {
    steps: Arc<Mutex<BTreeMap<String, &'static str>>>,
    _met: Sender<()>,
}

impl Deadline {
    /// Watches from a thread of its own: a timer of a runtime that hangs would hang with it.
    pub fn after(limit: Duration) -> Self {
        let (met, missed) = channel();
        let steps: Arc<Mutex<BTreeMap<String, &'static str>>> = Arc::default();
        let watched = steps.clone();
        std::thread::spawn(move || {
            if missed.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                eprintln!("after {limit:?} this still hangs:");
                for (name, step) in watched.lock().unwrap().iter() {
                    eprintln!("  {name}: {step}");
                }
                std::process::exit(101);
            }
        });
        Self { steps, _met: met }
    }

    /// `name` has come to `step`.
    pub fn at(&self, name: &str, step: &'static str) {
        self.steps.lock().unwrap().insert(name.to_owned(), step);
    }

    /// `name` has ended.
    pub fn done(&self, name: &str) {
        self.steps.lock().unwrap().remove(name);
    }
}
