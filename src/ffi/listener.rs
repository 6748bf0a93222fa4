//! Events pushed to the app: sugar over a cursor.

use std::sync::Arc;
use std::time::Duration;

use super::{EngineEvent, FlashError, Flashkit, runtime};
use crate::Engine;
use crate::access::Credential;
use crate::store::StoreError;

/// How many events are read at once.
const PAGE: usize = 100;
/// How long the library waits after a listener or the store failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Implemented by the app; called by the library.
#[uniffi::export(with_foreign)]
pub trait EventListener: Send + Sync {
    /// One event, in order, on a thread of the library that may wait. Once it returns, the event
    /// is acknowledged; when it throws, the same event comes again after half a second.
    ///
    /// After a crash in between, the last event comes again: know it by its `position`.
    fn on_event(&self, event: EngineEvent) -> Result<(), FlashError>;
}

#[uniffi::export]
impl Flashkit {
    /// Gives every event from where `reader` last acknowledged on to `listener`, until
    /// `clear_listener`, another `set_listener` or `shutdown`. Issuer only.
    ///
    /// Errors: `access.*`, `command.out_of_bounds` for a reader's name, `store.*`.
    pub async fn set_listener(
        &self,
        credential: String,
        reader: String,
        listener: Arc<dyn EventListener>,
    ) -> Result<(), FlashError> {
        let issuer: Credential = credential.parse()?;
        // Refused here, and not out of sight in the background.
        let (caller, name) = (issuer.clone(), reader.clone());
        let engine = self
            .with_engine(|engine| async move {
                engine.events().next(&caller, &name, 1).await?;
                Ok(engine)
            })
            .await?;
        let task = runtime::handle()?.spawn(deliver(engine, issuer, reader, listener));
        if let Some(before) = self.delivery().replace(task) {
            before.abort();
        }
        Ok(())
    }

    /// Ends what `set_listener` began. A call of the listener that runs at this moment comes to
    /// its end; its event is not acknowledged.
    pub fn clear_listener(&self) {
        self.end_delivery();
    }
}

async fn deliver(
    engine: Engine,
    issuer: Credential,
    reader: String,
    listener: Arc<dyn EventListener>,
) {
    loop {
        match deliver_page(&engine, &issuer, &reader, &listener).await {
            Ok(()) => {}
            Err(error) if error.code() == StoreError::Closed.code() => return,
            Err(_) => tokio::time::sleep(RETRY_AFTER).await,
        }
    }
}

async fn deliver_page(
    engine: &Engine,
    issuer: &Credential,
    reader: &str,
    listener: &Arc<dyn EventListener>,
) -> Result<(), FlashError> {
    for event in engine.events().wait(issuer, reader, PAGE).await? {
        let (position, listener) = (event.position, listener.clone());
        runtime::run_blocking(move || listener.on_event(event.into())).await?;
        let events = engine.events();
        events.acknowledge(issuer, reader, position).await?;
    }
    Ok(())
}
