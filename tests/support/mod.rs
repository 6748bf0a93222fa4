//! A shop to test with: an engine, its operator, a merchant with a till, a customer's wallet.
#![allow(dead_code, reason = "every test file uses its own part")]

pub mod books;
#[cfg(feature = "ldk")]
pub mod child;
pub mod deadline;
pub mod gate;
pub mod gated_store;
#[cfg(all(feature = "ldk", feature = "postgres"))]
pub mod instance;
pub mod load;
#[cfg(feature = "ldk")]
pub mod real;
#[cfg(feature = "sqlite")]
pub mod scene;
pub mod scripted;
pub mod shop;

use std::time::{Duration, Instant};

use flashkit::IdempotencyKey;

/// An idempotency key.
pub fn key(text: &str) -> IdempotencyKey {
    text.replace(' ', "-").parse().unwrap()
}

/// Asks again until the answer is yes. Fails the test after half a minute.
pub async fn until<F, Fut>(what: &str, mut ask: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let begun = Instant::now();
    while !ask().await {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "waited in vain: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
