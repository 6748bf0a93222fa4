//! Tabs, refunds, PINs and looks at a card through the facade that the bindings see.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::ffi::{
    ActivateCardRequest, AuthorizeCardRequest, CaptureChargeRequest, CardLimits, ChargeCardRequest,
    ChargeState, CreateMerchantRequest, FlashError, Flashkit, FlashkitConfig, InvoiceState,
    IssueCardRequest, LightningConfig, LimitKind, LimitUsage, Network, PairTillRequest,
    PayoutTerms, Price, RefundChargeRequest, ReleaseChargeRequest, SetCardLimitsRequest,
    SetCardPinRequest, SimulatedLightning, TopUpCardRequest, TransferKind, UnlockCardPinRequest,
    VirtualBoltCard,
};

const SAT: i64 = 1_000;
const UID: &str = "04a39493cc8680";

fn sat(amount: i64) -> Price {
    Price::Bitcoin {
        amount_msat: amount * SAT,
    }
}

fn limits(per_day: i64) -> CardLimits {
    CardLimits {
        per_tap: None,
        per_day: Some(per_day * SAT),
        per_week: None,
        per_month: None,
        taps_per_hour: None,
        pin_above: Some(10_000 * SAT),
        low_balance: Some(45_000 * SAT),
        max_balance: None,
        time_zone: "Etc/UTC".into(),
    }
}

/// A card that has 50,000 sats, and a till.
struct Scene {
    kit: Arc<Flashkit>,
    issuer: String,
    merchant: String,
    till: String,
    card: String,
    holder: String,
    chip: Arc<VirtualBoltCard>,
    _folder: tempfile::TempDir,
}

async fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books.db").to_str().unwrap().to_owned();
    let network = Arc::new(SimulatedLightning::new());
    let customer = network.wallet(1_000_000 * SAT).await.unwrap();
    let config = FlashkitConfig {
        database_path: path,
        master_secret: vec![7; 32],
        network: Network::Regtest,
        lightning: LightningConfig::Simulated { lightning: network },
        rates: Vec::new(),
        tap_url: None,
        rate_max_age_ms: None,
        quote_validity_ms: None,
        authorization_ms: Some(3_600_000),
        tap_valid_ms: Some(600_000),
        card_issuer_key: None,
        trust_node_state: false,
    };
    let kit = Flashkit::open(config).await.unwrap();
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
    let merchant = kit.create_merchant(issuer.clone(), request).await;
    let merchant = merchant.unwrap().id;
    let request = PairTillRequest {
        idempotency_key: "till".into(),
        merchant_id: merchant.clone(),
        label: "till 1".into(),
    };
    let till = kit.pair_till(issuer.clone(), request).await.unwrap();
    let request = IssueCardRequest {
        idempotency_key: "issue".into(),
        uid: UID.into(),
        limits: limits(30_000),
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
        price: sat(50_000),
    };
    let invoice = kit.top_up_card(holder.clone(), request).await.unwrap();
    customer.pay(invoice.bolt11).await.unwrap();
    let begun = Instant::now();
    loop {
        let seen = kit.get_invoice(issuer.clone(), invoice.id.clone()).await;
        if seen.unwrap().state == InvoiceState::Settled {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "in vain");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Scene {
        kit,
        issuer,
        merchant,
        till: till.credential,
        card,
        holder,
        chip: Arc::new(chip),
        _folder: folder,
    }
}

fn authorize(name: &str, tap: String, amount: i64) -> AuthorizeCardRequest {
    AuthorizeCardRequest {
        idempotency_key: name.into(),
        tap,
        price: sat(amount),
        reference: "table 4".into(),
        pin: None,
        source: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tab_is_looked_at_captured_and_refunded() {
    let scene = scene().await;
    let (kit, till) = (&scene.kit, || scene.till.clone());
    let tap = scene.chip.tap();
    let seen = kit.peek_card(tap.clone(), Some("a phone".into())).await;
    let seen = seen.unwrap();
    assert_eq!((seen.balance_msat, seen.history.len()), (50_000 * SAT, 1));
    assert_eq!(seen.history[0].kind, TransferKind::TopUp);
    assert_eq!(
        (seen.usage[0].kind, seen.usage[0].used),
        (LimitKind::PerDay, 0)
    );

    let tab = kit
        .authorize_card(till(), authorize("tab", tap, 9_000))
        .await;
    let tab = tab.unwrap();
    assert_eq!(tab.state, ChargeState::Authorized);
    assert_eq!(tab.authorized_msat, Some(9_000 * SAT));
    assert_eq!(
        tab.expires_at_ms.unwrap() / 60_000,
        tab.as_of_ms / 60_000 + 60
    );
    let capture = |key: &str, amount| CaptureChargeRequest {
        idempotency_key: key.into(),
        charge_id: tab.id.clone(),
        amount_msat: amount * SAT,
    };
    let over = kit.capture_charge(till(), capture("over", 9_001)).await;
    let over = over.unwrap_err();
    assert!(
        matches!(&over, FlashError::Declined { code, .. } if code == "card.capture_exceeds_hold"),
        "{over:?}"
    );
    let paid = kit.capture_charge(till(), capture("close", 7_000)).await;
    let paid = paid.unwrap();
    assert_eq!(
        (paid.state, paid.amount_msat),
        (ChargeState::Captured, 7_000 * SAT)
    );
    let refund = RefundChargeRequest {
        idempotency_key: "refund".into(),
        charge_id: tab.id.clone(),
        amount_msat: 3_000 * SAT,
    };
    let refunded = kit.refund_charge(till(), refund).await.unwrap();
    assert_eq!(
        (refunded.refunded_msat, refunded.withheld_msat),
        (3_000 * SAT, 0)
    );
    assert_eq!((refunded.points, refunded.points_taken_back), (0, 0));

    let second = authorize("second", scene.chip.tap(), 1_000);
    let second = kit.authorize_card(till(), second).await.unwrap();
    let release = ReleaseChargeRequest {
        idempotency_key: "release".into(),
        charge_id: second.id.clone(),
    };
    let released = kit.release_charge(till(), release).await.unwrap();
    assert_eq!(
        (released.state, released.amount_msat),
        (ChargeState::Released, 0)
    );
    let found = kit.get_charge(scene.holder.clone(), tab.id.clone()).await;
    assert_eq!(found.unwrap().refunded_msat, 3_000 * SAT);
    let listed = kit.list_charges(till(), scene.merchant.clone(), None, 1);
    let listed = listed.await.unwrap().charges;
    assert_eq!(listed[0].id, tab.id);
    let rest = kit.list_charges(till(), scene.merchant.clone(), Some(tab.id.clone()), 10);
    let rest = rest.await.unwrap().charges;
    assert_eq!((rest.len(), &rest[0].id), (1, &second.id));
    let none = kit
        .get_charge(till(), format!("chg_{}", "0".repeat(32)))
        .await;
    assert_eq!(none.unwrap_err().code(), "card.charge_not_found");

    let card = kit.get_card(scene.holder.clone(), scene.card.clone()).await;
    let card = card.unwrap();
    assert_eq!(card.balance_msat, 46_000 * SAT);
    let LimitUsage { limit, used, .. } = card.usage[0].clone();
    assert_eq!((limit, used), (30_000 * SAT, 4_000 * SAT));
    kit.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_is_set_asked_for_locked_and_unlocked() {
    let scene = scene().await;
    let (kit, till) = (&scene.kit, || scene.till.clone());
    let set = |key: &str, pin: &str| SetCardPinRequest {
        idempotency_key: key.into(),
        card_id: scene.card.clone(),
        pin: pin.into(),
    };
    let bad = kit
        .set_card_pin(scene.holder.clone(), set("bad", "12x4"))
        .await;
    let bad = bad.unwrap_err();
    assert!(
        matches!(&bad, FlashError::InvalidInput { code, .. } if code == "card.bad_pin"),
        "{bad:?}"
    );
    kit.set_card_pin(scene.holder.clone(), set("set", "4711"))
        .await
        .unwrap();
    let tap = scene.chip.tap();
    let charge = |key: &str, pin: Option<&str>| ChargeCardRequest {
        idempotency_key: key.into(),
        tap: tap.clone(),
        price: sat(10_001),
        reference: String::new(),
        pin: pin.map(str::to_owned),
        source: Some("a till".into()),
    };
    let asked = kit.charge_card(till(), charge("asked", None)).await;
    assert_eq!(asked.unwrap_err().code(), "card.pin_required");
    for guess in ["0000", "0001", "0002"] {
        let wrong = kit.charge_card(till(), charge(guess, Some(guess))).await;
        assert_eq!(wrong.unwrap_err().code(), "card.wrong_pin");
    }
    let locked = kit.charge_card(till(), charge("sale", Some("4711"))).await;
    assert_eq!(locked.unwrap_err().code(), "card.pin_locked");
    let status = kit.card_pin_status(scene.holder.clone(), scene.card.clone());
    let status = status.await.unwrap();
    assert!(status.is_set && status.is_locked && status.attempts_left == 0);
    let unlock = UnlockCardPinRequest {
        idempotency_key: "unlock".into(),
        card_id: scene.card.clone(),
    };
    let status = kit.unlock_card_pin(scene.issuer.clone(), unlock).await;
    assert_eq!(status.unwrap().attempts_left, 3);
    kit.charge_card(till(), charge("sale", Some("4711")))
        .await
        .unwrap();
    // The limits cross both ways.
    let request = SetCardLimitsRequest {
        idempotency_key: "limits".into(),
        card_id: scene.card.clone(),
        limits: limits(20_000),
    };
    let card = kit.set_card_limits(scene.holder.clone(), request).await;
    assert_eq!(card.unwrap().limits, limits(20_000));
    kit.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_taps_are_counted_by_their_source() {
    let scene = scene().await;
    let kit = &scene.kit;
    let tap = scene.chip.tap();
    let forged = format!("{}0000000000000000", &tap[..tap.len() - 16]);
    let here = || Some("203.0.113.7".to_owned());
    for _ in 0..10 {
        let refused = kit.peek_card(forged.clone(), here()).await;
        assert_eq!(refused.unwrap_err().code(), "card.tap_wrong_mac");
    }
    let refused = kit.peek_card(tap.clone(), here()).await.unwrap_err();
    assert!(
        matches!(&refused, FlashError::Declined { code, retryable: true, .. }
            if code == "card.too_many_bad_taps"),
        "{refused:?}"
    );
    let charge = ChargeCardRequest {
        idempotency_key: "here".into(),
        tap: tap.clone(),
        price: sat(1),
        reference: String::new(),
        pin: None,
        source: here(),
    };
    let refused = kit.charge_card(scene.till.clone(), charge.clone()).await;
    assert_eq!(refused.unwrap_err().code(), "card.too_many_bad_taps");
    let tab = AuthorizeCardRequest {
        source: here(),
        ..authorize("tab", tap.clone(), 1)
    };
    let refused = kit.authorize_card(scene.till.clone(), tab).await;
    assert_eq!(refused.unwrap_err().code(), "card.too_many_bad_taps");
    kit.peek_card(tap, Some("elsewhere".into())).await.unwrap();
    let charge = ChargeCardRequest {
        source: None,
        ..charge
    };
    kit.charge_card(scene.till.clone(), charge).await.unwrap();
    kit.shutdown().await.unwrap();
}
