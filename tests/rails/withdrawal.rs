//! A card's money on its way to its holder's own wallet.

use flashkit::cards::{CardLimits, CardPayment, CardPaymentState, WithdrawFromCard};

use crate::set::{ON_CARD, Set, hash};
use crate::support::key;
use crate::support::scene::told;
use crate::support::shop::{self, SAT};

async fn withdraw(
    set: &Set,
    name: &str,
    bolt11: &str,
    amount_msat: Option<i64>,
) -> Result<CardPayment, &'static str> {
    let command = WithdrawFromCard {
        key: key(name),
        card: set.card.id,
        bolt11: bolt11.to_owned(),
        amount_msat,
    };
    let cards = set.engine.cards();
    told(cards.withdraw(&set.card.holder, command).await).map(|answer| answer.value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_takes_all_of_it_less_what_the_route_costs() {
    // A limit of taps is none of the holder's own wallet.
    let limits = CardLimits {
        per_tap: Some(SAT),
        per_day: Some(SAT),
        ..CardLimits::default()
    };
    let set = Set::new(limits).await;
    set.network.set_route_fee_msat(2 * SAT);
    let cards = set.engine.cards();
    let quote = cards
        .quote_withdrawal(&set.card.holder, set.card.id)
        .await
        .unwrap()
        .value;
    // The most whose 0.5 % and 10 sats the card has as well.
    assert_eq!(
        (quote.amount_msat, quote.max_route_fee_msat),
        (49_741 * SAT, 258_705)
    );
    let too_much = set.bill(49_742).await;
    assert_eq!(
        withdraw(&set, "much", &too_much, None).await,
        Err("card.insufficient_funds")
    );
    let bill = set.bill(49_741).await;
    let payment = withdraw(&set, "all", &bill, None).await.unwrap();
    assert_eq!(payment.state, CardPaymentState::Sending);
    set.take(&bill).await;
    set.until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    assert_eq!(set.balance().await, (ON_CARD - 49_741 - 2) * SAT);
    set.stop("withdrawn").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_without_an_amount_gets_all_or_what_is_said() {
    let set = Set::new(CardLimits::default()).await;
    let open = set.bill(0).await;
    let payment = withdraw(&set, "some", &open, Some(1_000 * SAT))
        .await
        .unwrap();
    set.take(&open).await;
    set.until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    assert_eq!(
        set.payee.record(hash(&open)).unwrap().amount_msat,
        Some(1_000 * SAT)
    );
    let open = set.bill(0).await;
    let payment = withdraw(&set, "all", &open, None).await.unwrap();
    assert_eq!(payment.amount_msat, 48_746 * SAT);
    set.give_back(&open).await;
    set.until_state(payment.id, CardPaymentState::Failed).await;
    assert_eq!(set.balance().await, (ON_CARD - 1_000) * SAT);
    let fixed = set.bill(5).await;
    assert_eq!(
        withdraw(&set, "other", &fixed, Some(6 * SAT)).await,
        Err("card.other_amount")
    );
    let bill = set.bill(0).await;
    assert_eq!(
        withdraw(&set, "none", &bill, Some(0)).await,
        Err("money.not_positive")
    );
    set.stop("withdrawn").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_holder_alone_may_and_a_card_does_not_pay_itself() {
    let set = Set::new(CardLimits::default()).await;
    let bill = set.bill(5).await;
    let command = WithdrawFromCard {
        key: key("w"),
        card: set.card.id,
        bolt11: bill,
        amount_msat: None,
    };
    let cards = set.engine.cards();
    let other = shop::card(&set.engine, "04bbbbbbbbbbbb", CardLimits::default()).await;
    for credential in [set.engine.issuer(), set.merchant.till.clone(), other.holder] {
        let refused = cards.withdraw(&credential, command.clone()).await;
        assert_eq!(refused.unwrap_err().code(), "access.not_allowed");
    }
    let address = cards
        .top_up_address(&set.card.holder, set.card.id)
        .await
        .unwrap();
    let (_, made) = set.json(&format!("{}?amount=1000", address.url)).await;
    let own = made["pr"].as_str().unwrap();
    assert_eq!(
        withdraw(&set, "own", own, None).await,
        Err("card.own_invoice")
    );
    // To another card here it is a book transfer.
    let address = cards
        .top_up_address(&set.engine.issuer(), other.id)
        .await
        .unwrap();
    let (_, made) = set.json(&format!("{}?amount=50000000", address.url)).await;
    let paid = withdraw(&set, "book", made["pr"].as_str().unwrap(), None)
        .await
        .unwrap();
    assert_eq!(
        (paid.state, paid.route_fee_msat),
        (CardPaymentState::Succeeded, Some(0))
    );
    assert_eq!(set.balance().await, 0);
    set.stop("by the holder").await;
}
