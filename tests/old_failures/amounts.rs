//! Amounts: their units, their rounding, and what they are worth.

use std::sync::Arc;

use flashkit::cards::{ChargeCard, WithdrawFromCard};
use flashkit::ids::CardId;
use flashkit::lightning::Bolt11Details;
use flashkit::money::{Currency, Price};
use flashkit::ports::{Clock, SystemClock};
use flashkit::rates::FixedRates;
use flashkit::store::{MemoryStore, Store};
use flashkit::{Engine, Settings};
use serde_json::json;

use crate::stage::Stage;
use crate::support::key;
use crate::support::shop::{self, SAT, UID, jmd, sat};

/// P9. One amount in every unit there is, and never one for another.
///
/// Back when a price in a currency is taken for sats: in `rates/mod.rs`, `price_in_msat` answers
/// `minor_units * 1_000`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p09_one_unit_is_taken_for_another() {
    let mut stage = Stage::with(50_000).await;
    // Fifteen million dollars a bitcoin: 969.00 are 6,460 sats, and 9.69 are 64.6.
    for (name, price, msat) in [
        ("sats", sat(969), 969 * SAT),
        ("dollars", jmd(96_900), 6_460 * SAT),
        ("cents", jmd(969), 64_600),
    ] {
        let tap = stage.card.chip.tap();
        let before = (stage.on_card(&stage.card).await, stage.payable().await);
        let charge = stage.charge(name, tap, price).await.unwrap();
        assert_eq!((charge.price, charge.amount_msat), (price, msat), "{name}");
        assert_eq!(charge.quote.is_some(), matches!(price, Price::Fiat { .. }));
        let after = (stage.on_card(&stage.card).await, stage.payable().await);
        assert_eq!((before.0 - after.0, after.1 - before.1), (msat, msat));
        let invoice = stage
            .top_up(&format!("top-up-{name}"), &stage.card, price)
            .await;
        let read: Bolt11Details = invoice.bolt11.parse().unwrap();
        assert_eq!(read.amount_msat, Some(msat), "{name}");
    }
    stage.stop().await;
}

/// P10. A small amount is that amount.
///
/// Back with a minimum: in `rates/mod.rs`, `price_in_msat` answers `amount_msat.max(100_000)`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_small_amounts_are_raised_in_silence() {
    let mut stage = Stage::with(1_000).await;
    for amount_msat in [1, 999, 1_000, 99_999] {
        let price = Price::Bitcoin { amount_msat };
        let name = format!("{amount_msat}");
        let invoice = stage.top_up(&name, &stage.card, price).await;
        let read: Bolt11Details = invoice.bolt11.parse().unwrap();
        assert_eq!(read.amount_msat, Some(amount_msat));
        let (tap, before) = (stage.card.chip.tap(), stage.on_card(&stage.card).await);
        let charge = stage.charge(&name, tap, price).await.unwrap();
        assert_eq!(charge.amount_msat, amount_msat);
        assert_eq!(before - stage.on_card(&stage.card).await, amount_msat);
    }
    stage.stop().await;
}

/// P11. What is asked for is what the invoice says and what is credited.
///
/// Back when sats go through cents: in `rates/mod.rs`, `price_in_msat` answers
/// `amount_msat / 6_667 * 6_667`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_the_invoice_is_not_what_was_asked() {
    let stage = Stage::new().await;
    let mut expected = 0;
    for sats in [1, 15, 99, 100, 101, 969, 999, 1_000, 1_001, 12_345] {
        let invoice = stage
            .top_up(&format!("{sats}"), &stage.card, sat(sats))
            .await;
        let read: Bolt11Details = invoice.bolt11.parse().unwrap();
        assert_eq!(invoice.amount_msat, sats * SAT);
        assert_eq!(read.amount_msat, Some(sats * SAT));
        stage.customer.pay(&invoice.bolt11).await.unwrap();
        shop::settled(&stage.engine, &invoice).await;
        expected += sats * SAT;
        assert_eq!(stage.on_card(&stage.card).await, expected);
    }
    stage.stop().await;
}

/// P12. Without a rate, or with an old one, there is no price.
///
/// Back when a rate is never too old: `max_age_ms` of `i64::MAX` in `price_in_msat`,
/// `rates/mod.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p12_a_price_is_made_up() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let engine = Engine::builder(store.clone(), shop::master()).network("regtest");
    let engine = engine.settings(Settings::default()).open().await.unwrap();
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let mut card = shop::card(&engine, UID, Default::default()).await;
    let charge = |name: &str, tap: String| ChargeCard {
        key: key(name),
        tap,
        price: jmd(100),
        reference: String::new(),
        pin: None,
    };
    let (cards, command) = (engine.cards(), charge("none", card.chip.tap()));
    let refused = cards.charge(&merchant.till, command);
    let code = refused.await.unwrap_err().code();
    assert!(code.starts_with("rate."), "{code}");
    engine.stop().await.unwrap();
    // One that is an hour old is none.
    let rates = FixedRates::new();
    let (currency, now_ms) = (Currency::from_code("JMD").unwrap(), SystemClock.now_ms());
    let rate = "15000000.00".parse().unwrap();
    rates.set(currency, rate, "test", now_ms - 3_600_000);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let builder = Engine::builder(store, shop::master()).network("regtest");
    let engine = builder.rates(Arc::new(rates)).open().await.unwrap();
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let mut card = shop::card(&engine, UID, Default::default()).await;
    let (cards, command) = (engine.cards(), charge("old", card.chip.tap()));
    let refused = cards.charge(&merchant.till, command);
    assert_eq!(refused.await.unwrap_err().code(), "rate.stale");
    engine.stop().await.unwrap();
}

/// P19. A record is read by its type: another name, unit or kind of number is no amount.
///
/// Back with `#[serde(alias = "ActualAmount")]` at `amount_msat` of `Price`, in `money/price.rs`; or
/// without `deny_unknown_fields` at `WithdrawFromCard`, `cards/payment_model.rs`: an amount by another
/// name is then none, and all that the card has is sent.
#[test]
fn p19_amounts_are_found_by_trying_names() {
    let right = json!({"kind": "bitcoin", "amount_msat": 969});
    assert!(serde_json::from_value::<Price>(right).is_ok());
    for wrong in [
        json!({"kind": "bitcoin", "Amount": 969}),
        json!({"kind": "bitcoin", "ActualAmount": 969}),
        json!({"kind": "bitcoin", "amount": 969}),
        json!({"kind": "bitcoin", "amount_msat": "969"}),
        json!({"kind": "bitcoin", "amount_msat": 969.0}),
        json!({"kind": "bitcoin", "amount_msat": 1e3}),
        json!({"kind": "bitcoin", "minor_units": 969}),
        json!({"kind": "fiat", "currency": "JMD", "amount_msat": 969}),
        json!({"amount_msat": 969}),
        json!(969),
    ] {
        let read = serde_json::from_value::<Price>(wrong.clone());
        assert!(read.is_err(), "{wrong} is {read:?}");
    }
    let withdrawal = |name: &str, amount| {
        let mut command = json!({"key": "home", "bolt11": "lnbc1"});
        command["card"] = json!(CardId::from_parts(1, [1; 10]));
        command[name] = amount;
        serde_json::from_value::<WithdrawFromCard>(command)
    };
    let right = withdrawal("amount_msat", json!(969)).unwrap();
    assert_eq!(right.amount_msat, Some(969));
    for (name, amount) in [
        ("amount", json!(969)),
        ("Amount", json!(969)),
        ("ActualAmount", json!(969)),
        ("amount_sat", json!(969)),
        ("amount_msat", json!("969")),
        ("amount_msat", json!(969.0)),
    ] {
        let read = withdrawal(name, amount);
        assert!(read.is_err(), "{name} is {read:?}");
    }
}

/// P20. What is answered is what the books say: there is no placeholder behind a success.
///
/// Back when `charge_rules::pay` writes the charge without its transfer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p20_success_is_a_placeholder() {
    let mut stage = Stage::with(1_000).await;
    let tap = stage.card.chip.tap();
    let charge = stage.charge("sale", tap, sat(10)).await.unwrap();
    let cards = stage.engine.cards();
    let history = cards
        .history(&stage.card.holder, stage.card.id, None, 1)
        .await;
    let row = history.unwrap().value.remove(0);
    assert_eq!(
        (row.amount, row.reference),
        (10 * SAT, charge.id.to_string())
    );
    assert_eq!(row.debit_balance_after, 990 * SAT);
    let kept = cards
        .get_charge(&stage.card.holder, charge.id)
        .await
        .unwrap();
    assert_eq!(kept.value, charge.value);
    assert_eq!(stage.payable().await, 10 * SAT);
    stage.stop().await;
}
