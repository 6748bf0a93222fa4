//! Several issuer keys: each card keeps its own, new ones get the current one.

use std::sync::Arc;

use flashkit::access::{HostKey, HostKeys};
use flashkit::cards::boltcard::{
    IssuerKey, IssuerKeyRing, KeyDerivation, TapError, TapUrl, decrypt_picc,
};
use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{
    ActivateCard, CardLimits, ChargeCard, CreateCardImport, CutOver, ExistingChip, ImportIssuerKey,
    ImportedCard, IssueCard, IssueCards, IssuerKeyOrigin, Pin, ProgrammingKeys, RetireCard,
    RetireTo, RotateIssuerKey, SetCardPin, WipeCard,
};
use flashkit::ports::SystemClock;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::{Engine, MasterSecret};
use proptest::prelude::*;

use crate::support::scene::told;
use crate::support::{key, shop};

fn keys_of(
    issuer: &IssuerKey,
    uid: &[u8; 7],
    version: u32,
    form: &KeyDerivation,
) -> ProgrammingKeys {
    let keys = issuer.card_keys(uid, version, form);
    ProgrammingKeys {
        lnurlw: "lnurlw://old.example.com/boltcard".to_owned(),
        version,
        k0: keys.k0.to_hex(),
        k1: keys.k1.to_hex(),
        k2: keys.k2.to_hex(),
        k3: keys.k3.to_hex(),
        k4: keys.k4.to_hex(),
    }
}

fn numbered(number: u16) -> IssuerKey {
    let [high, low] = number.to_be_bytes();
    IssuerKey::new([high, low, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9])
}

proptest! {
    /// Any chip of any of many keys is found, in both forms, and with no other key.
    #[test]
    fn a_tap_is_of_one_key_of_many(
        uid: [u8; 7], place in 0..100_u16, counter in 0..0x00ff_ffff_u32, version: u32, is_old: bool,
    ) {
        let ring = IssuerKeyRing::new((0..100).map(numbered));
        let pull_payment_id = is_old.then(|| "fUDXsnySxvb5LYZ1bSLiWzLjVuT".to_owned());
        let form = match &pull_payment_id {
            Some(id) => KeyDerivation::BtcPay { pull_payment_id: id.clone() },
            None => KeyDerivation::Standard,
        };
        let keys = keys_of(&numbered(place), &uid, version, &form);
        let mut chip = VirtualCard::program(&hex::encode(uid), &keys).unwrap();
        chip.set_counter(counter);
        let tap = TapUrl::parse(&chip.tap()).unwrap();
        let right: Vec<_> = ring.open(tap.p()).filter(|opened| {
            opened.key.verify(&opened.picc, version, pull_payment_id.as_deref(), &tap).is_ok()
        }).collect();
        prop_assert_eq!(right.len(), 1);
        prop_assert_eq!(right[0].key.id(), numbered(place).id());
        prop_assert_eq!((right[0].picc.uid, right[0].picc.counter), (uid, counter + 1));
        prop_assert_eq!(
            right[0].key.card_id_hash(&uid), numbered(place).card_id_hash(&uid)
        );
        // Another version, and the other form, are refused.
        let wrong = Err(TapError::WrongMac);
        let opened = &right[0];
        let other = version.wrapping_add(1);
        prop_assert_eq!(
            opened.key.verify(&opened.picc, other, pull_payment_id.as_deref(), &tap), wrong
        );
        let form = pull_payment_id.is_none().then_some("fUDXsnySxvb5LYZ1bSLiWzLjVuT");
        prop_assert_eq!(opened.key.verify(&opened.picc, version, form, &tap), wrong);
    }
}

#[test]
fn a_key_has_a_name_that_is_not_the_key() {
    let one = numbered(1);
    assert_ne!(one.id(), numbered(2).id());
    assert_eq!(one.id().to_string().parse(), Ok(one.id()));
    let ring = IssuerKeyRing::new([one.clone(), numbered(2), one.clone()]);
    assert_eq!(ring.keys().len(), 2);
    let secret = serde_json::to_value(&one).unwrap();
    let print = format!("{one:?} {ring:?} {}", one.id());
    assert!(!print.contains(secret.as_str().unwrap()));
    assert_eq!(serde_json::from_value::<IssuerKey>(secret).unwrap(), one);
    for wrong in [
        "",
        "00",
        "0001090909090909090909090909090G",
        "00010909090909090909090909090909AA",
    ] {
        assert!(serde_json::from_value::<IssuerKey>(wrong.into()).is_err());
    }
}

fn host_keys() -> HostKeys {
    HostKeys::new(HostKey::new([8; 32]))
}

async fn engine(store: &Arc<dyn Store>, host_keys: Option<HostKeys>) -> Engine {
    let mut builder = Engine::builder(store.clone(), shop::master()).network("regtest");
    if let Some(keys) = host_keys {
        builder = builder.host_keys(keys);
    }
    builder.open().await.unwrap()
}

/// Everything that the store has, as text.
async fn all_that_is_stored(store: &dyn Store) -> String {
    let mut text = String::new();
    for row in store.events(0, 1_000).await.unwrap() {
        text += &serde_json::to_string(&row).unwrap();
    }
    for (collection, id) in [("issuer_keys", "ring")] {
        let document = store.document(collection, id).await.unwrap();
        text += &document.map_or(String::new(), |found| found.body.to_string());
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_keeps_its_key_and_a_new_one_gets_the_current() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let here = engine(&store, Some(host_keys())).await;
    let elsewhere = engine(&store, Some(host_keys())).await;
    let (cards, issuer) = (here.cards(), here.issuer());
    let mut first = shop::card(&here, "04000000000001", CardLimits::default()).await;

    let command = RotateIssuerKey { key: key("rotate") };
    let rotated = cards
        .rotate_issuer_key(&issuer, command.clone())
        .await
        .unwrap();
    assert!(rotated.is_current && rotated.is_present);
    // The answer of before, and no third key.
    assert_eq!(
        cards.rotate_issuer_key(&issuer, command).await.unwrap(),
        rotated
    );
    // Another instance issues with it as well, though it was open before.
    let mut second = shop::card(&elsewhere, "04000000000002", CardLimits::default()).await;
    for card in [&mut first, &mut second] {
        for engine in [&here, &elsewhere] {
            let seen = engine.cards().peek(&card.chip.tap()).await.unwrap();
            assert_eq!(seen.card, card.id);
        }
    }

    // A chip of somebody else's is read once its key is here, on every instance.
    let old = numbered(7);
    let uid = [4, 1, 2, 3, 4, 5, 6];
    let pull_payment_id = "fUDXsnySxvb5LYZ1bSLiWzLjVuT".to_owned();
    let form = KeyDerivation::BtcPay {
        pull_payment_id: pull_payment_id.clone(),
    };
    let mut chip = VirtualCard::program(&hex::encode(uid), &keys_of(&old, &uid, 3, &form)).unwrap();
    let refused = told(cards.peek(&chip.tap()).await).map(drop).unwrap_err();
    assert!(["card.tap_not_ours", "card.not_found"].contains(&refused));
    let command = ImportIssuerKey {
        key: key("import"),
        issuer_key: old.clone(),
    };
    assert!(!format!("{command:?}").contains("0909"));
    let imported = cards
        .import_issuer_key(&issuer, command.clone())
        .await
        .unwrap();
    assert_eq!(imported.origin, IssuerKeyOrigin::Imported);
    assert!(!imported.is_current && imported.is_present);
    assert_eq!(
        cards.import_issuer_key(&issuer, command).await.unwrap(),
        imported
    );
    // Brought once more it is the same key, once.
    let command = ImportIssuerKey {
        key: key("once more"),
        issuer_key: old.clone(),
    };
    let again = cards.import_issuer_key(&issuer, command).await.unwrap();
    assert_eq!(again.value, imported.value);
    let issue = IssueCard {
        key: key("old"),
        uid: hex::encode(uid),
        existing_chip: Some(ExistingChip {
            pull_payment_id: Some(pull_payment_id),
            version: 3,
            counter: 0,
            issuer_key: Some(old.id()),
        }),
        limits: CardLimits::default(),
        program: None,
    };
    let card = cards.issue(&issuer, issue).await.unwrap();
    assert_eq!(card.issuer_key, Some(old.id()));
    assert_eq!(card.chip, hex::encode(old.card_id_hash(&uid)));
    // The other instance has not heard of the key yet: the first `p` of its card tells it.
    let tap = chip.tap();
    let (_, p) = tap.split_once("?p=").unwrap();
    let request = LnurlRequest {
        url: format!("https://localhost/boltcard/pay?p={}", &p[..32]),
        till: None,
        source: None,
    };
    let reply = elsewhere.cards().answer(&request).await;
    assert!(reply.body.contains("not in use"), "{}", reply.body);
    assert_eq!(
        elsewhere.cards().peek(&chip.tap()).await.unwrap().card,
        card.id
    );
    // As its own programmer would write it again.
    let keys = cards
        .programming_keys(&issuer, &hex::encode(uid))
        .await
        .unwrap();
    assert_eq!(keys.k2, keys_of(&old, &uid, 3, &form).k2);

    let known = cards.issuer_keys(&issuer).await.unwrap();
    let origins: Vec<_> = known
        .iter()
        .map(|info| (info.origin, info.is_current))
        .collect();
    let derived = |is_current| (IssuerKeyOrigin::Derived, is_current);
    assert_eq!(
        origins,
        [
            derived(true),
            derived(false),
            (IssuerKeyOrigin::Imported, false)
        ]
    );

    // The keys are nowhere in clear.
    let text = all_that_is_stored(store.as_ref()).await;
    let own = MasterSecret::new([7; 32]).card_issuer_key();
    for secret in [
        hex::encode(*own),
        serde_json::to_value(&old)
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned(),
    ] {
        assert!(!text.to_lowercase().contains(&secret));
    }

    // Opened without the host's key: its cards are not read, the others are.
    let without = engine(&store, None).await;
    let refused = told(without.cards().peek(&chip.tap()).await)
        .map(drop)
        .unwrap_err();
    assert!(["card.tap_not_ours", "card.not_found"].contains(&refused));
    assert_eq!(
        without.cards().peek(&second.chip.tap()).await.unwrap().card,
        second.id
    );
    let known = without.cards().issuer_keys(&issuer).await.unwrap();
    assert_eq!(known.iter().filter(|info| !info.is_present).count(), 1);
    let command = ImportIssuerKey {
        key: key("no"),
        issuer_key: numbered(8),
    };
    let refused = told(without.cards().import_issuer_key(&issuer, command).await).map(drop);
    assert_eq!(refused, Err("card.no_host_key"));
}

/// Each of these is the first that an instance hears of a key which another one has made or taken in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_was_open_before_has_a_new_key_at_once() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let here = engine(&store, Some(host_keys())).await;
    let mut elsewhere = Vec::new();
    for _ in 0..5 {
        elsewhere.push(engine(&store, Some(host_keys())).await.cards());
    }
    let (cards, issuer) = (here.cards(), here.issuer());
    let command = RotateIssuerKey { key: key("rotate") };
    cards.rotate_issuer_key(&issuer, command).await.unwrap();
    let uid = "04000000000001".to_owned();
    let command = IssueCard {
        key: key("issue"),
        uid: uid.clone(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    cards.issue(&issuer, command).await.unwrap();
    let keys = cards.programming_keys(&issuer, &uid).await.unwrap();
    let told_there = elsewhere[0].programming_keys(&issuer, &uid).await;
    assert_eq!(told_there.unwrap(), keys);
    let uids = std::slice::from_ref(&uid);
    let told_there = elsewhere[1].programming_keys_batch(&issuer, uids).await;
    assert_eq!(told_there.unwrap(), std::slice::from_ref(&keys));
    let told_there = elsewhere[2].wipe_keys(&issuer, &uid, None).await;
    assert_eq!(told_there.unwrap(), [keys]);

    let command = ImportIssuerKey {
        key: key("import"),
        issuer_key: numbered(7),
    };
    cards.import_issuer_key(&issuer, command).await.unwrap();
    let command = CreateCardImport {
        key: key("base"),
        name: "base".to_owned(),
        issuer_key: numbered(7).id(),
        limits: CardLimits::default(),
        program: None,
    };
    let import = cards.imports().create(&issuer, command).await.unwrap().id;
    let rows = [ImportedCard {
        id: None,
        uid: Some("04000000000002".to_owned()),
        version: 1,
        counter: 0,
        pull_payment_id: None,
        balance_msat: 5,
    }];
    let checked = elsewhere[3].imports().check(&issuer, import, &rows).await;
    assert!(checked.unwrap().is_clean());
    let command = CutOver {
        key: key("over"),
        import,
        old_issuer_is_frozen: true,
        cards: rows.to_vec(),
    };
    let over = elsewhere[4].imports().cut_over(&issuer, command).await;
    assert_eq!(over.unwrap().cards, 1);
}

/// A chip has one set of keys: while it is a card of one issuer key it is no other card of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chip_in_use_is_issued_under_no_other_key() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let engine = engine(&store, None).await;
    let (cards, issuer, uid) = (engine.cards(), engine.issuer(), "04000000000001");
    let card = shop::card(&engine, uid, CardLimits::default()).await;
    let command = RotateIssuerKey { key: key("rotate") };
    let rotated = cards.rotate_issuer_key(&issuer, command).await.unwrap();
    let issue = |name: &str| IssueCard {
        key: key(name),
        uid: uid.to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    let refused = told(cards.issue(&issuer, issue("in use")).await).map(drop);
    assert_eq!(refused, Err("card.already_issued"));
    let batch = IssueCards {
        key: key("batch"),
        uids: vec!["04000000000002".to_owned(), uid.to_owned()],
        limits: CardLimits::default(),
        program: None,
    };
    let refused = told(cards.issue_batch(&issuer, batch).await).map(drop);
    assert_eq!(refused, Err("card.already_issued"));
    let merchant = shop::merchant(&engine, "Cookshop").await.id;
    let command = RetireCard {
        key: key("retire"),
        card: card.id,
        to: RetireTo::Merchant { merchant },
    };
    cards.retire(&card.holder, command).await.unwrap();
    let refused = told(cards.issue(&issuer, issue("not reset")).await).map(drop);
    assert_eq!(refused, Err("card.already_issued"));
    let command = WipeCard {
        key: key("wipe"),
        card: card.id,
    };
    cards.wipe(&issuer, command).await.unwrap();
    let again = cards.issue(&issuer, issue("again")).await.unwrap();
    // The first that this key makes for it.
    assert_eq!((again.issuer_key, again.version), (Some(rotated.id), 1));
    let keys = cards.wipe_keys(&issuer, uid, None).await.unwrap();
    assert_eq!(keys.len(), 2, "of either key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_host_gave_stays_the_current_key_until_it_is_rotated() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let own = engine(&store, None).await;
    let mut before = shop::card(&own, "04000000000001", CardLimits::default()).await;
    let builder = Engine::builder(store.clone(), shop::master()).network("regtest");
    let given = builder.card_issuer_key(numbered(3)).open().await.unwrap();
    let (cards, issuer) = (given.cards(), given.issuer());
    let mut after = shop::card(&given, "04000000000002", CardLimits::default()).await;
    for card in [&mut before, &mut after] {
        assert_eq!(cards.peek(&card.chip.tap()).await.unwrap().card, card.id);
    }
    let infos = cards.issuer_keys(&issuer).await.unwrap();
    assert_eq!((infos[0].id, infos[0].is_current), (numbered(3).id(), true));
    let command = RotateIssuerKey { key: key("rotate") };
    let rotated = cards
        .rotate_issuer_key(&issuer, command.clone())
        .await
        .unwrap();
    assert_eq!(rotated.origin, IssuerKeyOrigin::Derived);
    assert!(rotated.is_current);
    assert!(infos.iter().all(|info| info.id != rotated.id));
    for other in [&before.holder, &after.holder] {
        let refused = told(cards.rotate_issuer_key(other, command.clone()).await).map(drop);
        assert_eq!(refused, Err("access.not_allowed"));
        let refused = told(cards.issuer_keys(other).await).map(drop);
        assert_eq!(refused, Err("access.not_allowed"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_issued_whole_and_its_keys_are_told_until_activation() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let engine = engine(&store, None).await;
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let uids: Vec<String> = (0..500).map(|number| format!("04{number:012x}")).collect();
    let command = |name: &str, uids: &[String]| IssueCards {
        key: key(name),
        uids: uids.to_vec(),
        limits: CardLimits::default(),
        program: None,
    };
    let made = cards
        .issue_batch(&issuer, command("batch", &uids))
        .await
        .unwrap();
    assert_eq!(made.len(), 500);
    assert_eq!(
        cards
            .issue_batch(&issuer, command("batch", &uids))
            .await
            .unwrap(),
        made
    );
    let keys = cards.programming_keys_batch(&issuer, &uids).await.unwrap();
    let again = cards.programming_keys_batch(&issuer, &uids).await.unwrap();
    assert_eq!(keys, again);
    for (uid, keys) in uids.iter().zip(&keys).step_by(97) {
        assert_eq!(&cards.programming_keys(&issuer, uid).await.unwrap(), keys);
        let mut chip = VirtualCard::program(uid, keys).unwrap();
        cards.peek(&chip.tap()).await.unwrap();
        let json: serde_json::Value = serde_json::from_str(&keys.to_programmer_json()).unwrap();
        assert_eq!(json["K2"], keys.k2.to_uppercase());
        assert_eq!(json["LNURLW"], "lnurlw://localhost/boltcard");
    }
    let activate = flashkit::cards::ActivateCard {
        key: key("activate"),
        card: made[3].id,
    };
    let holder = cards
        .activate(&issuer, activate)
        .await
        .unwrap()
        .holder
        .clone();
    let refused = told_keys(cards.programming_keys(&issuer, &uids[3]).await);
    assert_eq!(refused, Err("card.keys_withheld"));
    let refused = told_keys(cards.programming_keys_batch(&issuer, &uids[..5]).await);
    assert_eq!(refused, Err("card.keys_withheld"), "none of them");
    let refused = told_keys(cards.programming_keys_batch(&holder, &uids[..2]).await);
    assert_eq!(refused, Err("access.not_allowed"));
    let refused = told(cards.issue_batch(&holder, command("no", &uids[..1])).await).map(drop);
    assert_eq!(refused, Err("access.not_allowed"));

    // All or none.
    let mixed = ["04ffffffffffff".to_owned(), uids[9].clone()];
    let refused = told(cards.issue_batch(&issuer, command("mixed", &mixed)).await).map(drop);
    assert_eq!(refused, Err("card.already_issued"));
    let twice = ["04ffffffffffff".to_owned(), "04FFFFFFFFFFFF".to_owned()];
    let refused = told(cards.issue_batch(&issuer, command("twice", &twice)).await).map(drop);
    assert_eq!(refused, Err("card.already_issued"));
    let alone = told_keys(cards.programming_keys(&issuer, &mixed[0]).await);
    assert_eq!(alone, Err("card.not_found"));
    for (name, uids, code) in [
        ("none", Vec::new(), "command.out_of_bounds"),
        ("many", vec![uids[0].clone(); 501], "command.out_of_bounds"),
        ("bad", vec!["04".to_owned()], "card.bad_uid"),
    ] {
        let refused = told(cards.issue_batch(&issuer, command(name, &uids)).await).map(drop);
        assert_eq!(refused, Err(code));
    }
}

fn told_keys<T>(answer: Result<T, flashkit::Error>) -> Result<(), &'static str> {
    answer.map(drop).map_err(|error| error.code())
}

/// One `p` in 256 looks right with another issuer key as well: whoever tries PINs with those waits in
/// the lane of the card all the same, and three are tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_that_another_key_opens_as_well_are_three() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let engine = engine(&store, Some(host_keys())).await;
    let (cards, issuer) = (engine.cards(), engine.issuer());
    // A number of no maker that is known: nothing puts the right one first.
    let (old, uid) = (numbered(7), [9, 1, 2, 3, 4, 5, 6]);
    let command = ImportIssuerKey {
        key: key("import"),
        issuer_key: old.clone(),
    };
    cards.import_issuer_key(&issuer, command).await.unwrap();
    let keys = keys_of(&old, &uid, 3, &KeyDerivation::Standard);
    let mut chip = VirtualCard::program(&hex::encode(uid), &keys).unwrap();
    let issue = IssueCard {
        key: key("old"),
        uid: hex::encode(uid),
        existing_chip: Some(ExistingChip {
            pull_payment_id: None,
            version: 3,
            counter: 0,
            issuer_key: Some(old.id()),
        }),
        limits: CardLimits {
            pin_above: Some(0),
            ..CardLimits::default()
        },
        program: None,
    };
    let card = cards.issue(&issuer, issue).await.unwrap().id;
    let command = ActivateCard {
        key: key("old"),
        card,
    };
    let held = cards.activate(&issuer, command).await.unwrap();
    let pin = |text: &str| text.parse::<Pin>().unwrap();
    let command = SetCardPin {
        key: key("pin"),
        card,
        pin: pin("73018426"),
    };
    cards.set_pin(&held.holder, command).await.unwrap();
    let till = shop::merchant(&engine, "Cookshop").await.till;
    let own = IssuerKey::new(*MasterSecret::new([7; 32]).card_issuer_key());
    let mut guesses = tokio::task::JoinSet::new();
    while guesses.len() < 24 {
        let tap = chip.tap();
        if decrypt_picc(&own, TapUrl::parse(&tap).unwrap().p()).is_err() {
            continue;
        }
        let guess = format!("{:04}", guesses.len());
        let command = ChargeCard {
            key: key(&guess),
            tap,
            price: shop::sat(1),
            reference: String::new(),
            pin: Some(pin(&guess)),
        };
        let (engine, till) = (engine.clone(), till.clone());
        guesses.spawn(async move { told(engine.cards().charge(&till, command).await).map(drop) });
    }
    let told = guesses.join_all().await;
    let count = |code| told.iter().filter(|one| **one == Err(code)).count();
    assert_eq!((count("card.wrong_pin"), count("card.pin_locked")), (3, 21));
}
