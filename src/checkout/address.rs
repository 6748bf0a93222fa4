//! Addresses of sellers, and what their payers said.

use super::error::CheckoutError;
use super::model::{ErasePayerNote, PayAddress, PayerNote, PayerNoteErased, SetPayAddress};
use super::{Checkout, rules};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Core, Decision, Executed, Loaded, emit, put};
use crate::ids::{InvoiceId, MerchantId};
use crate::invoices;
use crate::{lnurl, settlement};

pub(super) const ADDRESSES: &str = "pay_address";
const NOTES: &str = "payer_note";
/// Where LUD-16 looks for the name of an address.
pub(super) const WELL_KNOWN: &str = "/.well-known/lnurlp/";

/// Whose an address is, as a key of an index.
fn owner(merchant: Option<MerchantId>) -> String {
    merchant.map_or("operator".to_owned(), |merchant| merchant.to_string())
}

pub(super) async fn load(core: &Core, name: &str) -> Result<Option<Loaded<PayAddress>>, Error> {
    core.load(ADDRESSES, name).await
}

impl Checkout {
    /// Opens an address, or sets its terms anew. Issuer only.
    ///
    /// # Errors
    /// `checkout.name_taken`, `settlement.merchant_not_found`, `command.*`, `access.*`.
    pub async fn set_address(
        &self,
        credential: &Credential,
        command: SetPayAddress,
    ) -> Result<Answer<PayAddress>, Error> {
        let (checkout, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &checkout.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                rules::check_name(&command.name)?;
                rules::check_terms(&command.terms)?;
                let decide = || checkout.decide_address(&command);
                let operation = "checkout.set_address";
                let executed: Executed<PayAddress> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_address(&self, command: &SetPayAddress) -> Result<Decision<PayAddress>, Error> {
        let (core, name) = (&self.core, &command.name);
        let mut steps = Vec::new();
        if let Some(merchant) = command.merchant {
            steps.push(settlement::guard_merchant(core, merchant).await?);
        }
        let (mut version, mut revision) = (0, 0);
        if let Some(found) = load(core, name).await? {
            if found.value.merchant != command.merchant {
                let name = name.clone();
                return Err(CheckoutError::NameTaken { name }.into());
            }
            (version, revision) = (found.version, found.value.revision);
        }
        let host = &core.settings.pay_url;
        let url = format!("{}{WELL_KNOWN}{name}", lnurl::base(host));
        let answer = PayAddress {
            name: name.clone(),
            merchant: command.merchant,
            terms: command.terms.clone(),
            revision: revision.saturating_add(1),
            lightning_address: format!("{name}@{host}"),
            lnurl: lnurl::encode(&url),
            url,
        };
        let keys = vec![("owner", owner(command.merchant))];
        steps.push(put(ADDRESSES, name.clone(), version, &answer, keys)?);
        steps.push(emit("pay_address.set", name.clone(), &answer)?);
        Ok(Decision { steps, answer })
    }

    /// The addresses of a seller by their names, after the name `after`, at most `limit` (1 to
    /// 1,000). The issuer, or a till of the merchant.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn addresses(
        &self,
        credential: &Credential,
        merchant: Option<MerchantId>,
        after: Option<String>,
        limit: usize,
    ) -> Result<Answer<Vec<PayAddress>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        match merchant {
            Some(merchant) => caller.require_seller(merchant)?,
            None => caller.require_issuer()?,
        }
        let as_of_ms = self.core.clock.now_ms();
        let key = owner(merchant);
        let found = self.core.list(ADDRESSES, "owner", &key, after, limit);
        let value = found.await?;
        Ok(Answer { as_of_ms, value })
    }

    /// What the payer of an invoice said, if anything, and if it was not erased. The issuer, or a
    /// till of the merchant.
    ///
    /// # Errors
    /// `invoice.not_found`, `access.*`.
    pub async fn payer_note(
        &self,
        credential: &Credential,
        invoice: InvoiceId,
    ) -> Result<Answer<Option<PayerNote>>, Error> {
        let core = &self.core;
        let caller = core.authenticate(credential).await?;
        let found = invoices::load(core, invoice).await?.value;
        invoices::require_owner(&caller, found.purpose)?;
        let as_of_ms = core.clock.now_ms();
        let found = load_note(core, invoice).await?;
        let value = found.and_then(|found| found.value);
        Ok(Answer { as_of_ms, value })
    }

    /// Erases what the payer of an invoice said. Issuer only.
    ///
    /// # Errors
    /// `command.*`, `access.*`.
    pub async fn erase_payer_note(
        &self,
        credential: &Credential,
        command: ErasePayerNote,
    ) -> Result<Answer<PayerNoteErased>, Error> {
        let (checkout, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &checkout.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let invoice = command.invoice;
                let decide = || async move {
                    let answer = PayerNoteErased { invoice };
                    let mut steps = vec![emit("payer_note.erased", invoice.to_string(), &answer)?];
                    if let Some(found) = load_note(core, invoice).await? {
                        steps.push(note(invoice, found.version, None)?);
                    }
                    Ok(Decision { steps, answer })
                };
                let operation = "checkout.erase_payer_note";
                let executed: Executed<PayerNoteErased> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }
}

async fn load_note(
    core: &Core,
    invoice: InvoiceId,
) -> Result<Option<Loaded<Option<PayerNote>>>, Error> {
    core.load(NOTES, &invoice.to_string()).await
}

/// The step that keeps or erases what a payer said.
pub(super) fn note(
    invoice: InvoiceId,
    version: i64,
    note: Option<&PayerNote>,
) -> Result<crate::ledger::Step, Error> {
    put(NOTES, invoice.to_string(), version, &note, Vec::new())
}
