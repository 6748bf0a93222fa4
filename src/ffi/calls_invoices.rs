//! Calls about invoices.

use super::{CreateInvoiceRequest, FlashError, Flashkit, Invoice, InvoicePage, InvoicePurpose};

#[uniffi::export]
impl Flashkit {
    /// Makes an invoice. A sale: the issuer, or a till of the merchant; a top-up: the issuer, the
    /// holder, or any till.
    ///
    /// Errors: `rate.*`, `lightning.no_node`, `lightning.not_running`,
    /// `settlement.merchant_not_found`, `card.not_found`, `card.not_active`, `money.*`, `command.*`,
    /// `access.*`.
    pub async fn create_invoice(
        &self,
        credential: String,
        request: CreateInvoiceRequest,
    ) -> Result<Invoice, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .invoices()
                .create(&caller, request.try_into()?)
                .await?
                .into())
        })
        .await
    }

    /// An invoice as it stands now.
    ///
    /// Errors: `invoice.not_found`, `access.*`.
    pub async fn get_invoice(
        &self,
        credential: String,
        invoice_id: String,
    ) -> Result<Invoice, FlashError> {
        self.call(credential, move |engine, caller| async move {
            Ok(engine
                .invoices()
                .get(&caller, invoice_id.parse()?)
                .await?
                .into())
        })
        .await
    }

    /// The invoices of one merchant or for one card, oldest first, after the invoice `after`; at
    /// most `limit` (1 to 1,000).
    ///
    /// Errors: `access.*`.
    #[uniffi::method(default(after = None, limit = 100))]
    pub async fn list_invoices(
        &self,
        credential: String,
        purpose: InvoicePurpose,
        after: Option<String>,
        limit: u32,
    ) -> Result<InvoicePage, FlashError> {
        self.call(credential, move |engine, caller| async move {
            let after = after.map(|id| id.parse()).transpose()?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let invoices = engine.invoices();
            let page = invoices
                .list(&caller, purpose.try_into()?, after, limit)
                .await?;
            Ok(page.into())
        })
        .await
    }
}
