//! The same searches over the same invoices on any store: what is found is what a plain look
//! through all of them finds, page by page, whatever the length of a page.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flashkit::access::Credential;
use flashkit::ids::MerchantId;
use flashkit::invoices::{
    CreateInvoice, Custody, GivenAddress, Invoice, InvoiceFilter, InvoiceOptions, InvoiceOwner,
    InvoicePurpose, InvoiceState, MarkInvoice, MarkedAs, OnChainFact, OnChainPlace, Outpoint, Rail,
};
use flashkit::money::Price;
use flashkit::ports::Clock;
use flashkit::settlement::{CreateMerchant, PayoutTerms};
use flashkit::store::Store;
use flashkit::testkit::chain::nobodys_address;
use flashkit::testkit::clock::ManualClock;
use flashkit::{Engine, MasterSecret};

const START_MS: i64 = 1_800_000_000_000;
const INVOICES: usize = 40;
/// Words that begin alike, in cases and scripts that languages sort in their own ways.
const WORDS: [&str; 10] = [
    "Patty",
    "patties",
    "PATTY",
    "päté",
    "Straße",
    "strasse",
    "Ölwechsel",
    "コーヒー",
    "9mm",
    "z9",
];
const ORDERS: [&str; 5] = ["Table 1", "table-1", "TABLE 2", "", "Öl/7"];

fn is(text: &str) -> String {
    text.to_lowercase()
}

struct Books {
    engine: Engine,
    issuer: Credential,
    clock: Arc<ManualClock>,
    merchants: [MerchantId; 2],
    made: Vec<Invoice>,
}

fn key(text: String) -> flashkit::IdempotencyKey {
    text.parse().unwrap()
}

impl Books {
    async fn new(store: Arc<dyn Store>, clock: Arc<ManualClock>) -> Self {
        let builder = Engine::builder(store, MasterSecret::new([7; 32]));
        let builder = builder.network("regtest").clock(clock.clone());
        let engine = builder.open().await.unwrap();
        let issuer = engine.issuer();
        let mut merchants = Vec::new();
        for name in ["Cookshop", "Bakery"] {
            let command = CreateMerchant {
                key: key(name.to_owned()),
                name: name.to_owned(),
                terms: PayoutTerms::default(),
                category: None,
            };
            let made = engine.settlement().create(&issuer, command).await;
            merchants.push(made.unwrap().value.id);
        }
        let merchants = merchants.try_into().unwrap();
        let made = Vec::new();
        Self {
            engine,
            issuer,
            clock,
            merchants,
            made,
        }
    }

    /// An invoice by its number, brought to one of five states.
    async fn make(&mut self, number: usize) {
        let merchant = self.merchants[usize::from(number.is_multiple_of(3))];
        let word = |at: usize| WORDS[at % WORDS.len()];
        let address = nobodys_address(&format!("search {number}"));
        let command = CreateInvoice {
            key: key(format!("invoice-{number}")),
            purpose: match number % 7 {
                6 => InvoicePurpose::Plain,
                5 => InvoicePurpose::Contribution { merchant },
                _ => InvoicePurpose::Sale { merchant },
            },
            price: Some(Price::Bitcoin {
                amount_msat: 1_000_000,
            }),
            description: format!("{}, {} {number}", word(number), word(number / 3 + 2)),
            expiry_seconds: if number % 5 == 4 { 60 } else { 3_600 },
            options: InvoiceOptions {
                rails: vec![Rail::OnChain],
                order_reference: ORDERS[number % ORDERS.len()].to_owned(),
                address: Some(GivenAddress {
                    address: address.clone(),
                    custody: Custody::Operator,
                }),
                ..InvoiceOptions::default()
            },
        };
        let invoices = self.engine.invoices();
        let made = invoices.create(&self.issuer, command).await.unwrap().value;
        let confirmations = match number % 5 {
            1 => Some(0),
            2 => Some(6),
            _ => None,
        };
        if let Some(confirmations) = confirmations {
            let hash = "ab".repeat(32);
            let height = 100;
            let place = match confirmations {
                0 => OnChainPlace::Mempool { replaceable: true },
                confirmations => OnChainPlace::Block {
                    height,
                    hash,
                    confirmations,
                },
            };
            let fact = OnChainFact {
                outpoint: Outpoint {
                    txid: [u8::try_from(number).unwrap(); 32],
                    vout: 0,
                },
                amount_sat: 1_000,
                first_known_ms: self.clock.now_ms(),
                place,
            };
            let told = invoices
                .observe_on_chain(&self.issuer, &address, &fact)
                .await;
            assert!(told.unwrap());
        }
        if number % 5 == 3 {
            let command = MarkInvoice {
                key: key(format!("mark-{number}")),
                invoice: made.id,
                as_state: MarkedAs::Invalid,
                reason: "a test".to_owned(),
            };
            invoices.mark(&self.issuer, command).await.unwrap();
        }
        self.made.push(made);
        // Some are of one millisecond.
        if !number.is_multiple_of(4) {
            self.clock.advance(Duration::from_millis(7));
        }
    }

    async fn now(&self) -> Vec<Invoice> {
        let mut now = Vec::new();
        for made in &self.made {
            let found = self.engine.invoices().get(&self.issuer, made.id).await;
            now.push(found.unwrap().value);
        }
        now.sort_by_key(|invoice| invoice.id);
        now
    }

    async fn pages(&self, filter: &InvoiceFilter, limit: usize) -> Vec<Invoice> {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let invoices = self.engine.invoices();
            let page = invoices.search(&self.issuer, filter, after, limit).await;
            let page = page.unwrap().value;
            assert!(page.invoices.len() <= limit);
            found.extend(page.invoices);
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    }

    fn filters(&self) -> Vec<InvoiceFilter> {
        let owners = [
            InvoiceOwner::Everyone,
            InvoiceOwner::Operator,
            InvoiceOwner::Merchant {
                merchant: self.merchants[0],
            },
            InvoiceOwner::Merchant {
                merchant: self.merchants[1],
            },
        ];
        use InvoiceState::{Expired, Invalid, New, Processing, Settled};
        let (from_ms, until_ms) = (
            Some(self.made[8].created_at_ms),
            Some(self.made[30].created_at_ms),
        );
        let mut filters = Vec::new();
        for owner in owners {
            let all = InvoiceFilter {
                owner,
                ..InvoiceFilter::default()
            };
            filters.push(all.clone());
            filters.push(InvoiceFilter {
                from_ms,
                until_ms,
                ..all.clone()
            });
            for state in [New, Processing, Settled, Expired, Invalid] {
                let state = Some(state);
                filters.push(InvoiceFilter {
                    state,
                    ..all.clone()
                });
                filters.push(InvoiceFilter {
                    state,
                    from_ms,
                    ..all.clone()
                });
                filters.push(InvoiceFilter {
                    state,
                    until_ms,
                    ..all.clone()
                });
            }
            for order in ["TABLE 1", "öl/7", "table", "Table-1 "] {
                let order_reference = Some(order.to_owned());
                filters.push(InvoiceFilter {
                    order_reference,
                    ..all.clone()
                });
            }
            if owner == InvoiceOwner::Everyone {
                continue;
            }
            for word in [
                "pat", "PATTY", "pä", "stra", "straß", "ö", "コ", "9", "z", "q", "table",
            ] {
                let word_prefix = Some(word.to_owned());
                filters.push(InvoiceFilter {
                    word_prefix,
                    ..all.clone()
                });
            }
        }
        filters
    }
}

fn words(invoice: &Invoice) -> BTreeSet<String> {
    let texts = [&invoice.options.order_reference, &invoice.description];
    let split = texts
        .into_iter()
        .flat_map(|text| text.split(|c: char| !c.is_alphanumeric()));
    split.filter(|word| !word.is_empty()).map(is).collect()
}

/// Whether a plain look finds it.
fn fits(filter: &InvoiceFilter, invoice: &Invoice) -> bool {
    let is_owners = match filter.owner {
        InvoiceOwner::Everyone => true,
        InvoiceOwner::Operator => invoice.purpose == InvoicePurpose::Plain,
        InvoiceOwner::Merchant { merchant } => invoice.purpose.merchant() == Some(merchant),
        InvoiceOwner::Card { .. } => false,
    };
    let order = &invoice.options.order_reference;
    is_owners
        && filter.state.is_none_or(|state| invoice.state == state)
        && filter
            .from_ms
            .is_none_or(|from_ms| invoice.created_at_ms >= from_ms)
        && filter
            .until_ms
            .is_none_or(|until_ms| invoice.created_at_ms < until_ms)
        && filter
            .order_reference
            .as_ref()
            .is_none_or(|wanted| is(order) == is(wanted.trim()))
        && filter.word_prefix.as_ref().is_none_or(|prefix| {
            words(invoice)
                .iter()
                .any(|word| word.starts_with(&is(prefix)))
        })
}

/// Where an invoice stands among those that are found: by its time, or by the first word that is
/// meant.
fn place(filter: &InvoiceFilter, invoice: &Invoice) -> String {
    let prefix = filter.word_prefix.as_ref().map(|prefix| is(prefix));
    let word = prefix.and_then(|prefix| {
        words(invoice)
            .into_iter()
            .find(|word| word.starts_with(&prefix))
    });
    word.unwrap_or_default()
}

/// Makes the invoices and looks for them; answers what was found by each search, as numbers of
/// the invoices: the same on every store.
pub async fn search(store: Arc<dyn Store>, clock: Arc<ManualClock>) -> Vec<Vec<usize>> {
    let mut books = Books::new(store, clock).await;
    for number in 0..INVOICES {
        books.make(number).await;
    }
    books.clock.advance(Duration::from_secs(120));
    books.engine.run_due_jobs().await.unwrap();
    let now = books.now().await;
    let (mut found_by, mut found_any) = (Vec::new(), 0);
    for filter in books.filters() {
        let mut wanted: Vec<Invoice> = now
            .iter()
            .filter(|found| fits(&filter, found))
            .cloned()
            .collect();
        wanted.sort_by_key(|invoice| (place(&filter, invoice), invoice.id));
        for limit in [1, 7, 1_000] {
            let found = books.pages(&filter, limit).await;
            assert_eq!(found, wanted, "{filter:?}, {limit} a page");
        }
        found_any += usize::from(!wanted.is_empty());
        // Of those of one millisecond, chance says which has the lower id.
        let number = |invoice: &Invoice| books.made.iter().position(|made| made.id == invoice.id);
        let mut numbers: Vec<usize> = wanted
            .iter()
            .map(|invoice| number(invoice).unwrap())
            .collect();
        numbers.sort_unstable();
        found_by.push(numbers);
    }
    println!(
        "{} searches, {found_any} of which found something",
        found_by.len()
    );
    assert!(found_any * 3 > found_by.len() * 2);
    found_by
}

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(START_MS))
}
