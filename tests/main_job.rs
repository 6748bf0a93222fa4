//! Sell, pay, tap, earn, settle: every account after each step.

mod support;

use std::sync::Arc;

use flashkit::Engine;
#[cfg(feature = "ldk")]
use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{CardLimits, ChargeCard};
use flashkit::ledger::Account;
use flashkit::lightning::Bolt11Details;
#[cfg(feature = "ldk")]
use flashkit::lightning::{
    Dispatch, InvoiceRequest, LightningNode, PaymentRequest, PaymentState, Preimage,
};
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

/// A card pays somebody else's invoices by LNURL-withdraw, on real nodes: what arrives, what
/// cannot, and what waits.
#[cfg(feature = "ldk")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_pays_somebody_elses_invoices_on_two_real_nodes() {
    use support::real::RealShop;

    let folder = tempfile::tempdir().unwrap();
    let shop = RealShop::open(folder.path()).await;
    shop.book_capital().await;
    let card = shop::card(&shop.engine, shop::UID, CardLimits::default()).await;
    shop::top_up(&shop.engine, &shop.customer, &card, "top-up", sat(50_000)).await;
    let merchant = shop::merchant(&shop.engine, "Cookshop").await;
    let mut till = LnurlTill {
        engine: shop.engine.clone(),
        till: merchant.till,
        card,
    };

    let bill = shop.customer.invoice(10_000 * SAT, "lunch").await.unwrap();
    till.has_paid(&bill).await;
    assert_eq!(till.balance().await, 40_000 * SAT);
    let hash = bill.parse::<Bolt11Details>().unwrap().payment_hash;
    until("it arrived", || async {
        shop.customer.received_msat(hash) == 10_000 * SAT
    })
    .await;
    // The same tap again, and another one, is told the same, and pays nothing.
    assert_eq!(till.pays(&bill).await, "OK");
    assert_eq!(till.balance().await, 40_000 * SAT);

    // What cannot be paid, and what the till reads of it: nothing is in flight then.
    let nobody = nobodys_node();
    let now = std::time::SystemTime::now();
    let past = now - std::time::Duration::from_secs(7_200);
    let of_world = shop.customer.invoice(40_001 * SAT, "much").await.unwrap();
    let without_amount = foreign(&*shop.world, 1, None).await;
    for (what, bolt11, said) in [
        (
            "no route",
            nobodys_invoice(&nobody, now, 144),
            "could not be paid",
        ),
        ("expired", nobodys_invoice(&nobody, past, 144), "expired"),
        (
            "locks for days",
            nobodys_invoice(&nobody, now, 2_016),
            "lock",
        ),
        ("more than there is", of_world, "to spend"),
        ("no amount", without_amount, "no amount"),
    ] {
        let told = till.pays(&bolt11).await;
        assert!(
            told.starts_with("ERROR") && told.contains(said),
            "{what}: {told}"
        );
        assert_eq!(till.balance().await, 40_000 * SAT, "{what}");
        let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
        let record = shop.node.payment(hash).await.unwrap();
        let is_open = record.is_some_and(|record| record.state == PaymentState::Pending);
        assert!(!is_open, "{what}: it is on its way");
    }
    until("the node agrees", || node_agrees(&shop.engine)).await;

    // Invoices that wait: three at once, and no more, and each is on its way for less than two days.
    shop.customer.hold(true);
    let mut waiting = Vec::new();
    for number in 2..6 {
        waiting.push(foreign(&*shop.world, number, Some(1_000 * SAT)).await);
    }
    for bolt11 in &waiting[..3] {
        assert_eq!(till.pays(bolt11).await, "OK pending");
    }
    let told = till.pays(&waiting[3]).await;
    assert!(told.starts_with("ERROR"), "{told}");
    let most = 3 * (1_000 + 15) * SAT;
    assert_eq!(till.balance().await, 40_000 * SAT - most);
    // The node holds to the most that a route may lock, whoever asks it.
    let request = PaymentRequest {
        bolt11: shop.customer.invoice(1_000 * SAT, "quick").await.unwrap(),
        amount_msat: None,
        max_fee_msat: 10_000,
        max_lock_blocks: Some(5),
    };
    let dispatch = shop.node.pay(request).await.unwrap();
    assert!(matches!(dispatch, Dispatch::Refused { .. }), "{dispatch:?}");
    // Given back, all of it is the card's again, and the next one has room.
    shop.customer.hold(false);
    until("all came back", || async {
        till.balance().await == 40_000 * SAT
    })
    .await;
    for bolt11 in &waiting[..3] {
        assert!(till.pays(bolt11).await.starts_with("ERROR"));
    }
    let bill = shop.customer.invoice(1_000 * SAT, "last").await.unwrap();
    till.has_paid(&bill).await;
    until("the node agrees", || node_agrees(&shop.engine)).await;
    shop.stop().await;
}

/// A till that reads a card and asks by LNURL, and the card.
#[cfg(feature = "ldk")]
struct LnurlTill {
    engine: Engine,
    till: flashkit::access::Credential,
    card: shop::HeldCard,
}

#[cfg(feature = "ldk")]
impl LnurlTill {
    /// What the till is told of a new tap: the status, and what else there is.
    async fn pays(&mut self, bolt11: &str) -> String {
        let tap = self.card.chip.tap();
        let parameters = tap.split_once('?').unwrap().1;
        let request = LnurlRequest {
            url: format!("https://pay.example.com/boltcard?{parameters}&k1=0&pr={bolt11}"),
            till: Some(self.till.clone()),
            source: None,
        };
        let reply = self.engine.cards().answer(&request).await;
        let told: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        let of = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        let text = format!("{} {}{}", of("status"), of("state"), of("reason"));
        text.trim().to_owned()
    }

    /// Asks with new taps until it is told that the invoice was paid.
    async fn has_paid(&mut self, bolt11: &str) {
        loop {
            let told = self.pays(bolt11).await;
            if told == "OK" {
                return;
            }
            assert_eq!(told, "OK pending");
        }
    }

    async fn balance(&self) -> i64 {
        let cards = self.engine.cards();
        let card = cards.get(&self.card.holder, self.card.id).await;
        card.unwrap().balance_msat
    }
}

/// An invoice of a node whose preimage nobody has.
#[cfg(feature = "ldk")]
async fn foreign(node: &dyn LightningNode, number: u8, amount_msat: Option<i64>) -> String {
    let request = InvoiceRequest {
        payment_hash: Preimage::new([number; 32]).payment_hash(),
        amount_msat,
        description: "waits".to_owned(),
        description_hash: None,
        expiry_seconds: 3_600,
    };
    node.create_invoice(request).await.unwrap()
}

#[cfg(feature = "ldk")]
fn nobodys_node() -> bitcoin::secp256k1::SecretKey {
    bitcoin::secp256k1::SecretKey::from_slice(&[42; 32]).unwrap()
}

/// An invoice of a node that no channel leads to.
#[cfg(feature = "ldk")]
fn nobodys_invoice(
    key: &bitcoin::secp256k1::SecretKey,
    at: std::time::SystemTime,
    min_final_lock_blocks: u64,
) -> String {
    use bitcoin::hashes::Hash;
    use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};

    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap();
    // One hash for each.
    let mut bytes = [42; 32];
    bytes[..8].copy_from_slice(&since.as_secs().to_be_bytes());
    bytes[8..16].copy_from_slice(&min_final_lock_blocks.to_be_bytes());
    InvoiceBuilder::new(Currency::Regtest)
        .description("elsewhere".to_owned())
        .payment_hash(bitcoin::hashes::sha256::Hash::from_byte_array(bytes))
        .payment_secret(PaymentSecret([1; 32]))
        .duration_since_epoch(since)
        .expiry_time(std::time::Duration::from_secs(3_600))
        .min_final_cltv_expiry_delta(min_final_lock_blocks)
        .amount_milli_satoshis(1_000_000)
        .build_signed(|hash| bitcoin::secp256k1::Secp256k1::new().sign_ecdsa_recoverable(hash, key))
        .unwrap()
        .to_string()
}
