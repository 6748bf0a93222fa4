//! What an earlier version has written down: its commands are known when they are sent again, and its
//! rows say what they said.

use std::sync::Arc;
use std::time::Duration;

use flashkit::Engine;
use flashkit::access::{Credential, HostKey, HostKeys};
use flashkit::cards::{
    AutoTopUp, CardLimits, CardProgram, CardProgramTerms, CardState, CreateCardProgram, FeeBearer,
    FreezeCard, RenewHolder, ReportLost, SetAutoTopUp, SetCardExpiry, TopUpSource,
};
use flashkit::ids::{BatchId, CardId};
use flashkit::ledger::{Batch, CommandRecord, Json, NewDocument, Step};
use flashkit::money::Asset;
use flashkit::ports::SystemClock;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::imports::{old_base, rows, world_on};
use crate::rolled_back::{DAY_MS, again, chip};
use crate::support::key;
use crate::support::scene::{NOON, told};
use crate::support::shop;

/// The command that makes a program of default terms, as it was written.
const CREATE: &str = r#"{"key":"KEY","name":"Students","terms":{"unit":"BTC","limits":{"per_tap_msat":null,"per_day_msat":null,"max_balance_msat":null,"time_zone":"UTC"},"max_balance_minor_units":null,"fee_bearer":"operator","valid_for_ms":null,"merchants":[],"categories":[],"reward_program":null,"tap_valid_ms":null,"pin":{"above":null,"max_wrong":3},"offline_window_ms":null,"conversion":{"drift":"operator","hold_margin_bps":0,"refund_at":"charge","charge_side":null,"top_up_side":null},"authorization_ms":null}}"#;
/// The command that fills a card in bitcoin up, as it was written.
const FILL_UP: &str = r#"{"key":"KEY","card":"CARD","rule":{"below_msat":1000,"to_msat":2000,"times_per_day":1,"from":{"kind":"outside"}},"source":null}"#;

/// By what an earlier version knew a request: under the key of the books, and in the beginning bare.
fn digests(text: &str) -> [String; 2] {
    let bare = hex::encode(Sha256::digest(text));
    let label: [&[u8]; 2] = [b"flashkit/fingerprint/1/", bare.as_bytes()];
    let (derived, mut keyed) = (hkdf::Hkdf::<Sha256>::new(None, &[7; 32]), [0; 32]);
    derived.expand_multi_info(&label, &mut keyed).unwrap();
    [hex::encode(keyed), bare]
}

struct Old {
    engine: Engine,
    store: Arc<dyn Store>,
    batches: u8,
}

impl Old {
    async fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let engine = shop::engine_on(store.clone(), None).await;
        Self {
            engine,
            store,
            batches: 0,
        }
    }

    /// What an earlier version has committed for a command.
    async fn done(&mut self, by: &Credential, call: &str, known: &str, answer: &Value, put: Step) {
        self.batches += 1;
        let command = CommandRecord {
            scope: format!("{}/{call}", shop::id_of(by)),
            fingerprint: known.to_owned(),
            answer: Json::of(answer).unwrap(),
        };
        let batch = Batch {
            id: BatchId::from_parts(9, [self.batches; 10]),
            command: Some(command),
            steps: vec![put].into(),
        };
        self.store.commit(batch).await.unwrap();
    }
}

fn put(collection: &'static str, id: &str, read_version: i64, body: &Value) -> Step {
    Step::Put(NewDocument {
        collection,
        id: id.to_owned(),
        read_version,
        body: Json::of(body).unwrap(),
        index_keys: Vec::new(),
    })
}

fn create(name: &str, fee_bearer: Option<FeeBearer>) -> CreateCardProgram {
    CreateCardProgram {
        key: key(name),
        name: "Students".to_owned(),
        terms: CardProgramTerms {
            fee_bearer,
            ..CardProgramTerms::default()
        },
    }
}

/// The fee bearer was filled in where nothing was said of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_was_made_before_is_made_once() {
    let mut old = Old::new().await;
    let (engine, issuer) = (old.engine.clone(), old.engine.issuer());
    let programs = engine.cards().programs();
    for (number, name) in ["keyed", "bare"].into_iter().enumerate() {
        let text = CREATE.replace("KEY", name);
        let id = format!("cprog_{number:032x}");
        let terms: Value = serde_json::from_str(&text).unwrap();
        let program = json!({
            "id": id, "name": "Students", "terms": terms["terms"], "created_at_ms": 5,
        });
        let put = put("card_program", &id, 0, &program);
        let (call, known) = (format!("card_programs.create/{name}"), digests(&text));
        old.done(&issuer, &call, &known[number], &program, put)
            .await;
        let done: CardProgram = serde_json::from_value(program).unwrap();
        // To leave it out and to say it was the same.
        for said in [None, Some(FeeBearer::Operator)] {
            let again = told(programs.create(&issuer, create(name, said)).await);
            assert_eq!(again.map(|answer| answer.value).as_ref(), Ok(&done));
        }
        let other = programs.create(&issuer, create(name, Some(FeeBearer::Card)));
        assert_eq!(told(other.await).map(drop), Err("command.key_reused"));
        let named = CreateCardProgram {
            name: "Pupils".to_owned(),
            ..create(name, None)
        };
        let other = programs.create(&issuer, named).await;
        assert_eq!(told(other).map(drop), Err("command.key_reused"));
    }
    // Now it is not the same.
    for (name, first, second) in [
        ("said", Some(FeeBearer::Operator), None),
        ("left out", None, Some(FeeBearer::Operator)),
    ] {
        let name = name.replace(' ', "-");
        let made = programs
            .create(&issuer, create(&name, first))
            .await
            .unwrap();
        let again = programs.create(&issuer, create(&name, first)).await;
        assert_eq!(again.unwrap().id, made.id);
        let other = programs.create(&issuer, create(&name, second)).await;
        assert_eq!(
            told(other).map(drop),
            Err("command.key_reused"),
            "{first:?}, then {second:?}"
        );
    }
    engine.stop().await.unwrap();
}

fn fill_up(name: &str, card: CardId, to: i64) -> SetAutoTopUp {
    SetAutoTopUp {
        key: key(name),
        card,
        rule: Some(AutoTopUp {
            unit: Asset::Btc,
            below: 1_000,
            to,
            times_per_day: 1,
            from: TopUpSource::Outside,
        }),
        source: None,
    }
}

/// The amounts of a rule have other names for cards in a currency, and theirs of before for those in
/// bitcoin: also to whoever reads a card.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_was_set_before_is_set_once_and_read_as_before() {
    let mut old = Old::new().await;
    let (engine, store) = (old.engine.clone(), old.store.clone());
    let held = shop::card(&engine, shop::UID, CardLimits::default()).await;
    let (card, cards) = (held.id.to_string(), engine.cards());
    let text = FILL_UP.replace("CARD", &card);
    let morning = text.replace("below_msat", "below").replace("to_msat", "to");
    for (name, text, at) in [
        ("keyed", &text, 0),
        ("bare", &text, 1),
        ("morning", &morning, 0),
    ] {
        let text = text.replace("KEY", name);
        let found = store.document("card", &card).await.unwrap().unwrap();
        let mut body: Value = found.body.read().unwrap();
        let request: Value = serde_json::from_str(&text).unwrap();
        body["auto_top_up"] = request["rule"].clone();
        let put = put("card", &card, found.version, &body);
        let (call, known) = (format!("cards.set_auto_top_up/{name}"), digests(&text));
        old.done(&held.holder, &call, &known[at], &body, put).await;
        let again = cards.set_auto_top_up(&held.holder, fill_up(name, held.id, 2_000));
        let again = again.await.unwrap();
        assert_eq!(again.auto_top_up, fill_up(name, held.id, 2_000).rule);
        let other = cards.set_auto_top_up(&held.holder, fill_up(name, held.id, 3_000));
        assert_eq!(told(other.await).map(drop), Err("command.key_reused"));
    }
    let set = cards.set_auto_top_up(&held.holder, fill_up("now", held.id, 3_000));
    set.await.unwrap();
    let found = store.document("card", &card).await.unwrap().unwrap();
    let kept = found.body.to_string();
    let rule = r#""auto_top_up":{"below_msat":1000,"to_msat":3000,"times_per_day":1,"#;
    assert!(kept.contains(rule), "{kept}");
    // Of a currency it says which, and is not taken for bitcoin.
    let rule = AutoTopUp {
        unit: "JMD".parse().unwrap(),
        ..fill_up("other", held.id, 2_000).rule.unwrap()
    };
    let written = serde_json::to_string(&rule).unwrap();
    assert!(
        written.starts_with(r#"{"unit":"JMD","below":1000,"to":2000,"#),
        "{written}"
    );
    assert_eq!(serde_json::from_str::<AutoTopUp>(&written).unwrap(), rule);
    let both = written.replace("\"below\":", "\"below_msat\":");
    serde_json::from_str::<AutoTopUp>(&both).unwrap_err();
    let command = SetAutoTopUp {
        rule: Some(rule),
        ..fill_up("other", held.id, 2_000)
    };
    let refused = cards.set_auto_top_up(&held.holder, command).await;
    assert_eq!(told(refused).map(drop), Err("command.out_of_bounds"));
    engine.stop().await.unwrap();
}

/// How a card stood when it went back was not written down: only since when it was stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_went_back_before_comes_over_as_it_was_stopped() {
    let clock = Arc::new(ManualClock::at(NOON));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let builder = Engine::builder(store.clone(), shop::master()).network("regtest");
    let keys = HostKeys::new(HostKey::new([3; 32]));
    let builder = builder.host_keys(keys).clock(clock.clone());
    let world = world_on(store, builder.open().await.unwrap(), None).await;
    let base = old_base(6);
    world.take_over("base", &rows(&base)).await;
    let here = world.export().await;
    let ids: Vec<CardId> = base.iter().map(|card| here[&chip(card)].card).collect();
    let (cards, issuer) = (world.engine.cards(), world.engine.issuer());
    let [lost, until, thawed] = ["lost", "until", "thawed"].map(key);
    for (name, card) in [("frozen", ids[1]), ("first", ids[5])] {
        let key = key(name);
        let command = FreezeCard { key, card };
        cards.freeze(&issuer, command).await.unwrap();
    }
    let command = RenewHolder {
        key: key("holder"),
        card: ids[4],
    };
    let holder = cards.renew_holder(&issuer, command).await.unwrap();
    let freeze = FreezeCard {
        key: thawed,
        card: ids[4],
    };
    cards.freeze(&holder.holder, freeze.clone()).await.unwrap();
    cards.unfreeze(&holder.holder, freeze).await.unwrap();
    let command = ReportLost {
        key: lost,
        card: ids[2],
    };
    cards.report_lost(&issuer, command).await.unwrap();
    let command = SetCardExpiry {
        key: until,
        card: ids[3],
        expires_at_ms: Some(NOON + DAY_MS),
    };
    cards.set_expiry(&issuer, command).await.unwrap();
    clock.advance(Duration::from_millis((2 * DAY_MS).unsigned_abs()));
    assert_eq!(world.engine.run_due_jobs().await.unwrap().failed, []);
    // One that was frozen at once, and given up later.
    let command = ReportLost {
        key: key("given-up"),
        card: ids[5],
    };
    cards.report_lost(&issuer, command).await.unwrap();
    let back = world.all_back("back").await;
    for (place, id) in ids.iter().enumerate() {
        let id = id.to_string();
        let found = world.store.document("card", &id).await.unwrap().unwrap();
        let mut body: Value = found.body.read().unwrap();
        let stood = body.as_object_mut().unwrap().remove("went_back_as");
        assert!(stood.is_some(), "{body}");
        let keys = ["any_chip", "import"].map(|index| {
            let field = if index == "import" { index } else { "chip" };
            (index, body[field].as_str().unwrap().to_owned())
        });
        let Step::Put(put) = put("card", &id, found.version, &body) else {
            unreachable!("it is one");
        };
        let batch = Batch {
            id: BatchId::from_parts(9, [u8::try_from(place).unwrap(); 10]),
            command: None,
            steps: vec![Step::Put(NewDocument {
                index_keys: keys.to_vec(),
                ..put
            })]
            .into(),
        };
        world.store.commit(batch).await.unwrap();
    }
    clock.advance(Duration::from_millis(DAY_MS.unsigned_abs()));
    let over: Vec<_> = back.values().map(again).collect();
    world.take_over("over", &over).await;
    let here = world.export().await;
    let mut states = Vec::new();
    for card in &base {
        let card = cards.get(&issuer, here[&chip(card)].card).await.unwrap();
        states.push(card.state);
    }
    use CardState::{Active, Expired, Frozen, Lost};
    assert_eq!(states, [Active, Frozen, Lost, Expired, Active, Lost]);
    world.stop("before").await;
}
