//! Nothing secret stands where somebody may read it: in a debug print, an event, an error, a
//! reply, or the file with the books and its write-ahead log.

mod support;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use flashkit::cards::boltcard::{IssuerKey, KeyDerivation};
use flashkit::cards::{
    ActivateCard, AuthorizeCard, CaptureCharge, CardLimits, ChargeCard, FreezeCard, IssueCard,
    LossBearer, OfflineBook, OfflineKey, OfflineTerms, RefundCharge, RenewHolder, SetCardLimits,
    SetCardPin, SetOfflineTerms, StoppedCard, TopUpCard,
};
use flashkit::invoices::Invoice;
use flashkit::lightning::{LightningNode, Preimage};
use flashkit::ports::{Clock, SystemClock};
use flashkit::settlement::RequestPayout;
use flashkit::store::Store;
use flashkit::store::sqlite::SqliteStore;
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::testkit::wallet::Wallet;
use flashkit::{Answer, Engine, Error, MasterSecret};
use serde::Serialize;
use support::key;
use support::shop::{self, SAT, UID, sat};

const OTHER_UID: &str = "04b1c2d3e4f5a6";
const PIN: &str = "83915264";
const NEW_PIN: &str = "60718293";
const MASTER: [u8; 32] = *b"\x91\xa7master-secret-of-the-test\xfe\xee\x01\x88\x17";
const OFFLINE: [u8; 32] = [0xb3; 32];

/// What somebody may read.
#[derive(Default)]
struct Seen {
    texts: Vec<(String, Vec<u8>)>,
}

impl Seen {
    fn debug(&mut self, what: &str, value: &impl Debug) {
        let text = format!("{value:?} {value:#?}");
        self.texts
            .push((format!("debug of {what}"), text.into_bytes()));
    }

    /// What is answered, as text and as JSON.
    fn answer<T: Serialize + Debug>(&mut self, what: &str, answer: &Answer<T>) {
        self.debug(what, answer);
        let json = serde_json::to_vec(&answer.value).unwrap();
        self.texts.push((format!("answer of {what}"), json));
    }

    fn error<T: Debug>(&mut self, what: &str, answer: Result<T, Error>) {
        let error = answer.expect_err(what);
        self.debug(what, &error);
        let mut text = format!("{error} {}", error.code());
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            text.push_str(&format!(" {error} {error:?}"));
            cause = error.source();
        }
        self.texts
            .push((format!("error of {what}"), text.into_bytes()));
    }

    fn files(&mut self, folder: &Path) {
        let mut found = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                self.texts
                    .push((path.display().to_string(), std::fs::read(&path).unwrap()));
                found += 1;
            }
        }
        assert!(found >= 2, "a database and its log, not {found} files");
    }
}

/// Secrets, each in every form in which it could stand somewhere.
#[derive(Default)]
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    fn text(&mut self, what: &str, secret: &str) {
        self.0.push((what.to_owned(), secret.as_bytes().to_vec()));
    }

    fn bytes(&mut self, what: &str, secret: &[u8]) {
        let lower = hex::encode(secret);
        self.text(&format!("{what} in hex"), &lower);
        self.text(&format!("{what} in HEX"), &lower.to_uppercase());
        let text = base64(secret);
        self.text(
            &format!("{what} in base64url"),
            &text.replace('+', "-").replace('/', "_"),
        );
        self.text(&format!("{what} in base64"), &text);
        self.text(&format!("{what} as a list"), &list(secret));
        self.0.push((format!("{what} as bytes"), secret.to_vec()));
    }

    fn found_in(&self, seen: &Seen) -> Vec<String> {
        let mut found = Vec::new();
        for (place, text) in &seen.texts {
            for (what, secret) in &self.0 {
                if memchr(text, secret) {
                    found.push(format!("{what} in {place}"));
                }
            }
        }
        found
    }
}

/// Without padding, and without the last digit, which depends on what stands behind it.
fn base64(bytes: &[u8]) -> String {
    let digits: Vec<char> = ('A'..='Z')
        .chain('a'..='z')
        .chain('0'..='9')
        .chain(['+', '/'])
        .collect();
    let bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let bits: Vec<u8> = bits.collect();
    let number = |six: &[u8]| {
        six.iter()
            .fold(0_usize, |sum, bit| sum * 2 + usize::from(*bit))
    };
    bits.chunks_exact(6)
        .map(|six| digits[number(six)])
        .collect()
}

/// As a debug print of bytes has it.
fn list(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    numbers.join(", ")
}

fn memchr(text: &[u8], wanted: &[u8]) -> bool {
    let first = wanted[0];
    let mut at = 0;
    while let Some(next) = text[at..].iter().position(|byte| *byte == first) {
        at += next;
        if text[at..].starts_with(wanted) {
            return true;
        }
        at += 1;
    }
    false
}

/// As it is derived: the hash of the invoice says that it is right.
fn preimage(invoice: &Invoice) -> Preimage {
    let (mut bytes, id) = ([0; 32], invoice.id.to_string());
    let label: [&[u8]; 2] = [b"flashkit/preimage/1/", id.as_bytes()];
    let derived = hkdf::Hkdf::<sha2::Sha256>::new(None, &MASTER);
    derived.expand_multi_info(&label, &mut bytes).unwrap();
    let preimage = Preimage::new(bytes);
    assert_eq!(preimage.payment_hash(), invoice.payment_hash);
    preimage
}

struct World {
    engine: Engine,
    store: Arc<dyn Store>,
    seen: Seen,
    secrets: Secrets,
}

/// Every flow of a card, from the chip to the loss of a till.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_told_or_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(file, Arc::new(SystemClock)).unwrap());
    let network = flashkit::lightning::simulated::SimulatedNetwork::new(Arc::new(SystemClock));
    let node = Arc::new(network.node(0));
    let master = MasterSecret::new(MASTER);
    let issuer_key = IssuerKey::new(*master.card_issuer_key());
    let mut secrets = Secrets::default();
    secrets.bytes("the master secret", &MASTER);
    secrets.bytes("the issuer key", &*master.card_issuer_key());
    secrets.bytes("the node's entropy", &master.node_entropy()[..]);
    secrets.bytes("the node's entropy, half", &master.node_entropy()[..32]);
    secrets.bytes("the key of offline taps", &OFFLINE);
    secrets.text("the PIN", PIN);
    secrets.text("the new PIN", NEW_PIN);
    let uid = hex::decode(UID).unwrap().try_into().unwrap();
    let keys = issuer_key.card_keys(&uid, 1, &KeyDerivation::Standard);
    for (name, key) in [
        ("K0", &keys.k0),
        ("K1", &keys.k1),
        ("K2", &keys.k2),
        ("K3", &keys.k3),
        ("K4", &keys.k4),
    ] {
        secrets.bytes(name, &hex::decode(key.to_hex()).unwrap());
    }
    // No UID in clear either.
    secrets.text("the chip's number", UID);
    secrets.text("the other chip's number", OTHER_UID);
    secrets.text("the chip's number in HEX", &UID.to_uppercase());
    secrets
        .0
        .push(("the chip's number as bytes".to_owned(), uid.to_vec()));
    let builder = Engine::builder(store.clone(), master).network("regtest");
    let builder = builder.lightning(node).rates(shop::rates());
    let engine = builder.open().await.unwrap();
    engine.start().await.unwrap();
    let mut seen = Seen::default();
    seen.debug("the issuer key", &issuer_key);
    seen.debug("the card's keys", &keys);
    seen.debug("the master secret", &MasterSecret::new(MASTER));
    let mut world = World {
        engine,
        store,
        seen,
        secrets,
    };
    let customer = network.node(1_000_000 * SAT);
    customer.start().await.unwrap();
    let customer = Arc::new(Wallet::new(Arc::new(customer), None));
    tokio::spawn(customer.clone().run());
    world.card(&customer).await;
    world.events().await;
    // As it stands while it is open, and after it was closed.
    world.seen.files(folder.path());
    world.engine.stop().await.unwrap();
    world.seen.files(folder.path());
    assert!(
        world.seen.texts.len() > 60,
        "{} texts",
        world.seen.texts.len()
    );
    let found = world.secrets.found_in(&world.seen);
    assert_eq!(found, [""; 0]);
    // The search finds what is there: the id of a card is in every one of these places.
    let places = world
        .seen
        .texts
        .iter()
        .filter(|(_, text)| memchr(text, b"card_"));
    let kinds: BTreeMap<&str, usize> = places.fold(BTreeMap::new(), |mut kinds, (place, _)| {
        *kinds.entry(place.split(' ').next().unwrap()).or_default() += 1;
        kinds
    });
    assert!(kinds.len() >= 4, "{kinds:?}");
}

impl World {
    async fn card(&mut self, customer: &Wallet) {
        let (engine, issuer) = (self.engine.clone(), self.engine.issuer());
        let cards = engine.cards();
        self.credential("the issuer's credential", &issuer);
        let merchant = shop::merchant(&engine, "Cookshop").await;
        shop::program(&engine, merchant.id).await;
        self.credential("the till's credential", &merchant.till);
        let issue = IssueCard {
            key: key("issue"),
            uid: UID.to_owned(),
            existing_chip: None,
            limits: CardLimits::default(),
            program: None,
        };
        // A digest of it would tell the chip's number to whoever tries all of them.
        self.digest("the digest of an issue command", &issue);
        let card = cards.issue(&issuer, issue).await.unwrap();
        let batch = flashkit::cards::IssueCards {
            key: key("batch"),
            uids: vec![OTHER_UID.to_owned()],
            limits: CardLimits::default(),
            program: None,
        };
        self.digest("the digest of a batch", &batch);
        let issued = cards.issue_batch(&issuer, batch).await.unwrap();
        self.seen.answer("a batch", &issued);
        self.seen.answer("issue", &card);
        // The one reply that has them, to the issuer alone: its debug print has not.
        let keys = cards.programming_keys(&issuer, UID).await.unwrap();
        self.seen.debug("programming keys", &keys);
        let refused = cards.programming_keys(&merchant.till, UID).await;
        self.seen.error("keys to a till", refused);
        let mut chip = VirtualCard::program(UID, &keys).unwrap();
        let activate = ActivateCard {
            key: key("activate"),
            card: card.id,
        };
        let activation = cards.activate(&issuer, activate).await.unwrap();
        self.seen.debug("activate", &activation);
        self.credential("the holder's first credential", &activation.holder);
        self.seen.error(
            "keys after activation",
            cards.programming_keys(&issuer, UID).await,
        );
        let renew = RenewHolder {
            key: key("renew"),
            card: card.id,
        };
        let renewed = cards.renew_holder(&issuer, renew).await.unwrap();
        self.seen.debug("renew", &renewed);
        let holder = renewed.holder.clone();
        self.credential("the holder's credential", &holder);
        self.seen.error(
            "a renewed credential",
            cards.get(&activation.holder, card.id).await,
        );

        // An invoice that is paid, and one that never is.
        for name in ["paid", "unpaid"] {
            let top_up = TopUpCard {
                key: key(name),
                card: card.id,
                price: sat(20_000),
            };
            self.seen.debug("a top-up command", &top_up);
            let invoice = cards.top_up(&holder, top_up).await.unwrap();
            self.seen.answer("top-up", &invoice);
            if name == "unpaid" {
                let preimage = preimage(&invoice);
                self.secrets.bytes("an unpaid preimage", preimage.expose());
                self.seen.debug("a preimage", &preimage);
            } else {
                customer.pay(&invoice.bolt11).await.unwrap();
                shop::settled(&engine, &invoice).await;
            }
        }
        for (name, pin) in [("pin", PIN), ("new-pin", NEW_PIN)] {
            let set = SetCardPin {
                key: key(name),
                card: card.id,
                pin: pin.parse().unwrap(),
            };
            self.seen.debug("a PIN command", &set);
            self.seen
                .answer("set a PIN", &cards.set_pin(&holder, set).await.unwrap());
        }
        let limits = SetCardLimits {
            key: key("limits"),
            card: card.id,
            limits: CardLimits {
                pin_above: Some(1_000 * SAT),
                per_tap: Some(5_000 * SAT),
                ..CardLimits::default()
            },
        };
        let limited = cards.set_limits(&holder, limits).await.unwrap();
        self.seen.answer("limits", &limited);
        self.taps(&merchant, &holder, card.id, &mut chip).await;
        self.offline(&merchant, &mut chip).await;
        let freeze = FreezeCard {
            key: key("freeze"),
            card: card.id,
        };
        self.seen.answer(
            "freeze",
            &cards.freeze(&holder, freeze.clone()).await.unwrap(),
        );
        let charge = self.sale("frozen", chip.tap(), 10, None);
        self.seen
            .error("frozen", cards.charge(&merchant.till, charge).await);
        self.seen
            .answer("unfreeze", &cards.unfreeze(&holder, freeze).await.unwrap());
        self.seen
            .answer("get", &cards.get(&holder, card.id).await.unwrap());
        let history = cards.history(&holder, card.id, None, 100).await.unwrap();
        self.seen.answer("history", &history);
        let bolt11 = customer.invoice(500 * SAT, "takings").await.unwrap();
        let payout = RequestPayout {
            key: key("payout"),
            merchant: merchant.id,
            bolt11,
        };
        let settlement = engine.settlement();
        let payout = settlement.request_payout(&issuer, payout).await.unwrap();
        self.seen.answer("payout", &payout);
        self.seen.answer(
            "trial balance",
            &engine.reports().trial_balance(&issuer).await.unwrap(),
        );
        let stranger = issuer.reveal().replace('0', "1").parse();
        if let Ok(stranger) = stranger {
            self.seen
                .error("a forged credential", cards.get(&stranger, card.id).await);
        }
    }

    fn sale(&mut self, name: &str, tap: String, sats: i64, pin: Option<&str>) -> ChargeCard {
        let command = ChargeCard {
            key: key(name),
            tap,
            price: sat(sats),
            reference: "table 4".to_owned(),
            pin: pin.map(|pin| pin.parse().unwrap()),
        };
        self.seen.debug("a charge command", &command);
        command
    }

    async fn taps(
        &mut self,
        merchant: &shop::Merchant,
        holder: &flashkit::access::Credential,
        card: flashkit::ids::CardId,
        chip: &mut VirtualCard,
    ) {
        let (cards, till) = (self.engine.cards(), &merchant.till);
        let tap = chip.tap();
        self.seen.answer("peek", &cards.peek(&tap).await.unwrap());
        let command = self.sale("sale", tap.clone(), 100, None);
        let charge = cards.charge(till, command).await.unwrap();
        self.seen.answer("charge", &charge);
        let command = self.sale("again", tap, 100, None);
        self.seen
            .error("replayed", cards.charge(till, command).await);
        for (name, sats, pin) in [
            ("no-pin", 2_000, None),
            ("wrong-pin", 2_000, Some("11112222")),
            ("too-much", 6_000, Some(NEW_PIN)),
        ] {
            let command = self.sale(name, chip.tap(), sats, pin);
            self.seen.error(name, cards.charge(till, command).await);
        }
        let command = self.sale("right-pin", chip.tap(), 2_000, Some(NEW_PIN));
        self.seen
            .answer("with a PIN", &cards.charge(till, command).await.unwrap());
        let good = chip.tap();
        for (name, forged) in [
            ("wrong-mac", format!("{}0", &good[..good.len() - 1])),
            ("garbled", good.replace("p=", "p=zz")),
            ("not-ours", good.replace("?p=", "?p=0&P=")),
            ("nothing", String::new()),
        ] {
            let command = self.sale(name, forged.clone(), 10, None);
            if let Err(error) = cards.charge(till, command).await {
                self.seen.error(name, Err::<(), _>(error));
            }
            if let Err(error) = cards.peek(&forged).await {
                self.seen.error(name, Err::<(), _>(error));
            }
        }
        let command = AuthorizeCard {
            key: key("tab"),
            tap: chip.tap(),
            price: sat(500),
            reference: "tab".to_owned(),
            pin: None,
        };
        self.seen.debug("an authorise command", &command);
        let tab = cards.authorize(till, command).await.unwrap();
        self.seen.answer("authorise", &tab);
        let command = CaptureCharge {
            key: key("capture"),
            charge: tab.id,
            amount: flashkit::cards::ChargeAmount::Bitcoin {
                amount_msat: 400 * SAT,
            },
        };
        self.seen
            .answer("capture", &cards.capture(till, command).await.unwrap());
        let command = RefundCharge {
            key: key("refund"),
            charge: charge.id,
            amount: flashkit::cards::ChargeAmount::Bitcoin {
                amount_msat: 50 * SAT,
            },
        };
        self.seen
            .answer("refund", &cards.refund(till, command).await.unwrap());
        self.seen.answer(
            "the PIN's status",
            &cards.pin_status(holder, card).await.unwrap(),
        );
    }

    async fn offline(&mut self, merchant: &shop::Merchant, chip: &mut VirtualCard) {
        let (cards, issuer) = (self.engine.cards(), self.engine.issuer());
        let terms = OfflineTerms {
            per_tap_msat: 1_000 * SAT,
            per_day_msat: 10_000 * SAT,
            window_ms: 3_600_000,
            loss: LossBearer::Operator,
            stopped_card: StoppedCard::Loss,
        };
        let command = SetOfflineTerms {
            key: key("terms"),
            merchant: merchant.id,
            till: None,
            terms: Some(terms),
        };
        cards.set_offline_terms(&issuer, command).await.unwrap();
        let secret = OfflineKey::new(OFFLINE).unwrap();
        self.seen.debug("the key of offline taps", &secret);
        let text = merchant.till.reveal().strip_prefix("flashkit_").unwrap();
        let id = text.rsplit_once('_').unwrap().0.parse().unwrap();
        let command = secret.enroll(id, key("enroll")).unwrap();
        self.seen.debug("an enrolment", &command);
        let enrolled = cards
            .enroll_offline_key(&merchant.till, command)
            .await
            .unwrap();
        self.seen.answer("enrolment", &enrolled);
        let mut book = OfflineBook::new(&enrolled).unwrap();
        let tap = chip.tap();
        // A tap that nobody has charged yet is not printed.
        self.secrets
            .text("an offline tap", tap.split_once("?p=").unwrap().1);
        book.accept(&tap, 5 * SAT, "offline", SystemClock.now_ms())
            .unwrap();
        self.seen.debug("a till's book", &book);
        let envelope = book.envelope(&secret).unwrap().unwrap();
        self.seen.debug("an envelope", &envelope);
        let outcomes = cards
            .replay_offline(&merchant.till, envelope)
            .await
            .unwrap();
        self.seen.answer("offline taps", &outcomes);
    }

    /// The bare digest of a request, of both forms that limits have had.
    fn digest(&mut self, what: &str, request: &impl Serialize) {
        let now = serde_json::to_string(request).unwrap();
        let mut then = now.clone();
        for field in [
            "per_tap",
            "per_day",
            "per_week",
            "per_month",
            "pin_above",
            "low_balance",
            "max_balance",
        ] {
            then = then.replace(&format!("\"{field}\":"), &format!("\"{field}_msat\":"));
        }
        for text in [now, then] {
            let digest = <sha2::Sha256 as sha2::Digest>::digest(text);
            self.secrets.bytes(what, &digest);
        }
    }

    fn credential(&mut self, what: &str, credential: &flashkit::access::Credential) {
        let text = credential.reveal();
        self.secrets.text(what, text);
        let secret = text.rsplit_once('_').unwrap().1;
        self.secrets.bytes(what, &hex::decode(secret).unwrap());
        self.seen.debug(what, credential);
    }

    async fn events(&mut self) {
        let events = self.store.events(0, 1_000).await.unwrap();
        assert!(events.len() > 15);
        for event in &events {
            let json = serde_json::to_vec(event).unwrap();
            self.seen
                .texts
                .push((format!("event {}", event.kind), json));
            self.seen.debug("an event", event);
        }
    }
}
