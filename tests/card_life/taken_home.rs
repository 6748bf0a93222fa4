//! Money of a card that is lost or has expired, on its way to its holder's own wallet.

use std::time::Duration;

use flashkit::Engine;
use flashkit::access::Credential;
use flashkit::cards::{
    CardLimits, CardPaymentState, CardState, CardStatementQuery, SetCardExpiry, WithdrawFromCard,
};
use flashkit::ids::CardId;
use flashkit::ledger::TransferKind;
use flashkit::reports::StatementPeriod;

use crate::hands::{add, blank, freeze, lose, on_card, replace, state};
use crate::support::scene::{NOON, Scene, on_both_stores, told};
use crate::support::shop::SAT;
use crate::support::{key, until};

on_both_stores! {
    what_is_on_a_lost_card_is_its_holders;
    what_is_on_an_expired_card_is_its_holders;
}

/// Sends some of a card's money to a wallet, and waits until it is there.
async fn withdraw(
    scene: &Scene,
    by: &Credential,
    name: &str,
    card: CardId,
    sats: i64,
) -> Result<(), &'static str> {
    let wallet = &scene.shop.customer;
    let command = WithdrawFromCard {
        key: key(name),
        card,
        bolt11: wallet.invoice(sats * SAT, name).await.unwrap(),
        amount_msat: None,
    };
    let (cards, by) = (scene.engine().cards(), by.clone());
    let payment = told(cards.withdraw(&by, command).await)?.value.id;
    until("it has arrived", || async {
        let found = cards.get_payment(&by, payment).await.unwrap();
        found.state == CardPaymentState::Succeeded
    })
    .await;
    Ok(())
}

async fn quoted(engine: &Engine, by: &Credential, card: CardId) -> Result<i64, &'static str> {
    let quote = told(engine.cards().quote_withdrawal(by, card).await);
    quote.map(|quote| quote.amount_msat / SAT)
}

/// The kinds of what moved on a card last, as its statement has them, the newest first, and what it
/// comes to.
async fn stated(scene: &Scene, card: CardId) -> (Vec<TransferKind>, i64) {
    let query = CardStatementQuery {
        card,
        period: StatementPeriod::Between {
            from_ms: NOON - 86_400_000,
            to_ms: NOON + 86_400_000,
        },
    };
    let cards = scene.engine().cards();
    let holder = &scene.card.holder;
    let whole = cards.statement(holder, &query).await.unwrap();
    let page = cards
        .statement_rows(holder, &query, None, 10)
        .await
        .unwrap();
    let kinds = page.rows.iter().map(|row| row.kind).collect();
    (kinds, whole.closing / SAT)
}

async fn what_is_on_a_lost_card_is_its_holders(is_sqlite: bool) {
    let limits = CardLimits {
        low_balance: Some(20_000 * SAT),
        ..CardLimits::default()
    };
    let scene = Scene::new(is_sqlite, limits).await;
    let (engine, card, holder) = (scene.engine(), scene.card.id, &scene.card.holder);
    freeze(engine, holder, "freeze", card).await.unwrap();
    let refused = withdraw(&scene, holder, "frozen", card, 1_000).await;
    assert_eq!(refused, Err("card.frozen"));
    assert_eq!(quoted(engine, holder, card).await, Err("card.frozen"));
    lose(engine, &engine.issuer(), "lost", card).await.unwrap();
    // All of it, less what the route may cost; and to whoever holds it alone.
    assert_eq!(quoted(engine, holder, card).await, Ok(49_741));
    for by in [engine.issuer(), scene.merchant.till.clone()] {
        let refused = withdraw(&scene, &by, "not theirs", card, 1_000).await;
        assert_eq!(refused, Err("access.not_allowed"));
    }
    withdraw(&scene, holder, "home", card, 40_000)
        .await
        .unwrap();
    assert_eq!(state(engine, card).await, CardState::Lost);
    assert_eq!(on_card(&*scene.store, card).await, 10_000);
    // It is told as any other payment is, and that little is left as well.
    let (kinds, closing) = stated(&scene, card).await;
    assert_eq!((kinds[0], closing), (TransferKind::CardPayment, 10_000));
    engine.run_due_jobs().await.unwrap();
    for event in ["card.payment_succeeded", "card.low_balance"] {
        assert_eq!(scene.seen(event).await, 1, "{event}");
    }
    // What is left goes with the one in its place, and the old one has nothing to give.
    let (next, mut chip) = blank(engine, 1).await;
    let answer = replace(engine, holder, "replace", card, &chip.tap()).await;
    let new_holder = answer.unwrap().holder.clone();
    assert_eq!(on_card(&*scene.store, next).await, 10_000);
    let refused = withdraw(&scene, holder, "replaced", card, 1_000).await;
    assert_eq!(refused, Err("card.not_active"));
    withdraw(&scene, &new_holder, "rest", next, 9_000)
        .await
        .unwrap();
    assert_eq!(on_card(&*scene.store, next).await, 1_000);
    scene.stop("lost").await;
}

async fn what_is_on_an_expired_card_is_its_holders(is_sqlite: bool) {
    let scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, card, holder) = (scene.engine(), scene.card.id, &scene.card.holder);
    let (child, mut chip) = blank(engine, 1).await;
    let limits = CardLimits::default();
    let member = add(engine, holder, "child", card, &chip.tap(), limits).await;
    member.unwrap();
    for (name, card) in [("main", card), ("member", child)] {
        let command = SetCardExpiry {
            key: key(name),
            card,
            expires_at_ms: Some(NOON + 60_000),
        };
        let cards = engine.cards();
        cards.set_expiry(&engine.issuer(), command).await.unwrap();
    }
    scene.clock.advance(Duration::from_secs(60));
    // Whether or not a job has told it.
    withdraw(&scene, holder, "untold", card, 1_000)
        .await
        .unwrap();
    engine.run_due_jobs().await.unwrap();
    assert_eq!(state(engine, card).await, CardState::Expired);
    assert_eq!(quoted(engine, holder, card).await, Ok(48_746));
    withdraw(&scene, holder, "told", card, 1_000).await.unwrap();
    // A family card has nothing of its own that would wait.
    let refused = withdraw(&scene, holder, "member", child, 1_000).await;
    assert_eq!(refused, Err("card.expired"));
    assert_eq!(on_card(&*scene.store, card).await, 48_000);
    assert_eq!(stated(&scene, card).await.1, 48_000);
    scene.stop("expired").await;
}
