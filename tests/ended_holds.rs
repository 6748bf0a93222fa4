//! A hold that has ended stands in nobody's way, whether or not anybody has noticed.
#![cfg(feature = "sqlite")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{CardLimits, ChargeCard, ChargeState};
use flashkit::ids::{BatchId, CardId, TransferId};
use flashkit::ledger::{
    Account, Batch, DueJob, MOST_DUE_RELEASES, NewHold, NewTransfer, Step, TransferKind,
    UsageWindow,
};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{CommitError, MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use flashkit::{Engine, Settings};
use support::scene::{DAY, NOON, Scene};
use support::shop::{self, SAT, sat};

const NOW_MS: i64 = 1_700_000_000_000;
const HOUR_MS: i64 = 3_600_000;

fn card() -> Account {
    Account::card_balance(CardId::from_parts(1, [1; 10]))
}

fn transfer(number: u8, debit: Account, credit: Account, amount: i64) -> NewTransfer {
    NewTransfer {
        id: TransferId::from_parts(9, [number; 10]),
        debit,
        credit,
        amount,
        kind: TransferKind::Charge,
        reference: "test".to_owned(),
        credit_ceiling: None,
    }
}

fn for_a_second(transfer: NewTransfer, usage: Vec<UsageWindow>) -> Step {
    Step::Hold(NewHold {
        transfer,
        expires_at_ms: Some(NOW_MS + 1_000),
        usage,
    })
}

async fn commit(store: &dyn Store, number: u8, steps: Vec<Step>) -> Result<(), CommitError> {
    let id = BatchId::from_parts(9, [number; 10]);
    let command = None;
    store
        .commit(Batch {
            id,
            command,
            steps: steps.into(),
        })
        .await
        .map(drop)
}

/// Empty books in memory and in a file, each with a clock of its own.
fn both_stores(folder: &Path) -> [(Arc<ManualClock>, Arc<dyn Store>); 2] {
    let clocks = [(); 2].map(|()| Arc::new(ManualClock::at(NOW_MS)));
    let memory = MemoryStore::new(clocks[0].clone());
    let file = SqliteStore::open(folder.join("books.db"), clocks[1].clone()).unwrap();
    let [of_memory, of_file] = clocks;
    [(of_memory, Arc::new(memory)), (of_file, Arc::new(file))]
}

/// Both stores, an hour later each time.
async fn an_hour_later(before: Vec<Step>, after: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    for (clock, store) in both_stores(folder.path()) {
        commit(&*store, 1, before.clone()).await.unwrap();
        let too_early = commit(&*store, 2, after.clone()).await;
        assert!(matches!(too_early, Err(CommitError::Refused(_))));
        clock.set(NOW_MS + HOUR_MS);
        commit(&*store, 3, after.clone()).await.unwrap();
        store.close().await.unwrap();
    }
}

/// An authorisation had used up the whole day's limit. A charge counts its usage before it debits
/// the card.
#[tokio::test]
async fn its_usage_is_given_back_before_a_limit_is_looked_at() {
    let day = UsageWindow {
        subject: "card/spent/day".to_owned(),
        start_ms: NOW_MS,
        end_ms: NOW_MS + 24 * HOUR_MS,
    };
    let used = |amount| Step::Use {
        window: day.clone(),
        amount,
        limit: 100,
    };
    let income = Account::fee_income();
    let before = vec![
        Step::Transfer(transfer(1, Account::node_channels(), card(), 1_000)),
        used(100),
        for_a_second(transfer(2, card(), income, 100), vec![day.clone()]),
    ];
    let after = vec![used(50), Step::Transfer(transfer(3, card(), income, 50))];
    an_hour_later(before, after).await;
}

/// What was to come to a card had taken all its room.
#[tokio::test]
async fn it_takes_no_room_below_a_ceiling() {
    let capped = |number, amount| NewTransfer {
        credit_ceiling: Some(100),
        ..transfer(number, Account::node_channels(), card(), amount)
    };
    let before = vec![for_a_second(capped(1, 100), Vec::new())];
    an_hour_later(before, vec![Step::Transfer(capped(2, 50))]).await;
}

/// All of them at once, and more than fit on a page: what a commit would give back is counted.
#[tokio::test]
async fn thousands_are_counted_as_given_back() {
    let (income, many) = (Account::fee_income(), 1_500_u16);
    let id = |number: u16| {
        let mut random = [0; 10];
        random[..2].copy_from_slice(&number.to_be_bytes());
        TransferId::from_parts(9, random)
    };
    let hold = |number| NewTransfer {
        id: id(number),
        ..transfer(0, card(), income, 1)
    };
    let fund = transfer(255, Account::node_channels(), card(), i64::from(many));
    let holds = (0..many).map(|number| for_a_second(hold(number), Vec::new()));
    let before: Vec<_> = std::iter::once(Step::Transfer(fund)).chain(holds).collect();
    let folder = tempfile::tempdir().unwrap();
    for (clock, store) in both_stores(folder.path()) {
        commit(&*store, 1, before.clone()).await.unwrap();
        let left = async |at_ms| {
            let standing = store.standing(&card(), at_ms, &[]).await.unwrap();
            assert!(standing.ended.len() <= MOST_DUE_RELEASES);
            let (balance, _) = standing.given_back(&card(), &[]);
            balance.available(card().kind().side())
        };
        assert_eq!(left(NOW_MS).await, 0);
        clock.set(NOW_MS + HOUR_MS);
        assert_eq!(left(NOW_MS + HOUR_MS).await, i128::from(many));
        let all = transfer(254, card(), income, i64::from(many));
        commit(&*store, 2, vec![Step::Transfer(all)]).await.unwrap();
        store.close().await.unwrap();
    }
}

/// An authorisation had used up the week's limit, and its time is over; the shop was closed, so that
/// no job has run. Whoever looks at the card is told what a charge would find.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_looks_sees_its_usage_given_back() {
    let limits = CardLimits {
        per_week: Some(100 * SAT),
        ..CardLimits::default()
    };
    let mut scene = Scene::new(true, limits).await;
    scene.authorize("tab", 100).await.unwrap();
    scene.engine().stop().await.unwrap();

    let clock = Arc::new(ManualClock::at(NOON + 1_000));
    let file = scene.folder.as_ref().unwrap().path().join("books.db");
    let store = Arc::new(SqliteStore::open(file, clock.clone()).unwrap());
    let engine = Engine::builder(store.clone(), shop::master())
        .network("regtest")
        .settings(Settings::default())
        .clock(clock.clone());
    // Not started: its jobs do not run.
    let engine = engine.open().await.unwrap();
    let cards = engine.cards();
    let seen = async |tap: String| {
        let used = cards.peek(&tap).await.unwrap().value.usage[0].used;
        let request = LnurlRequest {
            url: tap,
            till: None,
            source: None,
        };
        let offer = cards.answer(&request).await;
        assert_eq!(offer.status, 200, "{}", offer.body);
        let offer: serde_json::Value = serde_json::from_str(&offer.body).unwrap();
        (used, offer["maxWithdrawable"].as_i64().unwrap())
    };
    assert_eq!(seen(scene.card.chip.tap()).await, (100 * SAT, 0));
    clock.advance(DAY);
    // Less what the route of a payment may cost: 0.5 % and 10 sats, rounded to sats.
    assert_eq!(seen(scene.card.chip.tap()).await, (0, 89_000));
    let charge = ChargeCard {
        key: support::key("all"),
        tap: scene.card.chip.tap(),
        price: sat(100),
        reference: String::new(),
        pin: None,
    };
    cards.charge(&scene.merchant.till, charge).await.unwrap();
    engine.stop().await.unwrap();
}

/// The date was set to four years ahead, something was sold, and the date was set right. The books
/// are ahead for good, and everything in them ends as it should.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_that_were_taken_ahead_go_on() {
    for is_sqlite in [false, true] {
        let limits = CardLimits {
            per_day: Some(100 * SAT),
            ..CardLimits::default()
        };
        let mut scene = Scene::new(is_sqlite, limits).await;
        let said = |scene: &Scene| scene.engine().health().clock.map(|clock| clock.code);
        scene.clock.jump(NOON + 4 * 365 * 24 * HOUR_MS);
        scene.charge("not believed", 10).await.unwrap();
        assert_eq!(said(&scene).as_deref(), Some("store.clock_ahead"));
        assert_eq!(
            scene
                .store
                .commits(0, 1_000)
                .await
                .unwrap()
                .last()
                .unwrap()
                .at_ms,
            NOON
        );
        scene.clock.advance(Duration::from_secs(660));
        let tab = scene.authorize("tab", 90).await.unwrap();
        assert!(tab.expires_at_ms > Some(NOON + 4 * 365 * 24 * HOUR_MS));
        assert_eq!(said(&scene), None);

        scene.clock.jump(NOON + HOUR_MS);
        assert_eq!(
            scene.charge("used up", 20).await,
            Err("card.limit_exceeded")
        );
        let clock = scene.engine().health().clock.unwrap();
        assert_eq!(
            (clock.code.as_str(), clock.writes_waiting),
            ("store.clock_behind", 0)
        );
        assert!(!scene.engine().health().is_good());
        assert_eq!(scene.balance().await, 50_000 - 100);
        // A day by the time of the books, and its job comes with it.
        scene.clock.advance(DAY + DAY / 6);
        scene.engine().run_due_jobs().await.unwrap();
        support::until("the authorisation has ended", async || {
            let cards = scene.engine().cards();
            let tab = cards
                .get_charge(&scene.merchant.till, tab.id)
                .await
                .unwrap();
            let open = scene
                .store
                .standing(&card_of(&scene), 0, &[])
                .await
                .unwrap();
            tab.state == ChargeState::Expired && open.balance.debits_pending == 0
        })
        .await;
        assert_eq!(scene.balance().await, 50_000 - 10);
        scene.charge("renewed", 100).await.unwrap();
        assert_eq!(said(&scene).as_deref(), Some("store.clock_behind"));
        scene.stop("ahead").await;
    }
}

/// What a clock that was far ahead has put off is due last, and looked at all the same, however many
/// jobs of its kind are due before.
#[tokio::test]
async fn what_is_due_last_is_looked_at_however_much_is_due_before() {
    // The first commit is an hour ahead of what the clock says then.
    let clock = Arc::new(ManualClock::at(NOW_MS + HOUR_MS));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let due = |number: i64, due_at_ms| {
        Step::Due(DueJob {
            kind: "invoice.expire".to_owned(),
            // That it was looked at is told by its being no invoice.
            object: format!("no invoice {number}"),
            due_at_ms,
        })
    };
    let mut jobs: Vec<Step> = (0..2_500)
        .map(|number| due(number, NOW_MS + 24 * HOUR_MS + number))
        .collect();
    jobs.push(due(2_500, NOW_MS + 4 * 365 * 24 * HOUR_MS));
    commit(&*store, 1, jobs).await.unwrap();
    clock.jump(NOW_MS);
    let engine = Engine::builder(store, shop::master())
        .network("regtest")
        .clock(clock)
        .open()
        .await
        .unwrap();
    let run = engine.run_due_jobs().await.unwrap();
    let looked_at = |number: i64| {
        let name = format!("invoice.expire no invoice {number}");
        run.failed.iter().any(|(job, _)| *job == name)
    };
    assert!(looked_at(0));
    assert!(looked_at(2_500));
}

fn card_of(scene: &Scene) -> Account {
    Account::card_balance(scene.card.id)
}
