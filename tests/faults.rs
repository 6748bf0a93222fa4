//! The disk is full, read-only, broken, locked or taken away in the middle of everything: health
//! says so, calls are answered with what it is, the process lives; and when the cause has gone,
//! writing goes on and what was under way comes to its end, once.

#[path = "support/disk.rs"]
mod disk;
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::{Disk, Fault};
use flashkit::cards::{CardLimits, Charge, ChargeCard};
use flashkit::invoices::{Invoice, InvoiceState};
use flashkit::ledger::Account;
use flashkit::lightning::Bolt11Details;
use flashkit::ports::SystemClock;
use flashkit::settlement::{Payout, PayoutState, RequestPayout};
#[cfg(feature = "ldk")]
use flashkit::store::Store;
use flashkit::store::sqlite::SqliteStore;
use flashkit::testkit::wallet::Wallet;
use flashkit::{Answer, Engine, Error, Health};
use support::books::expect_sound;
use support::shop::{self, HeldCard, Merchant, SAT, UID, sat};
use support::{key, until};

const PRICE: i64 = 1_000;

/// A shop at work on a folder.
struct Scene {
    engine: Engine,
    customer: Arc<Wallet>,
    merchant: Merchant,
    card: HeldCard,
}

/// A payment each way, on its way.
struct UnderWay {
    payout: Payout,
    sale: Invoice,
    tap: String,
}

impl Scene {
    async fn open(folder: &Path) -> Self {
        let store = SqliteStore::open(folder.join("books.db"), Arc::new(SystemClock)).unwrap();
        let shop = shop::simulated(Arc::new(store)).await;
        let merchant = shop::merchant(&shop.engine, "Cookshop").await;
        let card = shop::card(&shop.engine, UID, CardLimits::default()).await;
        shop::top_up(&shop.engine, &shop.customer, &card, "first", sat(100_000)).await;
        let sale = shop::sale(&shop.engine, &merchant, "earned", sat(50_000)).await;
        shop.customer.pay(&sale.bolt11).await.unwrap();
        shop::settled(&shop.engine, &sale).await;
        Self {
            engine: shop.engine,
            customer: shop.customer,
            merchant,
            card,
        }
    }

    async fn charge(&self, name: &str, tap: &str) -> Result<Answer<Charge>, Error> {
        let (cards, command) = (self.engine.cards(), self.command(name, tap));
        cards.charge(&self.merchant.till, command).await
    }

    fn command(&self, name: &str, tap: &str) -> ChargeCard {
        ChargeCard {
            key: key(name),
            tap: tap.to_owned(),
            price: sat(PRICE),
            reference: name.to_owned(),
            pin: None,
        }
    }

    async fn balances(&self) -> (i128, i128) {
        let books = self.engine.reports();
        let books = books.trial_balance(&self.engine.issuer()).await.unwrap();
        let of = |account: Account| {
            let line = books.lines.iter().find(|line| line.account == account);
            line.map_or(0, |line| line.balance)
        };
        (
            of(Account::card_balance(self.card.id)),
            of(Account::merchant_payable(self.merchant.id)),
        )
    }

    /// The merchant is being paid out, and a customer has asked for what it is to pay.
    async fn begin(&mut self, name: &str) -> UnderWay {
        self.customer.hold(true);
        let bolt11 = self.customer.invoice(2_000 * SAT, name).await.unwrap();
        let payout = payout(&self.engine, &self.merchant, name, &bolt11).await;
        let price = sat(3_000);
        let sale = shop::sale(&self.engine, &self.merchant, &format!("sale-{name}"), price).await;
        let tap = self.card.chip.tap();
        UnderWay {
            payout: payout.unwrap().value,
            sale,
            tap,
        }
    }

    /// While nothing can be written: commands are refused so, payments go on their way, health is
    /// red and stays so.
    async fn expect_red(&self, name: &str, under_way: &UnderWay, answer: &str, cause: &str) {
        let refused = self.charge(name, &under_way.tap).await.unwrap_err();
        assert_eq!(refused.code(), answer, "{name}: {refused}");
        // The money moves between the nodes, and the engine cannot book it.
        self.customer.hold(false);
        let customer = self.customer.clone();
        let hash = customer.send(&under_way.sale.bolt11).await.unwrap();
        let arrived = under_way.payout.payment_hash;
        until("the payout has arrived", || async {
            customer.received_msat(arrived) == 2_000 * SAT
        })
        .await;
        let early = tokio::time::timeout(Duration::from_millis(700), customer.sent(hash)).await;
        assert!(early.is_err(), "{name}: taken before it was booked");
        let health = self.engine.health();
        let trouble = health.store.as_ref().expect("health is red");
        assert_eq!(trouble.code, cause, "{name}: {trouble:?}");
        assert!(!health.is_good() && !trouble.detail.is_empty(), "{name}");
        // What can be read, is.
        let sale = self.sale(under_way).await;
        assert_eq!(sale.state, InvoiceState::New, "{name}");
    }

    async fn sale(&self, under_way: &UnderWay) -> Invoice {
        let invoices = self.engine.invoices();
        let sale = invoices.get(&self.engine.issuer(), under_way.sale.id).await;
        sale.unwrap().value
    }

    /// The cause has gone: everything comes to its end, and once.
    async fn expect_healed(&mut self, name: &str, under_way: UnderWay, before: (i128, i128)) {
        let patience = Instant::now() + Duration::from_secs(30);
        let mut health = self.engine.health();
        while health != Health::default() {
            let left = patience.saturating_duration_since(Instant::now());
            let changed = tokio::time::timeout(left, self.engine.health_changed(&health)).await;
            health = changed.unwrap_or_else(|_| panic!("{name}: {health:?}"));
        }
        shop::settled(&self.engine, &under_way.sale).await;
        let (settlement, issuer) = (self.engine.settlement(), self.engine.issuer());
        until("it is paid out", || async {
            let payout = settlement.payout(&issuer, under_way.payout.id).await;
            payout.unwrap().state == PayoutState::PaidOut
        })
        .await;
        // The same command again, which was refused or of which it was not known.
        self.charge(name, &under_way.tap).await.unwrap();
        self.charge(name, &under_way.tap).await.unwrap();
        let price = i128::from(PRICE * SAT);
        let paid_out = i128::from(2_020 * SAT);
        let earned = i128::from(3_000 * SAT);
        let after = (before.0 - price, before.1 + price - paid_out + earned);
        assert_eq!(self.balances().await, after, "{name}");
        let received = self.customer.received_msat(under_way.payout.payment_hash);
        assert_eq!(received, 2_000 * SAT, "{name}");
        self.expect_told(name).await;
        expect_sound(&self.engine, name).await;
        let verdict = self.engine.reports().verify_journal(&issuer, &[]).await;
        assert_eq!(verdict.unwrap().problems, [], "{name}");
    }

    /// The books have it that there was trouble.
    async fn expect_told(&self, name: &str) {
        let (events, issuer) = (self.engine.events(), self.engine.issuer());
        let reader = format!("told/{name}");
        until("the trouble is in the books", || async {
            let next = events.next(&issuer, &reader, 1_000).await.unwrap();
            let told = next.iter().any(|event| event.kind == "store.recovered");
            if let Some(last) = next.last() {
                let read = events.acknowledge(&issuer, &reader, last.position).await;
                read.unwrap();
            }
            told
        })
        .await;
    }
}

async fn payout(
    engine: &Engine,
    merchant: &Merchant,
    name: &str,
    bolt11: &str,
) -> Result<Answer<Payout>, Error> {
    let command = RequestPayout {
        key: key(&format!("payout-{name}")),
        merchant: merchant.id,
        bolt11: bolt11.to_owned(),
    };
    let issuer = engine.issuer();
    engine.settlement().request_payout(&issuer, command).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_fails_for_a_while_only_delays() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::under(folder.path());
    let mut scene = Scene::open(folder.path()).await;
    for (fault, answer, cause) in [
        (Fault::Full, "store.full", "store.full"),
        (Fault::ReadOnly, "store.read_only", "store.read_only"),
        // The end of a write that failed may be on the disk all the same.
        (Fault::Write, "store.outcome_unknown", "store.io"),
        (Fault::Flush, "store.outcome_unknown", "store.io"),
    ] {
        let name = format!("{fault:?}");
        let before = scene.balances().await;
        let under_way = scene.begin(&name).await;
        disk.fail(fault);
        let refused = disk.refused();
        scene.expect_red(&name, &under_way, answer, cause).await;
        // A payout that begins now is not sent: its intent cannot be written.
        let bolt11 = scene.customer.invoice(SAT, "late").await.unwrap();
        let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
        let late = payout(
            &scene.engine,
            &scene.merchant,
            &format!("late-{name}"),
            &bolt11,
        )
        .await;
        assert_eq!(late.unwrap_err().code(), answer);
        println!("{name}: {} writes failed", disk.refused() - refused);
        assert!(disk.refused() > refused + 2, "{name}: nothing was tried");
        disk.heal();
        scene.expect_healed(&name, under_way, before).await;
        assert_eq!(scene.customer.received_msat(hash), 0, "{name}");
    }
    scene.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lock_of_another_program_only_delays() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::open(folder.path()).await;
    let other = rusqlite::Connection::open(folder.path().join("books.db")).unwrap();
    let before = scene.balances().await;
    let under_way = scene.begin("locked").await;
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let code = "store.locked";
    scene.expect_red("locked", &under_way, code, code).await;
    other.execute_batch("ROLLBACK").unwrap();
    scene.expect_healed("locked", under_way, before).await;
    scene.engine.stop().await.unwrap();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_that_is_taken_away_takes_no_commits() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut scene = Scene::open(folder.path()).await;
    let (code, elsewhere) = ("store.moved", at("elsewhere"));
    // Moved, with or without another one in its place; then put back.
    for (name, taken, replaced) in [
        ("file", "books.db", false),
        ("log", "books.db-wal", false),
        ("other", "books.db", true),
    ] {
        let before = scene.balances().await;
        let under_way = scene.begin(name).await;
        std::fs::rename(at(taken), &elsewhere).unwrap();
        if replaced {
            std::fs::copy(&elsewhere, at(taken)).unwrap();
        }
        scene.expect_red(name, &under_way, code, code).await;
        std::fs::rename(&elsewhere, at(taken)).unwrap();
        scene.expect_healed(name, under_way, before).await;
    }
    // Removed for good: it is said, for as long as it takes, and nothing is acknowledged.
    let under_way = scene.begin("removed").await;
    std::fs::remove_file(at("books.db")).unwrap();
    scene.expect_red("removed", &under_way, code, code).await;
    for round in 0..3 {
        let refused = scene.charge("removed", &under_way.tap).await.unwrap_err();
        assert_eq!(refused.code(), code, "round {round}");
    }
    scene.engine.stop().await.unwrap();
    // And an empty one does not take its place.
    let again = SqliteStore::open(at("books.db"), Arc::new(SystemClock));
    assert_eq!(again.err().unwrap().code(), "store.corrupt");
}

/// The file is taken away while a commit is being flushed: it went somewhere, and nobody can say
/// whether that will be found. It is not acknowledged, and not called undone either.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_that_is_taken_away_during_a_flush_leaves_it_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::under(folder.path());
    let at = |name: &str| folder.path().join(name);
    let mut scene = Scene::open(folder.path()).await;
    let (before, tap) = (scene.balances().await, scene.card.chip.tap());
    disk.hold_flushes("-wal");
    let charge = {
        let (cards, till) = (scene.engine.cards(), scene.merchant.till.clone());
        let command = scene.command("unknown", &tap);
        tokio::spawn(async move { cards.charge(&till, command).await })
    };
    let waiting = disk.clone();
    let waited = tokio::task::spawn_blocking(move || waiting.until_flush_waits());
    waited.await.unwrap();
    std::fs::rename(at("books.db"), at("elsewhere")).unwrap();
    disk.release_flushes();
    let unknown = charge.await.unwrap().unwrap_err();
    assert_eq!(unknown.code(), "store.outcome_unknown");
    std::fs::rename(at("elsewhere"), at("books.db")).unwrap();
    scene.charge("unknown", &tap).await.unwrap();
    let price = i128::from(PRICE * SAT);
    let after = (before.0 - price, before.1 + price);
    assert_eq!(scene.balances().await, after);
    scene.engine.stop().await.unwrap();
}

/// The flush of a commit fails, and then the file system takes nothing any more: in the log it stands
/// all the same, where the next start finds it. So nobody is told meanwhile that it was not done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_next_start_may_find_is_not_called_undone() {
    use flashkit::ids::BatchId;
    use flashkit::ledger::{Batch, CommandRecord, Step};
    use flashkit::store::{CommitError, Store, StoreError};

    let batch = |number: u8, read_version: i64| Batch {
        id: BatchId::from_parts(1, [number; 10]),
        command: Some(CommandRecord {
            scope: format!("till/charge/{number}"),
            fingerprint: "f".to_owned(),
            answer: serde_json::json!({}).into(),
        }),
        steps: vec![Step::Require {
            collection: "card",
            id: "one".to_owned(),
            version: read_version,
        }]
        .into(),
    };
    let unknown = StoreError::OutcomeUnknown;
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::under(folder.path());
    let file = folder.path().join("books.db");
    let store = SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
    store.commit(batch(1, 0)).await.unwrap();
    for settled_by_a_refusal in [false, true] {
        let number = if settled_by_a_refusal { 3 } else { 2 };
        disk.fail(Fault::Flush);
        let refused = store.commit(batch(number, 0)).await.unwrap_err();
        assert_eq!(refused, CommitError::Store(unknown.clone()));
        disk.fail(Fault::ReadOnly);
        let scope = format!("till/charge/{number}");
        assert_eq!(store.command(&scope).await, Err(unknown.clone()));
        // Nor is it said of anything else that it is refused for good.
        let refused = store.commit(batch(9, 5)).await.unwrap_err();
        assert!(matches!(refused, CommitError::Store(_)), "{refused}");

        // As a machine that is started again finds it.
        let again = tempfile::tempdir().unwrap();
        for name in ["books.db", "books.db-wal"] {
            let from = folder.path().join(name);
            std::fs::copy(from, again.path().join(name)).unwrap();
        }
        let found = again.path().join("books.db");
        let found = SqliteStore::open(found, Arc::new(SystemClock)).unwrap();
        assert!(
            found.command(&scope).await.unwrap().is_some(),
            "it was done"
        );
        found.close().await.unwrap();

        disk.heal();
        if settled_by_a_refusal {
            let refused = store.commit(batch(9, 5)).await.unwrap_err();
            assert!(matches!(refused, CommitError::Refused(_)), "{refused}");
        }
        // Something was written over it, so that now it is known.
        assert_eq!(store.command(&scope).await, Ok(None));
        assert_eq!(store.trouble(), None);
    }
    store.close().await.unwrap();
    let store = SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
    for number in [2, 3] {
        let scope = format!("till/charge/{number}");
        assert_eq!(store.command(&scope).await, Ok(None), "{number}");
    }
}

/// A lease is renewed without a write, so that it says nothing of the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_lease_does_not_make_a_full_disk_healthy() {
    use flashkit::ids::BatchId;
    use flashkit::ledger::{Batch, NewEvent, Step};
    use flashkit::store::{KeyValue, NodeHolder, Store};

    let batch = |number: u8| Batch {
        id: BatchId::from_parts(1, [number; 10]),
        command: None,
        steps: vec![Step::Emit(NewEvent {
            kind: "card.topped_up",
            object: "card 1".to_owned(),
            body: serde_json::json!({}).into(),
        })]
        .into(),
    };
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::under(folder.path());
    let file = folder.path().join("books.db");
    let store = SqliteStore::open(file, Arc::new(SystemClock)).unwrap();
    let lasts = Duration::from_secs(3_600);
    let epoch = store.take_lease(NodeHolder(7), lasts).await.unwrap();
    disk.fail(Fault::Full);
    store.commit(batch(1)).await.unwrap_err();
    let trouble = store.trouble();
    assert_eq!(trouble.as_ref().unwrap().error.code(), "store.full");
    store.renew_lease(epoch, lasts).await.unwrap();
    assert_eq!(store.trouble(), trouble);
    disk.heal();
    store.commit(batch(1)).await.unwrap();
    assert_eq!(store.trouble(), None);
    store.close().await.unwrap();
}

/// Ends the mount.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// A disk of so many megabytes; `None`, with the reason printed, where nobody may mount one.
    fn megabytes(size: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}m"), "tmpfs"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                println!("skipped, no disk can be mounted: {}", said.trim());
                None
            }
            Err(error) => {
                println!("skipped, no disk can be mounted: {error}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.0.path()).status());
    }
}

/// A real one, where the system lets the test have one. What a failing disk does above, without.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_disk_only_delays() {
    let Some(mounted) = Mounted::megabytes(6) else {
        return;
    };
    let folder = mounted.0.path();
    let mut scene = Scene::open(folder).await;
    let before = scene.balances().await;
    let under_way = scene.begin("full").await;
    let filler = folder.join("filler");
    let mut size = 1 << 20;
    let mut filling = std::fs::File::create(&filler).unwrap();
    while size > 0 {
        let filled = std::io::Write::write_all(&mut filling, &vec![1; size]);
        size = if filled.is_ok() { size } else { size / 2 };
    }
    // The log has room that was used before; what is there is filled as well.
    let begun = Instant::now();
    let refused = loop {
        let merchant = shop_name(&begun);
        if let Err(error) = try_merchant(&scene.engine, &merchant).await {
            break error;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "never full");
    };
    assert_eq!(refused.code(), "store.full");
    let code = "store.full";
    scene.expect_red("full", &under_way, code, code).await;
    drop(filling);
    std::fs::remove_file(filler).unwrap();
    scene.expect_healed("full", under_way, before).await;
    scene.engine.stop().await.unwrap();
}

fn shop_name(begun: &Instant) -> String {
    format!("shop-{}", begun.elapsed().as_nanos())
}

async fn try_merchant(engine: &Engine, name: &str) -> Result<(), Error> {
    let command = flashkit::settlement::CreateMerchant {
        key: key(name),
        name: name.to_owned(),
        terms: Default::default(),
        category: None,
    };
    let created = engine.settlement().create(&engine.issuer(), command).await;
    created.map(drop)
}

/// Real nodes: the operator's disk is full while its payment is on its way and while it is paid.
/// A failed write of a channel's state would make the node panic; it waits instead.
#[cfg(feature = "ldk")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_real_node_waits_for_its_disk() {
    use flashkit::lightning::LightningNode;
    use flashkit::testkit::chain;
    use flashkit::testkit::local_network::{self, LocalNode};
    use flashkit::treasury::CapitalAccount;

    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = Disk::under(folder.path());
    let chain = chain::from_env().await.unwrap();
    let seed = *shop::master().node_entropy();
    let operator = LocalNode::open(&folder.path().join("books.db"), seed, chain.source()).unwrap();
    let world = elsewhere.path().join("world.db");
    let world = LocalNode::open(&world, [9; 64], chain.source()).unwrap();
    let store: Arc<dyn Store> = Arc::new(operator.store.clone());
    let engine = shop::engine_on(store, Some(operator.node.clone())).await;
    engine.start().await.unwrap();
    world.node.start().await.unwrap();
    let (ours, address) = (&operator.node, &operator.address);
    local_network::connect(&*chain, ours, address, &world.node, |_| {})
        .await
        .unwrap();
    let customer = Arc::new(Wallet::new(world.node.clone(), None));
    tokio::spawn(customer.clone().run());
    let has = operator.node.balances().await.unwrap();
    shop::capital(
        &engine,
        CapitalAccount::Channels,
        "channels",
        has.channels_msat,
    )
    .await;
    shop::capital(
        &engine,
        CapitalAccount::Onchain,
        "onchain",
        has.onchain_msat,
    )
    .await;
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let sale = shop::sale(&engine, &merchant, "earned", sat(50_000)).await;
    customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&engine, &sale).await;

    // Out: it is on its way when the disk fills up, and arrives meanwhile.
    customer.hold(true);
    let bolt11 = customer.invoice(20_000 * SAT, "out").await.unwrap();
    let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
    let sent = payout(&engine, &merchant, "out", &bolt11).await.unwrap();
    until("it is on its way", || async { customer.is_holding() }).await;
    disk.fail(Fault::Full);
    customer.hold(false);
    until("the world has it", || async {
        customer.received_msat(hash) == 20_000 * SAT
    })
    .await;
    let red = until_node_is_red(&engine).await;
    println!("{red:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let still = engine.health().node.expect("it still waits");
    assert_eq!(still.code, "store.full");
    assert!(still.writes_waiting > 0);
    disk.heal();
    let (settlement, issuer) = (engine.settlement(), engine.issuer());
    until("it is paid out", || async {
        let payout = settlement.payout(&issuer, sent.id).await;
        payout.unwrap().state == PayoutState::PaidOut
    })
    .await;
    until("health is good", || async { engine.health().is_good() }).await;

    // In: a customer pays while nothing can be written.
    let sale = shop::sale(&engine, &merchant, "in", sat(10_000)).await;
    disk.fail(Fault::Full);
    let hash = customer.send(&sale.bolt11).await.unwrap();
    until_node_is_red(&engine).await;
    let early = tokio::time::timeout(Duration::from_secs(1), customer.sent(hash)).await;
    assert!(early.is_err(), "taken before it was booked");
    disk.heal();
    customer.sent(hash).await.unwrap();
    shop::settled(&engine, &sale).await;
    until("health is good", || async { engine.health().is_good() }).await;
    until("books and node agree", || async {
        support::books::node_agrees(&engine).await
    })
    .await;
    expect_sound(&engine, "in the end").await;
    engine.stop().await.unwrap();
    world.node.stop().await.unwrap();
}

#[cfg(feature = "ldk")]
async fn until_node_is_red(engine: &Engine) -> Health {
    until("the node's health is red", || async {
        engine.health().node.is_some()
    })
    .await;
    engine.health()
}
