//! HTTP by reqwest, with rustls.

use std::time::Duration;

use async_trait::async_trait;

use super::{HttpAnswer, HttpGet, HttpLimits};
use crate::rates::RateError;

/// Asks servers with reqwest. Needs a tokio runtime with time and I/O, which the engine's executor
/// gives; follows no redirect.
#[derive(Debug, Clone)]
pub struct ReqwestGet {
    client: reqwest::Client,
}

impl ReqwestGet {
    /// Over TLS alone.
    ///
    /// # Errors
    /// `rate.unavailable` where the client cannot be built.
    pub fn new() -> Result<Self, RateError> {
        Self::build(true)
    }

    /// Also without TLS: for a server on the same machine or network. Whoever sits between can
    /// then set the rate.
    ///
    /// # Errors
    /// `rate.unavailable` where the client cannot be built.
    pub fn allowing_plain_http() -> Result<Self, RateError> {
        Self::build(false)
    }

    fn build(https_only: bool) -> Result<Self, RateError> {
        let client = reqwest::Client::builder()
            .https_only(https_only)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("flashkit/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            client: client.map_err(|error| unavailable(&error))?,
        })
    }
}

fn unavailable(error: &reqwest::Error) -> RateError {
    let reason = if error.is_connect() {
        "no connection"
    } else if error.is_builder() {
        "the request could not be made"
    } else {
        "the connection broke"
    };
    RateError::Unavailable {
        reason: reason.to_owned(),
    }
}

fn refusal(error: &reqwest::Error, limits: HttpLimits) -> RateError {
    if error.is_timeout() {
        let timeout_ms = limits.timeout_ms;
        RateError::TimedOut { timeout_ms }
    } else {
        unavailable(error)
    }
}

#[async_trait]
impl HttpGet for ReqwestGet {
    async fn get(&self, url: &str, limits: HttpLimits) -> Result<HttpAnswer, RateError> {
        // The time runs until the last byte of the body.
        let request = self
            .client
            .get(url)
            .header("accept", "application/json")
            .timeout(Duration::from_millis(limits.timeout_ms));
        let failed = |error: reqwest::Error| refusal(&error, limits);
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        // The length that a server announces is not believed: what comes is counted.
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len().saturating_add(chunk.len()) > limits.max_bytes {
                let max_bytes = limits.max_bytes;
                return Err(RateError::AnswerTooLarge { max_bytes });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpAnswer { status, body })
    }
}
