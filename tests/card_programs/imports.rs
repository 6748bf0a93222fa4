//! A card base of an older server comes over, without a chip being written again.
//!
//! The old server's rows and chips are made here from the bolt card specification, with the crates
//! for AES alone: they share no derivation with the library.

use std::collections::BTreeMap;
use std::sync::Arc;

use aes::Aes128;
use cmac::{Cmac, Mac};
use flashkit::access::{HostKey, HostKeys};
use flashkit::cards::boltcard::IssuerKey;
use flashkit::cards::{
    CardCounter, CardImport, CardLimits, ChargeCard, CreateCardImport, CutOver, ExportedCard,
    FreezeCard, ImportIssuerKey, ImportedCard, IssueCard, LossBearer, OfflineBook, OfflineKey,
    OfflineTerms, ProgrammingKeys, RenewHolder, RowRefusal, SetOfflineTerms, StoppedCard,
    SyncCounters,
};
use flashkit::ids::CardImportId;
use flashkit::ledger::Account;
use flashkit::ports::{Clock, SystemClock};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::{Answer, Engine};

use crate::support::books::expect_sound;
use crate::support::scene::{on_both_stores, told};
use crate::support::shop::{self, Merchant, SAT, sat};
use crate::support::{key, until};

pub const OLD_KEY: [u8; 16] = *b"an older server!";
pub const HIGHEST: u32 = 0x00ff_ffff;

on_both_stores! {
    a_thousand_old_taps_pay;
    a_dry_run_says_what_would_come_over_and_changes_nothing;
    a_cut_over_that_was_broken_off_is_finished_once;
    counters_only_ever_advance;
    a_tap_of_before_is_not_paid_offline;
    what_came_over_goes_back;
    an_import_is_the_issuers_and_needs_a_frozen_one;
}

fn prf(key: &[u8; 16], text: &[u8]) -> [u8; 16] {
    let mut mac = <Cmac<Aes128> as cmac::digest::KeyInit>::new(key.into());
    Mac::update(&mut mac, text);
    mac.finalize().into_bytes().into()
}

/// A card of the old server: its row and its chip.
pub struct OldCard {
    pub row: ImportedCard,
    pub chip: VirtualCard,
}

/// The old server's row and chip of a number, by the specification.
fn old_card(
    uid: [u8; 7],
    version: u32,
    counter: u32,
    pull_payment_id: Option<&str>,
    sats: i64,
) -> OldCard {
    let tagged = |tag: u8, rest: &[u8]| [&[0x2d, 0x00, 0x3f, tag], rest].concat();
    let mut text = tagged(0x75, &uid);
    text.extend(version.to_le_bytes());
    text.extend(pull_payment_id.unwrap_or_default().as_bytes());
    let card_key = prf(&OLD_KEY, &text);
    let derived = |key: &[u8; 16], tag| hex::encode(prf(key, &tagged(tag, &[])));
    let keys = ProgrammingKeys {
        lnurlw: "lnurlw://btcpay.example.com/boltcard".to_owned(),
        version,
        k0: derived(&card_key, 0x76),
        k1: derived(&OLD_KEY, 0x77),
        k2: derived(&card_key, 0x78),
        k3: derived(&card_key, 0x79),
        k4: derived(&card_key, 0x7a),
    };
    let mut chip = VirtualCard::program(&hex::encode(uid), &keys).unwrap();
    chip.set_counter(counter);
    let row = ImportedCard {
        id: Some(hex::encode(prf(&OLD_KEY, &tagged(0x7b, &uid)))),
        uid: None,
        version,
        counter,
        pull_payment_id: pull_payment_id.map(str::to_owned),
        balance_msat: sats * SAT,
    };
    OldCard { row, chip }
}

/// The old server's cards: known by their hash alone, both forms, several versions, counters from
/// the first to the last but one.
pub fn old_base(cards: u32) -> Vec<OldCard> {
    (0..cards)
        .map(|number| {
            let [_, a, b, c] = number.to_be_bytes();
            let counter = match number % 4 {
                0 => 0,
                1 => HIGHEST - 1,
                _ => number * 7,
            };
            let id = format!("pp{number:025}");
            let id = (number % 2 == 0).then_some(id.as_str());
            old_card(
                [4, 9, 9, 9, a, b, c],
                number % 3,
                counter,
                id,
                i64::from(number % 50) + 10,
            )
        })
        .collect()
}

pub struct World {
    pub store: Arc<dyn Store>,
    pub engine: Engine,
    pub merchant: Merchant,
    pub import: CardImportId,
    pub folder: Option<tempfile::TempDir>,
}

fn open_store(folder: Option<&tempfile::TempDir>) -> Arc<dyn Store> {
    let clock = Arc::new(SystemClock);
    match folder {
        Some(folder) => {
            let file = folder.path().join("books.db");
            Arc::new(SqliteStore::open(file, clock).unwrap())
        }
        None => Arc::new(MemoryStore::new(clock)),
    }
}

pub async fn open_engine(store: &Arc<dyn Store>) -> Engine {
    let builder = Engine::builder(store.clone(), shop::master()).network("regtest");
    let keys = HostKeys::new(HostKey::new([3; 32]));
    builder.host_keys(keys).open().await.unwrap()
}

pub fn create(name: &str) -> CreateCardImport {
    CreateCardImport {
        key: key(name),
        name: name.to_owned(),
        issuer_key: IssuerKey::new(OLD_KEY).id(),
        limits: CardLimits {
            per_tap: Some(5_000 * SAT),
            ..CardLimits::default()
        },
        program: None,
    }
}

pub async fn world(is_sqlite: bool) -> World {
    let folder = is_sqlite.then(|| tempfile::tempdir().unwrap());
    let store = open_store(folder.as_ref());
    let engine = open_engine(&store).await;
    world_on(store, engine, folder).await
}

/// The world of an engine.
pub async fn world_on(
    store: Arc<dyn Store>,
    engine: Engine,
    folder: Option<tempfile::TempDir>,
) -> World {
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let early = cards.imports().create(&issuer, create("early")).await;
    assert_eq!(told(early).map(drop), Err("card.issuer_key_missing"));
    let command = ImportIssuerKey {
        key: key("issuer-key"),
        issuer_key: IssuerKey::new(OLD_KEY),
    };
    cards.import_issuer_key(&issuer, command).await.unwrap();
    let imports = cards.imports();
    let import = imports.create(&issuer, create("base")).await.unwrap().id;
    World {
        store,
        engine,
        merchant,
        import,
        folder,
    }
}

impl World {
    pub fn cut_over(&self, name: &str, rows: &[ImportedCard]) -> CutOver {
        CutOver {
            key: key(name),
            import: self.import,
            old_issuer_is_frozen: true,
            cards: rows.to_vec(),
        }
    }

    pub async fn take_over(&self, name: &str, rows: &[ImportedCard]) {
        let (imports, issuer) = (self.engine.cards().imports(), self.engine.issuer());
        let checked = imports.check(&issuer, self.import, rows).await.unwrap();
        let report = imports
            .cut_over(&issuer, self.cut_over(name, rows))
            .await
            .unwrap();
        assert_eq!(checked.value, report.value, "as the dry run said");
        assert!(report.is_clean(), "{:?}", report.refused);
    }

    pub async fn import(&self) -> CardImport {
        let imports = self.engine.cards().imports();
        imports
            .get(&self.engine.issuer(), self.import)
            .await
            .unwrap()
            .value
    }

    /// What of the cards' balances is still with the old issuer, in sats.
    pub async fn with_former_issuer(&self) -> i64 {
        let account = Account::former_issuer();
        let balance = self.store.balance(&account).await.unwrap();
        i64::try_from(balance.posted(account.kind().side())).unwrap() / SAT
    }

    pub async fn charge(&self, name: &str, tap: String, sats: i64) -> Result<(), &'static str> {
        charge(&self.engine, &self.merchant, name, tap, sats).await
    }

    pub async fn export(&self) -> BTreeMap<String, ExportedCard> {
        let (imports, issuer) = (self.engine.cards().imports(), self.engine.issuer());
        let (mut all, mut after) = (BTreeMap::new(), None);
        loop {
            let page = imports
                .export(&issuer, self.import, after, 300)
                .await
                .unwrap();
            let Some(last) = page.last() else { return all };
            after = Some(last.card);
            for card in page.value {
                assert!(all.insert(card.id.clone(), card).is_none());
            }
        }
    }

    pub async fn stop(self, step: &str) {
        expect_sound(&self.engine, step).await;
        let (reports, issuer) = (self.engine.reports(), self.engine.issuer());
        let verdict = reports.verify_journal(&issuer, &[]).await.unwrap();
        assert_eq!(verdict.problems, [], "{step}");
        self.engine.stop().await.unwrap();
    }
}

pub async fn charge(
    engine: &Engine,
    merchant: &Merchant,
    name: &str,
    tap: String,
    sats: i64,
) -> Result<(), &'static str> {
    let command = ChargeCard {
        key: key(name),
        tap,
        price: sat(sats),
        reference: String::new(),
        pin: None,
    };
    // Each as from a reader of its own: forged taps of one would stop all.
    let cards = engine.cards().from_source(name);
    told(cards.charge(&merchant.till, command).await).map(drop)
}

pub fn rows(base: &[OldCard]) -> Vec<ImportedCard> {
    base.iter().map(|card| card.row.clone()).collect()
}

pub fn sum(base: &[OldCard]) -> i64 {
    base.iter().map(|card| card.row.balance_msat / SAT).sum()
}

async fn a_thousand_old_taps_pay(is_sqlite: bool) {
    let world = world(is_sqlite).await;
    let mut base = old_base(1_000);
    let all = sum(&base);
    world.take_over("base", &rows(&base)).await;
    assert_eq!(world.with_former_issuer().await, all);
    let import = world.import().await;
    assert_eq!((import.cards, import.balance_msat), (1_000, all * SAT));

    let mut work = tokio::task::JoinSet::new();
    for (number, card) in base.iter_mut().enumerate() {
        let (old, new) = match card.row.counter {
            0 => (None, card.chip.tap()),
            counter => {
                // What the old server has seen.
                card.chip.set_counter(counter - 1);
                (Some(card.chip.tap()), card.chip.tap())
            }
        };
        let till = Merchant {
            id: world.merchant.id,
            till: world.merchant.till.clone(),
        };
        let (engine, has) = (world.engine.clone(), card.row.balance_msat / SAT);
        work.spawn(async move {
            if let Some(old) = old {
                let refused = charge(&engine, &till, &format!("{number}/old"), old, 1).await;
                assert_eq!(refused, Err("card.tap_replayed"));
            }
            let much = charge(
                &engine,
                &till,
                &format!("{number}/much"),
                new.clone(),
                has + 1,
            )
            .await;
            assert_eq!(much, Err("card.insufficient_funds"));
            charge(&engine, &till, &format!("{number}/all"), new.clone(), has)
                .await
                .unwrap();
            let again = charge(&engine, &till, &format!("{number}/again"), new, 1).await;
            assert_eq!(again, Err("card.tap_replayed"));
        });
    }
    while let Some(done) = work.join_next().await {
        done.unwrap();
    }
    let account = Account::merchant_payable(world.merchant.id);
    let balance = world.store.balance(&account).await.unwrap();
    let payable = balance.posted(account.kind().side());
    assert_eq!(payable, i128::from(all * SAT), "every sat of every card");
    for card in world.export().await.values() {
        assert_eq!((card.balance_msat, card.held_msat), (0, 0));
    }
    world.stop("a thousand taps").await;
}

async fn a_dry_run_says_what_would_come_over_and_changes_nothing(is_sqlite: bool) {
    let world = world(is_sqlite).await;
    let (cards, issuer) = (world.engine.cards(), world.engine.issuer());
    let base = old_base(10);
    world.take_over("first", &rows(&base[..1])).await;
    let uid = [4, 1, 1, 1, 1, 1, 1];
    let good = old_card(uid, 2, 3, None, 7).row;
    let with_uid = ImportedCard {
        uid: Some(hex::encode_upper(uid)),
        ..good.clone()
    };
    let by_uid = ImportedCard {
        id: None,
        uid: Some(hex::encode([4, 1, 1, 1, 1, 1, 2])),
        ..good.clone()
    };
    let but = |change: fn(&mut ImportedCard)| {
        let mut row = base[5].row.clone();
        change(&mut row);
        row
    };
    let given = [
        with_uid.clone(),
        by_uid,
        base[0].row.clone(),
        good,
        but(|row| row.id = None),
        but(|row| row.id = Some("00".repeat(15))),
        but(|row| row.uid = Some("04".to_owned())),
        but(|row| row.uid = Some("04000000000000".to_owned())),
        but(|row| row.counter = HIGHEST + 1),
        but(|row| row.pull_payment_id = Some("x".repeat(101))),
        but(|row| row.balance_msat = -1),
        but(|row| row.balance_msat = i64::MAX),
        but(|row| row.counter = HIGHEST),
        but(|row| row.id = row.id.as_ref().map(|id| id.to_uppercase())),
    ];
    let events = world.store.events(0, 1_000).await.unwrap().len();
    let imports = cards.imports();
    let report = imports
        .check(&issuer, world.import, &given)
        .await
        .unwrap()
        .value;
    assert_eq!(world.store.events(0, 1_000).await.unwrap().len(), events);
    let refused: Vec<_> = report
        .refused
        .iter()
        .map(|refused| (refused.row, &refused.refusal))
        .collect();
    let taken = world
        .export()
        .await
        .into_values()
        .next()
        .unwrap()
        .card
        .to_string();
    let taken = RowRefusal::AlreadyIssued { card: taken };
    assert_eq!(
        refused,
        [
            (2, &taken),
            (3, &RowRefusal::Duplicate { row: 0 }),
            (4, &RowRefusal::BadId),
            (5, &RowRefusal::BadId),
            (6, &RowRefusal::BadId),
            (7, &RowRefusal::IdMismatch),
            (8, &RowRefusal::BadCounter),
            (9, &RowRefusal::BadPullPaymentId),
            (10, &RowRefusal::BadBalance),
            (11, &RowRefusal::BadBalance),
            (13, &RowRefusal::Duplicate { row: 12 }),
        ]
    );
    assert!(!report.is_clean());
    assert_eq!((report.rows, report.cards), (14, 3));
    let fifteenth = base[5].row.balance_msat;
    assert_eq!(report.cards_msat, 2 * 7 * SAT + fifteenth);
    assert_eq!(report.rows_msat, i64::MAX, "at most");
    assert_eq!(report.counters, 3 + 3 + u64::from(HIGHEST));
    // The cut-over says the same, and takes over what can be.
    let done = imports
        .cut_over(&issuer, world.cut_over("all", &given))
        .await
        .unwrap();
    assert_eq!(done.value, report);
    assert_eq!(world.export().await.len(), 4);
    world.stop("a dry run").await;
}

async fn a_cut_over_that_was_broken_off_is_finished_once(is_sqlite: bool) {
    let mut world = world(is_sqlite).await;
    let base = old_base(2_000);
    let command = world.cut_over("base", &rows(&base));
    let (imports, issuer) = (world.engine.cards().imports(), world.engine.issuer());
    if let Some(folder) = &world.folder {
        let (running, asked) = (imports.clone(), command.clone());
        let (by, import) = (issuer.clone(), world.import);
        let broken = tokio::spawn(async move { running.cut_over(&by, asked).await });
        until("a piece came over", || async {
            imports.get(&issuer, import).await.unwrap().cards > 0
        })
        .await;
        world.store.close().await.unwrap();
        assert_eq!(told(broken.await.unwrap()).map(drop), Err("store.closed"));
        world.store = open_store(Some(folder));
        world.engine = open_engine(&world.store).await;
        let cards = world.import().await.cards;
        assert!((1..2_000).contains(&cards), "{cards} came over before");
        assert_eq!(cards % 200, 0, "whole pieces");
    } else {
        // Two that do it at once come to the same end.
        let (running, asked, by) = (imports.clone(), command.clone(), issuer.clone());
        let other = tokio::spawn(async move { running.cut_over(&by, asked).await });
        imports.cut_over(&issuer, command.clone()).await.unwrap();
        other.await.unwrap().unwrap();
    }
    let imports = world.engine.cards().imports();
    let report = imports.cut_over(&issuer, command.clone()).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.refused.first());
    let again = imports.cut_over(&issuer, command.clone()).await.unwrap();
    assert_eq!(again.value, report.value);
    let import = world.import().await;
    assert_eq!(
        (import.cards, import.balance_msat / SAT),
        (2_000, sum(&base))
    );
    assert_eq!(world.with_former_issuer().await, sum(&base));
    let exported = world.export().await;
    assert_eq!(exported.len(), 2_000);
    for card in &base {
        let found = &exported[card.row.id.as_ref().unwrap()];
        assert_eq!(
            (found.balance_msat, found.counter),
            (card.row.balance_msat, card.row.counter)
        );
    }
    // The same key with other rows is another request.
    let mut other = command;
    other.cards.truncate(1_999);
    let refused = told(imports.cut_over(&issuer, other).await).map(drop);
    assert_eq!(refused, Err("command.key_reused"));
    world.stop("broken off").await;
}

async fn counters_only_ever_advance(is_sqlite: bool) {
    let world = world(is_sqlite).await;
    let mut base = old_base(8);
    world.take_over("base", &rows(&base)).await;
    let (imports, issuer) = (world.engine.cards().imports(), world.engine.issuer());
    let counter = |card: &OldCard, counter| CardCounter {
        id: card.row.id.clone().unwrap().to_uppercase(),
        version: card.row.version,
        counter,
    };
    let sync = |name: &str, counters: Vec<CardCounter>| SyncCounters {
        key: key(name),
        import: world.import,
        counters,
    };
    // A tap of before the end of the old server, that nobody has used here yet.
    base[2].chip.set_counter(17);
    let old = base[2].chip.tap();
    let stranger = CardCounter {
        id: "ab".repeat(16),
        version: 0,
        counter: 1,
    };
    let otherwise = CardCounter {
        version: 9,
        ..counter(&base[3], 99)
    };
    let given = vec![
        counter(&base[0], 5),
        counter(&base[2], 20),
        counter(&base[2], 19),
        counter(&base[2], 21),
        counter(&base[6], 41),
        counter(&base[7], 49),
        counter(&base[7], HIGHEST + 1),
        stranger,
        otherwise,
    ];
    let report = imports
        .sync_counters(&issuer, sync("end", given.clone()))
        .await
        .unwrap();
    let moved: Vec<_> = report
        .moved
        .iter()
        .map(|moved| (moved.from, moved.to))
        .collect();
    assert_eq!(moved, [(0, 5), (14, 20), (20, 21)]);
    assert_eq!((report.rows, report.kept), (9, 3));
    let refused: Vec<_> = report
        .refused
        .iter()
        .map(|refused| (refused.row, &refused.refusal))
        .collect();
    let version = base[3].row.version;
    assert_eq!(
        refused,
        [
            (6, &RowRefusal::BadCounter),
            (7, &RowRefusal::NotImported),
            (8, &RowRefusal::OtherVersion { version }),
        ]
    );
    assert_eq!(
        imports
            .sync_counters(&issuer, sync("end", given))
            .await
            .unwrap(),
        report
    );
    assert_eq!(world.charge("old", old, 1).await, Err("card.tap_replayed"));
    base[2].chip.set_counter(21);
    let tap = base[2].chip.tap();
    world.charge("new", tap, 1).await.unwrap();
    // Nothing takes that back.
    let back = sync("back", vec![counter(&base[2], 1), counter(&base[2], 22)]);
    let report = imports.sync_counters(&issuer, back).await.unwrap();
    assert_eq!((report.moved.len(), report.kept), (0, 2));
    // The last counter there is: no tap after it, and none before it.
    let last = sync("last", vec![counter(&base[0], HIGHEST)]);
    imports.sync_counters(&issuer, last).await.unwrap();
    for at in [0, 7, HIGHEST - 1] {
        base[0].chip.set_counter(at);
        let tap = base[0].chip.tap();
        let refused = world.charge(&format!("last/{at}"), tap, 1).await;
        assert_eq!(refused, Err("card.tap_replayed"));
    }
    assert_eq!(
        world.export().await[base[0].row.id.as_ref().unwrap()].counter,
        HIGHEST
    );
    // Races with taps end with the highest.
    let mut work = tokio::task::JoinSet::new();
    base[4].chip.set_counter(0);
    for number in 1..=20 {
        let (imports, issuer) = (imports.clone(), issuer.clone());
        let command = sync(&format!("race/{number}"), vec![counter(&base[4], number)]);
        work.spawn(async move {
            imports.sync_counters(&issuer, command).await.unwrap();
        });
    }
    for number in 0..10 {
        let tap = base[4].chip.tap();
        let _ = world.charge(&format!("race/{number}"), tap, 1).await;
    }
    while let Some(done) = work.join_next().await {
        done.unwrap();
    }
    let end = world.export().await[base[4].row.id.as_ref().unwrap()].counter;
    assert_eq!(end, 20);
    world.stop("counters").await;
}

/// What the old server has seen is used up, also for a till that took it offline: whether the
/// counter was moved by the sync, or stood higher here already.
async fn a_tap_of_before_is_not_paid_offline(is_sqlite: bool) {
    let world = world(is_sqlite).await;
    let mut base = old_base(8);
    world.take_over("base", &rows(&base)).await;
    let (cards, issuer, till) = (
        world.engine.cards(),
        world.engine.issuer(),
        &world.merchant.till,
    );
    // 14 and 42 came over. One is tapped here before the sync.
    let mut tap_at = |place: usize, counter: u32| {
        base[place].chip.set_counter(counter - 1);
        base[place].chip.tap()
    };
    let (moved, kept) = (tap_at(2, 17), tap_at(6, 45));
    let (new, other_new) = (tap_at(2, 22), tap_at(6, 51));
    world.charge("here", tap_at(6, 50), 1).await.unwrap();
    let counters = [(2, 20), (6, 48)].map(|(place, counter): (usize, u32)| CardCounter {
        id: base[place].row.id.clone().unwrap(),
        version: base[place].row.version,
        counter,
    });
    let command = SyncCounters {
        key: key("end"),
        import: world.import,
        counters: counters.to_vec(),
    };
    let report = cards
        .imports()
        .sync_counters(&issuer, command)
        .await
        .unwrap();
    assert_eq!((report.moved.len(), report.kept), (1, 1));
    let command = SetOfflineTerms {
        key: key("terms"),
        merchant: world.merchant.id,
        till: None,
        terms: Some(OfflineTerms {
            per_tap_msat: 100 * SAT,
            per_day_msat: 1_000 * SAT,
            window_ms: 3_600_000,
            loss: LossBearer::Operator,
            stopped_card: StoppedCard::Loss,
        }),
    };
    cards.set_offline_terms(&issuer, command).await.unwrap();
    let secret = OfflineKey::new([5; 32]).unwrap();
    let command = secret.enroll(shop::id_of(till), key("enroll")).unwrap();
    let enrolled = cards.enroll_offline_key(till, command).await.unwrap();
    let mut book = OfflineBook::new(&enrolled).unwrap();
    for tap in [moved, kept, new, other_new] {
        book.accept(&tap, SAT, "offline", SystemClock.now_ms())
            .unwrap();
    }
    let envelope = book.envelope(&secret).unwrap().unwrap();
    let outcomes = cards.replay_offline(till, envelope).await.unwrap();
    let told: Vec<_> = outcomes
        .iter()
        .map(|outcome| (outcome.paid_msat / SAT, outcome.reason.as_deref()))
        .collect();
    let replayed = (0, Some("card.tap_replayed"));
    assert_eq!(told, [replayed, replayed, (1, None), (1, None)]);
    world.stop("offline").await;
}

async fn what_came_over_goes_back(is_sqlite: bool) {
    let world = world(is_sqlite).await;
    let mut base = old_base(700);
    world.take_over("base", &rows(&base)).await;
    let back = |exported: &BTreeMap<String, ExportedCard>| {
        let rows = exported.values().map(|card| ImportedCard {
            id: Some(card.id.clone()),
            uid: None,
            version: card.version,
            counter: card.counter,
            pull_payment_id: card.pull_payment_id.clone(),
            balance_msat: card.balance_msat,
        });
        rows.collect::<Vec<_>>()
    };
    let mut expected = rows(&base);
    expected.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(back(&world.export().await), expected, "as it came");

    let tap = base[699].chip.tap();
    world.charge("sale", tap, 3).await.unwrap();
    let exported = world.export().await;
    let card = &exported[base[699].row.id.as_ref().unwrap()];
    assert_eq!(card.counter, base[699].row.counter + 1);
    assert_eq!(card.balance_msat, base[699].row.balance_msat - 3 * SAT);
    // Its holder gets a credential, and can freeze it.
    let (cards, issuer) = (world.engine.cards(), world.engine.issuer());
    let renew = RenewHolder {
        key: key("holder"),
        card: card.card,
    };
    let holder = cards
        .renew_holder(&issuer, renew)
        .await
        .unwrap()
        .holder
        .clone();
    let freeze = FreezeCard {
        key: key("freeze"),
        card: card.card,
    };
    cards.freeze(&holder, freeze).await.unwrap();
    let tap = base[699].chip.tap();
    assert_eq!(world.charge("frozen", tap, 1).await, Err("card.frozen"));
    assert_eq!(
        cards.get(&holder, card.card).await.unwrap().limits,
        create("base").limits
    );
    // Its keys are not told to anybody any more: it is in somebody's hand.
    let uid = hex::encode([4, 9, 9, 9, 0, 2, 187]);
    let told = cards.programming_keys(&issuer, &uid).await.map(drop);
    assert_eq!(told.unwrap_err().code(), "card.keys_withheld");
    world.stop("back").await;
}

async fn an_import_is_the_issuers_and_needs_a_frozen_one(is_sqlite: bool) {
    let world = world(is_sqlite).await;
    let (cards, issuer) = (world.engine.cards(), world.engine.issuer());
    let imports = cards.imports();
    let base = rows(&old_base(2));
    let not_frozen = CutOver {
        old_issuer_is_frozen: false,
        ..world.cut_over("not", &base)
    };
    let refused = told(imports.cut_over(&issuer, not_frozen).await).map(drop);
    assert_eq!(refused, Err("card.old_issuer_not_frozen"));
    let sync = SyncCounters {
        key: key("sync"),
        import: world.import,
        counters: Vec::new(),
    };
    let till = &world.merchant.till;
    fn code<T>(answer: Result<Answer<T>, flashkit::Error>) -> Option<&'static str> {
        told(answer).err()
    }
    for refused in [
        code(imports.create(till, create("x")).await),
        code(imports.get(till, world.import).await),
        code(imports.check(till, world.import, &base).await),
        code(imports.cut_over(till, world.cut_over("x", &base)).await),
        code(imports.sync_counters(till, sync.clone()).await),
        code(imports.export(till, world.import, None, 1).await),
    ] {
        assert_eq!(refused, Some("access.not_allowed"));
    }
    let import = CardImportId::from_parts(1, [1; 10]);
    let nowhere = CutOver {
        import,
        ..world.cut_over("x", &base)
    };
    for refused in [
        code(imports.get(&issuer, import).await),
        code(imports.check(&issuer, import, &base).await),
        code(imports.cut_over(&issuer, nowhere).await),
        code(
            imports
                .sync_counters(&issuer, SyncCounters { import, ..sync })
                .await,
        ),
    ] {
        assert_eq!(refused, Some("card.import_not_found"));
    }
    // A chip that came over is not issued again under the same key, nor by another import.
    world.take_over("base", &base).await;
    let other = imports.create(&issuer, create("other")).await.unwrap().id;
    let report = imports.check(&issuer, other, &base).await.unwrap();
    assert_eq!((report.cards, report.refused.len()), (0, 2));
    let again = IssueCard {
        key: key("again"),
        uid: "04090909000000".to_owned(),
        existing_chip: Some(flashkit::cards::ExistingChip {
            pull_payment_id: None,
            version: 1,
            counter: 0,
            issuer_key: Some(IssuerKey::new(OLD_KEY).id()),
        }),
        limits: CardLimits::default(),
        program: None,
    };
    assert_eq!(
        code(cards.issue(&issuer, again).await),
        Some("card.already_issued")
    );
    world.stop("whose").await;
}
