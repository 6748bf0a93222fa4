//! Sell, pay, tap, earn, settle: every account after each step.

mod support;

use std::sync::Arc;

use flashkit::Engine;
use flashkit::cards::{CardLimits, ChargeCard};
use flashkit::ledger::Account;
use flashkit::lightning::Bolt11Details;
use flashkit::ports::SystemClock;
use flashkit::rewards::RedeemPoints;
use flashkit::settlement::{PayoutState, RequestPayout};
use flashkit::store::MemoryStore;
use flashkit::store::sqlite::SqliteStore;
use flashkit::testkit::wallet::Wallet;
use support::books::{expect, node_agrees};
use support::shop::{self, SAT, jmd, sat};
use support::{key, until};

/// The whole business, on any engine and node. `capital` is what the operator has put in.
async fn main_job(engine: &Engine, customer: &Wallet, channels: i64, onchain: i64) {
    let issuer = engine.issuer();
    let capital = [
        (Account::node_channels(), channels),
        (Account::node_onchain(), onchain),
        (Account::operator_capital(), channels + onchain),
    ];
    let capital: Vec<_> = capital
        .into_iter()
        .filter(|(_, amount)| *amount != 0)
        .collect();
    expect(engine, "the operator's capital", &capital).await;
    let with = |changed: &[(Account, i64)]| {
        let mut lines = capital.clone();
        for (account, amount) in changed {
            match lines.iter_mut().find(|(known, _)| known == account) {
                Some(line) => line.1 += amount,
                None => lines.push((*account, *amount)),
            }
        }
        lines.retain(|(_, amount)| *amount != 0);
        lines
    };

    let shop = shop::merchant(engine, "Cookshop").await;
    let program = shop::program(engine, shop.id).await;
    let payable = Account::merchant_payable(shop.id);

    // A sale over Lightning, priced in Jamaican dollars.
    let invoice = shop::sale(engine, &shop, "sale-1", jmd(150_000)).await;
    assert_eq!(invoice.amount_msat, 10_000 * SAT);
    assert_eq!(
        invoice.quote.as_ref().unwrap().rate.to_string(),
        "15000000.00"
    );
    expect(engine, "an invoice moves nothing", &capital).await;
    customer.pay(&invoice.bolt11).await.unwrap();
    shop::settled(engine, &invoice).await;
    let node = Account::node_channels();
    expect(
        engine,
        "sale",
        &with(&[(node, 10_000 * SAT), (payable, 10_000 * SAT)]),
    )
    .await;

    // A card, topped up over Lightning.
    let mut card = shop::card(engine, shop::UID, CardLimits::default()).await;
    shop::top_up(engine, customer, &card, "top-up-1", sat(50_000)).await;
    let balance = Account::card_balance(card.id);
    let lines = with(&[
        (node, 60_000 * SAT),
        (payable, 10_000 * SAT),
        (balance, 50_000 * SAT),
    ]);
    expect(engine, "top-up", &lines).await;

    // Looking at the card uses nothing up; the charge does.
    let tap = card.chip.tap();
    assert_eq!(
        engine.cards().peek(&tap).await.unwrap().balance_msat,
        50_000 * SAT
    );
    let charge = |name: &str| ChargeCard {
        key: key(name),
        tap: tap.clone(),
        price: jmd(300_000),
        reference: "table 4".to_owned(),
        pin: None,
    };
    let charged = engine
        .cards()
        .charge(&shop.till, charge("charge-1"))
        .await
        .unwrap();
    assert_eq!((charged.amount_msat, charged.points), (20_000 * SAT, 400));
    let fund = Account::reward_fund(program);
    let lines = with(&[
        (node, 60_000 * SAT),
        (payable, 29_600 * SAT),
        (balance, 30_000 * SAT),
        (fund, 400 * SAT),
        (Account::points_issued(program), 400),
        (Account::points_balance(card.id, program), 400),
    ]);
    expect(engine, "charge", &lines).await;

    // The same tap again: another command is refused, the same command gets the same answer.
    let replayed = engine
        .cards()
        .charge(&shop.till, charge("charge-2"))
        .await
        .unwrap_err();
    assert_eq!(replayed.code(), "card.tap_replayed");
    let again = engine
        .cards()
        .charge(&shop.till, charge("charge-1"))
        .await
        .unwrap();
    assert_eq!(again, charged);
    expect(engine, "the tap again", &lines).await;

    // Points for money.
    let command = RedeemPoints {
        key: key("redeem-1"),
        card: card.id,
        program,
        points: 400,
    };
    engine
        .rewards()
        .redeem(&card.holder, command)
        .await
        .unwrap();
    let lines = with(&[
        (node, 60_000 * SAT),
        (payable, 29_600 * SAT),
        (balance, 30_400 * SAT),
    ]);
    expect(engine, "redemption", &lines).await;

    // The merchant is paid out to its own node, less 1 %.
    let quote = engine
        .settlement()
        .quote_payout(&shop.till, shop.id)
        .await
        .unwrap();
    assert_eq!((quote.amount_msat, quote.fee_msat), (29_306 * SAT, 293_060));
    let bolt11 = customer.invoice(quote.amount_msat, "payout").await.unwrap();
    let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
    let command = RequestPayout {
        key: key("payout-1"),
        merchant: shop.id,
        bolt11,
    };
    let payout = engine
        .settlement()
        .request_payout(&issuer, command)
        .await
        .unwrap();
    until("the merchant is paid out", || async {
        let payout = engine
            .settlement()
            .payout(&issuer, payout.id)
            .await
            .unwrap();
        payout.state == PayoutState::PaidOut
    })
    .await;
    until("the merchant's node has it", || async {
        customer.received_msat(hash) == 29_306 * SAT
    })
    .await;
    let lines = with(&[
        (node, (60_000 - 29_306) * SAT),
        (payable, 29_600 * SAT - 29_306 * SAT - 293_060),
        (balance, 30_400 * SAT),
        (Account::fee_income(), 293_060),
    ]);
    expect(engine, "payout", &lines).await;
    until("the node has what the books say", || node_agrees(engine)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_simulated_node_and_memory() {
    let shop = shop::simulated(Arc::new(MemoryStore::new(Arc::new(SystemClock)))).await;
    main_job(&shop.engine, &shop.customer, 0, 0).await;
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_simulated_node_and_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("books.db"), Arc::new(SystemClock)).unwrap();
    let shop = shop::simulated(Arc::new(store)).await;
    main_job(&shop.engine, &shop.customer, 0, 0).await;
    shop.engine.stop().await.unwrap();
}

/// Two real nodes over the in-process chain, or over `BITCOIND_EXE`.
#[cfg(feature = "ldk")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_two_real_nodes() {
    use support::real::RealShop;

    let folder = tempfile::tempdir().unwrap();
    let shop = RealShop::open(folder.path()).await;
    let (channels, onchain) = shop.book_capital().await;
    main_job(&shop.engine, &shop.customer, channels, onchain).await;
    shop.stop().await;
}
