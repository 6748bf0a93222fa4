//! Whether all that the node has is on its way out: asked by whoever makes rails.

use serde::{Deserialize, Serialize};

use super::Core;
use super::documents::Loaded;
use crate::Error;
use crate::ids::DrainId;

const RUNNING: &str = "node_drain_running";
/// There is one node in the books.
const THE_NODE: &str = "node";

/// The drain that goes on, if one does. Whoever begins or ends one writes it, so that two are never
/// begun at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Running {
    drain: Option<DrainId>,
}

impl Core {
    /// The drain that goes on, with the version to write the next one over it.
    pub(crate) async fn draining(&self) -> Result<Loaded<Option<DrainId>>, Error> {
        let found: Option<Loaded<Running>> = self.load(RUNNING, THE_NODE).await?;
        Ok(Loaded {
            version: found.as_ref().map_or(0, |found| found.version),
            value: found.and_then(|found| found.value.drain),
        })
    }
}

/// The step that begins a drain, or ends it.
#[cfg(feature = "chain")]
pub(crate) fn draining(
    drain: Option<DrainId>,
    read_version: i64,
) -> Result<crate::ledger::Step, Error> {
    let (running, keys) = (Running { drain }, Vec::new());
    super::put(RUNNING, THE_NODE.to_owned(), read_version, &running, keys)
}
