//! Receipts of a card in a currency: what they say, and what is printed in each language.

use flashkit::cards::{CardReceipt, CardReceiptKind, CardReceiptLine, CardReceiptOf};
use flashkit::exchange::{ConversionRules, DriftBearer, RefundRate};
use flashkit::ids::ChargeId;
use flashkit::money::{Asset, Quote};
use flashkit::receipts::{Language, ReceiptSettings};

use crate::support::scene::on_both_stores;
use crate::support::shop;
use crate::world::{Terms, World, fiat, msat};

on_both_stores! {
    a_receipt_is_in_the_cards_unit_at_the_rate_that_counted;
    a_receipt_is_printed_in_every_language;
}

async fn world(is_sqlite: bool, terms: Terms) -> World {
    let mut world = World::new(is_sqlite, "JMD", "15000000", terms).await;
    world.fund(1_000_000, 70_000_000).await;
    world.cap("cap", 2_000_000).await;
    world
}

async fn receipt(world: &World, of: CardReceiptOf) -> CardReceipt {
    let cards = world.engine.cards();
    cards.receipt(&world.merchant.till, of).await.unwrap().value
}

async fn of_charge(world: &World, charge: ChargeId) -> CardReceipt {
    receipt(world, CardReceiptOf::Charge { charge }).await
}

/// What it says, and the rates apart.
fn told(receipt: &CardReceipt) -> (Vec<CardReceiptLine>, Vec<String>) {
    let rate = |quote: &Quote| format!("{} {}", quote.rate, quote.currency.code());
    let (mut lines, mut rates) = (Vec::new(), Vec::new());
    for line in &receipt.lines {
        match line {
            CardReceiptLine::Rate { quote } => rates.push(rate(quote)),
            line => lines.push(line.clone()),
        }
    }
    (lines, rates)
}

fn unit(world: &World) -> Asset {
    Asset::Fiat(world.unit)
}

async fn a_receipt_is_in_the_cards_unit_at_the_rate_that_counted(is_sqlite: bool) {
    let rules = ConversionRules {
        drift: DriftBearer::Card,
        hold_margin_bps: 3_000,
        refund_at: RefundRate::Charge,
        ..ConversionRules::default()
    };
    let terms = Terms {
        rules,
        ..Terms::default()
    };
    let mut world = world(is_sqlite, terms).await;
    shop::program(&world.engine, world.merchant.id).await;
    let asset = unit(&world);
    let paid = |amount| CardReceiptLine::Paid { asset, amount };
    let balance = |amount| CardReceiptLine::Balance { asset, amount };
    let price = |price| CardReceiptLine::Price { price };
    let points = |points| CardReceiptLine::Points { points };

    // 10,000 sats are J$1,500.00.
    let sale = world.charge("sale", fiat("JMD", 150_000)).await.unwrap();
    let (lines, rates) = told(&of_charge(&world, sale.id).await);
    let expected = [
        price(fiat("JMD", 150_000)),
        paid(150_000),
        points(200),
        balance(850_000),
    ];
    assert_eq!((&lines[..], rates.len()), (&expected[..], 1), "{rates:?}");
    let bitcoin = world.charge("bitcoin", msat(1_000_000)).await.unwrap();
    let (lines, rates) = told(&of_charge(&world, bitcoin.id).await);
    let expected = [
        price(msat(1_000_000)),
        paid(15_000),
        points(20),
        balance(835_000),
    ];
    assert_eq!(
        (&lines[..], rates),
        (&expected[..], vec!["15000000 JMD".to_owned()])
    );

    // A tab that is closed at another rate, and what the card then paid.
    let tab = world.authorize("tab", msat(1_000_000)).await.unwrap();
    world.rate("JMD", "18000000");
    world
        .capture("close", tab.id, msat(1_000_000))
        .await
        .unwrap();
    let (lines, rates) = told(&of_charge(&world, tab.id).await);
    let expected = [
        price(msat(1_000_000)),
        paid(18_000),
        points(20),
        balance(817_000),
    ];
    assert_eq!(
        (&lines[..], rates),
        (&expected[..], vec!["18000000 JMD".to_owned()])
    );

    // What comes back is the currency, at the rate of the charge.
    world
        .refund("back", bitcoin.id, fiat("JMD", 7_500))
        .await
        .unwrap();
    let back = receipt(
        &world,
        CardReceiptOf::Refund {
            charge: bitcoin.id,
            number: 1,
        },
    )
    .await;
    assert_eq!(back.kind, CardReceiptKind::Refund);
    let received = CardReceiptLine::Received {
        asset,
        amount: 7_500,
    };
    let (lines, rates) = told(&back);
    assert_eq!(lines, [received, points(-10), balance(824_500)]);
    assert_eq!(rates.len(), 0, "it is on the receipt of the sale");

    let cards = world.engine.cards();
    let rows = cards
        .history(&world.card.holder, world.card.id, None, 20)
        .await;
    let rows = rows.unwrap().value;
    let top_up = CardReceiptOf::Transfer {
        card: world.card.id,
        transfer: rows.last().unwrap().id,
    };
    let found = cards
        .receipt(&world.card.holder, top_up)
        .await
        .unwrap()
        .value;
    assert_eq!(found.kind, CardReceiptKind::TopUp);
    let received = CardReceiptLine::Received {
        asset,
        amount: 1_000_000,
    };
    assert_eq!(found.lines, [received, balance(1_000_000)]);
    // Nothing of what came since is in what was printed first.
    let again = of_charge(&world, sale.id).await;
    assert_eq!(again.balance(), Some((asset, 850_000)));
    world.stop("receipts").await;
}

/// As a person reads it: a space that does not break is a space, and what is made anew is named.
fn seen(world: &World, receipt: &CardReceipt, settings: &ReceiptSettings) -> String {
    let lines = receipt.printed(settings, "Cookshop").unwrap();
    let lines: Vec<String> = lines
        .iter()
        .map(|line| {
            let text = format!("{}|{}", line.label, line.value);
            text.trim_end_matches('|').replace('\u{a0}', " ")
        })
        .collect();
    let text = lines.join("\n");
    text.replace(&receipt.number, "NUMBER")
        .replace(&world.card.id.to_string(), "CARD")
}

async fn a_receipt_is_printed_in_every_language(is_sqlite: bool) {
    let mut world = world(is_sqlite, Terms::default()).await;
    shop::program(&world.engine, world.merchant.id).await;
    let sale = world.charge("sale", msat(10_000_000)).await.unwrap();
    let refund = fiat("JMD", 7_500);
    world.refund("back", sale.id, refund).await.unwrap();
    let sold = of_charge(&world, sale.id).await;
    let number = 1;
    let of = CardReceiptOf::Refund {
        charge: sale.id,
        number,
    };
    let back = receipt(&world, of).await;
    for (language, of_sale, of_refund) in PRINTED {
        let settings = ReceiptSettings {
            language,
            time_zone: "America/Jamaica".to_owned(),
            heading: Vec::new(),
            tax_number: "T 1".to_owned(),
            footer: vec!["Bless".to_owned()],
        };
        let text = |text: &str| text.trim().replace("\n    ", "\n");
        assert_eq!(seen(&world, &sold, &settings), text(of_sale), "{language}");
        assert_eq!(
            seen(&world, &back, &settings),
            text(of_refund),
            "{language}"
        );
    }
    let nowhere = ReceiptSettings {
        time_zone: "Atlantis".to_owned(),
        ..ReceiptSettings::default()
    };
    let refused = sold.printed(&nowhere, "Cookshop").unwrap_err();
    assert_eq!(refused.code(), "receipt.unknown_time_zone");
    world.stop("printed").await;
}

const PRINTED: [(Language, &str, &str); 5] = [
    (
        Language::En,
        "
    Cookshop
    Tax no.|T 1
    Sale
    Receipt no.|NUMBER
    Date|24 Nov 2026, 07:00 UTC-05:00
    Card|CARD
    Order|table 4

    Total|10,000 sat
    Rate|1 BTC = J$15,000,000.00
    Rate from|test
    Rate at|24 Nov 2026, 07:00 UTC-05:00
    Paid|J$1,500.00
    Points earned|200 points

    Card balance|J$8,500.00

    Bless
    ",
        "
    Cookshop
    Tax no.|T 1
    Refund
    Receipt no.|NUMBER
    Date|24 Nov 2026, 07:00 UTC-05:00
    Card|CARD
    Order|table 4

    Refunded|J$75.00
    Points taken back|-10 points

    Card balance|J$8,575.00

    Bless
    ",
    ),
    (
        Language::Es,
        "
    Cookshop
    N.º fiscal|T 1
    Venta
    Recibo n.º|NUMBER
    Fecha|24 nov 2026, 07:00 UTC-05:00
    Tarjeta|CARD
    Pedido|table 4

    Total|10,000 sat
    Tipo de cambio|1 BTC = J$15,000,000.00
    Fuente del cambio|test
    Hora del cambio|24 nov 2026, 07:00 UTC-05:00
    Pagado|J$1,500.00
    Puntos ganados|200 puntos

    Saldo de la tarjeta|J$8,500.00

    Bless
    ",
        "
    Cookshop
    N.º fiscal|T 1
    Reembolso
    Recibo n.º|NUMBER
    Fecha|24 nov 2026, 07:00 UTC-05:00
    Tarjeta|CARD
    Pedido|table 4

    Reembolsado|J$75.00
    Puntos retirados|-10 puntos

    Saldo de la tarjeta|J$8,575.00

    Bless
    ",
    ),
    (
        Language::Fr,
        "
    Cookshop
    N° fiscal|T 1
    Vente
    Reçu n°|NUMBER
    Date|24 nov. 2026, 07:00 UTC-05:00
    Carte|CARD
    Commande|table 4

    Total|10 000 sat
    Taux|1 BTC = 15 000 000,00 J$
    Source du taux|test
    Heure du taux|24 nov. 2026, 07:00 UTC-05:00
    Payé|1 500,00 J$
    Points gagnés|200 points

    Solde de la carte|8 500,00 J$

    Bless
    ",
        "
    Cookshop
    N° fiscal|T 1
    Remboursement
    Reçu n°|NUMBER
    Date|24 nov. 2026, 07:00 UTC-05:00
    Carte|CARD
    Commande|table 4

    Remboursé|75,00 J$
    Points repris|-10 points

    Solde de la carte|8 575,00 J$

    Bless
    ",
    ),
    (
        Language::It,
        "
    Cookshop
    N. fiscale|T 1
    Vendita
    Ricevuta n.|NUMBER
    Data|24 nov 2026, 07:00 UTC-05:00
    Carta|CARD
    Ordine|table 4

    Totale|10.000 sat
    Cambio|1 BTC = 15.000.000,00 J$
    Fonte del cambio|test
    Ora del cambio|24 nov 2026, 07:00 UTC-05:00
    Pagato|1.500,00 J$
    Punti guadagnati|200 punti

    Saldo della carta|8.500,00 J$

    Bless
    ",
        "
    Cookshop
    N. fiscale|T 1
    Rimborso
    Ricevuta n.|NUMBER
    Data|24 nov 2026, 07:00 UTC-05:00
    Carta|CARD
    Ordine|table 4

    Rimborsato|75,00 J$
    Punti ritirati|-10 punti

    Saldo della carta|8.575,00 J$

    Bless
    ",
    ),
    (
        Language::Ht,
        "
    Cookshop
    Nimewo fiskal|T 1
    Vant
    Resi nº|NUMBER
    Dat|24 nov 2026, 07:00 UTC-05:00
    Kat|CARD
    Kòmand|table 4

    Total|10 000 sat
    To chanj|1 BTC = 15 000 000,00 J$
    Sous to chanj|test
    Lè to chanj|24 nov 2026, 07:00 UTC-05:00
    Peye|1 500,00 J$
    Pwen ou fè|200 pwen

    Balans kat la|8 500,00 J$

    Bless
    ",
        "
    Cookshop
    Nimewo fiskal|T 1
    Ranbousman
    Resi nº|NUMBER
    Dat|24 nov 2026, 07:00 UTC-05:00
    Kat|CARD
    Kòmand|table 4

    Ranbouse|75,00 J$
    Pwen yo reprann|-10 pwen

    Balans kat la|8 575,00 J$

    Bless
    ",
    ),
];
