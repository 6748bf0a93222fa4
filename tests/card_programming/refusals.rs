//! What the simulated chip refuses, and with which status: a test against a chip that takes
//! anything would show nothing.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flashkit::cards::boltcard::Key;
use flashkit::cards::programming::{
    CardTransport, ChipError, ChipFile, CommMode, FileSettings, Ntag424, TransportError,
};
use flashkit::testkit::virtual_chip::VirtualChip;

use crate::bench::*;

/// A reader that changes what is sent.
struct Meddling<F> {
    chip: Arc<VirtualChip>,
    meddle: Mutex<F>,
}

#[async_trait]
impl<F: FnMut(&mut Vec<u8>) + Send> CardTransport for Meddling<F> {
    async fn transceive(&self, mut command: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        (self.meddle.lock().unwrap())(&mut command);
        self.chip.transceive(command).await
    }
}

fn meddling(chip: &Arc<VirtualChip>, meddle: impl FnMut(&mut Vec<u8>) + Send + 'static) -> Ntag424 {
    let transport = Meddling {
        chip: chip.clone(),
        meddle: Mutex::new(meddle),
    };
    Ntag424::new(Arc::new(transport), Arc::new(Counting::default()))
}

fn driver(chip: &Arc<VirtualChip>) -> Ntag424 {
    meddling(chip, |_| {})
}

fn zero() -> Key {
    Key::new([0; 16])
}

/// A driver in a session of one of the factory's keys.
fn opened(chip: &Arc<VirtualChip>, number: u8) -> Ntag424 {
    let mut driver = driver(chip);
    run(driver.select_application()).unwrap();
    assert!(run(driver.authenticate_first(number, &zero())).unwrap());
    driver
}

fn status<T: std::fmt::Debug>(refused: Result<T, ChipError>) -> u16 {
    match refused {
        Err(ChipError::Refused { status, .. }) => status,
        other => panic!("{other:?}"),
    }
}

fn raw_status(chip: &VirtualChip, command: &str) -> String {
    let answer = run(chip.transceive(hex::decode(command).unwrap())).unwrap();
    hex::encode(&answer[answer.len() - 2..])
}

const SELECT: &str = "00A4040C07D276000085010100";

#[test]
fn commands_outside_of_a_session() {
    let chip = blank();
    // Nothing is selected yet.
    assert_eq!(raw_status(&chip, "90F50000010200"), "919d");
    assert_eq!(raw_status(&chip, "9071000002000000"), "9140");
    assert_eq!(raw_status(&chip, "00A4040C07D276000085010200"), "6a82");
    assert_eq!(raw_status(&chip, "00A4000C02E10400"), "6a82");
    assert_eq!(raw_status(&chip, "00B000000F"), "6985");
    assert_eq!(raw_status(&chip, SELECT), "9000");
    for (command, status) in [
        ("90F50000010200", "9100"),
        ("90F50000010400", "91f0"),
        ("90F500000200", "917e"),
        ("90F5000000", "917e"),
        ("90F50100010200", "919e"),
        ("90F500000102", "917e"),
        ("90AA000000", "911c"),
        ("90AF000000", "911c"),
        ("9051000000", "91ae"),
        ("90640000010000", "91ae"),
        ("905F0000040200000000", "91ae"),
        ("9071000002050000", "9140"),
        ("90710000010000", "917e"),
        ("9071000002000300", "917e"),
        ("90770000010000", "91ae"),
        ("90AD0000070200000001010000", "91be"),
        ("90AD00000702FF00000200000000", "917e"),
        ("90AD0000070300000001000000", "91ae"),
        ("908D00000802FF000002000000AA00", "917e"),
        ("908D00000901000000020000AABB00", "91ae"),
        ("908D00000902FF0000020000AABB00", "91be"),
        ("00CA000000", "6d00"),
        ("80CA000000", "6e00"),
        ("00A4040C0AD27600008501010000", "6700"),
        ("0000", "6700"),
        ("00A4010C02E10400", "6a86"),
        ("00A4000C02E10600", "6a82"),
        ("00A4000C02E10500", "9000"),
        ("00B0000001", "6982"),
        ("00D600000100", "6982"),
    ] {
        assert_eq!(raw_status(&chip, command), status, "{command}");
    }
    // An authentication that something else is put into is over.
    assert_eq!(raw_status(&chip, "9071000002000000"), "91af");
    assert_eq!(raw_status(&chip, "90F50000010200"), "91ca");
    assert_eq!(
        raw_status(&chip, &format!("90AF000020{}00", "00".repeat(32))),
        "911c"
    );
    assert_eq!(raw_status(&chip, "9071000002000000"), "91af");
    assert_eq!(raw_status(&chip, "90AF0000010000"), "917e");
    assert_eq!(chip.failed_authentications(), 0);
    assert_eq!(raw_status(&chip, "9071000002000000"), "91af");
    assert_eq!(
        raw_status(&chip, &format!("90AF000020{}00", "00".repeat(32))),
        "91ae"
    );
    assert_eq!(chip.failed_authentications(), 1);
}

/// The last byte before Le is the last of the MAC.
#[test]
fn a_wrong_mac() {
    let chip = blank();
    for bit in 0..8 * 8 {
        let mut meddled = meddling(&chip, move |command| {
            if command[1] == 0xc4 {
                let at = command.len() - 9 + bit / 8;
                command[at] ^= 1 << (bit % 8);
            }
        });
        run(meddled.select_application()).unwrap();
        assert!(run(meddled.authenticate_first(0, &zero())).unwrap());
        let refused = run(meddled.change_key(0, &zero(), &Key::new([1; 16]), 1));
        assert_eq!(status(refused), 0x911e);
    }
    assert_eq!(chip.keys(), raw(0));
}

/// A command that was dropped on its way, one that came twice, and two in another order all have
/// a counter other than the chip's.
#[test]
fn a_wrong_counter() {
    let chip = blank();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let mut driver = meddling(&chip, move |command| {
        kept.lock().unwrap().push(command.clone())
    });
    run(driver.select_application()).unwrap();
    assert!(run(driver.authenticate_first(0, &zero())).unwrap());
    run(driver.change_key(1, &zero(), &Key::new([1; 16]), 1)).unwrap();
    let replayed = seen.lock().unwrap().last().unwrap().clone();
    assert_eq!(raw_status(&chip, &hex::encode(replayed)), "911e");
    // The session is gone with that.
    assert_eq!(status(run(driver.key_version(1))), 0x91ae);
    assert_eq!(chip.keys()[1], [1; 16]);

    let mut driver = opened(&chip, 0);
    // The chip counts this command, the driver does not see it.
    assert_eq!(raw_status(&chip, "90AD0000070200000001000000"), "9100");
    assert_eq!(status(run(driver.key_version(1))), 0x911e);
}

#[test]
fn a_wrong_communication_mode() {
    let chip = blank();
    let wrong = CommMode::Full;
    let mut driver = opened(&chip, 0);
    let refused = run(driver.write_data(wrong, ChipFile::Ndef, 0, &[1]));
    assert_eq!(status(refused), 0x917e);
    let mut driver = opened(&chip, 3);
    let refused = run(driver.write_data(CommMode::Plain, ChipFile::Proprietary, 0, &[1; 16]));
    assert_eq!(status(refused), 0x911e);
    let mut driver = opened(&chip, 3);
    let refused = run(driver.read_data(CommMode::Plain, ChipFile::Proprietary, 0, 1));
    assert_eq!(status(refused), 0x917e);
    // In clear within a session.
    let _session = opened(&chip, 0);
    assert_eq!(raw_status(&chip, "90F50000010200"), "917e");
    let _session = opened(&chip, 0);
    assert_eq!(raw_status(&chip, "90F500000902000000000000000000"), "911e");
    assert_eq!(chip.ndef_file(), vec![0; 256]);
    // The driver sends nothing protected without a session.
    let mut driver = self::driver(&chip);
    let refused = run(driver.card_uid()).unwrap_err();
    assert_eq!(refused.code(), "card.chip_not_authenticated");
    let refused = run(driver.authenticate_non_first(0, &zero())).unwrap_err();
    assert_eq!(refused.code(), "card.chip_not_authenticated");
}

#[test]
fn a_wrong_key_number() {
    let chip = blank();
    let new = Key::new([1; 16]);
    let mut driver = opened(&chip, 0);
    assert_eq!(status(run(driver.authenticate_first(5, &zero()))), 0x9140);
    let mut driver = opened(&chip, 0);
    assert_eq!(status(run(driver.change_key(5, &zero(), &new, 1))), 0x9140);
    let mut driver = opened(&chip, 0);
    assert_eq!(status(run(driver.key_version(5))), 0x9140);
    // The signed number was another one.
    let mut meddled = meddling(&chip, |command| {
        if command[1] == 0xc4 {
            command[5] = 2;
        }
    });
    run(meddled.select_application()).unwrap();
    assert!(run(meddled.authenticate_first(0, &zero())).unwrap());
    // The driver takes it for a wrong old key, as the chip does not say more.
    assert_eq!(run(meddled.change_key(1, &zero(), &new, 1)), Ok(false));
    // Only the master key changes keys and settings.
    for number in 1..=4 {
        let mut driver = opened(&chip, number);
        assert_eq!(status(run(driver.change_key(1, &zero(), &new, 1))), 0x91ae);
        let mut driver = opened(&chip, number);
        let changed = run(driver.change_file_settings(ChipFile::Ndef, &FileSettings::LOCKED));
        assert_eq!(status(changed), 0x91ae);
    }
    assert_eq!(chip.keys(), raw(0));
    assert_eq!(chip.failed_authentications(), 0);
}

/// A wrong old key: refused by the checksum of the new one, without a failed authentication.
#[test]
fn a_wrong_old_key() {
    let chip = card(1);
    let [master, first, ..] = raw(1).map(Key::new);
    let mut driver = driver(&chip);
    run(driver.select_application()).unwrap();
    for number in 1..=4 {
        assert!(run(driver.authenticate_first(0, &master)).unwrap());
        let wrong = Key::new([9; 16]);
        assert_eq!(
            run(driver.change_key(number, &wrong, &zero(), 0)),
            Ok(false)
        );
        assert_eq!(driver.authenticated_with(), None);
    }
    assert_card(&chip, 1, URL);
    assert_eq!(chip.failed_authentications(), 0);
    chip.power_on();
    run(driver.select_application()).unwrap();
    assert_eq!(run(driver.authenticate_first(0, &first)), Ok(false));
    assert_eq!(chip.failed_authentications(), 1);
}

#[test]
fn settings_that_cannot_be() {
    let chip = blank();
    let change = |file: ChipFile, settings: FileSettings| {
        let mut driver = opened(&chip, 0);
        run(driver.change_file_settings(file, &settings))
    };
    // The mirrors over each other, or over the end of the file; on a file that has none.
    for (picc, mac) in [(100, 100), (100, 131), (100, 90), (230, 10), (10, 241)] {
        let refused = change(ChipFile::Ndef, FileSettings::bolt_card(picc, mac));
        assert_eq!(status(refused), 0x919e, "{picc} {mac}");
    }
    let refused = change(ChipFile::Proprietary, FileSettings::bolt_card(10, 50));
    assert_eq!(status(refused), 0x919e);
    for (picc, mac) in [(100, 132), (100, 84), (224, 10), (10, 240)] {
        change(ChipFile::Ndef, FileSettings::bolt_card(picc, mac)).unwrap();
    }
    change(ChipFile::Ndef, FileSettings::LOCKED).unwrap();
    // Locked: nobody else writes, everybody reads.
    assert_eq!(raw_status(&chip, SELECT), "9000");
    assert_eq!(raw_status(&chip, "908D000008020000000100000100"), "91ae");
    assert_eq!(raw_status(&chip, "90AD0000070200000001000000"), "9100");
    let mut driver = opened(&chip, 1);
    let refused = run(driver.write_data(CommMode::Plain, ChipFile::Ndef, 0, &[1]));
    assert_eq!(status(refused), 0x91ae);
    let mut driver = opened(&chip, 0);
    run(driver.write_data(CommMode::Plain, ChipFile::Ndef, 0, &[1])).unwrap();
    assert_eq!(chip.ndef_file()[0], 1);
}

/// One tap is one count, however many frames read it; a session counts none.
#[test]
fn what_counts_as_a_tap() {
    let chip = card(1);
    chip.set_counter(10);
    chip.tap().unwrap();
    assert_eq!(chip.counter(), 11);
    let mut driver = driver(&chip);
    run(driver.select_application()).unwrap();
    let read = run(driver.read_data(CommMode::Plain, ChipFile::Ndef, 0, 256)).unwrap();
    assert_eq!(chip.counter(), 12);
    let again = run(driver.read_data(CommMode::Plain, ChipFile::Ndef, 0, 256)).unwrap();
    assert_eq!((chip.counter(), &again), (12, &read));
    run(driver.version()).unwrap();
    let later = run(driver.read_data(CommMode::Plain, ChipFile::Ndef, 0, 256)).unwrap();
    assert_eq!(chip.counter(), 13);
    assert_ne!(later, read);
    let [master, ..] = raw(1).map(Key::new);
    assert!(run(driver.authenticate_first(0, &master)).unwrap());
    let written = run(driver.read_data(CommMode::Plain, ChipFile::Ndef, 0, 256)).unwrap();
    assert_eq!((chip.counter(), written), (13, chip.ndef_file()));
    chip.set_counter(0x00ff_ffff - 1);
    assert_eq!(
        verify(&chip.tap().unwrap(), 1).unwrap().counter,
        0x00ff_ffff
    );
}
