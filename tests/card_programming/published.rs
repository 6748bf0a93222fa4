//! The examples of NXP's application note AN12196 (section numbers of revision 2.0; one more in
//! front in revision 1.x), as the bytes that go over the air. Each value was found alike in at
//! least two independent implementations that cite the note.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flashkit::cards::boltcard::Key;
use flashkit::cards::programming::{
    Access, CardTransport, ChipError, ChipFile, CommMode, FileSettings, Mirroring, Ntag424,
    TransportError,
};
use flashkit::ports::{Entropy, EntropyError};

use crate::bench::run;

/// A chip that answers by the book, and to nothing else.
struct Script(Mutex<VecDeque<(&'static str, &'static str)>>);

impl Script {
    fn new(exchanges: &[(&'static str, &'static str)]) -> Arc<Self> {
        Arc::new(Self(Mutex::new(exchanges.iter().copied().collect())))
    }

    fn assert_finished(&self) {
        assert_eq!(self.0.lock().unwrap().len(), 0);
    }
}

#[async_trait]
impl CardTransport for Script {
    async fn transceive(&self, command: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let (expected, answer) = self.0.lock().unwrap().pop_front().unwrap();
        assert_eq!(hex::encode_upper(command), expected);
        Ok(hex::decode(answer).unwrap())
    }
}

/// The reader's random numbers of the examples.
struct Drawn(Mutex<VecDeque<&'static str>>);

impl Entropy for Drawn {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        let drawn = self.0.lock().unwrap().pop_front().unwrap();
        hex::decode_to_slice(drawn, bytes).unwrap();
        Ok(())
    }
}

fn chip(script: &Arc<Script>, randoms: &[&'static str]) -> Ntag424 {
    let drawn = Drawn(Mutex::new(randoms.iter().copied().collect()));
    Ntag424::new(script.clone(), Arc::new(drawn))
}

fn key(text: &str) -> Key {
    let mut bytes = [0; 16];
    hex::decode_to_slice(text, &mut bytes).unwrap();
    Key::new(bytes)
}

fn zero() -> Key {
    Key::new([0; 16])
}

const SELECT: (&str, &str) = ("00A4040C07D276000085010100", "9000");
const FIRST_KEY_0: [(&str, &str); 2] = [
    ("9071000002000000", "A04C124213C186F22399D33AC2A3021591AF"),
    (
        "90AF00002035C3E05A752E0144BAC0DE51C1F22C56B34408A23D8AEA266CAB947EA8E0118D00",
        "3FA64DB5446D1F34CD6EA311167F5E4985B89690C04A05F17FA7AB2F081206639100",
    ),
];
const RANDOM_KEY_0: &str = "13C5DB8A5930439FC3DEF9A4C675360F";
const WRITE_NDEF: (&str, &str) = (
    concat!(
        "908D00009F02000000800000421C73A27D827658AF481FDFF20A5025B559D0E3AA21E58D347F343CFFC768BF",
        "E596C706BC00F2176781D4B0242642A0FF5A42C461AAF894D9A1284B8C76BCFA658ACD40555D362E08DB15CF",
        "421B51283F9064BCBE20E96CAE545B407C9D651A3315B27373772E5DA2367D2064AE054AF996C6F1F669170F",
        "A88CE8C4E3A4A7BBBEF0FD971FF532C3A802AF745660F2B4D1D9A8499661EBF300",
    ),
    "FC222E5F7A5424529100",
);
const CHANGE_SETTINGS: (&str, &str) = (
    "905F0000190261B6D97903566E84C3AE5274467E89EAD799B7C1A0EF7A0400",
    "57BFF87B1241E93D9100",
);

fn published_settings() -> FileSettings {
    FileSettings {
        mirroring: Some(Mirroring {
            picc_key: 2,
            mac_key: 1,
            counter_access: Access::Key(1),
            picc_offset: 0x20,
            mac_input_offset: 0x43,
            mac_offset: 0x43,
        }),
        ..FileSettings::LOCKED
    }
}

fn published_message() -> Vec<u8> {
    let url = b"choose.url.com/ntag424?e=00000000000000000000000000000000&c=0000000000000000";
    let mut message = vec![0x00, 0x51, 0xd1, 0x01, 0x4d, 0x55, 0x04];
    message.extend_from_slice(url);
    message.resize(128, 0);
    message
}

/// AN12196 §5.3 and §5.13 (ISOSelectFile), §5.5 (GetVersion).
#[test]
fn the_chip_says_what_it_is() {
    let script = Script::new(&[
        SELECT,
        ("9060000000", "0404083000110591AF"),
        ("90AF000000", "0404020101110591AF"),
        ("90AF000000", "04968CAA5C5E80CD65935D4021189100"),
    ]);
    let mut chip = chip(&script, &[]);
    run(chip.select_application()).unwrap();
    let version = run(chip.version()).unwrap();
    assert!(version.is_ntag_424_dna());
    assert_eq!(hex::encode_upper(version.uid), "04968CAA5C5E80");
    script.assert_finished();
}

/// AN12196 §5.6 (AuthenticateEV2First with key 0), §5.8.2 (WriteData, enciphered) and §5.9
/// (ChangeFileSettings): one session, its counter at 0 and 1. The commands come out right only
/// with the published session keys 1309C877…, 4C6626F5….
#[test]
fn authenticate_write_and_change_settings() {
    let script = Script::new(&[FIRST_KEY_0[0], FIRST_KEY_0[1], WRITE_NDEF, CHANGE_SETTINGS]);
    let mut chip = chip(&script, &[RANDOM_KEY_0]);
    assert!(run(chip.authenticate_first(0, &zero())).unwrap());
    assert_eq!(chip.authenticated_with(), Some(0));
    run(chip.write_data(CommMode::Full, ChipFile::Ndef, 0, &published_message())).unwrap();
    run(chip.change_file_settings(ChipFile::Ndef, &published_settings())).unwrap();
    script.assert_finished();
}

/// AN12196 §5.10 (AuthenticateEV2First with key 3), §5.12 (WriteData of file 3, enciphered),
/// §5.14 (AuthenticateEV2NonFirst with key 0), §5.15 (WriteData of file 1, plain), §5.16.1
/// (ChangeKey of key 2) and §5.16.2 (of key 0): one transaction, its counter at 0, 1, 2 and 3. It
/// shows that a plain command counts, and that a new authentication does not.
#[test]
fn go_on_under_another_key_and_change_keys() {
    let script = Script::new(&[
        ("9071000002030000", "B875CEB0E66A6C5CD00898DC371F92D191AF"),
        (
            "90AF000020FF0306E47DFBC50087C4D8A78E88E62DE1E8BE457AA477C707E2F0874916A8B100",
            "0CC9A8094A8EEA683ECAAC5C7BF20584206D0608D477110FC6B3D5D3F65C3A6A9100",
        ),
        (
            "908D00001F030000000A00006B5E6804909962FC4E3FF5522CF0F8436C0C53315B9C73AA00",
            "C26D236E4A7C046D9100",
        ),
        ("90770000010000", "A6A2B3C572D06C097BB8DB70463E22DC91AF"),
        (
            "90AF000020BE7D45753F2CAB85F34BC60CE58B940763FE969658A532DF6D95EA2773F6E99100",
            "B888349C24B315EAB5B589E279C8263E9100",
        ),
        (
            "908D000019010E0000120000FF0506E1050080828300000000000000000000",
            "9100",
        ),
        (
            concat!(
                "90C4000029022CF362B7BF4311FF3BE1DAA295E8C68DE09050560D19B9E16C2393AE9CD1FAC7",
                "5D0CE20BCD1D06E600",
            ),
            "203BB55D1089D5879100",
        ),
        (
            concat!(
                "90C400002900C0EB4DEEFEDDF0B513A03A95A75491818580503190D4D05053FF75668A01D6FD",
                "A6610234BDED643200",
            ),
            "9100",
        ),
    ]);
    let randoms = [
        "B98F4C50CF1C2E084FD150E33992B048",
        "60BE759EDA560250AC57CDDC11743CF6",
    ];
    let mut chip = chip(&script, &randoms);
    let data = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    assert!(run(chip.authenticate_first(3, &zero())).unwrap());
    run(chip.write_data(CommMode::Full, ChipFile::Proprietary, 0, &data)).unwrap();
    assert!(run(chip.authenticate_non_first(0, &zero())).unwrap());
    let container = hex::decode("FF0506E10500808283000000000000000000").unwrap();
    run(chip.write_data(
        CommMode::Plain,
        ChipFile::CapabilityContainer,
        14,
        &container,
    ))
    .unwrap();
    let second = key("F3847D627727ED3BC9C4CC050489B966");
    assert!(run(chip.change_key(2, &zero(), &second, 1)).unwrap());
    let master = key("5004BF991F408672B1EF00F08F9E8647");
    assert!(run(chip.change_key(0, &zero(), &master, 1)).unwrap());
    assert_eq!(chip.authenticated_with(), None);
    script.assert_finished();
}

/// The published answers with one bit turned are not taken.
#[test]
fn a_published_answer_with_one_bit_turned() {
    for bit in 0..64 {
        let mut answer = hex::decode(CHANGE_SETTINGS.1).unwrap();
        answer[bit / 8] ^= 1 << (bit % 8);
        let forged: &'static str = Box::leak(hex::encode(answer).into_boxed_str());
        let change = (CHANGE_SETTINGS.0, forged);
        let script = Script::new(&[FIRST_KEY_0[0], FIRST_KEY_0[1], WRITE_NDEF, change]);
        let mut chip = chip(&script, &[RANDOM_KEY_0]);
        assert!(run(chip.authenticate_first(0, &zero())).unwrap());
        run(chip.write_data(CommMode::Full, ChipFile::Ndef, 0, &published_message())).unwrap();
        let changed = run(chip.change_file_settings(ChipFile::Ndef, &published_settings()));
        assert!(
            matches!(changed, Err(ChipError::Forged { .. })),
            "bit {bit}"
        );
        assert_eq!(chip.authenticated_with(), None);
    }
    for bit in (0..256).step_by(5) {
        let mut answer = hex::decode(FIRST_KEY_0[1].1).unwrap();
        answer[bit / 8] ^= 1 << (bit % 8);
        let forged: &'static str = Box::leak(hex::encode(answer).into_boxed_str());
        let script = Script::new(&[FIRST_KEY_0[0], (FIRST_KEY_0[1].0, forged)]);
        let mut chip = chip(&script, &[RANDOM_KEY_0]);
        // The transaction's number and the random stand in the first 20 bytes; of the rest only
        // the block is checked.
        let authenticated = run(chip.authenticate_first(0, &zero()));
        if bit < 160 {
            assert!(
                matches!(authenticated, Err(ChipError::Forged { .. })),
                "bit {bit}"
            );
        }
    }
}
