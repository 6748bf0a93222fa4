//! The main job through the facade that the bindings see; books are checked by their trial
//! balance.

#[cfg(feature = "chain")]
mod on_chain;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flashkit::ffi::{
    ActivateCardRequest, AssignSuspenseRequest, CardLimits, ChargeCardRequest,
    CreateInvoiceRequest, CreateMerchantRequest, CreatePointsProgramRequest, EngineEvent,
    EventListener, FixedRate, FlashError, Flashkit, FlashkitConfig, GiveUpInvoiceRequest,
    InvoicePurpose, InvoiceState, IssueCardRequest, LightningConfig, Network, NodeStatus,
    PairTillRequest, PayoutOutcome, PayoutState, PayoutTerms, Price, RedeemPointsRequest,
    RenewHolderRequest, RequestPayoutRequest, ResolvePayoutRequest, SimulatedLightning,
    SuspenseTarget, TopUpCardRequest, VirtualBoltCard,
};

const SAT: i64 = 1_000;
const UID: &str = "04a39493cc8680";

fn config(path: &str, lightning: LightningConfig) -> FlashkitConfig {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    FlashkitConfig {
        database_path: path.to_owned(),
        master_secret: vec![7; 32],
        network: Network::Regtest,
        lightning,
        rates: vec![FixedRate {
            currency: "JMD".to_owned(),
            rate: "15000000.00".to_owned(),
            source: "test".to_owned(),
            observed_at_ms: i64::try_from(now.as_millis()).unwrap(),
        }],
        tap_url: None,
        rate_max_age_ms: None,
        quote_validity_ms: None,
        authorization_ms: None,
        tap_valid_ms: None,
        card_issuer_key: None,
        trust_node_state: false,
    }
}

fn jmd(minor_units: i64) -> Price {
    let currency = "JMD".to_owned();
    Price::Fiat {
        currency,
        minor_units,
    }
}

async fn until<Fut: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> Fut) {
    let begun = Instant::now();
    while !ask().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Keeps what it is told; throws the first time, so that the first event comes twice.
#[derive(Default)]
struct Ears {
    heard: Mutex<Vec<EngineEvent>>,
}

impl EventListener for Ears {
    fn on_event(&self, event: EngineEvent) -> Result<(), FlashError> {
        let mut heard = self.heard.lock().unwrap();
        heard.push(event);
        if heard.len() == 1 {
            let (code, detail) = ("app.busy".to_owned(), "not now".to_owned());
            return Err(FlashError::Unavailable {
                code,
                detail,
                retryable: true,
            });
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_main_job() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books.db").to_str().unwrap().to_owned();
    let network = Arc::new(SimulatedLightning::new());
    let lightning = LightningConfig::Simulated {
        lightning: network.clone(),
    };
    let customer = network.wallet(1_000_000 * SAT).await.unwrap();
    let own = network.wallet(0).await.unwrap();
    let kit = Flashkit::open(config(&path, lightning.clone()))
        .await
        .unwrap();
    kit.start().await.unwrap();
    let issuer = kit.issuer_credential().unwrap();

    let request = CreateMerchantRequest {
        idempotency_key: "merchant".into(),
        name: "Cookshop".into(),
        terms: PayoutTerms {
            fee_base_msat: 0,
            fee_bps: 100,
            route_base_msat: 10_000,
            route_bps: 50,
        },
    };
    let shop = kit
        .create_merchant(issuer.clone(), request)
        .await
        .unwrap()
        .id;
    let request = PairTillRequest {
        idempotency_key: "till".into(),
        merchant_id: shop.clone(),
        label: "till 1".into(),
    };
    let till = kit.pair_till(issuer.clone(), request).await.unwrap();
    let till = till.credential;
    let request = CreatePointsProgramRequest {
        idempotency_key: "program".into(),
        merchant_id: shop.clone(),
        name: "Points".into(),
        earn_bps: 200,
        point_value_msat: SAT,
    };
    let program = kit.create_points_program(issuer.clone(), request).await;
    let program = program.unwrap().id;

    // A sale over Lightning.
    let request = CreateInvoiceRequest {
        idempotency_key: "sale".into(),
        purpose: InvoicePurpose::Sale {
            merchant_id: shop.clone(),
        },
        price: jmd(150_000),
        description: "Lunch".into(),
        expiry_seconds: 3_600,
    };
    let invoice = kit.create_invoice(till.clone(), request).await.unwrap();
    assert_eq!(invoice.amount_msat, 10_000 * SAT);
    assert_eq!(invoice.quote.as_ref().unwrap().rate, "15000000.00");
    customer.pay(invoice.bolt11.clone()).await.unwrap();
    let settled = |id: String| {
        let (kit, issuer) = (kit.clone(), issuer.clone());
        async move {
            let invoice = kit.get_invoice(issuer, id).await.unwrap();
            invoice.state == InvoiceState::Settled
        }
    };
    until("the sale is settled", || settled(invoice.id.clone())).await;

    // A card.
    let request = IssueCardRequest {
        idempotency_key: "issue".into(),
        uid: UID.into(),
        limits: CardLimits {
            per_tap: None,
            per_day: None,
            per_week: None,
            per_month: None,
            taps_per_hour: None,
            pin_above: None,
            low_balance: None,
            max_balance: None,
            time_zone: "America/Jamaica".into(),
        },
        existing_chip: None,
    };
    let card = kit.issue_card(issuer.clone(), request).await.unwrap().id;
    let keys = kit.programming_keys(issuer.clone(), UID.into()).await;
    let chip = VirtualBoltCard::program(UID.into(), keys.unwrap()).unwrap();
    let request = ActivateCardRequest {
        idempotency_key: "activate".into(),
        card_id: card.clone(),
    };
    let active = kit.activate_card(issuer.clone(), request).await.unwrap();
    let holder = active.holder_credential;
    let request = TopUpCardRequest {
        idempotency_key: "top-up".into(),
        card_id: card.clone(),
        price: Price::Bitcoin {
            amount_msat: 50_000 * SAT,
        },
    };
    let top_up = kit.top_up_card(holder.clone(), request).await.unwrap();
    customer.pay(top_up.bolt11).await.unwrap();
    until("the top-up is settled", || settled(top_up.id.clone())).await;

    // A tap: seen, charged, refused, answered again.
    let tap = chip.tap();
    let seen = kit.peek_card(tap.clone(), None).await.unwrap();
    assert_eq!(seen.balance_msat, 50_000 * SAT);
    let charge = |key: &str| ChargeCardRequest {
        idempotency_key: key.into(),
        tap: tap.clone(),
        price: jmd(300_000),
        reference: "table 4".into(),
        pin: None,
        source: None,
    };
    let charged = kit.charge_card(till.clone(), charge("charge")).await;
    let charged = charged.unwrap();
    assert_eq!((charged.amount_msat, charged.points), (20_000 * SAT, 400));
    let refused = kit.charge_card(till.clone(), charge("other")).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, FlashError::Declined { code, .. } if code == "card.tap_replayed"),
        "{refused:?}"
    );
    let again = kit.charge_card(till.clone(), charge("charge")).await;
    assert_eq!(again.unwrap(), charged);

    // Points.
    let points = kit.points_balance(holder.clone(), card.clone(), program.clone());
    assert_eq!(points.await.unwrap().points, 400);
    let request = RedeemPointsRequest {
        idempotency_key: "redeem".into(),
        card_id: card.clone(),
        program_id: program,
        points: 400,
    };
    kit.redeem_points(holder.clone(), request).await.unwrap();
    let snapshot = kit.get_card(holder, card.clone()).await.unwrap();
    assert_eq!(snapshot.balance_msat, 30_400 * SAT);

    // A payout.
    let quote = kit.quote_payout(till.clone(), shop.clone()).await.unwrap();
    assert_eq!((quote.amount_msat, quote.fee_msat), (29_306 * SAT, 293_060));
    let request = RequestPayoutRequest {
        idempotency_key: "payout".into(),
        merchant_id: shop.clone(),
        bolt11: own.invoice(quote.amount_msat, "payout".into()).unwrap(),
    };
    let payout = kit.request_payout(issuer.clone(), request).await.unwrap();
    until("the merchant is paid out", || {
        let payout = kit.get_payout(issuer.clone(), payout.id.clone());
        async move { payout.await.unwrap().state == PayoutState::PaidOut }
    })
    .await;
    assert_eq!(own.balance_msat(), 29_306 * SAT);

    // The books.
    let books = kit.trial_balance(issuer.clone()).await.unwrap();
    assert!(books.is_balanced);
    let balance = |account: &str| {
        let line = books
            .lines
            .iter()
            .find(|line| line.account.starts_with(account));
        line.unwrap().balance.clone()
    };
    assert_eq!(balance("node_channels/"), "30694000");
    assert_eq!(balance("fee_income/"), "293060");
    assert_eq!(kit.node_status(), NodeStatus::Running);
    assert_eq!((kit.health().store, kit.health().node), (None, None));
    let refused = kit.recover().await.unwrap_err();
    assert_eq!(
        refused.code(),
        "lightning.refused",
        "the node is not locked"
    );
    let audit = kit.audit(issuer.clone()).await.unwrap();
    assert!(audit.is_balanced && audit.controls.iter().all(|control| control.is_explained));
    assert_eq!(audit.untied, []);

    // Events by a cursor, across a shutdown.
    let first = kit.next_events(issuer.clone(), "app".into(), 3).await;
    let last = first.unwrap().last().unwrap().position;
    kit.acknowledge_events(issuer.clone(), "app".into(), last)
        .await
        .unwrap();
    kit.shutdown().await.unwrap();
    kit.shutdown().await.unwrap();
    let closed = kit.trial_balance(issuer.clone()).await.unwrap_err();
    assert!(
        matches!(&closed, FlashError::Unavailable { code, .. } if code == "store.closed"),
        "{closed:?}"
    );
    drop(kit);

    let kit = Flashkit::open(config(&path, lightning)).await.unwrap();
    kit.start().await.unwrap();
    let rest = kit.next_events(issuer.clone(), "app".into(), 1_000).await;
    let rest = rest.unwrap();
    assert_eq!(rest[0].position, last + 1);
    let kinds: Vec<_> = rest.iter().map(|event| event.kind.as_str()).collect();
    let settled = kinds.iter().filter(|kind| **kind == "invoice.settled");
    assert_eq!(settled.count(), 2, "{kinds:?}");

    // A listener has the same, and the event that it threw at again.
    let ears = Arc::new(Ears::default());
    kit.set_listener(issuer.clone(), "app".into(), ears.clone())
        .await
        .unwrap();
    until("the listener has heard everything", || {
        let enough = ears.heard.lock().unwrap().len() > rest.len();
        async move { enough }
    })
    .await;
    let heard = ears.heard.lock().unwrap().clone();
    assert_eq!(heard[0], heard[1]);
    assert_eq!(heard[1..], rest);
    kit.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_dropped_lets_go_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books.db").to_str().unwrap().to_owned();
    let open = || Flashkit::open(config(&path, LightningConfig::NoNode));
    let kit = open().await.unwrap();
    kit.start().await.unwrap();
    let held = open().await.err().unwrap();
    assert_eq!(held.code(), "store.in_use");
    drop(kit);
    until("the file is free", || async { open().await.is_ok() }).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_configuration_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books.db").to_str().unwrap().to_owned();
    let mut short = config(&path, LightningConfig::NoNode);
    short.master_secret.pop();
    let error = Flashkit::open(short).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "config.wrong_length: master_secret is 32 bytes, not 31"
    );
    std::fs::write(&path, vec![0x5a; 8_192]).unwrap();
    let error = Flashkit::open(config(&path, LightningConfig::NoNode)).await;
    let error = error.err().unwrap();
    assert!(
        matches!(&error, FlashError::Storage { code, .. } if code == "store.corrupt"),
        "{error:?}"
    );
}

/// The calls are there, and each error comes across with its code.
#[tokio::test]
async fn what_only_a_person_decides_can_be_said_from_an_app() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books.db").to_str().unwrap().to_owned();
    let mut trusted = config(&path, LightningConfig::NoNode);
    trusted.trust_node_state = true;
    let kit = Flashkit::open(trusted).await.unwrap();
    let issuer = kit.issuer_credential().unwrap();
    let id = |prefix: &str| format!("{prefix}_{}", "0".repeat(32));
    let key = || "by-hand".to_owned();
    let reason = || "asked".to_owned();
    let none = kit.list_suspense(issuer.clone(), None, 10).await.unwrap();
    assert_eq!(none, []);
    let request = AssignSuspenseRequest {
        idempotency_key: key(),
        item_id: id("tr"),
        to: SuspenseTarget::Operator,
        reason: reason(),
    };
    let error = kit.assign_suspense(issuer.clone(), request).await;
    assert_eq!(error.unwrap_err().code(), "treasury.suspense_not_found");
    let request = ResolvePayoutRequest {
        idempotency_key: key(),
        payout_id: id("pay"),
        outcome: PayoutOutcome::Failed,
        reason: reason(),
        despite_record: false,
    };
    let error = kit.resolve_payout(issuer.clone(), request).await;
    assert_eq!(error.unwrap_err().code(), "settlement.payout_not_found");
    let request = GiveUpInvoiceRequest {
        idempotency_key: key(),
        invoice_id: id("inv"),
        reason: reason(),
    };
    let error = kit.give_up_invoice(issuer.clone(), request).await;
    assert_eq!(error.unwrap_err().code(), "invoice.not_found");
    let request = RenewHolderRequest {
        idempotency_key: key(),
        card_id: id("card"),
    };
    let error = kit.renew_holder(issuer, request).await.err().unwrap();
    assert_eq!(error.code(), "card.not_found");
}
