//! Receipts: what was paid, as a shop hands it over, in the shop's language, signed.
//!
//! A receipt has a number: one more than the seller's last, without a gap, for every sale that was
//! settled, whether anybody has it printed or not; so that a number that is missing, or a sale
//! without one, shows. The commit that settles a sale leaves the job of issuing its receipt, and
//! the job (or whoever asks first) takes the next number, in one commit with the receipt. Taking it
//! in the settling commit itself would make all payments of a merchant wait for each other and
//! refuse some; taking it at the first print would leave sales without one.
//!
//! What was issued is stored as the text that was signed, and is never written again. What becomes
//! of a sale later is a receipt of its own, with the next number, that names the one it corrects.
//!
//! How a third party checks a receipt is told at [`verify`].

mod card_lines;
mod error;
mod evidence;
mod format;
mod language;
mod lines;
mod model;
mod rules;
mod settings;
mod signing;
mod verify;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Core, Decision, Executed, Loaded, emit, put};
use crate::ids::{InvoiceId, MerchantId};
use crate::invoices::{self, Invoice, InvoiceState};
use crate::ledger::{DueJob, Step};
use crate::settlement;
use crate::store::StoreError;

pub use error::ReceiptError;
pub use evidence::ProveReceipt;
pub use format::{format_amount, format_rate, format_time};
pub use language::{Label, Language, ParseLanguageError};
pub use lines::{ReceiptAlignment, ReceiptLine, ReceiptLineKind};
pub use model::{
    IssueReceipt, IssuedReceipt, Receipt, ReceiptKey, ReceiptKind, ReceiptPayment, ReceiptRate,
    ReceiptSettings, RotateReceiptKey, SellerReceipts, SetReceiptSettings,
};
pub use verify::{
    LightningProof, MAX_HEADERS, OnChainProof, Proven, ProvenLightning, ProvenOnChain,
    ReceiptBundle, Trust, Unverified, verify,
};

/// The job that issues the receipt that a sale is owed.
pub(crate) const RECEIPT_JOB: &str = "receipt.issue";

const RECEIPTS: &str = "receipt";
const SERIES: &str = "receipt_series";
/// More receipts than an invoice ever has.
const MAX_OF_INVOICE: usize = 1_000;

/// The handle for receipts.
#[derive(Clone)]
pub struct Receipts {
    core: Arc<Core>,
}

/// A receipt as it is kept: the signed text, and nothing that could say otherwise.
#[derive(Serialize, Deserialize)]
struct Stored {
    signed: String,
}

/// Where a seller's numbers are.
#[derive(Default, Serialize, Deserialize)]
struct Series {
    last_number: u64,
}

/// What the event of a receipt says.
#[derive(Serialize)]
struct Told<'a> {
    number: u64,
    merchant: Option<MerchantId>,
    invoice: InvoiceId,
    kind: &'a ReceiptKind,
}

/// Whose numbers they are, as a key in the store.
fn series_key(merchant: Option<MerchantId>) -> String {
    merchant.map_or("operator".to_owned(), |merchant| merchant.to_string())
}

/// Under this id the receipts of a seller are in the order of their numbers.
fn receipt_id(merchant: Option<MerchantId>, number: u64) -> String {
    format!("{}/{number:020}", series_key(merchant))
}

/// The step that has a receipt issued, where a seller that gives receipts owes one for a change of
/// an invoice.
pub(crate) async fn owed(
    core: &Core,
    before: &Invoice,
    after: &Invoice,
) -> Result<Option<Step>, Error> {
    if !rules::is_news(before, after) {
        return Ok(None);
    }
    owed_now(core, after).await
}

/// The same for what was paid back of an invoice.
pub(crate) async fn owed_now(core: &Core, invoice: &Invoice) -> Result<Option<Step>, Error> {
    let settings = settings::load(core, invoice.purpose.merchant()).await?;
    Ok(settings.map(|_| {
        Step::Due(DueJob {
            kind: RECEIPT_JOB.to_owned(),
            object: invoice.id.to_string(),
            due_at_ms: core.clock.now_ms(),
        })
    }))
}

impl Receipts {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The receipt of an invoice: issued now if there is none, or if what became of the sale since
    /// makes a correction due; the last one otherwise, exactly as it was issued. The issuer, a till
    /// of the merchant, or the holder of a card that was topped up.
    ///
    /// # Errors
    /// `receipt.not_settled`, `invoice.not_found`, `command.*`, `access.*`.
    pub async fn issue(
        &self,
        credential: &Credential,
        command: IssueReceipt,
    ) -> Result<Answer<IssuedReceipt>, Error> {
        let (receipts, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &receipts.core;
                let caller = core.authenticate(&credential).await?;
                let found = invoices::load(core, command.invoice).await?;
                invoices::require_owner(&caller, found.value.purpose)?;
                let _turn = core.receipt_turns.take().await;
                let decide = || async {
                    let (answer, steps) = receipts.decide_issue(command.invoice).await?;
                    Ok(Decision { steps, answer })
                };
                let operation = "receipts.issue";
                let executed: Executed<IssuedReceipt> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// The job that issues what a sale is owed.
    pub(crate) async fn issue_owed(&self, invoice: InvoiceId) -> Result<(), Error> {
        let core = &self.core;
        let _turn = core.receipt_turns.take().await;
        let decided = core.settle(|| async move {
            let mut steps = match self.decide_issue(invoice).await {
                Ok((_, steps)) => steps,
                // It was settled when the job was left, and is not any more: what settles it again
                // leaves another one.
                Err(Error::Receipt(ReceiptError::NotSettled { .. })) => Vec::new(),
                Err(error) => return Err(error),
            };
            steps.push(Step::Done {
                kind: RECEIPT_JOB,
                object: invoice.to_string(),
            });
            Ok(Some(steps))
        });
        decided.await.map(drop)
    }

    async fn decide_issue(&self, id: InvoiceId) -> Result<(IssuedReceipt, Vec<Step>), Error> {
        let core = &self.core;
        let invoice = invoices::load(core, id).await?.value;
        let last = self.all_of(id).await?.pop();
        let kind = match &last {
            Some(last) if !rules::is_outdated(&last.receipt, &invoice) => {
                return Ok((last.clone(), Vec::new()));
            }
            Some(last) => ReceiptKind::Correction {
                corrects: last.receipt.number,
            },
            None if invoice.state != InvoiceState::Settled => {
                return Err(ReceiptError::NotSettled { invoice: id }.into());
            }
            None => ReceiptKind::Sale,
        };
        let merchant = invoice.purpose.merchant();
        let settings = settings::load(core, merchant).await?;
        let settings = settings.map_or_else(ReceiptSettings::default, |found| found.value.settings);
        let seller = match merchant {
            Some(merchant) => settlement::load_merchant(core, merchant).await?.value.name,
            None => String::new(),
        };
        let zone = settings::zone(&settings.time_zone)?;
        let key = series_key(merchant);
        let series: Option<Loaded<Series>> = core.load(SERIES, &key).await?;
        let (version, last_number) =
            series.map_or((0, 0), |found| (found.version, found.value.last_number));
        let number = last_number.saturating_add(1);
        let receipt = rules::compose(
            &invoice,
            &rules::Issue {
                number,
                kind,
                network: &core.network,
                now_ms: core.clock.now_ms(),
                settings: &settings,
                zone: &zone,
                seller: &seller,
            },
        );
        let mut steps = vec![put(
            SERIES,
            key,
            version,
            &Series {
                last_number: number,
            },
            Vec::new(),
        )?];
        let issued = self.sign(receipt, &mut steps).await?;
        steps.extend(written(&issued)?);
        Ok((issued, steps))
    }

    /// A receipt by its number. The issuer, or a till of the merchant.
    ///
    /// # Errors
    /// `receipt.not_found`, `access.*`.
    pub async fn get(
        &self,
        credential: &Credential,
        merchant: Option<MerchantId>,
        number: u64,
    ) -> Result<Answer<IssuedReceipt>, Error> {
        self.require_seller(credential, merchant).await?;
        let as_of_ms = self.core.clock.now_ms();
        let id = receipt_id(merchant, number);
        let found: Option<Loaded<Stored>> = self.core.load(RECEIPTS, &id).await?;
        let value = issued(found.ok_or(ReceiptError::NotFound)?.value)?;
        Ok(Answer { as_of_ms, value })
    }

    /// The receipts of a seller by their numbers, after the number `after` (0 for all), at most
    /// `limit` (1 to 1,000). The issuer, or a till of the merchant.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn list(
        &self,
        credential: &Credential,
        merchant: Option<MerchantId>,
        after: u64,
        limit: usize,
    ) -> Result<Answer<Vec<IssuedReceipt>>, Error> {
        self.require_seller(credential, merchant).await?;
        let as_of_ms = self.core.clock.now_ms();
        let (key, after) = (series_key(merchant), receipt_id(merchant, after));
        let rows = self
            .core
            .list::<Stored>(RECEIPTS, "series", &key, Some(after), limit);
        let value = rows.await?.into_iter().map(issued);
        let value = value.collect::<Result<_, _>>()?;
        Ok(Answer { as_of_ms, value })
    }

    /// The receipts of an invoice, the first one first. The issuer, a till of the merchant, or the
    /// holder of a card that was topped up.
    ///
    /// # Errors
    /// `invoice.not_found`, `access.*`.
    pub async fn of_invoice(
        &self,
        credential: &Credential,
        invoice: InvoiceId,
    ) -> Result<Answer<Vec<IssuedReceipt>>, Error> {
        let core = &self.core;
        let caller = core.authenticate(credential).await?;
        let found = invoices::load(core, invoice).await?;
        invoices::require_owner(&caller, found.value.purpose)?;
        let as_of_ms = core.clock.now_ms();
        let value = self.all_of(invoice).await?;
        Ok(Answer { as_of_ms, value })
    }

    async fn all_of(&self, invoice: InvoiceId) -> Result<Vec<IssuedReceipt>, Error> {
        let key = invoice.to_string();
        let rows = self
            .core
            .list::<Stored>(RECEIPTS, "invoice", &key, None, MAX_OF_INVOICE);
        rows.await?.into_iter().map(issued).collect()
    }

    async fn require_seller(
        &self,
        credential: &Credential,
        merchant: Option<MerchantId>,
    ) -> Result<(), Error> {
        let caller = self.core.authenticate(credential).await?;
        match merchant {
            Some(merchant) => caller.require_seller(merchant)?,
            None => caller.require_issuer()?,
        }
        Ok(())
    }
}

/// The steps that keep a receipt and tell of it.
fn written(issued: &IssuedReceipt) -> Result<[Step; 2], Error> {
    let receipt = &issued.receipt;
    let id = receipt_id(receipt.merchant, receipt.number);
    let keys = vec![
        ("series", series_key(receipt.merchant)),
        ("invoice", receipt.invoice.to_string()),
    ];
    let stored = Stored {
        signed: issued.signed.clone(),
    };
    let told = Told {
        number: receipt.number,
        merchant: receipt.merchant,
        invoice: receipt.invoice,
        kind: &receipt.kind,
    };
    Ok([
        put(RECEIPTS, id, 0, &stored, keys)?,
        emit("receipt.issued", receipt.invoice.to_string(), &told)?,
    ])
}

/// What was issued, read from the text that was signed.
fn issued(Stored { signed }: Stored) -> Result<IssuedReceipt, Error> {
    let read = signing::Parts::of(&signed).and_then(|parts| verify::read(parts.body));
    let receipt = read.map_err(|error| StoreError::Corrupt {
        reason: error.to_string(),
    })?;
    Ok(IssuedReceipt { receipt, signed })
}
