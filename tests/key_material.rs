//! Nothing secret stands where somebody may read it: in a debug print, an event, an error, a
//! reply, the file with the books and its write-ahead log, the tables of a database, or the stream by
//! which books move.

#[cfg(feature = "postgres")]
#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use flashkit::access::{Credential, HostKey, HostKeys};
use flashkit::cards::boltcard::{IssuerKey, KeyDerivation};
use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{
    ActivateCard, AuthorizeCard, CaptureCharge, CardLimits, ChargeCard, CreateCardImport, CutOver,
    FreezeCard, ImportIssuerKey, ImportedCard, IssueCard, IssueVirtualCard, LossBearer,
    MakeRecoveryCode, OfflineBook, OfflineKey, OfflineTerms, ProgrammingKeys, RecoverHolder,
    RefundCharge, RenewHolder, ReplaceCard, RotateIssuerKey, SetCardLimits, SetCardPin,
    SetOfflineTerms, StoppedCard, TopUpCard, VirtualTap, WipeCard,
};
use flashkit::ids::CardId;
use flashkit::invoices::Invoice;
use flashkit::lightning::{LightningNode, Preimage};
use flashkit::ports::{Clock, SystemClock};
use flashkit::settlement::RequestPayout;
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{MemoryStore, NodeState, Store, StoreAdmin};
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
const HOST: [u8; 32] = *b"\x83\xc1the-key-of-the-host-itself\xfd\xed\x02\x99";
const IMPORTED: [u8; 16] = *b"\xd7former-issuer\xe1\x9a";
const IMPORTED_UIDS: [&str; 2] = ["04c9d8e7f6a5b4", "04d9d8e7f6a5b4"];

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_told_or_kept_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.db");
    let store = Arc::new(SqliteStore::open(file, Arc::new(SystemClock)).unwrap());
    nothing_secret(store, |seen| seen.files(folder.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_told_or_kept_in_memory() {
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    nothing_secret(store, |_| ()).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_told_or_kept_on_postgres() {
    use flashkit::store::postgres::{PostgresConfig, PostgresStore};

    let Some(cluster) = postgres::Cluster::shared() else {
        return;
    };
    let url = cluster.url(cluster.port, "sslmode=disable");
    let store = PostgresStore::connect(PostgresConfig::new(url.clone()), Arc::new(SystemClock));
    let store = Arc::new(store.await.unwrap());
    nothing_secret(store, |seen| {
        let dumped = cluster.command("pg_dump", &["--inserts", &url]).output();
        let dumped = dumped.unwrap();
        assert!(dumped.status.success(), "{dumped:?}");
        let rows = String::from_utf8_lossy(&dumped.stdout);
        let rows = rows.matches("INSERT INTO").count();
        assert!(rows > 200, "{rows} rows");
        seen.texts
            .push(("dump of the tables".to_owned(), dumped.stdout));
    })
    .await;
}

/// Every flow of a card, from the chip to the loss of a till, and then all that is to be read.
async fn nothing_secret<S: Store + StoreAdmin + 'static>(store: Arc<S>, kept: impl Fn(&mut Seen)) {
    let admin = store.clone();
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
    secrets.bytes("the host's key", &HOST);
    secrets.bytes("an imported issuer key", &IMPORTED);
    for uid in IMPORTED_UIDS {
        secrets.text("an imported chip's number", uid);
    }
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
    let builder = builder.host_keys(HostKeys::new(HostKey::new(HOST)));
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
    kept(&mut world.seen);
    let mut moved = Vec::new();
    let mut stream = admin.export(NodeState::LeaveOut).await.unwrap();
    while let Some(piece) = stream.next_piece().await.unwrap() {
        moved.extend(piece);
    }
    world
        .seen
        .texts
        .push(("stream of the books".to_owned(), moved));
    world.engine.stop().await.unwrap();
    kept(&mut world.seen);
    assert!(
        world.seen.texts.len() > 120,
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
    for kind in ["stream", "event", "answer", "error"] {
        assert!(kinds.contains_key(kind), "{kinds:?}");
    }
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
        self.lnurl(customer, card.id, &mut chip).await;
        self.virtual_card(&merchant).await;
        let holder = self.recovery(&holder, card.id).await;
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
        self.in_its_place(&holder, card.id).await;
        self.imported().await;
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

    /// What a card's web addresses answer.
    async fn lnurl(&mut self, customer: &Wallet, card: CardId, chip: &mut VirtualCard) {
        let (cards, issuer) = (self.engine.cards(), self.engine.issuer());
        let tap = chip.tap();
        let url = tap.replace("lnurlw://", "https://");
        let (host, parameters) = url.split_once('?').unwrap();
        let p = parameters.split('&').next().unwrap();
        let address = cards.top_up_address(&issuer, card).await.unwrap();
        self.seen.answer("an address", &address);
        let bolt11 = customer.invoice(100 * SAT, "elsewhere").await.unwrap();
        for (what, url, status) in [
            ("an offer", url.clone(), 200),
            ("the page", format!("{host}s/balance?{parameters}"), 200),
            ("an address by tap", format!("{host}/pay?{p}"), 200),
            (
                "a top-up by tap",
                format!("{host}/pay?{p}&amount=1000000"),
                200,
            ),
            ("a card's address", address.url.clone(), 200),
            ("a top-up", format!("{}?amount=1000000", address.url), 200),
            ("a payment", format!("{url}&pr={bolt11}"), 200),
            ("a PIN", format!("{url}&pr={bolt11}&pin={NEW_PIN}"), 200),
            ("a used tap", url.clone(), 400),
            ("a forged tap", format!("{}0", &url[..url.len() - 1]), 400),
            ("nothing", format!("{host}/nothing"), 404),
        ] {
            let request = LnurlRequest {
                url,
                till: None,
                source: None,
            };
            self.seen.debug(what, &request);
            let reply = cards.answer(&request).await;
            // One last digit in sixteen is the right one.
            let is_it = reply.status == status || what == "a forged tap";
            assert!(is_it, "{what}: {} {}", reply.status, reply.body);
            self.seen.debug(what, &reply);
            let body = reply.body.clone().into_bytes();
            self.seen.texts.push((format!("reply to {what}"), body));
        }
        let paid = cards.list_payments(&issuer, card, None, 10).await.unwrap();
        assert_eq!(paid.len(), 1);
        self.seen.answer("payments", &paid);
    }

    async fn virtual_card(&mut self, merchant: &shop::Merchant) {
        let (cards, issuer) = (self.engine.cards(), self.engine.issuer());
        let command = IssueVirtualCard {
            key: key("virtual"),
            limits: CardLimits::default(),
            expires_at_ms: None,
            program: None,
        };
        let issued = cards.issue_virtual(&issuer, command).await.unwrap();
        self.seen.answer("a virtual card", &issued);
        let command = ActivateCard {
            key: key("virtual"),
            card: issued.id,
        };
        let held = cards.activate(&issuer, command).await.unwrap();
        self.seen.debug("a virtual card's activation", &held);
        self.credential("a virtual card's holder", &held.holder);
        // The one reply that has them, to its holder alone.
        let shown = cards.virtual_details(&held.holder, issued.id).await;
        let shown = shown.unwrap().value;
        self.seen.debug("what its holder sees", &shown);
        let tap = VirtualTap::new(&shown.number, &shown.code).unwrap();
        self.seen.debug("a virtual tap", &tap);
        let tap = tap.to_string();
        self.secrets.text("a virtual card's number", &shown.number);
        self.secrets.text("a virtual card's code", &tap);
        self.seen.answer("a look", &cards.peek(&tap).await.unwrap());
        let command = self.sale("virtual", tap.clone(), 10, None);
        let poor = cards.charge(&merchant.till, command).await;
        self.seen.error("a poor one", poor);
        let (before, code) = tap.rsplit_once(':').unwrap();
        let other = (code.parse::<u32>().unwrap() + 7) % 100_000_000;
        let command = self.sale("guess", format!("{before}:{other:08}"), 10, None);
        let wrong = cards.charge(&merchant.till, command).await;
        self.seen.error("a guess", wrong);
    }

    /// Whoever has lost the phone: the holder's new credential.
    async fn recovery(&mut self, holder: &Credential, card: CardId) -> Credential {
        let cards = self.engine.cards();
        let command = MakeRecoveryCode {
            key: key("recovery"),
            card,
        };
        let made = cards.make_recovery_code(holder, command).await.unwrap();
        self.seen.debug("a recovery code", &made);
        self.code("the recovery code", made.code.reveal());
        let command = RecoverHolder {
            key: key("recover"),
            code: made.code.clone(),
        };
        self.seen.debug("a recovery", &command);
        let recovered = cards.recover(command.clone()).await.unwrap();
        self.seen.debug("what is recovered", &recovered);
        self.code("the next recovery code", recovered.code.reveal());
        self.credential("the recovered credential", &recovered.holder);
        let again = RecoverHolder {
            key: key("again"),
            ..command
        };
        self.seen.error("a used code", cards.recover(again).await);
        recovered.holder.clone()
    }

    fn code(&mut self, what: &str, code: &str) {
        self.secrets.text(what, code);
        self.secrets.text(what, &code.replace('-', ""));
    }

    /// Another card comes in its place, and its chip is wiped and written again.
    async fn in_its_place(&mut self, holder: &Credential, card: CardId) {
        let (cards, issuer) = (self.engine.cards(), self.engine.issuer());
        let keys = cards.programming_keys(&issuer, OTHER_UID).await.unwrap();
        self.keys("the other chip", &keys);
        let mut chip = VirtualCard::program(OTHER_UID, &keys).unwrap();
        let command = ReplaceCard {
            key: key("replace"),
            card,
            tap: chip.tap(),
        };
        self.seen.debug("a replacement", &command);
        let replaced = cards.replace(holder, command).await.unwrap();
        self.seen.debug("what is replaced", &replaced);
        self.credential("the credential after it", &replaced.holder);
        let looked = cards.peek(&chip.tap()).await.unwrap();
        self.seen.answer("the card in its place", &looked);
        let wiped = cards.wipe_keys(&issuer, UID, None).await.unwrap();
        self.seen.debug("keys to wipe it with", &wiped);
        let command = WipeCard {
            key: key("wipe"),
            card,
        };
        let wiped = cards.wipe(&issuer, command).await.unwrap();
        self.seen.answer("a wipe", &wiped);
        let command = IssueCard {
            key: key("once more"),
            uid: UID.to_owned(),
            existing_chip: None,
            limits: CardLimits::default(),
            program: None,
        };
        self.digest("the digest of a second issue", &command);
        let issued = cards.issue(&issuer, command).await.unwrap();
        self.seen.answer("a second issue", &issued);
        let keys = cards.programming_keys(&issuer, UID).await.unwrap();
        assert_eq!(keys.version, 2);
        self.keys("the chip's second version", &keys);
    }

    /// Cards of another issuer, with its key; and a new key of one's own.
    async fn imported(&mut self) {
        let (cards, issuer) = (self.engine.cards(), self.engine.issuer());
        let former = IssuerKey::new(IMPORTED);
        let command = ImportIssuerKey {
            key: key("import"),
            issuer_key: former.clone(),
        };
        self.seen.debug("an issuer key to import", &command);
        let imported = cards.import_issuer_key(&issuer, command).await.unwrap();
        self.seen.answer("an imported issuer key", &imported);
        let command = CreateCardImport {
            key: key("import"),
            name: "base".to_owned(),
            issuer_key: former.id(),
            limits: CardLimits::default(),
            program: None,
        };
        let import = cards.imports().create(&issuer, command).await.unwrap();
        self.seen.answer("an import", &import);
        let mut rows = Vec::new();
        for (number, text) in IMPORTED_UIDS.iter().enumerate() {
            let uid = hex::decode(text).unwrap().try_into().unwrap();
            let keys = former.card_keys(&uid, 3, &KeyDerivation::Standard);
            for key in [&keys.k0, &keys.k2, &keys.k3, &keys.k4] {
                let key = hex::decode(key.to_hex()).unwrap();
                self.secrets.bytes("a key of an imported card", &key);
            }
            let hash = hex::encode(former.card_id_hash(&uid));
            rows.push(ImportedCard {
                // By its hash, and by its number.
                id: (number == 0).then_some(hash),
                uid: (number == 1).then(|| (*text).to_owned()),
                version: 3,
                counter: 5,
                pull_payment_id: None,
                balance_msat: 1_000 * SAT,
            });
        }
        let checked = cards.imports().check(&issuer, import.id, &rows).await;
        self.seen.answer("a dry run", &checked.unwrap());
        let command = CutOver {
            key: key("cut-over"),
            import: import.id,
            old_issuer_is_frozen: true,
            cards: rows,
        };
        let report = cards.imports().cut_over(&issuer, command).await.unwrap();
        assert!(report.is_clean(), "{:?}", report.refused);
        self.seen.answer("a cut-over", &report);
        let here = cards.imports().export(&issuer, import.id, None, 10).await;
        let here = here.unwrap();
        assert_eq!(here.len(), 2);
        self.seen.answer("an export", &here);
        let command = RotateIssuerKey { key: key("rotate") };
        let rotated = cards.rotate_issuer_key(&issuer, command).await.unwrap();
        self.seen.answer("a new issuer key", &rotated);
        let known = cards.issuer_keys(&issuer).await.unwrap();
        self.seen.answer("issuer keys", &known);
    }

    /// What is told to write a chip with: its debug print has none of it, and nothing else has.
    fn keys(&mut self, what: &str, keys: &ProgrammingKeys) {
        self.seen.debug(what, keys);
        // K1 is that of all its issuer's chips, and among the others already.
        for key in [&keys.k0, &keys.k2, &keys.k3, &keys.k4] {
            self.secrets.bytes(what, &hex::decode(key).unwrap());
        }
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
