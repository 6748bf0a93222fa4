//! Points and keys: who may, how often, and in which commit.

use std::collections::BTreeSet;

use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{
    ActivateCard, AuthorizeCard, CaptureCharge, CardLimits, ChargeAmount, FreezeCard, IssueCard,
    PayWithCard, RefundCharge, SetCardLimits, SetCardPin,
};
use flashkit::ids::ProgramId;
use flashkit::ledger::Account;
use flashkit::rewards::RedeemPoints;
use flashkit::store::Store;

use crate::stage::{OTHER_UID, Stage};
use crate::support::key;
use crate::support::shop::{self, SAT, sat};

/// Points on the card, which it can spend.
async fn points(stage: &Stage, program: ProgramId) -> i64 {
    let account = Account::points_balance(stage.card.id, program);
    stage.available(account).await
}

/// A card with 10,000 sats and a merchant that gives two in a hundred.
async fn stage() -> (Stage, ProgramId) {
    let stage = Stage::with(10_000).await;
    let program = shop::program(&stage.engine, stage.merchant.id).await;
    (stage, program)
}

/// 1. Whoever has learnt an id gets neither money nor keys with it.
///
/// Back without `caller.require_issuer()` in `Cards::programming_keys`, `cards/issuing.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r01_an_id_is_a_key_to_money() {
    let (mut stage, program) = stage().await;
    let tap = stage.card.chip.tap();
    stage.charge("sale", tap, sat(1_000)).await.unwrap();
    let (cards, rewards) = (stage.engine.cards(), stage.engine.rewards());
    let command = IssueCard {
        key: key("blank"),
        uid: "04000000000009".to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    let issuer = stage.engine.issuer();
    cards.issue(&issuer, command.clone()).await.unwrap();
    for somebody in [
        &stage.merchant.till,
        &stage.card.holder,
        &stage.other.holder,
    ] {
        let refused = cards.programming_keys(somebody, "04000000000009").await;
        assert_eq!(refused.unwrap_err().code(), "access.not_allowed");
        let refused = cards.issue(somebody, command.clone()).await;
        assert_eq!(refused.unwrap_err().code(), "access.not_allowed");
    }
    let redeem = RedeemPoints {
        key: key("theirs"),
        card: stage.card.id,
        program,
        points: 20,
    };
    for somebody in [&stage.merchant.till, &stage.other.holder] {
        let refused = rewards.redeem(somebody, redeem.clone()).await;
        assert_eq!(refused.unwrap_err().code(), "access.not_allowed");
    }
    // Of a card that was handed over nobody gets the keys.
    let refused = cards.programming_keys(&issuer, shop::UID).await;
    assert_eq!(refused.unwrap_err().code(), "card.keys_withheld");
    assert_eq!(points(&stage, program).await, 20);
    stage.stop().await;
}

/// 2. A retry is the same sale and the same points: also once the sale itself would be refused, and
/// also where no tap keeps it from being done twice.
///
/// Back when a batch does not look for its command, `ledger/apply.rs`: points are redeemed twice. Or
/// when a command is not looked up after a refusal, `done_before` in `core/command.rs`: the sale
/// that was paid is then told to be refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r02_a_retry_rewards_twice() {
    let (mut stage, program) = stage().await;
    let (tap, holder) = (stage.card.chip.tap(), stage.card.holder.clone());
    let first = stage.charge("sale", tap.clone(), sat(1_000)).await.unwrap();
    let redeem = RedeemPoints {
        key: key("redeem"),
        card: stage.card.id,
        program,
        points: 5,
    };
    let rewards = stage.engine.rewards();
    let redeemed = rewards.redeem(&holder, redeem.clone()).await.unwrap();
    let command = FreezeCard {
        key: key("freeze"),
        card: stage.card.id,
    };
    for is_frozen in [false, true] {
        if is_frozen {
            let cards = stage.engine.cards();
            cards.freeze(&holder, command.clone()).await.unwrap();
        }
        for _ in 0..3 {
            let again = stage.charge("sale", tap.clone(), sat(1_000)).await.unwrap();
            assert_eq!(again.value, first.value);
            let again = rewards.redeem(&holder, redeem.clone()).await.unwrap();
            assert_eq!(again.value, redeemed.value);
        }
        let code = ["card.tap_replayed", "card.frozen"][usize::from(is_frozen)];
        let refused = stage.charge("another", tap.clone(), sat(1_000)).await;
        assert_eq!(refused.unwrap_err().code(), code);
    }
    assert_eq!(points(&stage, program).await, 15);
    assert_eq!(stage.on_card(&stage.card).await, 9_005 * SAT);
    stage.stop().await;
}

/// 3. A card is the same card at every tap, although no two taps are alike.
///
/// Back when points are given to whoever tapped now, a new id each time, and not to the card's `line`:
/// in `Cards::decide_charge`, `cards/charging.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r03_every_tap_is_another_customer() {
    let (mut stage, program) = stage().await;
    let (mut taps, mut cards) = (BTreeSet::new(), BTreeSet::new());
    for number in 1..=5 {
        let tap = stage.card.chip.tap();
        taps.insert(tap.clone());
        let charge = stage.charge(&format!("{number}"), tap, sat(100)).await;
        cards.insert(charge.unwrap().card);
        assert_eq!(points(&stage, program).await, 2 * number);
    }
    assert_eq!((taps.len(), cards.len()), (5, 1));
    stage.stop().await;
}

/// 4 and 5. What a card may do is checked in the commit that pays, over all tills, and every
/// field says something.
///
/// Back when a limit is left out of `usage_limits`, `cards/rules.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r04_limits_are_checked_after_paying_and_r05_have_no_effect() {
    let none = CardLimits::default;
    for (code, limits, sats) in [
        (
            "card.limit_exceeded",
            CardLimits {
                per_tap: Some(99 * SAT),
                ..none()
            },
            100,
        ),
        (
            "card.limit_exceeded",
            CardLimits {
                per_day: Some(199 * SAT),
                ..none()
            },
            100,
        ),
        (
            "card.limit_exceeded",
            CardLimits {
                per_week: Some(199 * SAT),
                ..none()
            },
            100,
        ),
        (
            "card.limit_exceeded",
            CardLimits {
                per_month: Some(199 * SAT),
                ..none()
            },
            100,
        ),
        (
            "card.too_many_taps",
            CardLimits {
                taps_per_hour: Some(1),
                ..none()
            },
            100,
        ),
        (
            "card.pin_required",
            CardLimits {
                pin_above: Some(99 * SAT),
                ..none()
            },
            100,
        ),
    ] {
        let mut stage = Stage::with(10_000).await;
        let other = shop::merchant(&stage.engine, "Bakery").await;
        let command = SetCardLimits {
            key: key("limits"),
            card: stage.card.id,
            limits: limits.clone(),
        };
        let cards = stage.engine.cards();
        cards.set_limits(&stage.card.holder, command).await.unwrap();
        if code == "card.pin_required" {
            let command = SetCardPin {
                key: key("pin"),
                card: stage.card.id,
                pin: "4711".parse().unwrap(),
            };
            cards.set_pin(&stage.card.holder, command).await.unwrap();
        }
        // At one till, then at another.
        let mut last = None;
        for (till, name) in [(&stage.merchant.till, "a"), (&other.till, "b")] {
            let command = flashkit::cards::ChargeCard {
                key: key(name),
                tap: stage.card.chip.tap(),
                price: sat(sats),
                reference: String::new(),
                pin: None,
            };
            last = Some(cards.charge(till, command).await);
        }
        let refused = last.unwrap().unwrap_err();
        assert_eq!(refused.code(), code, "{limits:?}");
        assert!(
            stage.on_card(&stage.card).await >= 9_900 * SAT,
            "{limits:?}"
        );
        stage.stop().await;
    }
    // The most that may be on a card.
    let stage = Stage::new().await;
    let limits = CardLimits {
        max_balance: Some(100 * SAT),
        ..none()
    };
    let command = SetCardLimits {
        key: key("full"),
        card: stage.card.id,
        limits,
    };
    let cards = stage.engine.cards();
    cards.set_limits(&stage.card.holder, command).await.unwrap();
    let invoice = stage.top_up("too-much", &stage.card, sat(101)).await;
    assert!(stage.customer.pay(&invoice.bolt11).await.is_err());
    assert_eq!(stage.on_card(&stage.card).await, 0);
    stage.stop().await;
}

/// 7 and 8. The first tap of a card at a till earns its points, in the commit of the sale.
///
/// Back when the reward's steps are left out of `decide_charge`, `cards/charging.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r07_the_first_tap_earns_nothing_and_r08_points_come_later() {
    let (mut stage, program) = stage().await;
    let tap = stage.card.chip.tap();
    let charge = stage.charge("first", tap, sat(1_000)).await.unwrap();
    assert_eq!((charge.program, charge.points), (Some(program), 20));
    assert_eq!(points(&stage, program).await, 20);
    let rows = stage.store.journal(0, 1_000).await.unwrap();
    let of_sale = rows
        .iter()
        .filter(|row| row.reference == charge.id.to_string());
    let commits: BTreeSet<i64> = of_sale.map(|row| row.commit).collect();
    assert_eq!(commits.len(), 1);
    stage.stop().await;
}

/// 6. The points of a program are the same however a card pays: at once, by a tab, and by a BOLT11
/// of the merchant's at its own till or at another wallet's.
///
/// Back without `with_points` in `decide_by_book`, `cards/paying.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r06_the_automatic_path_knows_no_campaign() {
    let (mut stage, program) = stage().await;
    let (cards, till) = (stage.engine.cards(), stage.merchant.till.clone());
    let mut expected = 0;
    for way in ["charge", "tab", "till", "lnurl"] {
        let tap = stage.card.chip.tap();
        match way {
            "charge" => drop(stage.charge(way, tap, sat(1_000)).await.unwrap()),
            "tab" => {
                let command = AuthorizeCard {
                    key: key(way),
                    tap,
                    price: sat(1_000),
                    reference: String::new(),
                    pin: None,
                };
                let charge = cards.authorize(&till, command).await.unwrap().id;
                let amount = ChargeAmount::Bitcoin {
                    amount_msat: 1_000 * SAT,
                };
                let key = key(way);
                let command = CaptureCharge {
                    key,
                    charge,
                    amount,
                };
                cards.capture(&till, command).await.unwrap();
            }
            "till" => {
                let bill = shop::sale(&stage.engine, &stage.merchant, way, sat(1_000)).await;
                let command = PayWithCard {
                    key: key(way),
                    tap,
                    bolt11: bill.bolt11.clone(),
                    pin: None,
                };
                cards.pay(&till, command).await.unwrap();
            }
            _ => {
                let bill = shop::sale(&stage.engine, &stage.merchant, way, sat(1_000)).await;
                let parameters = tap.split_once('?').unwrap().1;
                let request = LnurlRequest {
                    url: format!("https://localhost/boltcard?{parameters}&pr={}", bill.bolt11),
                    till: None,
                    source: None,
                };
                assert_eq!(cards.answer(&request).await.status, 200);
            }
        }
        expected += 20;
        assert_eq!(points(&stage, program).await, expected, "{way}");
    }
    assert_eq!(stage.on_card(&stage.card).await, 6_000 * SAT);
    stage.stop().await;
}

/// 9. A form that kept the last amount: the same key for another amount is refused.
///
/// Back when the fingerprint is not compared: in `ledger/apply.rs`, which asks before anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r09_the_last_amount_is_kept() {
    let (mut stage, _) = stage().await;
    let tap = stage.card.chip.tap();
    stage.charge("sale", tap.clone(), sat(1_000)).await.unwrap();
    let refused = stage.charge("sale", tap, sat(2_000)).await;
    assert_eq!(refused.unwrap_err().code(), "command.key_reused");
    assert_eq!(stage.on_card(&stage.card).await, 9_000 * SAT);
    stage.stop().await;
}

/// 10. Not any PIN, and none that can be read back.
///
/// Back when `is_right`, `cards/pin.rs`, answers `Ok(true)` for another PIN.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_any_pin_is_right() {
    let (mut stage, _) = stage().await;
    let (cards, card) = (stage.engine.cards(), stage.card.id);
    let limits = CardLimits {
        pin_above: Some(0),
        ..CardLimits::default()
    };
    let command = SetCardLimits {
        key: key("always"),
        card,
        limits,
    };
    cards.set_limits(&stage.card.holder, command).await.unwrap();
    let command = SetCardPin {
        key: key("pin"),
        card,
        pin: "471147".parse().unwrap(),
    };
    cards.set_pin(&stage.card.holder, command).await.unwrap();
    for (name, pin, code) in [
        ("none", None, Some("card.pin_required")),
        ("wrong", Some("471148"), Some("card.wrong_pin")),
        ("right", Some("471147"), None),
    ] {
        let command = flashkit::cards::ChargeCard {
            key: key(name),
            tap: stage.card.chip.tap(),
            price: sat(10),
            reference: String::new(),
            pin: pin.map(|pin| pin.parse().unwrap()),
        };
        let charged = cards.charge(&stage.merchant.till, command).await;
        assert_eq!(charged.err().map(|error| error.code()), code, "{name}");
    }
    stage.stop().await;
}

/// 11. A refund takes its points back.
///
/// Back when `decide_refund` takes `Clawback::default()`, `cards/charge_life.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_a_refund_leaves_the_points() {
    let (mut stage, program) = stage().await;
    let tap = stage.card.chip.tap();
    let charge = stage.charge("sale", tap, sat(1_000)).await.unwrap();
    let command = RefundCharge {
        key: key("refund"),
        charge: charge.id,
        amount: flashkit::cards::ChargeAmount::Bitcoin {
            amount_msat: 1_000 * SAT,
        },
    };
    let cards = stage.engine.cards();
    cards.refund(&stage.merchant.till, command).await.unwrap();
    assert_eq!(points(&stage, program).await, 0);
    assert_eq!(stage.on_card(&stage.card).await, 10_000 * SAT);
    stage.stop().await;
}

/// 12. Points are turned into money, once, and by the holder.
///
/// Back when `redeem` takes one point for all, `rewards/rules.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_points_are_a_word_for_sats() {
    let (mut stage, program) = stage().await;
    let tap = stage.card.chip.tap();
    stage.charge("sale", tap, sat(1_000)).await.unwrap();
    let redeem = |name: &str| RedeemPoints {
        key: key(name),
        card: stage.card.id,
        program,
        points: 20,
    };
    let rewards = stage.engine.rewards();
    rewards
        .redeem(&stage.card.holder, redeem("all"))
        .await
        .unwrap();
    assert_eq!(points(&stage, program).await, 0);
    assert_eq!(stage.on_card(&stage.card).await, 9_020 * SAT);
    let refused = rewards.redeem(&stage.card.holder, redeem("more")).await;
    assert_eq!(refused.unwrap_err().code(), "reward.insufficient_points");
    stage.stop().await;
}

/// A lost card is frozen at once, and a tap of it pays nothing.
///
/// Back without `rules::require_active` in `Cards::sale`, `cards/charging.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k01_a_lost_card_is_lost_money() {
    let mut stage = Stage::with(500).await;
    let command = FreezeCard {
        key: key("lost"),
        card: stage.card.id,
    };
    let cards = stage.engine.cards();
    cards.freeze(&stage.card.holder, command).await.unwrap();
    let tap = stage.card.chip.tap();
    let refused = stage.charge("thief", tap, sat(10)).await;
    assert_eq!(refused.unwrap_err().code(), "card.frozen");
    assert_eq!(stage.on_card(&stage.card).await, 500 * SAT);
    stage.stop().await;
}

/// A tap that is refused can still be charged: the counter moves with the money, after the MAC was
/// right.
///
/// Back when the counter is moved by a commit of its own before the decision, in `Cards::sale`,
/// `cards/charging.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k02_a_refused_or_forged_tap_is_used_up() {
    let mut stage = Stage::with(500).await;
    let tap = stage.card.chip.tap();
    let refused = stage.charge("too-much", tap.clone(), sat(501)).await;
    assert_eq!(refused.unwrap_err().code(), "card.insufficient_funds");
    let mut forged = tap.clone();
    let last = forged.pop().unwrap();
    forged.push(if last == '0' { '1' } else { '0' });
    let refused = stage.charge("forged", forged, sat(1)).await;
    assert_eq!(refused.unwrap_err().code(), "card.tap_wrong_mac");
    stage.engine.cards().peek(&tap).await.unwrap();
    stage.charge("sale", tap, sat(500)).await.unwrap();
    assert_eq!(stage.on_card(&stage.card).await, 0);
    stage.stop().await;
}

/// A look at a card needs a right signature, and shows no key.
///
/// Back when `verify_mac`, `cards/boltcard.rs`, compares nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k03_a_look_without_a_signature() {
    let mut stage = Stage::with(500).await;
    let tap = stage.card.chip.tap();
    let (p, _) = tap.rsplit_once("&c=").unwrap();
    let forged = format!("{p}&c=0000000000000000");
    let refused = stage.engine.cards().peek(&forged).await;
    assert_eq!(refused.unwrap_err().code(), "card.tap_wrong_mac");
    let unsigned = stage.engine.cards().peek(p).await;
    assert_eq!(unsigned.unwrap_err().code(), "card.tap_malformed");
    stage.stop().await;
}

/// A card has its keys by its own version and not by an account: two cards never have the same.
///
/// Back when `card_id_hash`, `cards/boltcard/ring.rs`, is the same for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k04_one_cards_tap_is_anothers() {
    let mut stage = Stage::with(500).await;
    assert_ne!(stage.card.id, stage.other.id);
    let tap = stage.other.chip.tap();
    let refused = stage.charge("other", tap, sat(10)).await;
    assert_eq!(refused.unwrap_err().code(), "card.insufficient_funds");
    let again = IssueCard {
        key: key("again"),
        uid: OTHER_UID.to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    let issuer = stage.engine.issuer();
    let cards = stage.engine.cards();
    let refused = cards.issue(&issuer, again).await;
    assert_eq!(refused.unwrap_err().code(), "card.already_issued");
    let activate = ActivateCard {
        key: key("again"),
        card: stage.other.id,
    };
    let refused = cards.activate(&issuer, activate).await;
    assert_eq!(refused.unwrap_err().code(), "card.not_active");
    stage.stop().await;
}
