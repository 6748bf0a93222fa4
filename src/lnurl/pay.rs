//! The shapes of LNURL-pay.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::LnurlQuery;

/// LUD-06, with LUD-12 and LUD-18.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PayRequest<'a, P> {
    pub(crate) tag: &'static str,
    pub(crate) min_sendable: i64,
    pub(crate) max_sendable: i64,
    pub(crate) metadata: &'a str,
    pub(crate) callback: &'a str,
    pub(crate) comment_allowed: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payer_data: Option<P>,
}

impl<'a, P> PayRequest<'a, P> {
    /// Between these amounts in msat; the metadata are hashed into the invoice as they are here.
    pub(crate) fn new(
        bounds: &std::ops::RangeInclusive<i64>,
        metadata: &'a str,
        callback: &'a str,
    ) -> Self {
        Self {
            tag: "payRequest",
            min_sendable: *bounds.start(),
            max_sendable: *bounds.end(),
            metadata,
            callback,
            comment_allowed: 0,
            payer_data: None,
        }
    }
}

/// What the callback of LUD-06 answers, with LUD-21.
#[derive(Serialize)]
pub(crate) struct PayReply {
    pub(crate) pr: String,
    routes: [String; 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    verify: Option<String>,
}

impl PayReply {
    pub(crate) fn new(pr: String, verify: Option<String>) -> Self {
        let routes = [];
        Self { pr, routes, verify }
    }
}

/// LUD-21.
#[derive(Serialize)]
pub(crate) struct VerifyReply {
    status: &'static str,
    settled: bool,
    preimage: Option<String>,
    pr: String,
}

impl VerifyReply {
    /// Settled is what has its secret let out.
    pub(crate) fn new(pr: String, preimage: Option<String>) -> Self {
        Self {
            status: "OK",
            settled: preimage.is_some(),
            preimage,
            pr,
        }
    }
}

/// The amount that is asked for is not one that can be paid.
pub(crate) struct NotWithin;

/// What the callback is asked for, in msat; `None` where only the terms are.
pub(crate) fn asked_amount(
    query: &LnurlQuery,
    bounds: &std::ops::RangeInclusive<i64>,
) -> Result<Option<i64>, NotWithin> {
    let Some(amount) = query.one("amount").map_err(|_| NotWithin)? else {
        return Ok(None);
    };
    let amount = amount.parse().ok().filter(|amount| bounds.contains(amount));
    amount.ok_or(NotWithin).map(Some)
}

/// What the invoice commits to: the metadata as they were sent, and behind them what the payer
/// said of itself, as it was sent (LUD-18).
pub(crate) fn description_hash(metadata: &str, payer_data: &str) -> String {
    let hash = Sha256::new().chain_update(metadata);
    hex::encode(hash.chain_update(payer_data).finalize())
}
