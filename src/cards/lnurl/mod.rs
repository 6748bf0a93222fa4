//! What the web addresses of a card answer, without the web: a URL in, a reply out.
//!
//! A card that is tapped shows a URL. What is behind it is LNURL-withdraw (LUD-03, LUD-17; LUD-19
//! for the way back; `pinLimit` and `pin`), a page with the balance that the apps in the field
//! read, and LNURL-pay (LUD-06) to top the card up. A host hands the URL that it was asked for to
//! [`Cards::answer`] and sends back what it is given.
//!
//! LUD-03 knows `OK` and `ERROR` and nothing between, and a till that reads `ERROR` has the card
//! tapped again. So `ERROR` is said only when nothing of the payment is in flight and nothing will
//! be. What is not known is `OK` with `"state":"pending"`.

mod page;
mod pay;
mod query;
mod withdraw;

use serde::{Deserialize, Serialize};

use super::Cards;
use super::error::CardError;
use super::payment_error::CardPaymentError;
use crate::Error;
use crate::access::Credential;
use crate::ledger::Refusal;
use crate::money::Asset;

pub(super) use crate::lnurl::base;
pub use crate::lnurl::{LnurlQuery, LnurlReply, MalformedQuery, encode};
pub use query::LnurlEndpoint;

const HTML: &str = "text/html; charset=utf-8";

/// What a host was asked for by HTTP GET.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LnurlRequest {
    /// The URL, or its path and query.
    pub url: String,
    /// The credential of the till that asks, where it gave one: its merchant's rules then count
    /// for the payment.
    pub till: Option<Credential>,
    /// Where it was asked from, as the host tells that apart: an address, or a device. Taps whose
    /// signature is wrong are counted by it, and from one of too many of them none is looked at for a
    /// while. `None` for what [`Cards::from_source`] was told, or else the till; without any of these
    /// nothing is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl std::fmt::Debug for LnurlRequest {
    // A tap that was not used yet can be: it does not belong in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LnurlRequest").finish_non_exhaustive()
    }
}

impl LnurlReply {
    pub(super) fn refused(error: &Error) -> Self {
        Self::error(&reason(error))
    }
}

/// Why, for a person. The apps in the field look for `not within bounds`.
fn reason(error: &Error) -> String {
    match error {
        Error::Card(CardError::InsufficientFunds {
            available,
            unit: Asset::Btc,
            ..
        }) => format!(
            "the invoice is not within bounds: the card has {} sats to spend",
            available.max(&0) / 1_000
        ),
        // What is on it is no bitcoin.
        Error::Card(CardError::InsufficientFunds { .. }) => {
            "the invoice is not within bounds: the card has less to spend".to_owned()
        }
        // Whoever reads this need not know the card.
        Error::Card(CardError::Payment(CardPaymentError::Full { .. })) => {
            "the card can have no more".to_owned()
        }
        Error::Ledger(Refusal::UsageExceeded { .. }) => {
            "too many invoices were asked for in this hour: try again later".to_owned()
        }
        Error::Card(CardError::NotActive { .. }) => "the card is not in use".to_owned(),
        Error::Store(_) => "the card's books cannot be read now: try again".to_owned(),
        other => other.for_a_stranger(),
    }
}

impl Cards {
    /// Answers what a card's web addresses are asked: `{tap_url}` for LNURL-withdraw,
    /// `{tap_url}s/balance` for the page, `{tap_url}/top-up/{address}` and, of any tap's `p`,
    /// `{tap_url}/pay` and `{tap_url}/top-up` for LNURL-pay, unless
    /// [`Settings::top_up_by_tap`](crate::Settings::top_up_by_tap) ends those; with
    /// [`Settings::tap_url`](crate::Settings::tap_url). Looking moves no counter. Asked again for
    /// the same tap and invoice it answers how the one payment stands. Forged taps are counted by
    /// [`LnurlRequest::source`].
    ///
    /// Never an error: whatever is wrong is in the reply.
    pub async fn answer(&self, request: &LnurlRequest) -> LnurlReply {
        match &request.source {
            Some(source) => self.from_source(source).answered(request).await,
            None => self.answered(request).await,
        }
    }

    async fn answered(&self, request: &LnurlRequest) -> LnurlReply {
        let query = match LnurlQuery::parse(&request.url) {
            Ok(query) => query,
            Err(malformed) => return LnurlReply::error(&malformed.to_string()),
        };
        let (_, path) = self
            .core
            .settings
            .tap_url
            .split_once('/')
            .unwrap_or(("", ""));
        match query.endpoint(path) {
            LnurlEndpoint::Withdraw => self.answer_withdraw(request, &query).await,
            LnurlEndpoint::Balance => self.answer_balance(&query).await,
            LnurlEndpoint::TopUp { address } => self.answer_top_up(&query, &address).await,
            LnurlEndpoint::TopUpByTap if self.core.settings.top_up_by_tap => {
                self.answer_top_up_by_tap(&query).await
            }
            LnurlEndpoint::TopUpByTap => {
                LnurlReply::refused(&CardPaymentError::TopUpAddressUnknown.into())
            }
            LnurlEndpoint::Unknown => LnurlReply::nothing_here(),
        }
    }
}
