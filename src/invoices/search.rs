//! Listing and searching: by keys of an index alone, so that a page takes as long among a million
//! invoices as among ten.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::model::{Invoice, InvoiceState};
use super::rules::state_key;
use super::{INVOICES, Invoices};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Caller, CommandError, check_text, unreadable};
use crate::ids::{CardId, InvoiceId, MerchantId};
use crate::store::{DocumentPosition, DocumentQuery};

/// So many words of an invoice are found.
const MAX_WORDS: usize = 12;
const MAX_WORD_CHARACTERS: usize = 32;

/// Whose invoices are looked through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum InvoiceOwner {
    /// All. Issuer only.
    #[default]
    Everyone,
    /// A merchant's sales and contributions.
    Merchant {
        /// The merchant.
        merchant: MerchantId,
    },
    /// The top-ups of a card.
    Card {
        /// The card.
        card: CardId,
    },
    /// The operator's own. Issuer only.
    Operator,
}

/// What invoices are looked for by. Of the state, the order reference and the word only one can
/// be given, and a time with the state alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InvoiceFilter {
    /// Whose.
    pub owner: InvoiceOwner,
    /// Those that stand there now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<InvoiceState>,
    /// Those with exactly this order reference, whatever the case of its letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_reference: Option<String>,
    /// Those with a word in the order reference or the description that begins with this; not for
    /// everyone's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub word_prefix: Option<String>,
    /// Those made at or after this time, milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<i64>,
    /// Those made before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
}

/// Where a page ended; the next one begins after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoicePosition {
    key: String,
    id: String,
}

/// A page of invoices: in the order in which they were made, or for a word in the order of the
/// words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceResults {
    /// The invoices; there may be fewer than asked for although there are more.
    pub invoices: Vec<Invoice>,
    /// Where the next page begins; `None` when this was the last.
    pub next: Option<InvoicePosition>,
}

/// The keys that an invoice is found by beside its hash, its owner and its state.
pub(super) fn keys(invoice: &Invoice) -> Vec<(&'static str, String)> {
    let (owner, state) = (invoice.purpose.owner_id(), state_key(invoice.state));
    let mut keys = vec![
        ("all", "all".to_owned()),
        ("owner_state", format!("{owner}/{state}")),
    ];
    if !invoice.options.order_reference.is_empty() {
        let reference = folded(&invoice.options.order_reference);
        keys.push(("order", format!("all/{reference}")));
        keys.push(("order", format!("{owner}/{reference}")));
    }
    let words = words(invoice);
    keys.extend(words.iter().map(|word| ("word", format!("{owner}/{word}"))));
    keys
}

fn folded(text: &str) -> String {
    text.trim().to_lowercase()
}

fn words(invoice: &Invoice) -> BTreeSet<String> {
    let texts = [&invoice.options.order_reference, &invoice.description];
    let split = |text: &&String| -> Vec<String> {
        let words = text.split(|character: char| !character.is_alphanumeric());
        words
            .filter(|word| !word.is_empty())
            .map(word_key)
            .collect()
    };
    let mut found = BTreeSet::new();
    for word in texts.iter().flat_map(split) {
        if found.len() < MAX_WORDS {
            found.insert(word);
        }
    }
    found
}

fn word_key(word: &str) -> String {
    word.chars()
        .take(MAX_WORD_CHARACTERS)
        .collect::<String>()
        .to_lowercase()
}

/// What is asked of the store.
struct Asked {
    index: &'static str,
    from: String,
    to: String,
    /// The word that is looked for, with its owner.
    prefix: Option<String>,
}

fn asked(filter: &InvoiceFilter) -> Result<Asked, CommandError> {
    let refused = |bounds| CommandError::OutOfBounds {
        field: "filter",
        bounds,
    };
    let InvoiceFilter {
        state,
        order_reference,
        word_prefix,
        ..
    } = filter;
    let kinds = usize::from(state.is_some())
        + usize::from(order_reference.is_some())
        + usize::from(word_prefix.is_some());
    let has_time = filter.from_ms.is_some() || filter.until_ms.is_some();
    if kinds > 1 || (has_time && word_prefix.is_some()) {
        return Err(refused(
            "one of state, order reference and word; no time with a word",
        ));
    }
    let owner = owner_key(filter.owner);
    let exactly = |index, key: String| Asked {
        index,
        to: format!("{key}\u{1}"),
        from: key,
        prefix: None,
    };
    if let Some(reference) = order_reference {
        check_text("order_reference", reference, 100, "100 characters")?;
        return Ok(exactly("order", format!("{owner}/{}", folded(reference))));
    }
    if let Some(word) = word_prefix {
        let fits = word.chars().all(char::is_alphanumeric) && !word.is_empty();
        if !fits || filter.owner == InvoiceOwner::Everyone {
            return Err(refused("one word of letters and digits, with an owner"));
        }
        let from = format!("{owner}/{}", word_key(word));
        return Ok(Asked {
            index: "word",
            to: format!("{from}\u{10ffff}"),
            prefix: Some(from.clone()),
            from,
        });
    }
    Ok(match (state, filter.owner) {
        (Some(state), InvoiceOwner::Everyone) => exactly("state", state_key(*state).to_owned()),
        (Some(state), _) => exactly("owner_state", format!("{owner}/{}", state_key(*state))),
        (None, InvoiceOwner::Everyone) => exactly("all", owner),
        (None, _) => exactly("owner", owner),
    })
}

fn owner_key(owner: InvoiceOwner) -> String {
    match owner {
        InvoiceOwner::Everyone => "all".to_owned(),
        InvoiceOwner::Merchant { merchant } => merchant.to_string(),
        InvoiceOwner::Card { card } => card.to_string(),
        InvoiceOwner::Operator => "operator".to_owned(),
    }
}

fn require(caller: &Caller, owner: InvoiceOwner) -> Result<(), Error> {
    match owner {
        InvoiceOwner::Everyone | InvoiceOwner::Operator => caller.require_issuer()?,
        InvoiceOwner::Merchant { merchant } => caller.require_seller(merchant)?,
        InvoiceOwner::Card { card } => caller.require_issuer_or_holder(card)?,
    }
    Ok(())
}

/// The least id of what was made at a time: ids are in the order of time.
fn first_id(at_ms: i64) -> String {
    InvoiceId::from_parts(at_ms.max(0).cast_unsigned(), [0; 10]).to_string()
}

impl Invoices {
    /// Looks for invoices, a page at a time; at most `limit` (1 to 1,000). Of everyone the issuer,
    /// of a merchant also its tills, of a card also its holder.
    ///
    /// # Errors
    /// `command.out_of_bounds`, `access.*`.
    pub async fn search(
        &self,
        credential: &Credential,
        filter: &InvoiceFilter,
        after: Option<InvoicePosition>,
        limit: usize,
    ) -> Result<Answer<InvoiceResults>, Error> {
        let caller = self.core.authenticate(credential).await?;
        require(&caller, filter.owner)?;
        let Asked {
            index,
            from,
            to,
            prefix,
        } = asked(filter)?;
        let begin = filter.from_ms.map(|from_ms| DocumentPosition {
            key: from.clone(),
            id: first_id(from_ms),
        });
        let after = after.map(|InvoicePosition { key, id }| DocumentPosition { key, id });
        let query = DocumentQuery {
            collection: INVOICES,
            index,
            from,
            to: Some(to),
            after: after.max(begin),
            limit,
        };
        let as_of_ms = self.core.clock.now_ms();
        let rows = self.core.store.documents(query).await?;
        let end = filter.until_ms.map(first_id);
        let is_full = rows.len() >= limit.clamp(1, crate::store::MAX_PAGE);
        let (mut invoices, mut next) = (Vec::new(), None);
        for (position, document) in rows {
            if end.as_ref().is_some_and(|end| document.id >= *end) {
                return Ok(answer(as_of_ms, invoices, None));
            }
            let found: Invoice = document.body.read().map_err(unreadable)?;
            // One with several words that begin so stands here once for each.
            if prefix
                .as_ref()
                .is_none_or(|prefix| is_first(&found, prefix, &position.key))
            {
                invoices.push(found.upgraded());
            }
            let DocumentPosition { key, id } = position;
            next = Some(InvoicePosition { key, id });
        }
        Ok(answer(as_of_ms, invoices, next.filter(|_| is_full)))
    }
}

fn answer(
    as_of_ms: i64,
    invoices: Vec<Invoice>,
    next: Option<InvoicePosition>,
) -> Answer<InvoiceResults> {
    let value = InvoiceResults { invoices, next };
    Answer { as_of_ms, value }
}

fn is_first(invoice: &Invoice, prefix: &str, key: &str) -> bool {
    let owner = invoice.purpose.owner_id();
    let mut keys = words(invoice)
        .into_iter()
        .map(|word| format!("{owner}/{word}"));
    keys.find(|key| key.starts_with(prefix)).as_deref() == Some(key)
}
