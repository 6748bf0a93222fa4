//! What the database knows of people: nothing in clear.

use flashkit::cards::{ActivateCard, BearerUnit};
use flashkit::cards::{
    CardLimits, IssueVirtualCard, MakeRecoveryCode, RegisterBearerCard, SetCardNote, VirtualTap,
};

use crate::hands::{blank, charge, replace};
use crate::support::key;
use crate::support::scene::Scene;
use crate::support::shop;

/// Every value of every row of every table.
fn rows(scene: &Scene) -> Vec<(String, Vec<u8>)> {
    let file = scene.folder.as_ref().unwrap().path().join("books.db");
    let connection = rusqlite::Connection::open(file).unwrap();
    let query = "SELECT name FROM sqlite_master WHERE type = 'table'";
    let mut statement = connection.prepare(query).unwrap();
    let tables = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap();
    let mut found = Vec::new();
    for table in tables.map(Result::unwrap) {
        let mut statement = connection
            .prepare(&format!("SELECT * FROM \"{table}\""))
            .unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                let value = match row.get_ref(column).unwrap() {
                    rusqlite::types::ValueRef::Text(bytes)
                    | rusqlite::types::ValueRef::Blob(bytes) => bytes.to_vec(),
                    rusqlite::types::ValueRef::Integer(number) => number.to_string().into_bytes(),
                    _ => continue,
                };
                // A caller's own keys are the caller's to choose; those of the test's shop name chips.
                let value = without(&value, &format!("issue/{}", shop::UID));
                let value = without(&value, &format!("activate/{}", shop::UID));
                found.push((table.clone(), value));
            }
        }
    }
    found
}

fn without(value: &[u8], part: &str) -> Vec<u8> {
    match std::str::from_utf8(value) {
        Ok(text) => text.replace(part, "").into_bytes(),
        Err(_) => value.to_vec(),
    }
}

/// Where in the rows something stands, in letters of either case.
fn tables_with(rows: &[(String, Vec<u8>)], what: &[u8]) -> Vec<String> {
    let wanted = what.to_ascii_lowercase();
    let has = |value: &Vec<u8>| {
        value
            .to_ascii_lowercase()
            .windows(wanted.len())
            .any(|part| part == wanted)
    };
    rows.iter()
        .filter(|(_, value)| has(value))
        .map(|(table, _)| table.clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_codes_and_erased_notes_are_in_no_row() {
    let mut scene = Scene::new(true, CardLimits::default()).await;
    let (engine, card, holder) = (
        scene.engine().clone(),
        scene.card.id,
        scene.card.holder.clone(),
    );
    let (cards, issuer) = (engine.cards(), engine.issuer());
    scene.charge("sale", 1_000).await.unwrap();
    let tap = scene.card.chip.tap();
    cards.peek(&tap).await.unwrap();
    let note = |name: &str, note: Option<&str>| SetCardNote {
        key: key(name),
        card,
        note: note.map(str::to_owned),
    };
    let private = "Miss Ivy from the yard";
    cards
        .set_note(&holder, note("note", Some(private)))
        .await
        .unwrap();
    assert_eq!(
        cards.note(&holder, card).await.unwrap().value.as_deref(),
        Some(private)
    );
    let public_key = format!("02{}", "5a".repeat(32));
    let command = RegisterBearerCard {
        key: key("bearer"),
        public_key: public_key.clone(),
        unit: BearerUnit::Sat,
    };
    cards.register_bearer(&issuer, command).await.unwrap();
    let command = IssueVirtualCard {
        key: key("virtual"),
        limits: CardLimits::default(),
        expires_at_ms: None,
        program: None,
    };
    let id = cards.issue_virtual(&issuer, command).await.unwrap().id;
    let command = ActivateCard {
        key: key("hand over"),
        card: id,
    };
    let by = cards
        .activate(&issuer, command)
        .await
        .unwrap()
        .holder
        .clone();
    let shown = cards.virtual_details(&by, id).await.unwrap().value;
    let virtual_tap = VirtualTap::new(&shown.number, &shown.code)
        .unwrap()
        .to_string();
    let told = charge(&engine, &scene.merchant.till, "empty", &virtual_tap, 1).await;
    assert_eq!(told, Err("card.insufficient_funds"));
    let command = MakeRecoveryCode {
        key: key("code"),
        card,
    };
    let code = cards
        .make_recovery_code(&holder, command)
        .await
        .unwrap()
        .code
        .clone();

    let here = rows(&scene);
    assert!(here.len() > 100, "{} values", here.len());
    assert_eq!(
        tables_with(&here, private.as_bytes()),
        ["documents"],
        "the note stands in one place"
    );
    let erased = cards.set_note(&issuer, note("erase", None)).await.unwrap();
    assert!(!erased.has_note);
    let chip = blank(&engine, 1).await.1.tap();
    let new = replace(&engine, &holder, "replace", card, &chip)
        .await
        .unwrap()
        .holder
        .clone();
    let here = rows(&scene);
    let uid = hex(shop::UID);
    let plain = code.reveal().replace('-', "");
    for (what, bytes) in [
        ("the chip's number in hex", shop::UID.as_bytes()),
        ("the chip's number", &uid),
        ("the virtual card's number", shown.number.as_bytes()),
        ("the bearer card's key", public_key.as_bytes()),
        ("the recovery code", code.reveal().as_bytes()),
        ("the recovery code without dashes", plain.as_bytes()),
        ("the holder's credential", holder.reveal().as_bytes()),
        ("the new holder's credential", new.reveal().as_bytes()),
        ("the note", private.as_bytes()),
    ] {
        assert_eq!(tables_with(&here, bytes), [""; 0], "{what}");
    }
    // What is looked for is found where it is.
    assert!(!tables_with(&here, card.to_string().as_bytes()).is_empty());
    let shown = format!("{code:?} {virtual_tap:.0} {new:?}");
    assert!(!shown.contains(&plain[..4]), "{shown}");
    scene.stop("private").await;
}

fn hex(text: &str) -> Vec<u8> {
    let digits = |place: usize| u8::from_str_radix(&text[place..place + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}
