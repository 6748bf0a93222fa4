//! What the answers of the providers look like, from their public documentation.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{HttpGet, HttpRates};
use crate::money::{Asset, Currency, QuoteSide};
use crate::ports::Clock;
use crate::rates::{RateError, RatePair};

/// Which way round a price is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Dollars for a bitcoin.
    CurrencyPerBase,
    /// Bitcoin for a dollar; turned exactly.
    BasePerCurrency,
}

/// Where a price stands: JSON pointers (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PricePlace {
    /// At one place.
    At(String),
    /// Exactly between two.
    Between(String, String),
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeForm {
    /// Whole seconds since the epoch.
    Seconds,
    /// Milliseconds since the epoch.
    Milliseconds,
    /// `2026-01-31T12:00:00.5Z`.
    Rfc3339,
}

/// Where the time of the price stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimePlace {
    /// A JSON pointer.
    pub pointer: String,
    /// How it is written.
    pub form: TimeForm,
}

/// What an answer looks like. Placeholders: see [`HttpRates::json`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerShape {
    /// Where the price can stand; exactly one of the places must have one.
    pub price: Vec<PricePlace>,
    /// Which way round it is.
    pub direction: Direction,
    /// When it was observed; without one it is the time of asking.
    pub time: Option<TimePlace>,
    /// What must stand at a pointer, so that the answer is about the pair.
    pub must_say: Vec<(String, String)>,
    /// A list that must be there and empty.
    pub no_errors_at: Option<String>,
}

impl AnswerShape {
    pub(super) fn pointers(&self) -> Vec<&str> {
        let mut pointers = Vec::new();
        for place in &self.price {
            match place {
                PricePlace::At(at) => pointers.push(at.as_str()),
                PricePlace::Between(bid, ask) => pointers.extend([bid.as_str(), ask.as_str()]),
            }
        }
        pointers.extend(self.time.iter().map(|place| place.pointer.as_str()));
        pointers.extend(self.must_say.iter().map(|(pointer, _)| pointer.as_str()));
        pointers.extend(self.no_errors_at.as_deref());
        pointers
    }

    pub(super) fn texts(&self) -> Vec<&str> {
        let mut texts = self.pointers();
        texts.extend(self.must_say.iter().map(|(_, said)| said.as_str()));
        texts
    }
}

fn price(side: QuoteSide, bid: String, ask: String) -> PricePlace {
    match side {
        QuoteSide::Bid => PricePlace::At(bid),
        QuoteSide::Ask => PricePlace::At(ask),
        QuoteSide::Mid => PricePlace::Between(bid, ask),
    }
}

fn bitcoin(currencies: &[Currency]) -> Vec<RatePair> {
    currencies.iter().copied().map(RatePair::bitcoin).collect()
}

impl HttpRates {
    /// Kraken's public ticker (docs.kraken.com, *Get Ticker Information*). Its answer names the
    /// pair (`XXBTZUSD`, or `XBTCHF` for pairs of later) and has no time: that of asking counts.
    ///
    /// # Errors
    /// None but those of [`json`](Self::json).
    pub fn kraken(
        side: QuoteSide,
        currencies: &[Currency],
        http: Arc<dyn HttpGet>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RateError> {
        let places = ["XXBTZ{currency}", "XBT{currency}"].map(|name| {
            let (bid, ask) = (format!("/result/{name}/b/0"), format!("/result/{name}/a/0"));
            price(side, bid, ask)
        });
        let shape = AnswerShape {
            price: places.to_vec(),
            direction: Direction::CurrencyPerBase,
            time: None,
            must_say: Vec::new(),
            no_errors_at: Some("/error".to_owned()),
        };
        let url = "https://api.kraken.com/0/public/Ticker?pair=XBT{currency}";
        Self::json("kraken", url, shape, side, bitcoin(currencies), http, clock)
    }

    /// Coinbase Exchange (*Get product ticker*). The time is that of the last trade, so a market
    /// without trade grows stale.
    ///
    /// # Errors
    /// None but those of [`json`](Self::json).
    pub fn coinbase(
        side: QuoteSide,
        currencies: &[Currency],
        http: Arc<dyn HttpGet>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RateError> {
        let shape = AnswerShape {
            price: vec![price(side, "/bid".to_owned(), "/ask".to_owned())],
            direction: Direction::CurrencyPerBase,
            time: Some(TimePlace {
                pointer: "/time".to_owned(),
                form: TimeForm::Rfc3339,
            }),
            must_say: Vec::new(),
            no_errors_at: None,
        };
        let url = "https://api.exchange.coinbase.com/products/BTC-{currency}/ticker";
        Self::json(
            "coinbase",
            url,
            shape,
            side,
            bitcoin(currencies),
            http,
            clock,
        )
    }

    /// Bitstamp (*Currency pair ticker*, v2).
    ///
    /// # Errors
    /// None but those of [`json`](Self::json).
    pub fn bitstamp(
        side: QuoteSide,
        currencies: &[Currency],
        http: Arc<dyn HttpGet>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RateError> {
        let shape = AnswerShape {
            price: vec![price(side, "/bid".to_owned(), "/ask".to_owned())],
            direction: Direction::CurrencyPerBase,
            time: Some(TimePlace {
                pointer: "/timestamp".to_owned(),
                form: TimeForm::Seconds,
            }),
            must_say: Vec::new(),
            no_errors_at: None,
        };
        let url = "https://www.bitstamp.net/api/v2/ticker/btc{currency_lower}/";
        Self::json(
            "bitstamp",
            url,
            shape,
            side,
            bitcoin(currencies),
            http,
            clock,
        )
    }

    /// Yadio's exchange rates, with JMD, TTD and the rest of the region, of bitcoin and of
    /// currencies among each other (`pairs`). It publishes one price, recorded as `Mid`.
    ///
    /// # Errors
    /// None but those of [`json`](Self::json).
    pub fn yadio(
        pairs: &[(Asset, Currency)],
        http: Arc<dyn HttpGet>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RateError> {
        let shape = AnswerShape {
            price: vec![PricePlace::At("/{base}/{currency}".to_owned())],
            direction: Direction::CurrencyPerBase,
            time: Some(TimePlace {
                pointer: "/timestamp".to_owned(),
                form: TimeForm::Milliseconds,
            }),
            must_say: vec![("/base".to_owned(), "{base}".to_owned())],
            no_errors_at: None,
        };
        let pairs = pairs.iter().map(|(base, currency)| RatePair {
            base: *base,
            currency: *currency,
        });
        let url = "https://api.yadio.io/exrates/{base}";
        Self::json("yadio", url, shape, QuoteSide::Mid, pairs, http, clock)
    }
}
