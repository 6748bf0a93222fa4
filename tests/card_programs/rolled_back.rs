//! Cards that came over go back to the server that had them, and come over a second time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flashkit::access::{HostKey, HostKeys};
use flashkit::cards::{
    AddFamilyCard, AuthorizeCard, CardLimits, CardState, ChargeAmount, ChargeCard, ExportedCard,
    FreezeCard, ImportedCard, IssueCard, KeptCard, KeptReason, RefundCharge, ReleaseCharge,
    RenewHolder, ReportLost, RollBack, RollBackReport, SetCardExpiry, SetCardLimits, SetCardPin,
    UnlockCardPin, WipeCard,
};
use flashkit::ids::{CardId, ChargeId};
use flashkit::ledger::Account;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::{Answer, Engine, Settings};

use crate::imports::{OldCard, World, old_base, rows, sum, world, world_on};
use crate::support::key;
use crate::support::scene::{NOON, on_both_stores, told};
use crate::support::shop::{self, SAT, sat};

pub const DAY_MS: i64 = 86_400_000;

on_both_stores! {
    cards_go_back_with_their_money_and_come_over_again;
    what_is_on_hold_or_a_family_stays;
    what_is_paid_meanwhile_is_in_the_row_or_refused;
    what_comes_later_is_the_former_issuers;
    what_was_stopped_comes_over_stopped;
}

impl World {
    async fn roll_back(
        &self,
        name: &str,
        cards: Option<Vec<CardId>>,
        after: Option<CardId>,
    ) -> Result<Answer<RollBackReport>, &'static str> {
        let command = RollBack {
            key: key(name),
            import: self.import,
            cards,
            after,
            limit: 200,
        };
        let (imports, issuer) = (self.engine.cards().imports(), self.engine.issuer());
        told(imports.roll_back(&issuer, command).await)
    }

    /// All that goes back, by the chip.
    pub async fn all_back(&self, name: &str) -> BTreeMap<String, ExportedCard> {
        let (mut all, mut after) = (BTreeMap::new(), None);
        for page in 0.. {
            let done = self.roll_back(&format!("{name}/{page}"), None, after).await;
            let done = done.unwrap().value;
            let rows = done.returned.into_iter();
            all.extend(rows.map(|row| (row.id.clone(), row)));
            match done.last {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        all
    }

    fn uid(number: usize) -> String {
        let [_, a, b, c] = u32::try_from(number).unwrap().to_be_bytes();
        hex::encode([4, 9, 9, 9, a, b, c])
    }
}

fn issue(name: &str, uid: String) -> IssueCard {
    IssueCard {
        key: key(name),
        uid,
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    }
}

pub fn chip(card: &OldCard) -> String {
    card.row.id.clone().unwrap()
}

pub fn again(row: &ExportedCard) -> ImportedCard {
    ImportedCard {
        id: Some(row.id.clone()),
        uid: None,
        version: row.version,
        counter: row.counter,
        pull_payment_id: row.pull_payment_id.clone(),
        balance_msat: row.balance_msat,
    }
}

async fn cards_go_back_with_their_money_and_come_over_again(is_sqlite: bool) {
    let world = world(is_sqlite).await;
    let mut base = old_base(450);
    world.take_over("base", &rows(&base)).await;
    let used = base[7].chip.tap();
    world.charge("sale", used.clone(), 3).await.unwrap();
    let waiting = base[7].chip.tap();
    let stood = world.export().await;

    let back = world.all_back("back").await;
    assert_eq!(back, stood, "each row as the card stood");
    assert_eq!(world.all_back("back").await, back, "told again");
    assert_eq!(world.with_former_issuer().await, 3, "but for what was sold");
    let import = world.import().await;
    let total = (sum(&base) - 3) * SAT;
    assert_eq!((import.returned, import.returned_msat), (450, total));
    // Nothing goes back twice.
    assert!(world.all_back("once more").await.is_empty());

    // No tap is taken; and the chips are in use elsewhere.
    let refused = world.charge("gone", waiting.clone(), 1).await;
    assert_eq!(refused, Err("card.not_found"));
    let (cards, issuer) = (world.engine.cards(), world.engine.issuer());
    let keys = cards.wipe_keys(&issuer, &World::uid(7), None).await;
    assert_eq!(keys.unwrap_err().code(), "card.keys_withheld");
    let card = back[&chip(&base[7])].card;
    let wiped = WipeCard {
        key: key("wipe"),
        card,
    };
    let wiped = told(cards.wipe(&issuer, wiped).await).map(drop);
    assert_eq!(wiped, Err("card.not_active"));

    // The old server went on with one of them, and a second time they come over.
    let mut second: Vec<ImportedCard> = back.values().map(again).collect();
    for row in &mut second {
        if row.id.as_ref() == Some(&chip(&base[7])) {
            row.balance_msat += 5 * SAT;
        }
        // It has lost what it was told of this one.
        if row.id.as_ref() == Some(&chip(&base[11])) {
            row.counter = base[11].row.counter;
        }
    }
    world.take_over("second", &second).await;
    assert_eq!(
        world.charge("replayed", used, 1).await,
        Err("card.tap_replayed")
    );
    world.charge("again", waiting, 1).await.unwrap();
    let tap = base[12].chip.tap();
    world.charge("another", tap, 1).await.unwrap();
    let now = world.export().await;
    assert_eq!(
        now[&chip(&base[7])].balance_msat,
        base[7].row.balance_msat + SAT, // Five more, and four spent.
    );
    let old = cards.get(&issuer, card).await.unwrap();
    assert_eq!(old.state, CardState::Replaced);
    assert_ne!(now[&chip(&base[7])].card, card, "its successor");
    // And back, and over: as often as it takes.
    let back = world.all_back("third").await;
    assert_eq!(back.len(), 450);
    let rows: Vec<_> = back.values().map(again).collect();
    world.take_over("fourth", &rows).await;
    let report = told(cards.imports().check(&issuer, world.import, &rows).await);
    assert_eq!(report.unwrap().value.refused.len(), 450, "they are here");
    world.stop("back and over").await;
}

async fn what_is_on_hold_or_a_family_stays(is_sqlite: bool) {
    let world = world(is_sqlite).await;
    let mut base = old_base(8);
    world.take_over("base", &rows(&base)).await;
    let here = world.export().await;
    let ids: Vec<CardId> = base.iter().map(|card| here[&chip(card)].card).collect();
    let (cards, issuer) = (world.engine.cards(), world.engine.issuer());
    let hold = AuthorizeCard {
        key: key("tab"),
        tap: base[0].chip.tap(),
        price: sat(4),
        reference: String::new(),
        pin: None,
    };
    let tab = cards.authorize(&world.merchant.till, hold).await.unwrap();
    let renew = RenewHolder {
        key: key("holder"),
        card: ids[2],
    };
    let holder = cards.renew_holder(&issuer, renew).await.unwrap();
    let issue = issue("child", "04aabbccddee80".to_owned());
    let uid = issue.uid.clone();
    cards.issue(&issuer, issue).await.unwrap();
    let keys = cards.programming_keys(&issuer, &uid).await.unwrap();
    let mut blank = VirtualCard::program(&uid, &keys).unwrap();
    let member = AddFamilyCard {
        key: key("child"),
        main: ids[2],
        tap: blank.tap(),
        limits: CardLimits::default(),
    };
    cards.add_to_family(&holder.holder, member).await.unwrap();
    let mut asked = ids.clone();
    asked.push(CardId::from_parts(1, [1; 10]));
    let done = world.roll_back("some", Some(asked.clone()), None).await;
    let done = done.unwrap().value;
    let kept = |card, reason| KeptCard { card, reason };
    let on_hold = KeptReason::MoneyOnHold { held_msat: 4 * SAT };
    assert_eq!(
        done.kept,
        [
            kept(ids[0], on_hold),
            kept(ids[2], KeptReason::HasFamily),
            kept(asked[8], KeptReason::NotImported),
        ]
    );
    assert_eq!(done.returned.len(), 6);
    // What stays goes on paying, and goes when it can.
    let tap = base[2].chip.tap();
    world.charge("family", tap, 1).await.unwrap();
    let release = ReleaseCharge {
        key: key("release"),
        charge: tab.id,
    };
    cards.release(&world.merchant.till, release).await.unwrap();
    let done = world.roll_back("rest", Some(ids.clone()), None).await;
    let done = done.unwrap().value;
    assert_eq!(done.returned.len(), 1);
    assert_eq!(done.returned[0].counter, base[0].row.counter + 1);
    assert_eq!(done.returned[0].balance_msat, base[0].row.balance_msat);
    let state = CardState::Retired;
    assert!(
        done.kept
            .contains(&kept(ids[1], KeptReason::OutOfUse { state }))
    );
    let twice = Some(vec![ids[1], ids[1]]);
    for (name, cards) in [("twice", twice), ("none", Some(Vec::new()))] {
        let refused = world.roll_back(name, cards, None).await.map(drop);
        assert_eq!(refused, Err("command.out_of_bounds"));
    }
    world.stop("kept").await;
}

/// Half of the cards are charged meanwhile, half get something back.
async fn what_is_paid_meanwhile_is_in_the_row_or_refused(is_sqlite: bool) {
    let world = std::sync::Arc::new(world(is_sqlite).await);
    let mut base = old_base(60);
    world.take_over("base", &rows(&base)).await;
    let mut sales = Vec::new();
    for (number, card) in base.iter_mut().enumerate() {
        let sale = sale(&format!("sale/{number}"), card.chip.tap());
        let cards = world.engine.cards();
        sales.push(cards.charge(&world.merchant.till, sale).await.unwrap().id);
    }
    let mut tills = tokio::task::JoinSet::new();
    for (number, card) in base.iter_mut().enumerate() {
        let (world, tap, charge) = (world.clone(), card.chip.tap(), sales[number]);
        tills.spawn(async move {
            if number % 2 == 0 {
                let paid = world.charge(&format!("race/{number}"), tap, 1).await;
                return (number, paid);
            }
            let refund = back(&format!("refund/{number}"), charge);
            let cards = world.engine.cards();
            let refunded = told(cards.refund(&world.merchant.till, refund).await);
            (number, refunded.map(drop))
        });
    }
    let gone = world.all_back("back").await;
    let mut sold = 0;
    while let Some(done) = tills.join_next().await {
        let (number, done) = done.unwrap();
        let (before, row) = (&base[number].row, &gone[&chip(&base[number])]);
        let stood = before.balance_msat - 2 * SAT;
        match (number % 2, done) {
            (0, Ok(())) => {
                sold += 3;
                assert_eq!(row.balance_msat, stood - SAT);
                assert_eq!(
                    row.counter,
                    before.counter + 2,
                    "a used tap is told as used"
                );
            }
            (0, Err(code)) => {
                sold += 2;
                let codes = ["card.not_found", "card.not_active", "command.contended"];
                assert!(codes.contains(&code), "{code}");
                assert_eq!(row.balance_msat, stood);
            }
            // Before it went back it is in the row, and after that the former issuer's.
            (_, done) => {
                done.unwrap();
                assert!([stood, before.balance_msat].contains(&row.balance_msat));
            }
        }
    }
    assert_eq!(world.with_former_issuer().await, sold);
    for card in world.export().await.values() {
        assert_eq!((card.balance_msat, card.held_msat), (0, 0));
    }
    let world = std::sync::Arc::into_inner(world).unwrap();
    world.stop("meanwhile").await;
}

fn sale(name: &str, tap: String) -> ChargeCard {
    ChargeCard {
        key: key(name),
        tap,
        price: sat(2),
        reference: String::new(),
        pin: None,
    }
}

fn back(name: &str, charge: ChargeId) -> RefundCharge {
    RefundCharge {
        key: key(name),
        charge,
        amount: ChargeAmount::Bitcoin {
            amount_msat: 2 * SAT,
        },
    }
}

async fn what_comes_later_is_the_former_issuers(is_sqlite: bool) {
    let world = world(is_sqlite).await;
    let mut base = old_base(2);
    world.take_over("base", &rows(&base)).await;
    let (cards, till) = (world.engine.cards(), &world.merchant.till);
    let sale = sale("sale", base[0].chip.tap());
    let sale = cards.charge(till, sale).await.unwrap();
    world.all_back("back").await;
    assert_eq!(world.with_former_issuer().await, 2);
    let refund = back("refund", sale.id);
    cards.refund(till, refund).await.unwrap();
    assert_eq!(world.with_former_issuer().await, 0);
    let payable = Account::merchant_payable(world.merchant.id);
    let balance = world.store.balance(&payable).await.unwrap();
    assert_eq!(balance.posted(payable.kind().side()), 0);
    world.stop("later").await;
}

/// The server that has it meanwhile knows of none of it: a card that was lost or frozen is so again, and
/// one with a PIN and limits of its holder's has them.
async fn what_was_stopped_comes_over_stopped(is_sqlite: bool) {
    let world = world(is_sqlite).await;
    let mut base = old_base(4);
    world.take_over("base", &rows(&base)).await;
    let here = world.export().await;
    let ids: Vec<CardId> = base.iter().map(|card| here[&chip(card)].card).collect();
    let (cards, issuer) = (world.engine.cards(), world.engine.issuer());
    let renew = |name: &str, card| RenewHolder {
        key: key(name),
        card,
    };
    let held = |name: &str, card| cards.renew_holder(&issuer, renew(name, card));
    let lost = held("h0", ids[0]).await.unwrap().holder.clone();
    let (lose, freeze) = (key("lost"), key("frozen"));
    let command = ReportLost {
        key: lose,
        card: ids[0],
    };
    cards.report_lost(&lost, command).await.unwrap();
    let command = FreezeCard {
        key: freeze,
        card: ids[1],
    };
    cards.freeze(&issuer, command).await.unwrap();
    let pinned = held("h2", ids[2]).await.unwrap().holder.clone();
    let pin = |text: &str| text.parse::<flashkit::cards::Pin>().unwrap();
    let command = SetCardPin {
        key: key("pin"),
        card: ids[2],
        pin: pin("4711"),
    };
    cards.set_pin(&pinned, command).await.unwrap();
    let command = SetCardLimits {
        key: key("limits"),
        card: ids[2],
        limits: CardLimits {
            // More than the import gives, and less.
            per_tap: Some(9_000 * SAT),
            per_day: Some(5 * SAT),
            pin_above: Some(2 * SAT),
            time_zone: "America/Jamaica".to_owned(),
            ..CardLimits::default()
        },
    };
    cards.set_limits(&pinned, command).await.unwrap();
    let far_ms = 4_000_000_000_000;
    let command = SetCardExpiry {
        key: key("until"),
        card: ids[3],
        expires_at_ms: Some(far_ms),
    };
    cards.set_expiry(&issuer, command).await.unwrap();

    let mut now = ids.clone();
    // As often as it takes.
    for round in 0..2 {
        let back = world.all_back(&format!("back {round}")).await;
        assert_eq!(back.len(), 4);
        let again: Vec<_> = back.values().map(again).collect();
        world.take_over(&format!("over {round}"), &again).await;
        let here = world.export().await;
        now = base.iter().map(|card| here[&chip(card)].card).collect();
        for (place, code, state) in [
            (0, "card.lost", CardState::Lost),
            (1, "card.frozen", CardState::Frozen),
        ] {
            let name = format!("{round}/{place}");
            let refused = world.charge(&name, base[place].chip.tap(), 1).await;
            assert_eq!(refused, Err(code), "{name}");
            let seen = cards.get(&issuer, now[place]).await.unwrap();
            assert_eq!(seen.state, state, "{name}");
        }
        let limits = cards.get(&issuer, now[2]).await.unwrap().limits.clone();
        assert_eq!(
            (limits.per_tap, limits.per_day, limits.pin_above),
            (Some(5_000 * SAT), Some(5 * SAT), Some(2 * SAT))
        );
        assert_eq!(limits.time_zone, "America/Jamaica");
        let tap = base[2].chip.tap();
        let name = format!("{round}/asked");
        assert_eq!(
            world.charge(&name, tap.clone(), 3).await,
            Err("card.pin_required")
        );
        let wrong = ChargeCard {
            price: sat(3),
            pin: Some(pin("0000")),
            ..sale(&format!("{round}/wrong"), tap)
        };
        let refused = cards.charge(&world.merchant.till, wrong).await;
        assert_eq!(told(refused).map(drop), Err("card.wrong_pin"));
        let status = cards.pin_status(&issuer, now[2]).await.unwrap();
        assert_eq!((status.is_set, status.attempts_left), (true, 2 - round));
        let events = world.store.events(0, 1_000).await.unwrap();
        let object = now[3].to_string();
        let came = events
            .iter()
            .find(|event| event.kind == "card.imported" && event.object == object);
        assert_eq!(came.unwrap().body["expires_at_ms"], far_ms);
    }
    // The right one still is, and the day's limit is the line's.
    let unlock = UnlockCardPin {
        key: key("unlock"),
        card: now[2],
    };
    cards.unlock_pin(&issuer, unlock).await.unwrap();
    for (name, code) in [("right", Ok(())), ("limit", Err("card.limit_exceeded"))] {
        let paid = ChargeCard {
            price: sat(3),
            pin: Some(pin("4711")),
            ..sale(name, base[2].chip.tap())
        };
        let paid = told(cards.charge(&world.merchant.till, paid).await).map(drop);
        assert_eq!(paid, code, "{name}");
    }
    world.stop("stopped").await;
}

/// What a card comes over with is nobody's but its holder's: a date that passed while it was in use elsewhere
/// is over, and the money of one that had expired before waits from the day on which it came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ran_out_elsewhere_does_not_break_on_the_day_it_comes() {
    let clock = Arc::new(ManualClock::at(NOON));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let settings = Settings {
        breakage_after_ms: Some(30 * DAY_MS),
        ..Settings::default()
    };
    let builder = Engine::builder(store.clone(), shop::master()).settings(settings);
    let builder = builder.network("regtest").clock(clock.clone());
    let keys = HostKeys::new(HostKey::new([3; 32]));
    let engine = builder.host_keys(keys).open().await.unwrap();
    let world = world_on(store, engine, None).await;
    let mut base = old_base(3);
    world.take_over("base", &rows(&base)).await;
    let here = world.export().await;
    let (cards, issuer) = (world.engine.cards(), world.engine.issuer());
    for (place, days) in [(0, 2), (1, 9), (2, 200)] {
        let command = SetCardExpiry {
            key: key(&format!("until {place}")),
            card: here[&chip(&base[place])].card,
            expires_at_ms: Some(NOON + days * DAY_MS),
        };
        cards.set_expiry(&issuer, command).await.unwrap();
    }
    let pass = async |days: i64| {
        clock.advance(Duration::from_millis((days * DAY_MS).unsigned_abs()));
        let run = world.engine.run_due_jobs().await.unwrap();
        assert_eq!(run.failed, []);
    };
    // One has expired here; another one does so elsewhere; the third has its date still.
    pass(3).await;
    let back = world.all_back("back").await;
    assert_eq!(back.len(), 3);
    pass(90).await;
    let over: Vec<_> = back.values().map(again).collect();
    world.take_over("over", &over).await;
    let here = world.export().await;
    pass(1).await;
    let now = |place: usize| here[&chip(&base[place])].card;
    let seen = async |place: usize| {
        let card = cards.get(&issuer, now(place)).await.unwrap();
        (card.state, card.balance_msat)
    };
    let sats = |place: usize| base[place].row.balance_msat;
    assert_eq!(seen(0).await, (CardState::Expired, sats(0)));
    assert_eq!(seen(1).await, (CardState::Active, sats(1)));
    assert_eq!(seen(2).await, (CardState::Active, sats(2)));
    pass(27).await;
    assert_eq!(seen(0).await.1, sats(0));
    pass(4).await;
    assert_eq!(seen(0).await.0, CardState::Retired);
    let tap = base[1].chip.tap();
    world.charge("sale", tap, 1).await.unwrap();
    world.stop("anew").await;
}
