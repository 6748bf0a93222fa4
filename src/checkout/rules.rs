//! Pure decisions about addresses: no I/O, no clock.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::CheckoutError;
use super::model::{PayAddress, PayAddressTerms, PayerDataWanted};
use super::payer_auth::PayerAuth;
use crate::core::{CommandError, check_text};
use crate::lnurl;
use crate::money::MAX_MSAT;

const MIN_SENDABLE_MSAT: i64 = 1_000;
const MAX_COMMENT: u32 = 500;
const MAX_NAME: usize = 64;
/// The most that a payer says of itself, as JSON.
const MAX_PAYER_DATA_BYTES: usize = 2_048;
const MAX_PAYER_FIELD: usize = 200;

pub(super) fn check_name(name: &str) -> Result<(), CommandError> {
    let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(known) {
        let bounds = "1 to 64 of a to z, digits, -, _ and .";
        let field = "name";
        return Err(CommandError::OutOfBounds { field, bounds });
    }
    Ok(())
}

pub(super) fn check_terms(terms: &PayAddressTerms) -> Result<(), CommandError> {
    let bad = |field, bounds| Err(CommandError::OutOfBounds { field, bounds });
    let (least, most) = (terms.min_sendable_msat, terms.max_sendable_msat);
    if least < MIN_SENDABLE_MSAT || most < least || most > MAX_MSAT {
        return bad("min_sendable_msat", "1 sat to the most, which there is");
    }
    check_text(
        "description",
        &terms.description,
        200,
        "1 to 200 characters",
    )?;
    if terms.description.is_empty() {
        return bad("description", "1 to 200 characters");
    }
    let one_line = terms.long_description.replace('\n', " ");
    check_text("long_description", &one_line, 1_000, "1,000 characters")?;
    if terms.comment_allowed > MAX_COMMENT {
        return bad("comment_allowed", "0 to 500");
    }
    if !(1..=100_000).contains(&terms.invoices_per_hour) {
        return bad("invoices_per_hour", "1 to 100,000");
    }
    Ok(())
}

/// What the payer's wallet shows, and what the invoice commits to: its hash is of exactly this.
pub(super) fn metadata(address: &PayAddress) -> String {
    let mut entries = vec![
        ["text/plain", &address.terms.description],
        ["text/identifier", &address.lightning_address],
    ];
    if !address.terms.long_description.is_empty() {
        entries.push(["text/long-desc", &address.terms.long_description]);
    }
    serde_json::to_string(&entries).unwrap_or_default()
}

/// What a payer wrote.
pub(super) fn comment(
    terms: &PayAddressTerms,
    text: Option<&str>,
) -> Result<String, CheckoutError> {
    let text = text.unwrap_or_default();
    let most = terms.comment_allowed;
    if u32::try_from(text.chars().count()).unwrap_or(u32::MAX) > most {
        return Err(CheckoutError::CommentTooLong { most });
    }
    Ok(text.to_owned())
}

/// What a payer says of itself, and the proof that it has a key, which is still to be looked at.
type Said = (BTreeMap<String, String>, Option<PayerAuth>);

/// What a payer says of itself: all that must be said, and nothing that was not asked for.
pub(super) fn payer_data(
    wanted: &PayerDataWanted,
    text: Option<&str>,
) -> Result<Said, CheckoutError> {
    let bad = |reason| CheckoutError::BadPayerData { reason };
    let text = text.unwrap_or("{}");
    if text.len() > MAX_PAYER_DATA_BYTES {
        return Err(bad("they are too long"));
    }
    let mut said: Map<String, Value> =
        serde_json::from_str(text).map_err(|_| bad("they are no JSON object"))?;
    let mut auth = None;
    if let Some(field) = wanted.auth {
        let proof = said.remove("auth").filter(|proof| !proof.is_null());
        auth = proof
            .map(serde_json::from_value)
            .transpose()
            .map_err(|_| bad("something is not what it is called"))?;
        if auth.is_none() && field.mandatory {
            return Err(bad("something is missing that must be said"));
        }
    }
    let mut found = BTreeMap::new();
    for (name, field) in wanted.fields() {
        let Some(field) = field else { continue };
        match said.get(name) {
            None | Some(Value::Null) if field.mandatory => {
                return Err(bad("something is missing that must be said"));
            }
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if is_fit(name, text) => {
                found.insert(name.to_owned(), text.clone());
            }
            Some(_) => return Err(bad("something is not what it is called")),
        }
    }
    let known = |name: &String| {
        let mut fields = wanted.fields().into_iter();
        fields.any(|(known, field)| known == name && field.is_some())
    };
    if !said.keys().all(known) {
        return Err(bad("something was said that was not asked for"));
    }
    Ok((found, auth))
}

fn is_fit(name: &str, text: &str) -> bool {
    let short = text.chars().count() <= MAX_PAYER_FIELD && !text.chars().any(char::is_control);
    let address = text.split_once('@').is_some_and(|(user, host)| {
        !user.is_empty() && !text.contains(' ') && lnurl::is_host(&host.to_ascii_lowercase())
    });
    let has_key = text.len() == 66 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    short
        && match name {
            "pubkey" => has_key,
            "identifier" | "email" => address,
            _ => !text.is_empty(),
        }
}
