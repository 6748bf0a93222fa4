//! What the web addresses of a seller answer, without the web: a URL in, a reply out.

use super::error::CheckoutError;
use super::model::{PayAddress, PayerNote};
use super::payer_auth::{self, PayerDataShown, Proven};
use super::{Checkout, address, rules};
use crate::Error;
use crate::core::Loaded;
use crate::ids::InvoiceId;
use crate::invoices::{self, AskedByLnurl, InvoiceError, InvoicePurpose, Invoices};
use crate::ledger::{Refusal, Step};
use crate::lnurl::{
    LnurlQuery, LnurlReply, NotWithin, PayReply, PayRequest, VerifyReply, asked_amount,
    description_hash,
};

/// What of an address is asked for.
enum Asked<'a> {
    /// What can be paid (LUD-06, LUD-16).
    Terms { name: &'a str },
    /// An invoice.
    Invoice { name: &'a str },
    /// Whether one is paid (LUD-21).
    Verify { name: &'a str, invoice: &'a str },
}

fn asked(path: &str) -> Option<Asked<'_>> {
    let rest = path.strip_prefix(address::WELL_KNOWN)?;
    let parts: Vec<&str> = rest.split('/').collect();
    match parts[..] {
        [name] => Some(Asked::Terms { name }),
        [name, "pay"] => Some(Asked::Invoice { name }),
        [name, "verify", invoice] => Some(Asked::Verify { name, invoice }),
        _ => None,
    }
}

impl Checkout {
    /// Answers what a seller's web addresses are asked by HTTP GET, by the URL or its path and
    /// query: `/.well-known/lnurlp/{name}` (LUD-06, LUD-16), and what that answer points to. Hosts
    /// that serve it to pages of others add `Access-Control-Allow-Origin: *`, as LUD-01 asks.
    ///
    /// Nobody needs a credential for it, and who asks for an invoice twice gets two. Never an
    /// error: whatever is wrong is in the reply.
    pub async fn answer(&self, url: &str) -> LnurlReply {
        let query = match LnurlQuery::parse(url) {
            Ok(query) => query,
            Err(malformed) => return LnurlReply::error(&malformed.to_string()),
        };
        let answered = match asked(query.path()) {
            Some(Asked::Terms { name }) => self.terms(name).await,
            Some(Asked::Invoice { name }) => self.invoice(name, &query).await,
            Some(Asked::Verify { name, invoice }) => self.verify(name, invoice).await,
            None => return LnurlReply::nothing_here(),
        };
        answered.unwrap_or_else(|error| match error {
            Error::Checkout(CheckoutError::AddressUnknown)
            | Error::Invoice(InvoiceError::NotFound { .. }) => LnurlReply::nothing_here(),
            Error::Store(_) => LnurlReply::error("the books cannot be read now: try again"),
            other => LnurlReply::error(&other.for_a_stranger()),
        })
    }

    async fn open_address(&self, name: &str) -> Result<Loaded<PayAddress>, Error> {
        let found = address::load(&self.core, name).await?;
        let found = found.ok_or(CheckoutError::AddressUnknown)?;
        if found.value.terms.closed {
            return Err(CheckoutError::AddressClosed.into());
        }
        Ok(found)
    }

    async fn terms(&self, name: &str) -> Result<LnurlReply, Error> {
        let address = self.open_address(name).await?.value;
        let (terms, metadata) = (&address.terms, rules::metadata(&address));
        let callback = format!("{}/pay?revision={}", address.url, address.revision);
        let bounds = terms.min_sendable_msat..=terms.max_sendable_msat;
        let wanted = &terms.payer_data;
        let mut random = [0; 8];
        if wanted.auth.is_some() {
            self.core.entropy.fill(&mut random)?;
        }
        let now_ms = self.core.clock.now_ms();
        let k1 = payer_auth::challenge(&self.core.secrets, &address.name, now_ms, random);
        let shown = PayerDataShown::new(wanted, k1);
        let request = PayRequest {
            comment_allowed: terms.comment_allowed,
            payer_data: (!wanted.is_nothing()).then_some(shown),
            ..PayRequest::new(&bounds, &metadata, &callback)
        };
        Ok(LnurlReply::json(200, &request))
    }

    async fn invoice(&self, name: &str, query: &LnurlQuery) -> Result<LnurlReply, Error> {
        let core = &self.core;
        let found = self.open_address(name).await?;
        let (address, terms) = (&found.value, &found.value.terms);
        let bounds = terms.min_sendable_msat..=terms.max_sendable_msat;
        let not_within = CheckoutError::AmountNotWithinBounds {
            min_msat: terms.min_sendable_msat,
            max_msat: terms.max_sendable_msat,
        };
        let asked = asked_amount(query, &bounds).map_err(|NotWithin| not_within.clone())?;
        let amount_msat = asked.ok_or(not_within)?;
        let one = |name| {
            let reason = "a parameter stands there twice";
            query
                .one(name)
                .map_err(|_| CheckoutError::BadPayerData { reason })
        };
        // The payer's wallet compares the hash with that of what it was shown.
        if one("revision")? != Some(address.revision.to_string().as_str()) {
            return Err(CheckoutError::TermsChanged.into());
        }
        let said = one("payerdata")?;
        let id = core.new_id(InvoiceId::from_parts)?;
        let (note, proven) = self.noted(address, id, one("comment")?, said)?;
        let hashed_data = said.unwrap_or_default();
        let purpose = match address.merchant {
            Some(merchant) => InvoicePurpose::Sale { merchant },
            None => InvoicePurpose::Plain,
        };
        let asked = AskedByLnurl {
            id,
            purpose,
            amount_msat,
            in_currency: None,
            description: terms.description.clone(),
            description_hash: description_hash(&rules::metadata(address), hashed_data),
            top_up_address: None,
            pay_address: Some(address.name.clone()),
            counted_under: format!("pay_address/{}", address.name),
            per_hour: terms.invoices_per_hour,
        };
        let (revision, note, proven) = (address.revision, &note, proven.as_ref());
        let invoices = Invoices::new(core.clone());
        let made = invoices.asked_by_lnurl(asked, || async move {
            let now = self.open_address(name).await?;
            if now.value.revision != revision {
                return Err(CheckoutError::TermsChanged.into());
            }
            self.guards(&now, note, proven)
        });
        let made = made.await.map_err(|error| match error {
            Error::Ledger(Refusal::UsageExceeded { .. }) => CheckoutError::TooManyRequests.into(),
            Error::Ledger(Refusal::AlreadyClaimed { .. }) if proven.is_some() => {
                let reason = "the challenge was signed before: look at the address again";
                CheckoutError::BadPayerData { reason }.into()
            }
            other => other,
        })?;
        let verify = format!("{}/verify/{id}", address.url);
        Ok(LnurlReply::json(
            200,
            &PayReply::new(made.bolt11, Some(verify)),
        ))
    }

    /// What a payer wrote and said of itself, and the key that it has proven to have.
    fn noted(
        &self,
        address: &PayAddress,
        invoice: InvoiceId,
        comment: Option<&str>,
        said: Option<&str>,
    ) -> Result<(PayerNote, Option<Proven>), CheckoutError> {
        let (core, terms) = (&self.core, &address.terms);
        let comment = rules::comment(terms, comment)?;
        let (mut data, auth) = rules::payer_data(&terms.payer_data, said)?;
        let now_ms = core.clock.now_ms();
        let proven = auth
            .map(|auth| payer_auth::check(&core.secrets, &address.name, now_ms, &auth))
            .transpose()?;
        if let Some(proven) = &proven {
            data.insert("auth".to_owned(), proven.key.clone());
        }
        let note = PayerNote {
            invoice,
            comment,
            data,
        };
        Ok((note, proven))
    }

    /// Holds in the commit: the terms are those that were looked at.
    fn guards(
        &self,
        found: &Loaded<PayAddress>,
        note: &PayerNote,
        proven: Option<&Proven>,
    ) -> Result<Vec<Step>, Error> {
        let mut steps = vec![Step::Require {
            collection: address::ADDRESSES,
            id: found.value.name.clone(),
            version: found.version,
        }];
        steps.extend(proven.map(|proven| Step::Claim {
            name: proven.claim.clone(),
            by: note.invoice.to_string(),
        }));
        if !note.is_empty() {
            steps.push(address::note(note.invoice, 0, Some(note))?);
        }
        Ok(steps)
    }

    /// LUD-21: only of an invoice that was asked for at this address, so that the number on a
    /// receipt is no way to anybody's proof of payment.
    async fn verify(&self, name: &str, invoice: &str) -> Result<LnurlReply, Error> {
        let core = &self.core;
        let unknown = || CheckoutError::AddressUnknown;
        let id: InvoiceId = invoice.parse().map_err(|_| unknown())?;
        let invoice = invoices::load(core, id).await?.value;
        if invoice.pay_address.as_deref() != Some(name) {
            return Err(unknown().into());
        }
        let rail = invoice.lightning.first().ok_or_else(unknown)?;
        let preimage = invoices::released(core, &invoice, rail.payment_hash);
        Ok(LnurlReply::json(
            200,
            &VerifyReply::new(rail.bolt11.clone(), preimage),
        ))
    }
}
