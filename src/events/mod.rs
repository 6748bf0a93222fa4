//! What happened, for whoever wants to know, also after a crash.
//!
//! Events are written by the commit that caused them. A reader has a name and a cursor: it reads
//! on from where it last acknowledged, and so misses nothing.

use std::sync::Arc;

use crate::Error;
use crate::access::Credential;
use crate::core::{CommandError, Core};
use crate::ledger::EventRecord;

/// An event, as it stands in the books.
pub type Event = EventRecord;

const MAX_NAME: usize = 100;

/// The handle for events.
#[derive(Clone)]
pub struct Events {
    core: Arc<Core>,
}

impl Events {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The reader's next events, at most `limit` (1 to 1,000), oldest first; empty when there
    /// are none. They are returned again until they are acknowledged. Issuer only.
    ///
    /// # Errors
    /// `command.out_of_bounds` for a name longer than 100 characters, `access.*`, `store.*`.
    pub async fn next(
        &self,
        credential: &Credential,
        reader: &str,
        limit: usize,
    ) -> Result<Vec<Event>, Error> {
        let cursor = self.cursor(credential, reader).await?;
        Ok(self.core.store.events(cursor, limit).await?)
    }

    /// As [`next`](Self::next), but waits until there is an event.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub async fn wait(
        &self,
        credential: &Credential,
        reader: &str,
        limit: usize,
    ) -> Result<Vec<Event>, Error> {
        let cursor = self.cursor(credential, reader).await?;
        self.core.store.event_after(cursor).await?;
        Ok(self.core.store.events(cursor, limit).await?)
    }

    /// The reader has dealt with everything up to this position. Never moves back, nor beyond the
    /// last event: a reader that was further than the books are now, which came back from a backup,
    /// would miss what happens next. Issuer only.
    ///
    /// # Errors
    /// `command.out_of_bounds` as well for a position that no event has reached; else as for
    /// [`next`](Self::next).
    pub async fn acknowledge(
        &self,
        credential: &Credential,
        reader: &str,
        position: i64,
    ) -> Result<(), Error> {
        let cursor = self.cursor(credential, reader).await?;
        let before = position.saturating_sub(1);
        if position > cursor && self.core.store.events(before, 1).await?.is_empty() {
            let (field, bounds) = ("position", "0 to the last event's");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        Ok(self.core.store.acknowledge(reader, position).await?)
    }

    async fn cursor(&self, credential: &Credential, reader: &str) -> Result<i64, Error> {
        self.core.authenticate(credential).await?.require_issuer()?;
        if reader.is_empty() || reader.len() > MAX_NAME {
            let (field, bounds) = ("reader", "1 to 100 bytes");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        Ok(self.core.store.cursor(reader).await?)
    }
}
