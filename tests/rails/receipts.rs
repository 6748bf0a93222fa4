//! Receipts: printed in five languages, numbered without a gap, and never written again.

use std::sync::Arc;

use flashkit::invoices::{
    CreateInvoice, Invoice, InvoiceLine, InvoiceOptions, InvoicePurpose, MarkInvoice, MarkedAs,
};
use flashkit::lightning::LightningNode;
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::money::{Currency, Price};
use flashkit::ports::SystemClock;
use flashkit::rates::FixedRates;
use flashkit::receipts::{
    IssueReceipt, IssuedReceipt, Language, ReceiptAlignment, ReceiptKind, ReceiptLine,
    ReceiptSettings, SetReceiptSettings,
};
use flashkit::refunds::RefundAmount;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use flashkit::testkit::wallet::Wallet;
use flashkit::{Engine, Settings};

use crate::refunds::{bolt11, order};
use crate::support::scene::told;
use crate::support::shop::{self, Merchant, SAT, sat, settled};
use crate::support::{key, until};

/// 26 November 2026, 15:05:21 UTC.
pub const NOW_MS: i64 = 1_795_705_521_000;

/// A shop whose time and rates are the test's.
pub struct Shop {
    pub store: Arc<dyn Store>,
    pub engine: Engine,
    pub clock: Arc<ManualClock>,
    pub network: SimulatedNetwork,
    pub customer: Arc<Wallet>,
    pub merchant: Merchant,
}

pub fn fiat(code: &str, minor_units: i64) -> Price {
    let currency = Currency::from_code(code).unwrap();
    Price::Fiat {
        currency,
        minor_units,
    }
}

impl Shop {
    pub async fn open() -> Self {
        let clock = Arc::new(ManualClock::at(NOW_MS));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        let network = SimulatedNetwork::new(Arc::new(SystemClock));
        let node: Arc<dyn LightningNode> = Arc::new(network.node(0));
        let engine = open(&store, &clock, Some(node)).await;
        engine.start().await.unwrap();
        let customer = network.node(1_000_000_000 * SAT);
        customer.start().await.unwrap();
        let customer = Arc::new(Wallet::new(Arc::new(customer), None));
        tokio::spawn(customer.clone().run());
        let merchant = shop::merchant(&engine, "Miss Ivy").await;
        Self {
            store,
            engine,
            clock,
            network,
            customer,
            merchant,
        }
    }

    pub async fn set(&self, name: &str, settings: ReceiptSettings) {
        let command = SetReceiptSettings {
            key: key(name),
            merchant: Some(self.merchant.id),
            settings,
        };
        let (receipts, issuer) = (self.engine.receipts(), self.engine.issuer());
        receipts.set_settings(&issuer, command).await.unwrap();
    }

    pub async fn ask(&self, name: &str, price: Price, options: InvoiceOptions) -> Invoice {
        let command = CreateInvoice {
            key: key(name),
            purpose: InvoicePurpose::Sale {
                merchant: self.merchant.id,
            },
            price: Some(price),
            description: name.to_owned(),
            expiry_seconds: 600,
            options,
        };
        let invoices = self.engine.invoices();
        let made = invoices.create(&self.merchant.till, command).await;
        made.unwrap().value
    }

    pub async fn sell(&self, name: &str, price: Price, options: InvoiceOptions) -> Invoice {
        let invoice = self.ask(name, price, options).await;
        self.customer.pay(&invoice.bolt11).await.unwrap();
        settled(&self.engine, &invoice).await;
        invoice
    }

    pub async fn mark(&self, invoice: &Invoice, as_state: MarkedAs) {
        let command = MarkInvoice {
            key: key(&format!("{as_state:?}-{}", invoice.id)),
            invoice: invoice.id,
            as_state,
            reason: "cash".to_owned(),
        };
        let (invoices, issuer) = (self.engine.invoices(), self.engine.issuer());
        invoices.mark(&issuer, command).await.unwrap();
    }

    pub async fn print(
        &self,
        name: &str,
        invoice: &Invoice,
    ) -> Result<IssuedReceipt, &'static str> {
        let command = IssueReceipt {
            key: key(name),
            invoice: invoice.id,
        };
        let receipts = self.engine.receipts();
        told(receipts.issue(&self.merchant.till, command).await).map(|answer| answer.value)
    }
}

async fn open(
    store: &Arc<dyn Store>,
    clock: &Arc<ManualClock>,
    node: Option<Arc<dyn LightningNode>>,
) -> Engine {
    let rates = FixedRates::new();
    for (code, rate) in [
        ("JMD", "15400000.00"),
        ("TTD", "650000.5"),
        ("EUR", "85000"),
        ("KYD", "75000"),
    ] {
        let currency = Currency::from_code(code).unwrap();
        rates.set(currency, rate.parse().unwrap(), "test", NOW_MS);
    }
    let mut builder = Engine::builder(store.clone(), shop::master())
        .network("regtest")
        .clock(clock.clone())
        .settings(Settings {
            pay_url: "pay.example.com".to_owned(),
            ..Settings::default()
        })
        .rates(Arc::new(rates));
    if let Some(node) = node {
        builder = builder.lightning(node);
    }
    builder.open().await.unwrap()
}

fn item(quantity: u32, description: &str, unit_price_minor: i64, tax_minor: i64) -> InvoiceLine {
    InvoiceLine {
        description: description.to_owned(),
        quantity,
        unit_price_minor,
        tax_minor,
    }
}

/// As a person reads it: spaces that do not break are spaces.
fn seen(line: &ReceiptLine) -> String {
    let kind = serde_json::to_value(line.kind).unwrap();
    let kind = kind.as_str().unwrap();
    let text = format!("{kind}|{}|{}", line.label, line.value);
    text.trim_end_matches('|').replace('\u{a0}', " ")
}

fn settings(language: Language, time_zone: &str) -> ReceiptSettings {
    ReceiptSettings {
        language,
        time_zone: time_zone.to_owned(),
        ..ReceiptSettings::default()
    }
}

/// Sells once and compares what is printed, but for the payment hash, with what a person wrote.
async fn prints(settings: ReceiptSettings, price: Price, options: InvoiceOptions, lines: &str) {
    let shop = Shop::open().await;
    shop.set("settings", settings).await;
    let name = options
        .metadata
        .get("name")
        .map_or("lunch", |name| name.as_str().unwrap());
    let invoice = shop.sell(name, price, options.clone()).await;
    let receipt = shop.print("print", &invoice).await.unwrap().receipt;
    let printed: Vec<String> = receipt.lines.iter().map(seen).collect();
    let lines = lines.replace("HASH", &invoice.payment_hash.to_string());
    let wanted: Vec<&str> = lines
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(printed, wanted);
    let rules = receipt.lines.iter().filter(|line| line.label.is_empty());
    assert!(
        rules
            .into_iter()
            .all(|line| line.alignment == ReceiptAlignment::Center)
    );
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_english_with_tax_and_tip_on_top() {
    let settings = ReceiptSettings {
        heading: vec![
            "Miss Ivy's Cookshop".to_owned(),
            "12 Hope Road, Kingston".to_owned(),
        ],
        tax_number: "001-234-567".to_owned(),
        footer: vec!["Walk good!".to_owned()],
        ..settings(Language::En, "America/Jamaica")
    };
    let options = InvoiceOptions {
        order_reference: "table 4".to_owned(),
        lines: vec![
            item(2, "Beef patty", 35_000, 10_500),
            item(1, "Coco bread", 15_000, 2_250),
        ],
        tip_minor: 5_000,
        ..InvoiceOptions::default()
    };
    let lines = "
        heading|Miss Ivy's Cookshop
        heading|12 Hope Road, Kingston
        field|Tax no.|001-234-567
        title|Receipt
        field|Receipt no.|1
        field|Date|26 Nov 2026, 10:05 UTC-05:00
        field|Order|table 4
        rule
        item|2 × Beef patty @ J$350.00|J$700.00
        item|Coco bread|J$150.00
        part|Subtotal|J$850.00
        part|Tax|J$127.50
        part|Tip|J$50.00
        total|Total|J$1,027.50
        field|In bitcoin|6,672.078 sat
        field|Rate|1 BTC = J$15,400,000.00
        field|Rate from|test
        field|Rate at|26 Nov 2026, 10:05 UTC-05:00
        rule
        payment|Lightning|6,672.078 sat
        detail|Paid at|26 Nov 2026, 10:05 UTC-05:00
        detail|Payment hash|HASH
        rule
        footer|Walk good!";
    prints(settings, fiat("JMD", 102_750), options, lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_spanish_with_tax_included() {
    let options = InvoiceOptions {
        lines: vec![item(3, "Doubles", 1_500, 500)],
        tax_included: true,
        ..InvoiceOptions::default()
    };
    let lines = "
        heading|Miss Ivy
        title|Recibo
        field|Recibo n.º|1
        field|Fecha|26 nov 2026, 11:05 UTC-04:00
        rule
        item|3 × Doubles @ TT$15.00|TT$45.00
        total|Total|TT$45.00
        part|Impuesto incluido|TT$5.00
        field|En bitcoin|6,923.072 sat
        field|Tipo de cambio|1 BTC = TT$650,000.50
        field|Fuente del cambio|test
        field|Hora del cambio|26 nov 2026, 11:05 UTC-04:00
        rule
        payment|Lightning|6,923.072 sat
        detail|Pagado el|26 nov 2026, 11:05 UTC-04:00
        detail|Hash de pago|HASH";
    let settings = settings(Language::Es, "America/Port_of_Spain");
    prints(settings, fiat("TTD", 4_500), options, lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_french_without_lines() {
    let lines = "
        heading|Miss Ivy
        title|Reçu
        field|Reçu n°|1
        field|Date|26 nov. 2026, 16:05 UTC+01:00
        rule
        item|lunch|12,34 €
        total|Total|12,34 €
        field|En bitcoin|14 517,648 sat
        field|Taux|1 BTC = 85 000,00 €
        field|Source du taux|test
        field|Heure du taux|26 nov. 2026, 16:05 UTC+01:00
        rule
        payment|Lightning|14 517,648 sat
        detail|Payé le|26 nov. 2026, 16:05 UTC+01:00
        detail|Hash du paiement|HASH";
    let settings = settings(Language::Fr, "Europe/Paris");
    prints(
        settings,
        fiat("EUR", 1_234),
        InvoiceOptions::default(),
        lines,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_italian_priced_in_sats() {
    let options = InvoiceOptions {
        lines: vec![item(2, "Caffè", 1_500 * SAT, 0)],
        tip_minor: 500 * SAT,
        ..InvoiceOptions::default()
    };
    let lines = "
        heading|Miss Ivy
        title|Ricevuta
        field|Ricevuta n.|1
        field|Data|26 nov 2026, 16:05 UTC+01:00
        rule
        item|2 × Caffè @ 1.500 sat|3.000 sat
        part|Subtotale|3.000 sat
        part|Mancia|500 sat
        total|Totale|3.500 sat
        rule
        payment|Lightning|3.500 sat
        detail|Pagato il|26 nov 2026, 16:05 UTC+01:00
        detail|Hash del pagamento|HASH";
    let settings = settings(Language::It, "Europe/Rome");
    prints(settings, sat(3_500), options, lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_haitian_creole() {
    let options = InvoiceOptions {
        lines: vec![item(1, "Griyo", 820, 0)],
        ..InvoiceOptions::default()
    };
    let lines = "
        heading|Miss Ivy
        title|Resi
        field|Resi nº|1
        field|Dat|26 nov 2026, 10:05 UTC-05:00
        rule
        item|Griyo|8,20 CI$
        total|Total|8,20 CI$
        field|An bitcoin|10 933,334 sat
        field|To chanj|1 BTC = 75 000,00 CI$
        field|Sous to chanj|test
        field|Lè to chanj|26 nov 2026, 10:05 UTC-05:00
        rule
        payment|Lightning|10 933,334 sat
        detail|Peye lè|26 nov 2026, 10:05 UTC-05:00
        detail|Hash peman|HASH";
    let settings = settings(Language::Ht, "America/Port-au-Prince");
    prints(settings, fiat("KYD", 820), options, lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_printed_again_is_what_was_printed_first() {
    let shop = Shop::open().await;
    shop.set("english", settings(Language::En, "America/Jamaica"))
        .await;
    let invoice = shop
        .sell("lunch", fiat("JMD", 10_000), InvoiceOptions::default())
        .await;
    let first = shop.print("first", &invoice).await.unwrap();
    // Another language, another name, another day, another engine.
    let other = ReceiptSettings {
        heading: vec!["Miss Ivy & Daughters".to_owned()],
        ..settings(Language::Ht, "Europe/Rome")
    };
    shop.set("creole", other).await;
    shop.clock.set(NOW_MS + 86_400_000);
    let rotated = flashkit::receipts::RotateReceiptKey { key: key("rotate") };
    let (receipts, issuer) = (shop.engine.receipts(), shop.engine.issuer());
    receipts.rotate_key(&issuer, rotated).await.unwrap();
    assert_eq!(shop.print("again", &invoice).await.unwrap(), first);
    let engine = open(&shop.store, &shop.clock, None).await;
    let (receipts, till) = (engine.receipts(), &shop.merchant.till);
    let got = receipts.get(till, Some(shop.merchant.id), 1).await.unwrap();
    assert_eq!(got.value, first);
    let all = receipts.of_invoice(till, invoice.id).await.unwrap().value;
    assert_eq!(all, [first]);
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sale_has_a_number_and_no_number_is_left_out() {
    let shop = Shop::open().await;
    shop.set("settings", ReceiptSettings::default()).await;
    let mut sold = Vec::new();
    for number in 0..12 {
        let name = format!("sale {number}");
        sold.push(
            shop.sell(&name, sat(1_000 + number), InvoiceOptions::default())
                .await,
        );
    }
    // Asked for by three tills at once, beside the job that issues them.
    let shop = Arc::new(shop);
    let mut asked = Vec::new();
    for (number, invoice) in sold.iter().enumerate() {
        for till in 0..3 {
            let (shop, invoice) = (shop.clone(), invoice.clone());
            let name = format!("print {number} {till}");
            asked.push(tokio::spawn(
                async move { shop.print(&name, &invoice).await },
            ));
        }
    }
    let mut printed = Vec::new();
    for asked in asked {
        printed.push(asked.await.unwrap().unwrap());
    }
    for three in printed.chunks(3) {
        assert!(three.iter().all(|one| *one == three[0]));
    }
    let receipts = shop.engine.receipts();
    let (till, merchant) = (&shop.merchant.till, Some(shop.merchant.id));
    let mut numbers = Vec::new();
    loop {
        let after = numbers.last().copied().unwrap_or(0);
        let page = receipts.list(till, merchant, after, 5).await.unwrap().value;
        if page.is_empty() {
            break;
        }
        numbers.extend(page.iter().map(|issued| issued.receipt.number));
    }
    assert_eq!(numbers, (1..=12).collect::<Vec<u64>>());
    // Another merchant has numbers of its own, and its till reads none of these.
    let other = shop::merchant(&shop.engine, "Mr Chin").await;
    let refused = told(receipts.get(&other.till, merchant, 1).await);
    assert_eq!(refused.unwrap_err(), "access.not_allowed");
    let refused = told(receipts.of_invoice(&other.till, sold[0].id).await);
    assert_eq!(refused.unwrap_err(), "access.not_allowed");
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_given_its_receipt_although_nobody_asks() {
    let shop = Shop::open().await;
    let before = shop
        .sell("before", sat(1_000), InvoiceOptions::default())
        .await;
    shop.set("settings", ReceiptSettings::default()).await;
    let after = shop
        .sell("after", sat(2_000), InvoiceOptions::default())
        .await;
    let (receipts, till) = (shop.engine.receipts(), &shop.merchant.till);
    until("the receipt is issued", || async {
        let all = receipts.of_invoice(till, after.id).await.unwrap();
        all.value.len() == 1
    })
    .await;
    // Settings were made for what comes: the sale before has one when it is asked for.
    assert_eq!(
        receipts.of_invoice(till, before.id).await.unwrap().value,
        []
    );
    assert_eq!(shop.print("late", &before).await.unwrap().receipt.number, 2);
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_paid_has_one_and_what_changes_has_another() {
    let shop = Shop::open().await;
    let invoice = shop
        .ask("lunch", sat(1_000), InvoiceOptions::default())
        .await;
    assert_eq!(
        shop.print("unpaid", &invoice).await.unwrap_err(),
        "receipt.not_settled"
    );
    shop.mark(&invoice, MarkedAs::Settled).await;
    let first = shop.print("cash", &invoice).await.unwrap();
    assert_eq!(first.receipt.kind, ReceiptKind::Sale);
    let lines: Vec<String> = first.receipt.lines.iter().map(seen).collect();
    assert!(lines.contains(&"payment|Marked as paid|26 Nov 2026, 15:05 UTC+00:00".to_owned()));
    shop.clock.set(NOW_MS + 60_000);
    shop.mark(&invoice, MarkedAs::Invalid).await;
    let second = shop.print("not paid", &invoice).await.unwrap();
    assert_eq!(second.receipt.kind, ReceiptKind::Correction { corrects: 1 });
    assert_eq!(
        (second.receipt.number, second.receipt.marked_paid_at_ms),
        (2, None)
    );
    let lines: Vec<String> = second.receipt.lines.iter().map(seen).collect();
    assert!(
        lines.contains(&"title|Corrected receipt".to_owned()),
        "{lines:?}"
    );
    assert!(lines.contains(&"field|Corrects no.|1".to_owned()));
    // The one before stays, and nothing new is nothing new.
    assert_eq!(shop.print("third", &invoice).await.unwrap(), second);
    let receipts = shop.engine.receipts();
    let all = receipts
        .of_invoice(&shop.merchant.till, invoice.id)
        .await
        .unwrap();
    assert_eq!(all.value, [first, second]);
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_checked() {
    let shop = Shop::open().await;
    let (receipts, issuer) = (shop.engine.receipts(), shop.engine.issuer());
    for (name, settings, code) in [
        (
            "zone",
            settings(Language::En, "Kingston"),
            "receipt.unknown_time_zone",
        ),
        (
            "heading",
            ReceiptSettings {
                heading: vec!["x".to_owned(); 9],
                ..ReceiptSettings::default()
            },
            "command.out_of_bounds",
        ),
        (
            "line",
            ReceiptSettings {
                footer: vec!["a\nb".to_owned()],
                ..ReceiptSettings::default()
            },
            "command.out_of_bounds",
        ),
        (
            "tax",
            ReceiptSettings {
                tax_number: "1".repeat(51),
                ..ReceiptSettings::default()
            },
            "command.out_of_bounds",
        ),
    ] {
        let command = SetReceiptSettings {
            key: key(name),
            merchant: None,
            settings,
        };
        let refused = told(receipts.set_settings(&issuer, command.clone()).await);
        assert_eq!(refused.unwrap_err(), code, "{name}");
        let refused = told(receipts.set_settings(&shop.merchant.till, command).await);
        assert_eq!(refused.unwrap_err(), "access.not_allowed");
    }
    let now = receipts.settings(&issuer, None).await.unwrap();
    assert_eq!(now.settings, ReceiptSettings::default());
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paid_back_is_corrected_although_nobody_asks() {
    let shop = Shop::open().await;
    shop.set("settings", settings(Language::It, "Europe/Rome"))
        .await;
    let invoice = shop
        .sell("lunch", sat(10_000), InvoiceOptions::default())
        .await;
    let first = shop.print("first", &invoice).await.unwrap();
    let to = shop.customer.invoice(4_000 * SAT, "refund").await.unwrap();
    let amount = RefundAmount::Bitcoin {
        amount_msat: 4_000 * SAT,
    };
    let command = order("back", &invoice, bolt11(&to), amount);
    let (refunds, issuer) = (shop.engine.refunds(), shop.engine.issuer());
    refunds.create(&issuer, command).await.unwrap();
    let (receipts, till) = (shop.engine.receipts(), &shop.merchant.till);
    until("the correction is issued", || async {
        let all = receipts.of_invoice(till, invoice.id).await.unwrap();
        all.value.len() == 2
    })
    .await;
    let all = receipts.of_invoice(till, invoice.id).await.unwrap().value;
    assert_eq!(all[0], first);
    let second = &all[1].receipt;
    assert_eq!(second.kind, ReceiptKind::Correction { corrects: 1 });
    assert_eq!(second.refunded_msat, 4_000 * SAT);
    let last = second.lines.last().map(seen);
    assert_eq!(last.as_deref(), Some("change|Rimborsato|-4.000 sat"));
    shop.engine.stop().await.unwrap();
}
