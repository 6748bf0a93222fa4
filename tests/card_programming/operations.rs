//! Blank chip, card, card with other keys, blank chip again.

use std::sync::Arc;

use flashkit::cards::boltcard::{TapError, TapUrl};
use flashkit::cards::programming::{CardPayload, ChipError, ChipKeys};
use flashkit::cards::{ActivateCard, CardLimits, IssueCard};
use flashkit::ports::SystemClock;
use flashkit::store::MemoryStore;
use flashkit::testkit::virtual_chip::VirtualChip;
use flashkit::{Engine, MasterSecret};

use crate::bench::*;

fn uid() -> String {
    hex::encode(UID)
}

#[test]
fn from_blank_to_card_to_other_keys_to_blank_and_again() {
    let chip = blank();
    let programmer = programmer(chip.clone());
    let reading = run(programmer.read()).unwrap();
    assert_eq!((reading.uid, reading.url), (Some(uid()), None));

    let programmed = run(programmer.program(&payload(1))).unwrap();
    assert_eq!(programmed.counter, 1);
    assert_card(&chip, 1, URL);
    let old_tap = chip.tap().unwrap();
    assert_eq!(verify(&old_tap, 1).unwrap().counter, 3);
    assert_eq!(verify(&old_tap, 2), Err(TapError::WrongMac));

    run(programmer.reprogram(&[keys(1)], &payload(2))).unwrap();
    assert_card(&chip, 2, URL);
    let tap = chip.tap().unwrap();
    assert_eq!(verify(&tap, 1), Err(TapError::WrongMac));

    run(programmer.wipe(&uid(), &[keys(2)])).unwrap();
    assert_blank(&chip);
    assert_eq!(chip.tap(), None);

    run(programmer.program(&payload_at(3, OTHER_URL))).unwrap();
    assert_card(&chip, 3, OTHER_URL);
    // Nothing was tried that was not the chip's.
    assert_eq!(chip.failed_authentications(), 0);
}

/// What the issuer's engine answers goes on the chip; what the chip then shows, the engine takes.
#[tokio::test]
async fn the_engine_takes_the_tap_of_a_programmed_chip() {
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let engine = Engine::builder(store, MasterSecret::new([7; 32]))
        .network("regtest")
        .open()
        .await
        .unwrap();
    let (issuer, cards) = (engine.issuer(), engine.cards());
    let chip = blank();
    let programmer = programmer(chip.clone());
    let uid = programmer.read().await.unwrap().uid.unwrap();
    let issue = IssueCard {
        key: "issue".parse().unwrap(),
        uid: uid.clone(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    let card = cards.issue(&issuer, issue).await.unwrap().id;
    let answered = cards.programming_keys(&issuer, &uid).await.unwrap();
    let payload = CardPayload::new(&uid, &answered).unwrap();
    programmer.program(&payload).await.unwrap();
    let activate = ActivateCard {
        key: "activate".parse().unwrap(),
        card,
    };
    cards.activate(&issuer, activate).await.unwrap();
    for _ in 0..3 {
        let tap = chip.tap().unwrap();
        assert_eq!(cards.peek(&tap).await.unwrap().card, card);
    }
    let later = ChipKeys::parse(&answered).unwrap();
    programmer.wipe(&uid, &[later]).await.unwrap();
    assert_blank(&chip);
}

/// An upper-case answer, as an older server gives it, and a version above a byte.
#[test]
fn keys_as_an_older_server_spells_them() {
    let mut answered = answer(&UID, 0x0102, URL);
    for key in [&mut answered.k0, &mut answered.k1, &mut answered.k2] {
        *key = key.to_uppercase();
    }
    let payload = CardPayload::new(&uid().to_uppercase(), &answered).unwrap();
    let chip = blank();
    run(programmer(chip.clone()).program(&payload)).unwrap();
    assert_eq!(chip.keys(), raw(0x0102));
    assert_eq!(chip.key_versions(), [2; 5]);
    assert!(verify(&chip.tap().unwrap(), 0x0102).is_ok());
}

/// The counter is what taps are known by: with the same URL it goes on, and a run on a finished
/// card does not touch it.
#[test]
fn the_counter_goes_on_where_the_url_stays() {
    let chip = card(1);
    chip.set_counter(500);
    let settings = chip.ndef_settings();
    let again = run(programmer(chip.clone()).program(&payload(1))).unwrap();
    assert!(again.counter > 500);
    assert_card(&chip, 1, URL);
    assert_eq!(chip.ndef_settings(), settings);

    run(programmer(chip.clone()).reprogram(&[keys(1)], &payload(2))).unwrap();
    assert!(verify(&chip.tap().unwrap(), 2).unwrap().counter > 500);

    let other = payload_at(3, OTHER_URL);
    let programmed = run(programmer(chip.clone()).reprogram(&[keys(2)], &other)).unwrap();
    assert_eq!(programmed.counter, 1);
    assert_card(&chip, 3, OTHER_URL);
}

/// Another URL under the same keys would start the counter below the taps already used.
#[test]
fn another_url_needs_keys_of_another_version() {
    let chip = card(1);
    let other = payload_at(1, OTHER_URL);
    for refused in [
        run(programmer(chip.clone()).program(&other)),
        run(programmer(chip.clone()).reprogram(&[keys(1)], &other)),
    ] {
        assert_eq!(refused, Err(ChipError::UrlDiffers));
        assert_card(&chip, 1, URL);
    }
}

/// A tap says which of the sets the chip holds, before any of them is tried.
#[test]
fn of_many_versions_the_right_one_is_tried_first() {
    let versions: Vec<ChipKeys> = (1..=8).rev().map(keys).collect();
    for version in 1..=8 {
        let chip = card(version);
        run(programmer(chip.clone()).reprogram(&versions, &payload(9))).unwrap();
        assert_card(&chip, 9, URL);
        run(programmer(chip.clone()).wipe(&uid(), &[keys(9)])).unwrap();
        assert_blank(&chip);
        assert_eq!(chip.failed_authentications(), 0);
    }
}

#[test]
fn wrong_keys_cost_one_failure_each_and_change_nothing() {
    let chip = card(1);
    let (settings, file) = (chip.ndef_settings(), chip.ndef_file());
    // The same set twice is one key.
    let wrong = [keys(7), keys(8), keys(7)];
    let refused = run(programmer(chip.clone()).reprogram(&wrong, &payload(9)));
    assert_eq!(refused, Err(ChipError::KeysRefused { tried: 3 }));
    assert_eq!(chip.failed_authentications(), 3);
    let refused = run(programmer(chip.clone()).wipe(&uid(), &wrong));
    assert_eq!(refused, Err(ChipError::KeysRefused { tried: 3 }));
    assert_eq!(chip.failed_authentications(), 6);
    let refused = run(programmer(chip.clone()).wipe(&uid(), &vec![keys(7); 9]));
    assert_eq!(refused, Err(ChipError::TooManyKeys { limit: 8 }));
    assert_eq!(chip.failed_authentications(), 6);
    assert_card(&chip, 1, URL);
    assert_eq!((chip.ndef_settings(), chip.ndef_file()), (settings, file));
}

/// A card cannot be bricked with the keys of another one: not even an authentication is tried.
#[test]
fn the_keys_of_another_card() {
    let other_uid = [0x04, 1, 2, 3, 4, 5, 6];
    let other = Arc::new(VirtualChip::new(other_uid, 3));
    let programmer = programmer(other.clone());
    assert_eq!(
        run(programmer.program(&payload(1))),
        Err(ChipError::OtherCard)
    );
    assert_eq!(
        run(programmer.wipe(&uid(), &[keys(1)])),
        Err(ChipError::OtherCard)
    );
    assert_eq!(other.failed_authentications(), 0);
    // One that hides its number says it once it is opened, and is then left alone.
    other.hide_uid();
    assert_eq!(run(programmer.read()).unwrap().uid, None);
    assert_eq!(
        run(programmer.program(&payload(1))),
        Err(ChipError::OtherCard)
    );
    assert_eq!(other.keys(), raw(0));
    assert_eq!(other.ndef_file(), vec![0; 256]);

    let hiding = blank();
    hiding.hide_uid();
    run(crate::bench::programmer(hiding.clone()).program(&payload(1))).unwrap();
    assert_card(&hiding, 1, URL);
}

/// A chip with one key that is not of any set given is not lost: it says which, and takes the
/// right set later.
#[test]
fn a_key_from_elsewhere() {
    let chip = card(1);
    let mut odd = derived(&UID, 1);
    odd.k3 = derived(&UID, 77).k3;
    let payload_odd = {
        let mut answered = answer(&UID, 2, URL);
        answered.k3 = odd.k3.to_hex();
        CardPayload::new(&uid(), &answered).unwrap()
    };
    run(programmer(chip.clone()).reprogram(&[keys(1)], &payload_odd)).unwrap();
    for _ in 0..3 {
        let refused = run(programmer(chip.clone()).wipe(&uid(), &[keys(2)]));
        assert_eq!(refused, Err(ChipError::KeyUnknown { number: 3 }));
    }
    assert_eq!(chip.failed_authentications(), 0);
    run(programmer(chip.clone()).wipe(&uid(), &[keys(2), keys(77)])).unwrap();
    assert_blank(&chip);
}

/// A chip that failed too often makes the next authentication wait, and says so.
#[test]
fn a_chip_that_waits() {
    let chip = card(1);
    for _ in 0..25 {
        let refused = run(programmer(chip.clone()).wipe(&uid(), &[keys(7)]));
        assert_eq!(refused, Err(ChipError::KeysRefused { tried: 2 }));
    }
    let mut waited = 0;
    while let Err(error) = run(programmer(chip.clone()).wipe(&uid(), &[keys(1)])) {
        assert_eq!(error, ChipError::Delayed);
        assert!(error.is_retryable() && waited < 10);
        waited += 1;
    }
    assert!(waited > 0);
    assert_blank(&chip);
    assert_eq!(chip.failed_authentications(), 50);
}

#[test]
fn nothing_secret_is_printed() {
    let answered = answer(&UID, 1, URL);
    let payload = payload(1);
    let chip = card(1);
    let tap = chip.tap().unwrap();
    let reading = run(programmer(chip.clone()).read()).unwrap();
    let mut prints = format!("{payload:?} {:?} {reading:?} {answered:?}", keys(1));
    let mut bad = answered.clone();
    bad.k4 = "not hex".to_owned();
    for error in [
        CardPayload::new(&uid(), &bad).unwrap_err(),
        CardPayload::new("04", &answered).unwrap_err(),
        run(programmer(chip.clone()).wipe(&uid(), &[keys(7)])).unwrap_err(),
        run(programmer(chip.clone()).program(&payload_at(1, OTHER_URL))).unwrap_err(),
    ] {
        prints.push_str(&format!(" {error} {error:?} {}", error.code()));
    }
    let prints = prints.to_lowercase();
    let parsed = TapUrl::parse(&tap).unwrap();
    for secret in [
        &answered.k0,
        &answered.k1,
        &answered.k2,
        &answered.k3,
        &answered.k4,
    ] {
        assert!(!prints.contains(secret.as_str()));
        let bytes = format!("{:?}", hex::decode(secret).unwrap());
        assert!(!prints.contains(&bytes[1..bytes.len() - 1]));
    }
    assert!(!prints.contains(&hex::encode(parsed.c())));
    assert!(prints.contains("redacted") && prints.contains("card.chip_keys_refused"));
    let read = TapUrl::parse(&reading.url.unwrap()).unwrap();
    assert!(!prints.contains(&hex::encode(read.p())));
}
