//! Listeners: sugar over a cursor, so that an app which was killed is told what it missed.

use std::sync::Arc;
use std::time::Duration;

use super::{FlashEvent, ListenerError};
use crate::Engine;

/// What an app implements to be told of events.
#[uniffi::export(with_foreign)]
pub trait EventListener: Send + Sync {
    /// Deals with an event. It is told again if this fails.
    fn on_event(&self, event: FlashEvent) -> Result<(), ListenerError>;
}

/// The cursor of whichever listener is set.
const READER: &str = "listener";
/// How long a listener that failed is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells the listener until the task is ended or the engine is.
pub(super) async fn run(engine: Engine, listener: Arc<dyn EventListener>) {
    let issuer = engine.issuer();
    while let Ok(events) = engine.events().wait(&issuer, READER, 100).await {
        for event in events {
            let position = event.position;
            let listener = listener.clone();
            // The app's code may take its time; it must not hold up a worker.
            let told = tokio::task::spawn_blocking(move || listener.on_event(event.into())).await;
            if !matches!(told, Ok(Ok(()))) {
                tokio::time::sleep(PAUSE).await;
                break;
            }
            if engine
                .events()
                .acknowledge(&issuer, READER, position)
                .await
                .is_err()
            {
                return;
            }
        }
    }
}
