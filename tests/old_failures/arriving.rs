//! Money that arrives: whose it is, how much, and how often.

use std::sync::Arc;

use flashkit::cards::TopUpCard;
use flashkit::ids::InvoiceId;
use flashkit::invoices::InvoiceState;
use flashkit::ledger::Account;
use flashkit::lightning::PaymentHash;
use flashkit::ports::SystemClock;
use flashkit::store::sqlite::SqliteStore;

use crate::stage::Stage;
use crate::support::key;
use crate::support::shop::{self, SAT, UID, sat};

const NOBODYS: PaymentHash = PaymentHash([0x5a; 32]);

/// P1. Small, or of a memo that speaks of cards: no invoice of ours, no card.
///
/// Back when `by_hash`, `invoices/rails.rs`, answers the first invoice of the index `state`, `new`,
/// where it has found none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_any_payment_credits_a_card() {
    let stage = Stage::new().await;
    let waiting = stage
        .described("waiting", &stage.card, sat(500), "Boltcard Top-Up")
        .await;
    for amount_msat in [1, 999 * SAT, 500 * SAT] {
        stage.claimable(NOBODYS, amount_msat).await;
    }
    stage.received(NOBODYS, 500 * SAT).await;
    assert_eq!(stage.on_card(&stage.card).await, 0);
    assert_eq!(stage.state(&waiting).await, InvoiceState::New);
    assert_eq!(*stage.node.claimed.lock().unwrap(), [0_i64; 0]);
    // It waits for a person.
    let treasury = stage.engine.treasury();
    let suspense = treasury.suspense(&stage.engine.issuer(), None, 10).await;
    assert_eq!(suspense.unwrap()[0].amount_msat, 500 * SAT);
    assert_eq!(stage.happened("payment.unmatched").await, 1);
    stage.stop().await;
}

/// P2. What was paid a moment ago says nothing of an invoice that nobody knows.
///
/// Back when `Invoices::get` answers the newest invoice instead of `invoice.not_found`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p02_an_unknown_invoice_is_the_last_small_payment() {
    let stage = Stage::with(300).await;
    let unknown = InvoiceId::from_parts(1, [1; 10]);
    let invoices = stage.engine.invoices();
    let refused = invoices.get(&stage.engine.issuer(), unknown).await;
    assert_eq!(refused.unwrap_err().code(), "invoice.not_found");
    let waiting = stage.top_up("waiting", &stage.card, sat(300)).await;
    assert_eq!(stage.state(&waiting).await, InvoiceState::New);
    assert_eq!(stage.on_card(&stage.card).await, 300 * SAT);
    stage.stop().await;
}

/// P3. A millisatoshi too little or too much goes back, however soon it comes.
///
/// Back with a tolerance: in `invoices/rules.rs`, `judge`, 15,000 more in `missing_msat <=`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p03_any_amount_in_time_is_a_match() {
    let stage = Stage::new().await;
    let invoice = stage.top_up("exact", &stage.card, sat(1_000)).await;
    let asked = invoice.amount_msat;
    for amount_msat in [
        1,
        asked - 15 * SAT,
        asked - 1,
        asked + 1,
        asked + 15 * SAT,
        2 * asked,
    ] {
        stage.claimable(invoice.payment_hash, amount_msat).await;
        assert_eq!(
            stage.state(&invoice).await,
            InvoiceState::New,
            "{amount_msat}"
        );
    }
    assert_eq!(*stage.node.claimed.lock().unwrap(), [0_i64; 0]);
    stage.customer.pay(&invoice.bolt11).await.unwrap();
    shop::settled(&stage.engine, &invoice).await;
    assert_eq!(stage.on_card(&stage.card).await, asked);
    stage.stop().await;
}

/// P4. No text and no amount switches the check off.
///
/// Back with, in `invoices/rules.rs`, `judge`: `|| invoice.description.contains("Boltcard")` beside
/// `is_open_amount`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p04_a_magic_memo_or_amount_switches_the_check_off() {
    let stage = Stage::new().await;
    for (name, text) in [("a", "Boltcard"), ("b", "Top-Up"), ("c", "topup 969")] {
        let invoice = stage.described(name, &stage.card, sat(969), text).await;
        for amount_msat in [1, 968 * SAT, 970 * SAT] {
            stage.claimable(invoice.payment_hash, amount_msat).await;
        }
        assert_eq!(*stage.node.claimed.lock().unwrap(), [0_i64; 0], "{text}");
        assert_eq!(stage.state(&invoice).await, InvoiceState::New, "{text}");
    }
    assert_eq!(stage.on_card(&stage.card).await, 0);
    stage.stop().await;
}

/// P8. A payment is known by its hash, the one in the invoice, and by nothing made up.
///
/// Back when `payment_hash` of a new invoice is not that of its preimage: in `invoices/mod.rs`,
/// `PaymentHash([7; 32])`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p08_a_payment_hash_that_is_made_up() {
    let stage = Stage::new().await;
    let mut hashes = std::collections::BTreeSet::new();
    for number in 0..5 {
        let invoice = stage
            .top_up(&format!("{number}"), &stage.card, sat(10))
            .await;
        let read: flashkit::lightning::Bolt11Details = invoice.bolt11.parse().unwrap();
        assert_eq!(read.payment_hash, invoice.payment_hash);
        let text = invoice.payment_hash.to_string();
        assert!(text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let paid = stage.customer.pay(&invoice.bolt11).await.unwrap();
        assert_eq!(paid, invoice.payment_hash);
        shop::settled(&stage.engine, &invoice).await;
        hashes.insert(text);
    }
    assert_eq!(hashes.len(), 5);
    assert_eq!(stage.on_card(&stage.card).await, 50 * SAT);
    stage.stop().await;
}

/// P13. What was paid while nobody listened is credited by whoever starts next.
///
/// Back when the event is dropped: `claimable` in `invoices/taking.rs` answers `Ok(())` at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_paid_while_nobody_listened_and_never_credited() {
    let folder = tempfile::tempdir().unwrap();
    let open = || SqliteStore::open(folder.path().join("books.db"), Arc::new(SystemClock)).unwrap();
    let shop = shop::simulated(Arc::new(open())).await;
    let card = shop::card(&shop.engine, UID, Default::default()).await;
    let command = TopUpCard {
        key: key("before"),
        card: card.id,
        price: sat(700),
    };
    let invoice = shop.engine.cards().top_up(&card.holder, command).await;
    let invoice = invoice.unwrap().value;
    let sent = shop.customer.send(&invoice.bolt11).await;
    shop.engine.stop().await.unwrap();
    let node = Arc::new(shop.node.clone());
    let engine = shop::engine_on(Arc::new(open()), Some(node)).await;
    engine.start().await.unwrap();
    sent.unwrap();
    shop::settled(&engine, &invoice).await;
    let card = engine.cards().get(&card.holder, card.id).await.unwrap();
    assert_eq!(card.balance_msat, 700 * SAT);
    engine.stop().await.unwrap();
}

/// P14. However often and in whatever order it is told, it is credited once.
///
/// Back when a second `Received` is booked: in `invoices/rules.rs`, `arrival` answers `Unmatched`,
/// with a claim of its own, for `Settled`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p14_told_twice_is_credited_twice() {
    let stage = Stage::new().await;
    let invoice = stage.top_up("once", &stage.card, sat(700)).await;
    stage.customer.pay(&invoice.bolt11).await.unwrap();
    shop::settled(&stage.engine, &invoice).await;
    let (hash, amount_msat) = (invoice.payment_hash, invoice.amount_msat);
    for _ in 0..3 {
        stage.received(hash, amount_msat).await;
        stage.claimable(hash, amount_msat).await;
    }
    let invoices = stage.engine.invoices();
    for _ in 0..3 {
        invoices
            .get(&stage.engine.issuer(), invoice.id)
            .await
            .unwrap();
        stage.engine.run_due_jobs().await.unwrap();
    }
    assert_eq!(stage.on_card(&stage.card).await, 700 * SAT);
    assert_eq!(stage.happened("invoice.settled").await, 1);
    assert_eq!(stage.available(Account::suspense()).await, 0);
    stage.stop().await;
}

/// P15. Two cards, the same amount, the same text, each with the other's id in it: each gets its
/// own.
///
/// Back when `by_hash`, `invoices/rails.rs`, prefers a waiting invoice of the same amount whose
/// card is named in the text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_the_card_is_guessed_from_the_memo() {
    let stage = Stage::new().await;
    let of_other = format!("Boltcard {}", stage.other.id);
    let of_card = format!("Boltcard {}", stage.card.id);
    let first = stage.described("a", &stage.card, sat(400), &of_other).await;
    let second = stage.described("b", &stage.other, sat(400), &of_card).await;
    stage.customer.pay(&second.bolt11).await.unwrap();
    shop::settled(&stage.engine, &second).await;
    assert_eq!(stage.on_card(&stage.card).await, 0);
    assert_eq!(stage.on_card(&stage.other).await, 400 * SAT);
    assert_eq!(stage.state(&first).await, InvoiceState::New);
    stage.stop().await;
}

/// P16. Reading changes nothing, whoever reads, however often.
///
/// Back when a read writes: in `cards/mod.rs`, `get` commits an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p16_a_read_changes_the_books() {
    let mut stage = Stage::with(500).await;
    let waiting = stage.top_up("waiting", &stage.card, sat(300)).await;
    let charge = stage.card.chip.tap();
    let charge = stage.charge("sale", charge, sat(10)).await.unwrap().id;
    let tap = stage.card.chip.tap();
    // The first look at a tap is written down, and none after it.
    stage.engine.cards().peek(&tap).await.unwrap();
    let before = stage.picture().await;
    let (engine, issuer) = (stage.engine.clone(), stage.engine.issuer());
    let (cards, invoices, card) = (engine.cards(), engine.invoices(), stage.card.id);
    for _ in 0..3 {
        cards.peek(&tap).await.unwrap();
        cards.get(&issuer, card).await.unwrap();
        cards.history(&issuer, card, None, 10).await.unwrap();
        cards.get_charge(&issuer, charge).await.unwrap();
        cards
            .list_charges(&issuer, stage.merchant.id, None, 10)
            .await
            .unwrap();
        invoices.get(&issuer, waiting.id).await.unwrap();
        engine
            .settlement()
            .balance(&issuer, stage.merchant.id)
            .await
            .unwrap();
        engine.reports().trial_balance(&issuer).await.unwrap();
        engine.reports().audit(&issuer).await.unwrap();
        let unknown = InvoiceId::from_parts(1, [1; 10]);
        invoices.get(&issuer, unknown).await.unwrap_err();
        let reader = engine.events().next(&issuer, "reader", 100).await;
        reader.unwrap();
    }
    assert_eq!(stage.picture().await, before);
    assert_eq!(stage.happened("invoice.settled").await, 1);
    assert_eq!(stage.state(&waiting).await, InvoiceState::New);
    // The look has not used the tap up.
    stage.charge("after", tap, sat(10)).await.unwrap();
    stage.stop().await;
}

/// P17. Starting and stopping again and again leaves one listener, and no event is lost or told
/// twice to a reader with a cursor.
///
/// Back when `start` of a running engine begins again: without `started.swap` in `engine.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p17_storms_of_listeners() {
    let stage = Stage::new().await;
    for _ in 0..20 {
        stage.engine.start().await.unwrap();
    }
    assert_eq!(stage.node.most_listeners(), 1);
    let issuer = stage.engine.issuer();
    let (events, mut seen) = (stage.engine.events(), Vec::new());
    for number in 0..5 {
        let name = format!("{number}");
        shop::top_up(&stage.engine, &stage.customer, &stage.card, &name, sat(10)).await;
        loop {
            let page = events.next(&issuer, "app", 2).await.unwrap();
            let Some(last) = page.last() else { break };
            // Read again before it is acknowledged, it is the same.
            assert_eq!(events.next(&issuer, "app", 2).await.unwrap(), page);
            let position = last.position;
            seen.extend(page);
            events.acknowledge(&issuer, "app", position).await.unwrap();
        }
    }
    let settled = seen.iter().filter(|event| event.kind == "invoice.settled");
    assert_eq!(settled.count(), 5);
    let mut positions: Vec<i64> = seen.iter().map(|event| event.position).collect();
    let all = positions.len();
    positions.dedup();
    assert_eq!(positions.len(), all);
    assert_eq!(stage.on_card(&stage.card).await, 50 * SAT);
    assert_eq!(stage.node.claimed.lock().unwrap().len(), 5);
    stage.stop().await;
}

/// P18. The metadata of a top-up is the text of a JSON array, once, and the invoice commits to
/// exactly that text.
///
/// Back when `metadata` of `PayRequest` is written as JSON before it is put into the reply, in
/// `cards/lnurl/pay.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p18_metadata_is_serialised_twice() {
    use sha2::{Digest, Sha256};

    let stage = Stage::new().await;
    let cards = stage.engine.cards();
    let address = cards
        .top_up_address(&stage.card.holder, stage.card.id)
        .await;
    let ask = |url: String| {
        let request = flashkit::cards::lnurl::LnurlRequest {
            url,
            till: None,
            source: None,
        };
        let cards = cards.clone();
        async move {
            let reply = cards.answer(&request).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            serde_json::from_str::<serde_json::Value>(&reply.body).unwrap()
        }
    };
    let url = address.unwrap().url.clone();
    let offer = ask(url.clone()).await;
    // As LUD-06 has it: a string in which there is an array of arrays of strings.
    let metadata = offer["metadata"].as_str().unwrap();
    let entries: Vec<Vec<String>> = serde_json::from_str(metadata).unwrap();
    assert_eq!(entries, [["text/plain", "Card top-up"]]);
    let paid = ask(format!("{url}?amount=10000")).await;
    let bolt11: lightning_invoice::Bolt11Invoice = paid["pr"].as_str().unwrap().parse().unwrap();
    let lightning_invoice::Bolt11InvoiceDescriptionRef::Hash(hash) = bolt11.description() else {
        panic!("the invoice commits to no metadata");
    };
    let committed: &[u8] = hash.0.as_ref();
    assert_eq!(committed, Sha256::digest(metadata).as_slice());
    stage.stop().await;
}
