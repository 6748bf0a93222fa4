//! Rates over HTTP (feature `rates-http`): Kraken, Coinbase, Bitstamp, Yadio, and any other
//! server that answers JSON. Numbers are read from the text of the answer, exactly.

mod client;
mod decode;
mod providers;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::{RateError, RateObservation, RatePair, RateSource};
use crate::money::{Asset, Currency, QuoteSide};
use crate::ports::Clock;

pub use client::ReqwestGet;
pub use decode::{exact_rate, member, read_answer};
pub use providers::{AnswerShape, Direction, PricePlace, TimeForm, TimePlace};

/// The longest answer that is read unless told otherwise.
pub const MAX_ANSWER_BYTES: usize = 256 * 1_024;

/// How much of a server is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// From the beginning of the request to the last byte of the answer, in milliseconds.
    pub timeout_ms: u64,
    /// The longest body that is read.
    pub max_bytes: usize,
}

impl Default for HttpLimits {
    /// Five seconds, and 256 KiB.
    fn default() -> Self {
        Self {
            timeout_ms: 5_000,
            max_bytes: MAX_ANSWER_BYTES,
        }
    }
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status. A redirect is answered as it is, never followed.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Asks a server. [`ReqwestGet`] is the adapter of this machine.
#[async_trait]
pub trait HttpGet: Send + Sync {
    /// The answer to `GET url`.
    ///
    /// # Errors
    /// `rate.unavailable`, `rate.timed_out`, `rate.answer_too_large`.
    async fn get(&self, url: &str, limits: HttpLimits) -> Result<HttpAnswer, RateError>;
}

/// A source of rates at a URL.
#[derive(Clone)]
pub struct HttpRates {
    provider: String,
    url_template: String,
    shape: AnswerShape,
    side: QuoteSide,
    pairs: BTreeSet<(Asset, Currency)>,
    limits: HttpLimits,
    http: Arc<dyn HttpGet>,
    clock: Arc<dyn Clock>,
}

impl HttpRates {
    /// A server of whatever kind.
    ///
    /// In `url_template` and in the pointers of `shape`, `{base}` and `{currency}` stand for the
    /// codes in capitals (`BTC`, `JMD`), `{base_lower}` and `{currency_lower}` for small ones.
    /// Only `pairs` are asked for; everything else is `rate.unknown_currency` or
    /// `rate.unknown_pair` without a request. `side` is what the shape's price is recorded as.
    ///
    /// # Errors
    /// `rate.misconfigured`: no `http` URL, an unknown placeholder, or a pointer that does not
    /// begin with `/` (RFC 6901).
    pub fn json(
        provider: &str,
        url_template: &str,
        shape: AnswerShape,
        side: QuoteSide,
        pairs: impl IntoIterator<Item = RatePair>,
        http: Arc<dyn HttpGet>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RateError> {
        let bad = |reason| Err(RateError::Misconfigured { reason });
        if !url_template.starts_with("https://") && !url_template.starts_with("http://") {
            return bad("a URL begins with https:// or http://");
        }
        let texts = shape.texts();
        let left = |text: &&str| fill(text, "", "").contains(['{', '}']);
        if texts.iter().chain([&url_template]).any(left) {
            return bad("there is a placeholder that nothing stands for");
        }
        if shape
            .pointers()
            .iter()
            .any(|pointer| !pointer.starts_with('/'))
        {
            return bad("a JSON pointer begins with /");
        }
        if shape.price.is_empty() {
            return bad("there is no place for the price");
        }
        Ok(Self {
            provider: provider.to_owned(),
            url_template: url_template.to_owned(),
            shape,
            side,
            pairs: pairs
                .into_iter()
                .map(|pair| (pair.base, pair.currency))
                .collect(),
            limits: HttpLimits::default(),
            http,
            clock,
        })
    }

    /// Another limit for time and size than the default.
    pub fn limits(mut self, limits: HttpLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Asks another server that answers in the same way: a mirror, or one of a test. What stands
    /// before the path of the URL is replaced by `origin` (`http://127.0.0.1:8080`).
    ///
    /// # Errors
    /// `rate.misconfigured` where `origin` is no `http` origin.
    pub fn at_origin(mut self, origin: &str) -> Result<Self, RateError> {
        let is_http = origin.starts_with("https://") || origin.starts_with("http://");
        let (_, rest) = self.url_template.split_once("://").unwrap_or_default();
        let path = rest.find('/').map_or("", |at| &rest[at..]);
        if !is_http || origin.ends_with('/') || origin.contains(['{', '}']) {
            let reason = "an origin is http(s)://host[:port]";
            return Err(RateError::Misconfigured { reason });
        }
        self.url_template = format!("{origin}{path}");
        Ok(self)
    }
}

/// Puts the codes of a pair where the placeholders are.
fn fill(template: &str, base: &str, currency: &str) -> String {
    template
        .replace("{base}", base)
        .replace("{base_lower}", &base.to_ascii_lowercase())
        .replace("{currency}", currency)
        .replace("{currency_lower}", &currency.to_ascii_lowercase())
}

#[async_trait]
impl RateSource for HttpRates {
    async fn rate(&self, currency: Currency) -> Result<RateObservation, RateError> {
        self.pair(RatePair::bitcoin(currency)).await
    }

    async fn pair(&self, pair: RatePair) -> Result<RateObservation, RateError> {
        if !self.pairs.contains(&(pair.base, pair.currency)) {
            return Err(pair.unknown());
        }
        // Before the request: a rate without a time of its own is then never thought younger
        // than it is.
        let asked_at_ms = self.clock.now_ms();
        let base = pair.base.to_string();
        let url = fill(&self.url_template, &base, pair.currency.code());
        let answer = self.http.get(&url, self.limits).await?;
        if answer.status != 200 {
            return Err(RateError::HttpStatus {
                provider: self.provider.clone(),
                status: answer.status,
            });
        }
        if answer.body.len() > self.limits.max_bytes {
            let max_bytes = self.limits.max_bytes;
            return Err(RateError::AnswerTooLarge { max_bytes });
        }
        let (rate, time) = read_answer(&self.provider, &self.shape, pair, &answer.body)?;
        Ok(RateObservation {
            rate,
            source: self.provider.clone(),
            observed_at_ms: time.unwrap_or(asked_at_ms),
            side: self.side,
            legs: Vec::new(),
        })
    }
}
