//! An invoice of this engine that an account of this engine pays never leaves it.

use flashkit::cards::CardLimits;
use flashkit::invoices::{CreateInvoice, Invoice, InvoiceOptions, InvoicePurpose, InvoiceState};
use flashkit::lightning::{Bolt11Details, InvoiceRequest, LightningNode, PaymentState};
use flashkit::settlement::{Payout, PayoutState, RequestPayout};
use sha2::{Digest, Sha256};

use crate::support::scene::{NOON, Scene, told};
use crate::support::shop::{self, SAT, sat};
use crate::support::{key, until};

async fn scene(limits: CardLimits) -> Scene {
    let mut scene = Scene::new(false, limits).await;
    // The merchant has 20,000 sats to be paid out.
    scene.charge("sale", 20_000).await.unwrap();
    scene
}

async fn pay_out(scene: &Scene, name: &str, bolt11: &str) -> Result<Payout, &'static str> {
    let command = RequestPayout {
        key: key(&name.replace(' ', "-")),
        merchant: scene.merchant.id,
        bolt11: bolt11.to_owned(),
    };
    let issuer = scene.engine().issuer();
    let settlement = scene.engine().settlement();
    told(settlement.request_payout(&issuer, command).await).map(|payout| payout.value)
}

async fn invoice(scene: &Scene, invoice: &Invoice) -> Invoice {
    let invoices = scene.engine().invoices();
    let found = invoices.get(&scene.engine().issuer(), invoice.id).await;
    found.unwrap().value
}

async fn top_up(scene: &Scene, sats: i64) -> Invoice {
    let command = CreateInvoice {
        key: key(&format!("top-up/{sats}")),
        purpose: InvoicePurpose::TopUp {
            card: scene.card.id,
        },
        price: Some(sat(sats)),
        description: "top-up".to_owned(),
        expiry_seconds: 3_600,
        options: InvoiceOptions::default(),
    };
    let issuer = scene.engine().issuer();
    let invoices = scene.engine().invoices();
    invoices.create(&issuer, command).await.unwrap().value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payout_to_an_invoice_of_the_same_engine_is_one_commit_in_the_books() {
    let scene = scene(CardLimits::default()).await;
    let (engine, node) = (scene.engine(), &scene.shop.node);
    let other = shop::merchant(engine, "Other").await;
    let sale = shop::sale(engine, &other, "other", sat(5_000)).await;
    let in_channels = node.balance_msat();
    let payout = pay_out(&scene, "p", &sale.bolt11.to_uppercase())
        .await
        .unwrap();
    assert_eq!(payout.state, PayoutState::PaidOut);
    assert_eq!((payout.fee_msat, payout.route_fee_msat), (0, Some(0)));
    let proof = payout.by_book.clone().unwrap();
    let preimage = hex::decode(&proof.preimage).unwrap();
    assert_eq!(
        hex::encode(Sha256::digest(preimage)),
        sale.payment_hash.to_string()
    );
    let paid = invoice(&scene, &sale).await;
    assert_eq!(
        (paid.id, paid.state, paid.received_msat),
        (proof.invoice, InvoiceState::Settled, 5_000 * SAT)
    );
    let owed = engine.settlement().balance(&other.till, other.id).await;
    assert_eq!(owed.unwrap().available_msat, 5_000 * SAT);
    assert_eq!(scene.payable().await, 15_000);
    assert_eq!(
        (node.balance_msat(), node.record(sale.payment_hash)),
        (in_channels, None)
    );
    // Asked again: the same payout. Asked by another one: refused, and nothing moved.
    assert_eq!(
        pay_out(&scene, "p", &sale.bolt11.to_uppercase()).await,
        Ok(payout)
    );
    assert_eq!(
        pay_out(&scene, "q", &sale.bolt11).await,
        Err("invoice.not_payable")
    );
    assert_eq!(scene.payable().await, 15_000);
    scene.stop("paid by book").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_are_those_of_a_lightning_payment() {
    let limits = CardLimits {
        max_balance: Some(60_000 * SAT),
        ..CardLimits::default()
    };
    let scene = scene(limits).await;
    // The card has 30,000 sats and may have 60,000.
    let other = shop::merchant(scene.engine(), "Other").await;
    let sale = shop::sale(scene.engine(), &other, "other", sat(5_000)).await;
    let own = shop::sale(scene.engine(), &scene.merchant, "own", sat(5_000)).await;
    let too_full = top_up(&scene, 40_000).await;
    let fits = top_up(&scene, 10_000).await;
    // A text with the hash of an invoice of ours that asks for less is made by anybody.
    let forger = scene.shop.network.node(0);
    forger.start().await.unwrap();
    let request = InvoiceRequest {
        payment_hash: sale.payment_hash,
        amount_msat: Some(SAT),
        description: "forged".to_owned(),
        expiry_seconds: 3_600,
    };
    let forged = forger.create_invoice(request).await.unwrap();
    for (name, bolt11, expected) in [
        ("own", &own.bolt11, Err("settlement.own_invoice")),
        ("forged", &forged, Err("invoice.not_payable")),
        (
            "too much",
            &too_full.bolt11,
            Err("settlement.insufficient_balance"),
        ),
        ("fits", &fits.bolt11, Ok(PayoutState::PaidOut)),
    ] {
        let payout = pay_out(&scene, name, bolt11).await;
        assert_eq!(payout.map(|payout| payout.state), expected, "{name}");
    }
    assert_eq!(
        (scene.balance().await, scene.payable().await),
        (40_000, 10_000)
    );
    let full = top_up(&scene, 9_999).await;
    assert_eq!(
        pay_out(&scene, "p", &full.bolt11).await.map(|p| p.state),
        Ok(PayoutState::PaidOut)
    );
    // The time of the invoice is over for the books as it is for the network.
    scene.clock.set(NOON + 24 * 3_600_000);
    let late = pay_out(&scene, "late", &sale.bolt11).await;
    assert!(
        matches!(
            late,
            Err("settlement.invoice_expired" | "invoice.not_payable")
        ),
        "{late:?}"
    );
    scene.stop("refused").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_gets_too_full_by_book_is_refused() {
    let limits = CardLimits {
        max_balance: Some(50_000 * SAT),
        ..CardLimits::default()
    };
    let scene = scene(limits).await;
    let invoice = top_up(&scene, 20_001).await;
    // It would have 50,001. The merchant has the money: another sale brought it.
    let sale = shop::sale(scene.engine(), &scene.merchant, "more", sat(10_000)).await;
    scene.shop.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(scene.engine(), &sale).await;
    let refused = pay_out(&scene, "p", &invoice.bolt11).await;
    assert_eq!(refused.err(), Some("ledger.ceiling_reached"));
    assert_eq!(
        (scene.balance().await, scene.payable().await),
        (30_000, 30_000)
    );
    scene.stop("too full").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_and_network_race_for_one_invoice_and_one_of_them_has_it() {
    let scene = scene(CardLimits::default()).await;
    let (engine, customer) = (scene.engine(), &scene.shop.customer);
    let other = shop::merchant(engine, "Other").await;
    let (mut by_book, mut by_network) = (0, 0);
    for round in 0..12 {
        let sale = shop::sale(engine, &other, &format!("sale-{round}"), sat(100)).await;
        let hash = sale.bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
        let name = format!("p{round}");
        let (sent, paid) = if round % 2 == 0 {
            tokio::join!(
                customer.pay(&sale.bolt11),
                pay_out(&scene, &name, &sale.bolt11)
            )
        } else {
            let (paid, sent) = tokio::join!(
                pay_out(&scene, &name, &sale.bolt11),
                customer.pay(&sale.bolt11)
            );
            (sent, paid)
        };
        let paid_by_book = match paid {
            Ok(payout) => payout.by_book.is_some(),
            Err(code) => {
                assert_eq!(code, "invoice.not_payable", "round {round}");
                false
            }
        };
        assert_eq!(
            sent.is_ok(),
            !paid_by_book,
            "round {round}: exactly one of them"
        );
        shop::settled(engine, &sale).await;
        by_book += i64::from(paid_by_book);
        by_network += i64::from(!paid_by_book);
        // What came second over the network is the customer's again.
        until("the node has decided", || async {
            let state = scene.shop.node.record(hash).map(|record| record.state);
            state != Some(PaymentState::Pending)
        })
        .await;
    }
    println!("by book {by_book}, over the network {by_network}");
    assert_eq!(scene.payable().await, 20_000 - by_book * 100);
    let owed = engine.settlement().balance(&other.till, other.id).await;
    assert_eq!(owed.unwrap().owed_msat, 1_200 * SAT);
    // Both orders, made certain: books first, then the network's payment goes back.
    let sale = shop::sale(engine, &other, "books-first", sat(100)).await;
    pay_out(&scene, "first", &sale.bolt11).await.unwrap();
    assert!(customer.pay(&sale.bolt11).await.is_err());
    let sale = shop::sale(engine, &other, "network-first", sat(100)).await;
    customer.pay(&sale.bolt11).await.unwrap();
    let late = pay_out(&scene, "second", &sale.bolt11).await;
    assert_eq!(late.err(), Some("invoice.not_payable"));
    scene.stop("raced").await;
}
