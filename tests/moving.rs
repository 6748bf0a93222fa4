//! A whole engine moved between stores, and files of older schemas brought up to this one.

#[path = "support/postgres/mod.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod postgres;
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use flashkit::Engine;
use flashkit::cards::{CardLimits, ChargeAmount, ChargeCard};
use flashkit::ids::{BatchId, CardId, MerchantId, TransferId};
use flashkit::ledger::{
    Account, Balance, Batch, ChainHead, DueJob, NewTransfer, Refusal, Step, TransferKind,
};
use flashkit::ports::SystemClock;
use flashkit::reports::{HeadKey, SignedHeads};
use flashkit::settlement::{CreateMerchant, PayoutTerms};
use flashkit::store::moving::{ReadSource, write_to};
use flashkit::store::postgres::{PostgresConfig, PostgresStore};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{
    ByteSource, CommitError, DocumentQuery, KeyPath, KeyValue, KeyValueWrite, MAX_PAGE,
    MemoryStore, MoveError, NodeHolder, NodeState, Store, StoreAdmin, StoreError,
};
use flashkit::testkit::clock::ManualClock;
use postgres::Cluster;
use postgres::proxy::{Fault, Proxy};
use support::key;
use support::shop::{self, sat};

const HOLDER: NodeHolder = NodeHolder(7);

fn path(primary: &str, name: &str) -> KeyPath {
    KeyPath {
        primary: primary.to_owned(),
        secondary: String::new(),
        key: name.to_owned(),
    }
}

const NODE_KEYS: [(&str, &str); 5] = [
    ("monitors", "channel"),
    ("", "manager"),
    ("", "scorer"),
    ("", "peers"),
    ("channel_facts", "channel"),
];

async fn write_node_state(store: &dyn KeyValue) -> u64 {
    let epoch = store.begin_epoch().await.unwrap();
    for (primary, name) in NODE_KEYS {
        let change = KeyValueWrite::Put {
            path: path(primary, name),
            value: vec![1, 2, 3],
        };
        store.write(epoch, change).await.unwrap();
    }
    epoch
}

/// Some business of everything: sales, a card, points, an unpaid invoice, and a listener.
async fn do_business(store: Arc<dyn Store>) {
    let shop = shop::simulated(store).await;
    let engine = &shop.engine;
    let merchant = shop::merchant(engine, "Cookshop").await;
    shop::program(engine, merchant.id).await;
    let limits = CardLimits {
        per_day: Some(40_000_000),
        ..CardLimits::default()
    };
    let mut card = shop::card(engine, shop::UID, limits).await;
    shop::top_up(engine, &shop.customer, &card, "top-up", sat(50_000)).await;
    for number in 0..5 {
        let command = ChargeCard {
            key: key(&format!("charge-{number}")),
            tap: card.chip.tap(),
            price: sat(100),
            reference: "lunch \u{1f35b} \"zwei\"\\".to_owned(),
            pin: None,
        };
        engine
            .cards()
            .charge(&merchant.till, command)
            .await
            .unwrap();
    }
    let sale = shop::sale(engine, &merchant, "sale", sat(700)).await;
    shop.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(engine, &sale).await;
    shop::sale(engine, &merchant, "unpaid", sat(900)).await;
    shop.engine.stop().await.unwrap();
}

/// One sale that is paid, and no more.
async fn do_little(store: Arc<dyn Store>) {
    let shop = shop::simulated(store).await;
    let merchant = shop::merchant(&shop.engine, "Cookshop").await;
    let sale = shop::sale(&shop.engine, &merchant, "sale", sat(700)).await;
    shop.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&shop.engine, &sale).await;
    shop.engine.stop().await.unwrap();
}

/// All that a store says of its books.
#[derive(Debug, PartialEq)]
struct Books {
    heads: Vec<ChainHead>,
    commits: Vec<String>,
    commands: Vec<String>,
    journal: Vec<String>,
    hold_changes: Vec<String>,
    balances: BTreeMap<Account, Balance>,
    events: Vec<String>,
    documents: Vec<String>,
    cursor: i64,
}

async fn books(store: &dyn Store) -> Books {
    let mut documents = Vec::new();
    for (collection, index) in [
        ("invoice", "payment_hash"),
        ("card", "chip"),
        ("charge", "card"),
    ] {
        let query = DocumentQuery {
            collection,
            index,
            from: String::new(),
            to: None,
            after: None,
            limit: MAX_PAGE,
        };
        documents.extend(store.documents(query).await.unwrap());
    }
    let text = |rows: &[String]| rows.to_vec();
    let commits = store.commits(0, MAX_PAGE).await.unwrap();
    let journal = store.journal(0, MAX_PAGE).await.unwrap();
    let changes = store.hold_changes(0, MAX_PAGE).await.unwrap();
    let events = store.events(0, MAX_PAGE).await.unwrap();
    let debug = |rows: Vec<String>| text(&rows);
    let mut commands = Vec::new();
    for scope in commits.iter().filter_map(|row| row.scope.as_deref()) {
        let known = store.command(scope).await.unwrap();
        commands.push(format!("{scope}: {:?}", known.unwrap()));
    }
    Books {
        heads: store.chain_heads().await.unwrap(),
        commands,
        commits: debug(commits.iter().map(|row| format!("{row:?}")).collect()),
        journal: debug(journal.iter().map(|row| format!("{row:?}")).collect()),
        hold_changes: debug(changes.iter().map(|row| format!("{row:?}")).collect()),
        balances: store
            .balances(None, MAX_PAGE)
            .await
            .unwrap()
            .into_iter()
            .collect(),
        events: debug(events.iter().map(|row| format!("{row:?}")).collect()),
        documents: documents.iter().map(|row| format!("{row:?}")).collect(),
        cursor: store.cursor("reader").await.unwrap(),
    }
}

async fn verify_journal(engine: &Engine, kept: &[ChainHead]) {
    let reports = engine.reports();
    let key = HeadKey::new(&[7; 32]).unwrap();
    let kept = SignedHeads::sign(5, kept.to_vec(), &key);
    let kept = kept.verify(&key.public_key()).unwrap();
    let verdict = reports.verify_journal(&engine.issuer(), &[kept]).await;
    assert_eq!(verdict.unwrap().problems, []);
}

/// The same command under its old key gives its old answer, and another one is refused.
async fn old_keys_answer(engine: &Engine) {
    let command = CreateMerchant {
        key: key("merchant/Cookshop"),
        name: "Cookshop".to_owned(),
        terms: PayoutTerms::default(),
        category: None,
    };
    let settlement = engine.settlement();
    let issuer = engine.issuer();
    let again = settlement.create(&issuer, command.clone()).await.unwrap();
    assert_eq!(again.name, "Cookshop");
    let other = CreateMerchant {
        name: "Another".to_owned(),
        ..command
    };
    let refused = settlement.create(&issuer, other).await.unwrap_err();
    assert_eq!(refused.code(), "command.key_reused");
}

fn sqlite(folder: &Path, name: &str) -> SqliteStore {
    SqliteStore::open(folder.join(name), Arc::new(SystemClock)).unwrap()
}

/// How many commits stand where those of sales do.
fn commits_of_sales(store: &SqliteStore) -> i64 {
    let connection = rusqlite::Connection::open(store.location()).unwrap();
    let sql = "SELECT count(*) FROM commits INDEXED BY commands_of_sales WHERE of_sale = 1";
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

async fn postgres_store(cluster: &Cluster) -> PostgresStore {
    postgres_in_a_schema(cluster).await.0
}

async fn postgres_in_a_schema(cluster: &Cluster) -> (PostgresStore, String) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let schema = format!("moving_{}", LAST.fetch_add(1, Ordering::SeqCst));
    (postgres_at(cluster, &schema).await, schema)
}

async fn postgres_at(cluster: &Cluster, schema: &str) -> PostgresStore {
    let config = PostgresConfig::new(cluster.url(cluster.port, "sslmode=disable"));
    let store = PostgresStore::connect(config.schema(schema), Arc::new(SystemClock));
    store.await.unwrap()
}

async fn bytes_of(mut source: Box<dyn ByteSource>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = source.next_piece().await.unwrap() {
        bytes.extend(piece);
    }
    bytes
}

async fn bytes_until_refused(mut source: Box<dyn ByteSource>) -> (Vec<u8>, MoveError) {
    let mut bytes = Vec::new();
    loop {
        match source.next_piece().await {
            Ok(Some(piece)) => bytes.extend(piece),
            Ok(None) => panic!("the stream is whole"),
            Err(error) => return (bytes, error),
        }
    }
}

fn from_bytes(bytes: &[u8]) -> Box<dyn ByteSource> {
    Box::new(ReadSource::new(std::io::Cursor::new(bytes.to_vec())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_go_to_postgres_and_back_and_through_memory() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let first = sqlite(folder.path(), "first.db");
    write_node_state(&first).await;
    do_business(Arc::new(first.clone())).await;
    let first = sqlite(folder.path(), "first.db");
    first.acknowledge("reader", 3).await.unwrap();
    let expected = books(&first).await;
    assert!(expected.documents.len() > 5, "books without documents");
    assert_eq!(commits_of_sales(&first), 5, "the charges of `do_business`");

    let second = postgres_store(&cluster).await;
    let stream = first.export(NodeState::LeaveOut).await.unwrap();
    let arrival = second.import(stream, &expected.heads).await.unwrap();
    assert_eq!(arrival.heads, expected.heads);
    assert!(!arrival.has_node_state);
    assert_eq!(books(&second).await, expected);
    assert_eq!(second.verify().await, Ok(Vec::new()));
    check_node_is_locked(&second).await;
    // A second time, into what is not empty any more.
    let stream = first.export(NodeState::LeaveOut).await.unwrap();
    let refused = second.import(stream, &[]).await.unwrap_err();
    assert_eq!(refused, MoveError::NotEmpty);

    // Business goes on where they are now: the chain goes on too.
    let engine = shop::engine_on(Arc::new(second.clone()), None).await;
    old_keys_answer(&engine).await;
    shop::merchant(&engine, "Another").await;
    verify_journal(&engine, &expected.heads).await;
    let [head] = second.chain_heads().await.unwrap().try_into().unwrap();
    assert!(head.sequence > expected.heads[0].sequence);
    let expected = books(&second).await;

    let third = sqlite(folder.path(), "third.db");
    let stream = second.export(NodeState::LeaveOut).await.unwrap();
    third.import(stream, &[head]).await.unwrap();
    assert_eq!(books(&third).await, expected);
    assert_eq!(commits_of_sales(&third), 5);
    check_node_is_locked(&third).await;
    engine.stop().await.unwrap();

    let fourth = MemoryStore::new(Arc::new(SystemClock));
    let stream = third.export(NodeState::LeaveOut).await.unwrap();
    fourth.import(stream, &expected.heads).await.unwrap();
    assert_eq!(books(&fourth).await, expected);
    check_node_is_locked(&fourth).await;
    let fifth = sqlite(folder.path(), "fifth.db");
    let stream = fourth.export(NodeState::LeaveOut).await.unwrap();
    fifth.import(stream, &expected.heads).await.unwrap();
    assert_eq!(books(&fifth).await, expected);

    // Commit times never decrease, also for the first commit after the move.
    let engine = shop::engine_on(Arc::new(fifth.clone()), None).await;
    shop::merchant(&engine, "Third").await;
    verify_journal(&engine, &expected.heads).await;
    engine.stop().await.unwrap();
    // Locked it stays when it is opened again.
    check_node_is_locked(&sqlite(folder.path(), "fifth.db")).await;
}

fn overdraft() -> Batch {
    let transfer = NewTransfer {
        id: TransferId::from_parts(1, [1; 10]),
        debit: Account::card_balance(CardId::from_parts(1, [2; 10])),
        credit: Account::merchant_payable(MerchantId::from_parts(1, [3; 10])),
        amount: 1,
        kind: TransferKind::Charge,
        reference: "overdraft".to_owned(),
        credit_ceiling: None,
    };
    Batch {
        id: BatchId::from_parts(1, [4; 10]),
        command: None,
        steps: vec![Step::Transfer(transfer)].into(),
    }
}

/// A writer that has looked at its empty tables does not go on from what it saw.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_that_arrive_are_seen_by_a_writer_that_was_at_work_before() {
    let folder = tempfile::tempdir().unwrap();
    let from = sqlite(folder.path(), "from.db");
    do_little(Arc::new(from.clone())).await;
    let from = sqlite(folder.path(), "from.db");
    let heads = from.chain_heads().await.unwrap();
    let to = sqlite(folder.path(), "to.db");
    let refused = to.commit(overdraft()).await.unwrap_err();
    assert!(matches!(
        refused,
        CommitError::Refused(Refusal::InsufficientFunds { .. })
    ));
    let stream = from.export(NodeState::LeaveOut).await.unwrap();
    to.import(stream, &heads).await.unwrap();
    let engine = shop::engine_on(Arc::new(to.clone()), None).await;
    shop::merchant(&engine, "Another").await;
    verify_journal(&engine, &heads).await;
    engine.stop().await.unwrap();
}

/// Whoever moved the books in did not wait for it, and they came all the same. By a clock that is a
/// day behind them, the next commit is not before their last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_that_arrive_for_nobody_have_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let from = sqlite(folder.path(), "from.db");
    do_little(Arc::new(from.clone())).await;
    let from = sqlite(folder.path(), "from.db");
    let commits = from.commits(0, MAX_PAGE).await.unwrap();
    let last_ms = commits.last().unwrap().at_ms;
    let clock = Arc::new(ManualClock::at(last_ms - 86_400_000));
    let to = SqliteStore::open(folder.path().join("to.db"), clock).unwrap();
    to.commit(overdraft()).await.unwrap_err();
    let stream = from.export(NodeState::LeaveOut).await.unwrap();
    let mut moving_in = to.import(stream, &[]);
    std::future::poll_fn(|context| {
        drop(moving_in.as_mut().poll(context));
        Poll::Ready(())
    })
    .await;
    drop(moving_in);
    support::until("the books are there", async || {
        to.health().await.unwrap().commits > 0
    })
    .await;
    let mut batch = overdraft();
    batch.steps = vec![Step::Done {
        kind: "nothing",
        object: String::new(),
    }]
    .into();
    let commit = to.commit(batch).await.unwrap();
    assert!(commit.at_ms >= last_ms, "{} < {last_ms}", commit.at_ms);

    // Nor does a node begin that knows nothing of the channels that were left behind.
    let locked = to.health().await.unwrap().node_locked;
    assert_eq!(locked.unwrap().code(), "store.stale_node_state");
    let lasts = Duration::from_secs(60);
    for refused in [to.begin_epoch().await, to.take_lease(HOLDER, lasts).await] {
        assert_eq!(refused.unwrap_err().code(), "store.stale_node_state");
    }
    assert_eq!(to.forget_channels(Vec::new()).await, Ok(true));
    assert_eq!(to.health().await.unwrap().node_locked, None);
    to.begin_epoch().await.unwrap();
}

/// The node may have begun since the stream was made, and then has channels that are not in it.
async fn check_lock_without_a_node<S: KeyValue + StoreAdmin>(to: &S, stream: &[u8]) {
    to.import(from_bytes(stream), &[]).await.unwrap();
    let locked = to.health().await.unwrap().node_locked;
    assert_eq!(locked.unwrap().code(), "store.stale_node_state");
    let refused = to.begin_epoch().await.unwrap_err();
    assert_eq!(refused.code(), "store.stale_node_state");
    assert_eq!(to.forget_channels(Vec::new()).await, Ok(true));
    to.begin_epoch().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_begins_by_itself_where_books_without_one_arrive() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let from = sqlite(folder.path(), "from.db");
    from.commit(income(1)).await.unwrap();
    let stream = bytes_of(from.export(NodeState::LeaveOut).await.unwrap()).await;
    check_lock_without_a_node(&sqlite(folder.path(), "to.db"), &stream).await;
    check_lock_without_a_node(&postgres_store(&cluster).await, &stream).await;
    let memory = MemoryStore::new(Arc::new(SystemClock));
    check_lock_without_a_node(&memory, &stream).await;
}

/// One millisatoshi, and the number tells it from others.
fn income(number: u32) -> Batch {
    let mut bytes = [0; 10];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    let transfer = NewTransfer {
        id: TransferId::from_parts(1, bytes),
        debit: Account::node_channels(),
        credit: Account::fee_income(),
        amount: 1,
        kind: TransferKind::TopUp,
        reference: "income".to_owned(),
        credit_ceiling: None,
    };
    Batch {
        id: BatchId::from_parts(1, bytes),
        command: None,
        steps: vec![Step::Transfer(transfer)].into(),
    }
}

async fn check_is_closed<S: Store>(store: &S) {
    let refused = store.commit(income(u32::MAX)).await.unwrap_err();
    let CommitError::Store(refused) = refused else {
        panic!("{refused}");
    };
    assert_eq!(refused.code(), "store.handed_over");
    assert!(!refused.is_retryable());
    let trouble = store.trouble().expect("health says it");
    assert_eq!(trouble.error.code(), "store.handed_over");
    let jobs = store.lease_due(i64::MAX, Duration::from_secs(1), &[], 10);
    assert_eq!(jobs.await, Ok(Vec::new()));
    // What is there can be read.
    assert!(
        store
            .balance(&Account::fee_income())
            .await
            .unwrap()
            .credits_posted
            > 0
    );
}

/// Tills go on while the books are handed over: what was acknowledged to them has arrived, and
/// nothing is acknowledged any more.
async fn check_books_close<S, T>(from: &S, to: &T)
where
    S: Store + StoreAdmin + Clone + 'static,
    T: Store + StoreAdmin,
{
    let mut first = income(0);
    let job = DueJob {
        kind: "job".to_owned(),
        object: "one".to_owned(),
        due_at_ms: 0,
    };
    Arc::make_mut(&mut first.steps).push(Step::Due(job));
    from.commit(first).await.unwrap();
    let tills = (1..=4).map(|till: u32| {
        let store = from.clone();
        tokio::spawn(async move {
            let mut acknowledged = 0;
            loop {
                match store.commit(income(till << 24 | acknowledged)).await {
                    Ok(_) => {
                        acknowledged += 1;
                        tokio::task::yield_now().await;
                    }
                    Err(CommitError::Store(StoreError::HandedOver)) => return acknowledged,
                    Err(other) => panic!("{other}"),
                }
            }
        })
    });
    let tills: Vec<_> = tills.collect();
    let stream = from.export(NodeState::HandOver).await.unwrap();
    check_is_closed(from).await;
    let mut acknowledged = 1;
    for till in tills {
        acknowledged += i128::from(till.await.unwrap());
    }
    to.import(stream, &[]).await.unwrap();
    let arrived = to.balance(&Account::fee_income()).await.unwrap();
    println!("{acknowledged} acknowledged before they were handed over");
    assert_eq!(arrived.credits_posted, acknowledged);
    assert_eq!(from.balance(&Account::fee_income()).await, Ok(arrived));
    // They go on where they are now.
    to.commit(income(u32::MAX)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_that_were_handed_over_take_no_commit_where_they_were() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = sqlite(folder.path(), "file.db");
    let (database, schema) = postgres_in_a_schema(&cluster).await;
    let other = postgres_at(&cluster, &schema).await;
    check_books_close(&file, &database).await;
    file.close().await.unwrap();
    check_is_closed(&sqlite(folder.path(), "file.db")).await;

    let target = sqlite(folder.path(), "target.db");
    // Its rows are known to it when another instance hands the books over.
    other.commit(income(2 << 30)).await.unwrap();
    let stream = database.export(NodeState::HandOver).await.unwrap();
    check_is_closed(&other).await;
    check_is_closed(&database).await;
    target.import(stream, &[]).await.unwrap();
    check_is_closed(&postgres_at(&cluster, &schema).await).await;
    let health = StoreAdmin::health(&database).await.unwrap();
    assert_eq!(health.schema_version, health.known_schema_version);

    let from = MemoryStore::new(Arc::new(SystemClock));
    check_books_close(&from, &MemoryStore::new(Arc::new(SystemClock))).await;
    let from = postgres_store(&cluster).await;
    check_books_close(&from, &sqlite(folder.path(), "second.db")).await;
}

async fn check_node_is_locked<S: KeyValue + StoreAdmin>(store: &S) {
    let refused = store.begin_epoch().await.unwrap_err();
    assert_eq!(refused.code(), "store.stale_node_state");
    assert!(store.health().await.unwrap().node_locked.is_some());
    for (primary, name) in NODE_KEYS {
        let stays = ["peers", "channel"].contains(&name) && primary != "monitors";
        let value = store.read(path(primary, name)).await.unwrap();
        assert_eq!(value.is_some(), stays, "{primary}/{name}");
    }
}

/// `late` is what a write of the node that still runs is refused with.
async fn check_hand_over<S, T>(from: &S, to: &T, late: &str)
where
    S: KeyValue + StoreAdmin,
    T: KeyValue + StoreAdmin,
{
    write_node_state(from).await;
    // Not while a node may act: it gives the lease back when it is stopped.
    let lasts = Duration::from_secs(86_400);
    let epoch = from.take_lease(HOLDER, lasts).await.unwrap();
    let refused = from.export(NodeState::HandOver).await.err().unwrap();
    assert_eq!(refused.code(), "store.lease_held");
    assert_eq!(from.health().await.unwrap().node_locked, None);
    from.renew_lease(epoch, lasts).await.unwrap();
    from.release_lease(epoch).await.unwrap();
    let stream = from.export(NodeState::HandOver).await.unwrap();
    // The node that still runs cannot write, and none runs here again.
    let change = KeyValueWrite::Remove {
        path: path("", "manager"),
    };
    let refused = from.write(epoch, change).await.unwrap_err();
    assert_eq!(refused.code(), late);
    for _ in 0..2 {
        let refused = from.take_lease(HOLDER, lasts).await.unwrap_err();
        assert_eq!(refused.code(), "store.node_handed_over");
        let refused = from.begin_epoch().await.unwrap_err();
        assert_eq!(refused.code(), "store.node_handed_over");
        let refused = from.forget_channels(Vec::new()).await.unwrap_err();
        assert_eq!(refused.code(), "store.node_handed_over");
    }
    // One that nobody read to its end has not left: there is another, also beside it.
    drop(stream);
    let first = from.export(NodeState::HandOver).await.unwrap();
    let second = from.export(NodeState::HandOver).await.unwrap();
    let arrival = to.import(first, &[]).await.unwrap();
    // Of the other all but the last line is had, and arrives nowhere.
    let (bytes, refused) = bytes_until_refused(second).await;
    assert_eq!(refused.code(), "store.node_handed_over");
    let elsewhere = MemoryStore::new(Arc::new(SystemClock));
    let cut = elsewhere.import(from_bytes(&bytes), &[]).await.unwrap_err();
    assert_eq!(cut.code(), "move.truncated");
    let left = elsewhere.read(path("", "manager")).await;
    assert_eq!(left, Ok(None));
    let refused = from.export(NodeState::HandOver).await.err().unwrap();
    assert_eq!(refused.code(), "store.node_handed_over");
    assert!(arrival.has_node_state);
    for (primary, name) in NODE_KEYS {
        let value = to.read(path(primary, name)).await.unwrap();
        assert_eq!(value, Some(vec![1, 2, 3]), "{primary}/{name}");
    }
    let next = to.begin_epoch().await.unwrap();
    assert!(next > epoch, "{next} {epoch}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_handed_over_once_and_never_runs_where_it_was() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (file, database) = (
        sqlite(folder.path(), "file.db"),
        postgres_store(&cluster).await,
    );
    check_hand_over(&file, &database, "store.fenced").await;
    file.trust_node_state();
    let refused = file.begin_epoch().await.unwrap_err();
    assert_eq!(refused.code(), "store.node_handed_over");
    file.close().await.unwrap();
    let again = sqlite(folder.path(), "file.db");
    let refused = again.begin_epoch().await.unwrap_err();
    assert_eq!(refused.code(), "store.node_handed_over");

    let other = sqlite(folder.path(), "other.db");
    check_hand_over(&database, &other, "store.node_handed_over").await;
    database.trust_node_state().await.unwrap();
    let refused = database.begin_epoch().await.unwrap_err();
    assert_eq!(refused.code(), "store.node_handed_over");
    // Where it arrived it also starts after the file was closed.
    other.close().await.unwrap();
    sqlite(folder.path(), "other.db")
        .begin_epoch()
        .await
        .unwrap();
    let memory = MemoryStore::new(Arc::new(SystemClock));
    let from = MemoryStore::new(Arc::new(SystemClock));
    check_hand_over(&from, &memory, "store.fenced").await;
}

/// Whoever hands the books over goes away before they are: they are all the same, and no epoch comes
/// after it. Their stream is there for whoever asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_overtakes_a_hand_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = sqlite(folder.path(), "file.db");
    file.commit(income(1)).await.unwrap();
    let mut handing_over = file.export(NodeState::HandOver);
    std::future::poll_fn(|context| {
        drop(handing_over.as_mut().poll(context));
        Poll::Ready(())
    })
    .await;
    drop(handing_over);
    support::until("the books are handed over", async || {
        let locked = file.health().await.unwrap().node_locked;
        locked == Some(StoreError::NodeHandedOver)
    })
    .await;
    let lasts = Duration::from_secs(60);
    for refused in [file.take_lease(HOLDER, lasts), file.begin_epoch()] {
        assert_eq!(refused.await.unwrap_err().code(), "store.node_handed_over");
    }
    check_is_closed(&file).await;
    let to = sqlite(folder.path(), "to.db");
    let stream = file.export(NodeState::HandOver).await.unwrap();
    assert!(to.import(stream, &[]).await.unwrap().has_node_state);

    // Of a node and a hand-over that begin at the same moment there is one.
    for round in 0..20 {
        let file = sqlite(folder.path(), &format!("round-{round}.db"));
        // A lease is asked for when it is called for, and a hand-over begins with its first poll.
        let taking = async || {
            if round % 2 == 0 {
                tokio::time::sleep(Duration::from_millis(round / 2)).await;
            }
            file.take_lease(HOLDER, lasts).await
        };
        let (stream, taken) = tokio::join!(file.export(NodeState::HandOver), taking());
        assert_ne!(stream.is_ok(), taken.is_ok(), "round {round}");
    }
}

/// The part of the next test that has few files: what a file is read with is there before anything of it
/// is ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_few_files() {
    let Ok(folder) = std::env::var("FLASHKIT_FEW_FILES") else {
        return;
    };
    let file = sqlite(Path::new(&folder), "file.db");
    file.commit(income(1)).await.unwrap();
    let mut opened = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        opened.push(file);
    }
    let refused = file.export(NodeState::HandOver).await.err().unwrap();
    // One is enough for the file, and not for its log.
    opened.pop();
    let again = file.export(NodeState::HandOver).await.err().unwrap();
    drop(opened);
    assert_eq!(refused.code(), "store.io", "{refused}");
    assert_eq!(again.code(), "store.io", "{again}");
    assert_eq!(file.health().await.unwrap().node_locked, None);
    file.commit(income(2)).await.unwrap();
    let stream = file.export(NodeState::HandOver).await.unwrap();
    assert!(!bytes_of(stream).await.is_empty());
    println!("handed over in the end");
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_read_is_not_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let test = std::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 64; exec \"$0\" --exact with_few_files --nocapture",
        ])
        .arg(std::env::current_exe().unwrap())
        .env("FLASHKIT_FEW_FILES", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&test.stdout);
    assert!(said.contains("handed over in the end"), "{test:?}");
}

/// The answer to the commit is lost that ends the node and the books.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_whose_answer_was_lost_is_asked_for_again() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let proxy = Proxy::to(cluster.port).await;
    let (other, schema) = postgres_in_a_schema(&cluster).await;
    let config = PostgresConfig::new(cluster.url(proxy.port, "sslmode=disable"));
    let store = PostgresStore::connect(config.schema(&schema), Arc::new(SystemClock));
    let store = store.await.unwrap();
    write_node_state(&other).await;
    other.commit(income(1)).await.unwrap();
    proxy.set(Fault::LoseAnswer);
    let lost = store.export(NodeState::HandOver).await.err().unwrap();
    assert_eq!(lost.code(), "store.outcome_unknown");
    assert_eq!(proxy.fired(), 1);
    check_is_closed(&other).await;
    // By any instance.
    let folder = tempfile::tempdir().unwrap();
    let to = sqlite(folder.path(), "to.db");
    let stream = other.export(NodeState::HandOver).await.unwrap();
    assert!(to.import(stream, &[]).await.unwrap().has_node_state);
    let refused = store.export(NodeState::HandOver).await.err().unwrap();
    assert_eq!(refused.code(), "store.node_handed_over");
}

/// Closes a store, of which everything is in the one file then: also once the reader of a stream, which
/// ends a moment after the stream, has left.
async fn closed(file: &SqliteStore) {
    file.close().await.unwrap();
    let mut log = file.location().as_os_str().to_owned();
    log.push("-wal");
    support::until("all is in the file", async || !Path::new(&log).exists()).await;
}

/// A stream that has not left yet leaves from where the node was, and from no copy of it. One of an
/// older version has left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_comes_out_of_a_copy_of_what_was_handed_over() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let refused = async |store: &dyn StoreAdmin, expected: &str| {
        let refused = store.export(NodeState::HandOver).await.err().unwrap();
        assert_eq!(refused.code(), expected);
    };
    let file = sqlite(folder.path(), "file.db");
    write_node_state(&file).await;
    drop(file.export(NodeState::HandOver).await.unwrap());
    closed(&file).await;
    let [at, copy, kept] = ["file.db", "copy.db", "kept.db"].map(|name| folder.path().join(name));
    std::fs::copy(&at, &copy).unwrap();
    std::fs::copy(&at, &kept).unwrap();
    let copied = sqlite(folder.path(), "copy.db");
    refused(&copied, "store.stale_node_state").await;

    let file = sqlite(folder.path(), "file.db");
    bytes_of(file.export(NodeState::HandOver).await.unwrap()).await;
    closed(&file).await;
    let file = sqlite(folder.path(), "file.db");
    refused(&file, "store.node_handed_over").await;
    closed(&file).await;
    std::fs::copy(&kept, &at).unwrap();
    let file = sqlite(folder.path(), "file.db");
    refused(&file, "store.stale_node_state").await;

    let old = sqlite(folder.path(), "old.db");
    drop(old.export(NodeState::HandOver).await.unwrap());
    closed(&old).await;
    let connection = rusqlite::Connection::open(folder.path().join("old.db")).unwrap();
    let forget = "DELETE FROM settings WHERE name = 'node_departed'";
    connection.execute(forget, []).unwrap();
    drop(connection);
    refused(&sqlite(folder.path(), "old.db"), "store.node_handed_over").await;

    // The same tables under another name, as of a dump that was restored.
    let (database, schema) = postgres_in_a_schema(&cluster).await;
    write_node_state(&database).await;
    drop(database.export(NodeState::HandOver).await.unwrap());
    let raw = cluster.raw().await;
    let rename = format!("ALTER SCHEMA {schema} RENAME TO {schema}_copied");
    raw.batch_execute(&rename).await.unwrap();
    let copied = postgres_at(&cluster, &format!("{schema}_copied")).await;
    refused(&copied, "store.node_handed_over").await;
    let back = format!("ALTER SCHEMA {schema}_copied RENAME TO {schema}");
    raw.batch_execute(&back).await.unwrap();
    let again = postgres_at(&cluster, &schema).await;
    bytes_of(again.export(NodeState::HandOver).await.unwrap()).await;

    let (old, schema) = postgres_in_a_schema(&cluster).await;
    drop(old.export(NodeState::HandOver).await.unwrap());
    let forget = format!("DELETE FROM {schema}.settings WHERE name = 'node_left_from'");
    raw.batch_execute(&forget).await.unwrap();
    refused(&old, "store.node_handed_over").await;
}

/// Whoever copies the file before a move and puts it back after it has yesterday's node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_from_before_it_was_handed_over_runs_no_node() {
    let folder = tempfile::tempdir().unwrap();
    for writes_before in [true, false] {
        let name = format!("file-{writes_before}.db");
        let file = sqlite(folder.path(), &name);
        if writes_before {
            write_node_state(&file).await;
        }
        file.close().await.unwrap();
        let (at, safe) = (folder.path().join(&name), folder.path().join("safe.db"));
        std::fs::copy(&at, &safe).unwrap();

        let file = sqlite(folder.path(), &name);
        let stream = file.export(NodeState::HandOver).await.unwrap();
        assert!(!bytes_of(stream).await.is_empty());
        closed(&file).await;

        // The lock beside it is the one that was there all the while.
        std::fs::copy(&safe, &at).unwrap();
        let back = sqlite(folder.path(), &name);
        let refused = back.begin_epoch().await.unwrap_err();
        assert_eq!(refused.code(), "store.stale_node_state");
        back.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_are_forgotten_and_then_the_node_may_start() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let first = sqlite(folder.path(), "first.db");
    write_node_state(&first).await;
    // Not locked: nothing is forgotten.
    assert_eq!(first.forget_channels(Vec::new()).await, Ok(false));
    assert!(first.read(path("", "manager")).await.unwrap().is_some());
    let database = postgres_store(&cluster).await;
    let stream = first.export(NodeState::LeaveOut).await.unwrap();
    database.import(stream, &[]).await.unwrap();
    check_node_is_locked(&database).await;
    let instead = vec![KeyValueWrite::Put {
        path: path("monitors", "sealed"),
        value: vec![7],
    }];
    assert_eq!(database.forget_channels(instead.clone()).await, Ok(true));
    assert_eq!(database.health().await.unwrap().node_locked, None);
    let sealed = database.read(path("monitors", "sealed")).await;
    assert_eq!(sealed, Ok(Some(vec![7])));
    database.begin_epoch().await.unwrap();
    assert_eq!(database.forget_channels(Vec::new()).await, Ok(false));

    // A whole copy of the file, put somewhere else: its channels may be old.
    first.close().await.unwrap();
    let copy = folder.path().join("copy.db");
    std::fs::copy(folder.path().join("first.db"), &copy).unwrap();
    let copy = sqlite(folder.path(), "copy.db");
    assert!(copy.begin_epoch().await.is_err());
    assert_eq!(copy.forget_channels(instead).await, Ok(true));
    let sealed = copy.read(path("monitors", "sealed")).await;
    assert_eq!(sealed, Ok(Some(vec![7])));
    copy.begin_epoch().await.unwrap();
    assert_eq!(copy.read(path("", "manager")).await, Ok(None));
    assert!(copy.read(path("", "peers")).await.unwrap().is_some());
    copy.close().await.unwrap();
    sqlite(folder.path(), "copy.db")
        .begin_epoch()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_cut_changed_or_doubled_does_not_arrive() {
    let folder = tempfile::tempdir().unwrap();
    let file = sqlite(folder.path(), "first.db");
    write_node_state(&file).await;
    do_little(Arc::new(file)).await;
    let file = sqlite(folder.path(), "first.db");
    let bytes = bytes_of(file.export(NodeState::LeaveOut).await.unwrap()).await;
    let target = sqlite(folder.path(), "target.db");
    let refuse = async |bytes: &[u8], what: &str| -> String {
        let arrived = target.import(from_bytes(bytes), &[]).await;
        let code = arrived.err().map(|error| error.code().to_owned());
        code.unwrap_or_else(|| panic!("it arrived: {what}"))
    };

    let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
    let mut codes: BTreeMap<String, u64> = BTreeMap::new();
    for end in ends.iter().rev().skip(1) {
        let code = refuse(&bytes[..=*end], "cut").await;
        assert_eq!(code, "move.truncated", "cut after {end}");
        let code = refuse(&bytes[..end - 1], "cut in a line").await;
        assert_eq!(code, "move.truncated", "cut before {end}");
    }
    assert_eq!(refuse(&[], "nothing").await, "move.truncated");
    // Every byte, in memory: a flip of its lowest bit and of the one that changes case.
    let memory = MemoryStore::new(Arc::new(SystemClock));
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= if at % 2 == 0 { 1 } else { 0x20 };
        let arrived = memory.import(from_bytes(&flipped), &[]).await;
        let error = arrived.err().unwrap_or_else(|| panic!("byte {at} flipped"));
        *codes.entry(error.code().to_owned()).or_default() += 1;
    }
    // Every line twice, and every line left out.
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    for at in 0..lines.len() {
        let mut doubled = lines.clone();
        doubled.insert(at, lines[at]);
        let arrived = memory.import(from_bytes(&doubled.concat()), &[]).await;
        let error = arrived.err().unwrap_or_else(|| panic!("line {at} doubled"));
        *codes.entry(error.code().to_owned()).or_default() += 1;
        let mut missing = lines.clone();
        missing.remove(at);
        let arrived = memory.import(from_bytes(&missing.concat()), &[]).await;
        let error = arrived.err().unwrap_or_else(|| panic!("line {at} missing"));
        *codes.entry(error.code().to_owned()).or_default() += 1;
    }
    println!("{} lines, {} bytes: {codes:?}", lines.len(), bytes.len());
    let twice = [bytes.clone(), bytes.clone()].concat();
    assert_eq!(refuse(&twice, "twice").await, "move.bad_line");

    // A digest is made by anybody; the journal's hashes and the head that was kept are not.
    let forgeries = [
        ("accounts", 4),
        ("commits", 3),
        ("transfers", 8),
        ("holds", 4),
        ("hold_changes", 5),
        ("events", 1),
    ];
    for (table, column) in forgeries {
        let code = refuse(&forged(&bytes, table, column), table).await;
        println!("{table}: {code}");
        assert!(
            ["move.journal", "move.bad_line"].contains(&code.as_str()),
            "{code}"
        );
    }
    let other = ChainHead {
        hash: flashkit::ledger::ChainHash::GENESIS,
        ..file.chain_heads().await.unwrap()[0].clone()
    };
    let refused = target.import(from_bytes(&bytes), &[other]).await;
    assert_eq!(refused.unwrap_err().code(), "move.journal");

    // After all that the store is empty, and takes the true one.
    assert_eq!(target.commits(0, 1).await, Ok(Vec::new()));
    target.import(from_bytes(&bytes), &[]).await.unwrap();
    assert_eq!(books(&target).await, books(&file).await);
    let mut written = Vec::new();
    let stream = target.export(NodeState::LeaveOut).await.unwrap();
    write_to(stream, &mut written).await.unwrap();
    assert!(written == bytes, "what arrived is written as it came");
}

/// The stream with one number in the last row of a table raised by one, and a last line that fits
/// it, as a forger would make it.
fn forged(bytes: &[u8], table: &str, column: usize) -> Vec<u8> {
    let text = std::str::from_utf8(bytes).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.pop();
    let begins = format!("[\"{table}\",");
    let line = lines.iter_mut().rfind(|line| line.starts_with(&begins));
    let line = line.unwrap();
    let mut row: Vec<serde_json::Value> = serde_json::from_str(line).unwrap();
    row[column] = match &row[column] {
        serde_json::Value::String(digits) => {
            (digits.parse::<i64>().unwrap() + 1).to_string().into()
        }
        number => (number.as_i64().unwrap() + 1).into(),
    };
    *line = serde_json::to_string(&row).unwrap();
    ended(lines)
}

/// The lines with an end that fits them.
fn ended(lines: Vec<String>) -> Vec<u8> {
    use bitcoin::hashes::{Hash, sha256};
    let body = lines.join("\n") + "\n";
    let digest = sha256::Hash::hash(body.as_bytes());
    let end = format!("{{\"rows\":{},\"sha256\":\"{digest}\"}}\n", lines.len() - 1);
    [body, end].concat().into_bytes()
}

/// What of a stream nothing vouches for: a line of it that is missing, with an end that fits, is
/// not noticed.
const NOT_COVERED: [&str; 10] = [
    "documents",
    "document_keys",
    "claims",
    "counters",
    "usage",
    "events",
    "due",
    "cursors",
    "settings",
    "node_state",
];

/// The stream without the last row of a table.
fn without_a_row(bytes: &[u8], table: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.pop();
    let begins = format!("[\"{table}\",");
    let at = lines.iter().rposition(|line| line.starts_with(&begins))?;
    lines.remove(at);
    Some(ended(lines))
}

/// A forger takes a row of each table out of the stream and gives it the end that fits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_taken_out_is_missed_wherever_the_journal_vouches_for_it() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = sqlite(folder.path(), "from.db");
    write_node_state(&file).await;
    file.acknowledge("reader", 1).await.unwrap();
    let mut steps = postgres::steps::Steps::new(11, 1_700_000_000_000);
    for _ in 0..150 {
        drop(file.commit(steps.batch()).await);
    }
    let heads = file.chain_heads().await.unwrap();
    let bytes = bytes_of(file.export(NodeState::LeaveOut).await.unwrap()).await;
    let (database, schema) = postgres_in_a_schema(&cluster).await;
    let target = sqlite(folder.path(), "to.db");
    let tables = [
        "accounts",
        "commits",
        "transfers",
        "holds",
        "hold_changes",
        "commands",
        "reversals",
        "documents",
        "document_keys",
        "claims",
        "counters",
        "usage",
        "events",
        "due",
        "cursors",
        "node_state",
        "settings",
    ];
    for table in tables {
        let forged = without_a_row(&bytes, table);
        let forged = forged.unwrap_or_else(|| panic!("no row of {table}"));
        let memory = MemoryStore::new(Arc::new(SystemClock));
        let arrived = memory.import(from_bytes(&forged), &heads).await;
        let is_covered = !NOT_COVERED.contains(&table);
        assert_eq!(arrived.is_err(), is_covered, "{table} in memory");
        if is_covered {
            let refused = target.import(from_bytes(&forged), &heads).await;
            let code = refused.expect_err(table).code().to_owned();
            println!("{table}: {code}");
            assert!(
                ["move.bad_line", "move.journal"].contains(&code.as_str()),
                "{code}"
            );
            let refused = database.import(from_bytes(&forged), &heads).await;
            assert_eq!(refused.expect_err(table).code(), code, "{table}");
        }
    }
    // A second commit under a key, which is what a retry of a forgotten one would be.
    for table in ["commands", "reversals"] {
        let text = std::str::from_utf8(&bytes).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.pop();
        let begins = format!("[\"{table}\",");
        let at = lines
            .iter()
            .rposition(|line| line.starts_with(&begins))
            .unwrap();
        let mut row: Vec<serde_json::Value> = serde_json::from_str(&lines[at]).unwrap();
        row[1] = match table {
            "commands" => "scope without a commit".into(),
            _ => "tr_00000000000177078000000000000999".into(),
        };
        lines.insert(at + 1, serde_json::to_string(&row).unwrap());
        let forged = ended(lines);
        for refused in [
            MemoryStore::new(Arc::new(SystemClock))
                .import(from_bytes(&forged), &heads)
                .await,
            target.import(from_bytes(&forged), &heads).await,
            database.import(from_bytes(&forged), &heads).await,
        ] {
            println!("{table} added: {:?}", refused.as_ref().err());
            assert!(refused.is_err(), "{table}");
        }
    }
    // Nothing of all that is left, and the true one arrives.
    target.import(from_bytes(&bytes), &heads).await.unwrap();
    database.import(from_bytes(&bytes), &heads).await.unwrap();
    assert_eq!(database.verify().await, Ok(Vec::new()));
    assert_eq!(target.verify().await, Ok(Vec::new()));

    // And what somebody changes by hand there is found.
    let raw = cluster.raw().await;
    for edit in [
        "UPDATE {}.holds SET remaining = amount WHERE id =
             (SELECT id FROM {}.holds WHERE remaining = 0 LIMIT 1)",
        "DELETE FROM {}.reversals WHERE transfer = (SELECT max(transfer) FROM {}.reversals)",
        "UPDATE {}.accounts SET balance = balance + 1 WHERE id = 1",
        "DELETE FROM {}.commands WHERE scope = (SELECT max(scope) FROM {}.commands)",
    ] {
        let before = database.verify().await.unwrap().len();
        let edit = edit.replace("{}", &schema);
        assert_eq!(raw.execute(&edit, &[]).await.unwrap(), 1, "{edit}");
        let found = database.verify().await.unwrap();
        assert_eq!(found.len(), before + 1, "{edit}: {found:?}");
    }
}

/// A new file with what an older version wrote.
fn of_fixture(file: &Path, fixture: &str) -> rusqlite::Connection {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema");
    let connection = rusqlite::Connection::open(file).unwrap();
    connection
        .execute_batch(&std::fs::read_to_string(fixtures.join(fixture)).unwrap())
        .unwrap();
    connection
}

/// A file that the first version wrote.
fn old_file(folder: &Path, name: &str) -> std::path::PathBuf {
    let file = folder.join(name);
    drop(of_fixture(&file, "sqlite-1.sql"));
    // Beside it, what the lock says.
    std::fs::write(
        folder.join(format!("{name}.lock")),
        "00000000000000000004\n",
    )
    .unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_schema_1_is_brought_up_after_it_was_copied() {
    let folder = tempfile::tempdir().unwrap();
    let file = old_file(folder.path(), "old.db");
    let store = SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
    let health = store.health().await.unwrap();
    assert_eq!(health.schema_version, health.known_schema_version);
    assert_eq!((health.commits, health.node_locked), (19, None));
    assert_eq!(store.check_file().await, Ok(Vec::new()));
    store.begin_epoch().await.unwrap();
    let engine = shop::engine_on(Arc::new(store.clone()), None).await;
    verify_journal(&engine, &[]).await;
    old_keys_answer(&engine).await;
    let channels = store.balance(&Account::node_channels()).await.unwrap();
    assert_eq!(channels.debits_posted, 50_700_000);
    shop::merchant(&engine, "New").await;
    engine.stop().await.unwrap();

    // The copy is the file as it was.
    let copy = folder.path().join("old.db.schema-1");
    let connection = rusqlite::Connection::open(copy).unwrap();
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    assert_eq!(number("PRAGMA user_version"), Ok(1));
    assert_eq!(number("SELECT count(*) FROM commits"), Ok(19));
    assert_eq!(number("SELECT count(*) FROM node_state"), Ok(4));
    // Opened again it is not migrated again.
    SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
}

/// All rows that `sql` finds.
fn rows(connection: &rusqlite::Connection, sql: &str) -> Vec<Vec<rusqlite::types::Value>> {
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect());
    rows.unwrap().map(Result::unwrap).collect()
}

/// What a file is made of, however it was written down.
fn schema(connection: &rusqlite::Connection) -> Vec<String> {
    let sql = "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema
               ORDER BY type, name";
    let rows = rows(connection, sql).into_iter();
    let text = rows.map(|row| {
        let text = format!("{row:?}").replace("\\n", " ").replace("\\\"", "");
        let words: Vec<&str> = text.split_whitespace().collect();
        words
            .join(" ")
            .replace("( ", "(")
            .replace(" )", ")")
            .replace(" ,", ",")
    });
    text.collect()
}

const SAME_SINCE_SCHEMA_2: [&str; 8] = [
    "SELECT scope, fingerprint, at_ms, answer FROM commands ORDER BY scope",
    "SELECT collection, id, version, body FROM documents ORDER BY collection, id",
    "SELECT collection, name, key, id FROM document_keys ORDER BY collection, name, key, id",
    "SELECT position, batch, at_ms, scope, writer, sequence, hash FROM commits ORDER BY position",
    "SELECT * FROM transfers ORDER BY position",
    "SELECT name, claimed_by FROM claims ORDER BY name",
    "SELECT name, value FROM counters ORDER BY name",
    "SELECT * FROM accounts ORDER BY id",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_schema_2_or_3_is_brought_up_and_nothing_of_it_is_lost() {
    for fixture in ["sqlite-2.sql", "sqlite-3.sql"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("old.db");
        let before = of_fixture(&file, fixture);
        is_brought_up(folder.path(), &file, before).await;
        what_does_not_follow_is_found(folder.path(), &file).await;
    }
}

async fn is_brought_up(folder: &Path, file: &Path, before: rusqlite::Connection) {
    let expected: Vec<_> = SAME_SINCE_SCHEMA_2
        .iter()
        .map(|sql| rows(&before, sql))
        .collect();
    assert!(expected.iter().all(|rows| rows.len() > 1), "{expected:?}");
    before.close().unwrap();

    let store = SqliteStore::open(file, Arc::new(SystemClock)).unwrap();
    let health = store.health().await.unwrap();
    assert_eq!(health.schema_version, health.known_schema_version);
    assert_eq!(store.check_file().await, Ok(Vec::new()));
    let reader = rusqlite::Connection::open(file).unwrap();
    for (sql, expected) in SAME_SINCE_SCHEMA_2.iter().zip(expected) {
        assert!(rows(&reader, sql) == expected, "{sql}");
    }

    // It is what a new file is.
    let new = sqlite(folder, "new.db");
    new.close().await.unwrap();
    let new = rusqlite::Connection::open(folder.join("new.db")).unwrap();
    assert_eq!(schema(&reader), schema(&new));

    assert_eq!(commits_of_sales(&store), 5);

    // And it is worked with: old keys answer, old charges are refunded, the old card pays.
    let engine = shop::engine_on(Arc::new(store.clone()), None).await;
    verify_journal(&engine, &[]).await;
    old_keys_answer(&engine).await;
    let charge = rows(
        &reader,
        "SELECT id FROM documents WHERE collection = 'charge'",
    );
    let rusqlite::types::Value::Text(charge) = &charge[0][0] else {
        panic!("{charge:?}");
    };
    let refund = flashkit::cards::RefundCharge {
        key: key("refund"),
        charge: charge.parse().unwrap(),
        amount: ChargeAmount::Bitcoin { amount_msat: 1_000 },
    };
    let refunded = engine.cards().refund(&engine.issuer(), refund).await;
    assert_eq!(refunded.unwrap().refunded_msat, 1_000);
    verify_journal(&engine, &[]).await;
    assert_eq!(store.check_file().await, Ok(Vec::new()));
    engine.stop().await.unwrap();
    store.close().await.unwrap();
}

/// What follows from other rows is looked at: a history without one of its rows is found, and a
/// name in a tree where nobody looks for it.
async fn what_does_not_follow_is_found(folder: &Path, file: &Path) {
    for (damage, expected) in [
        (
            "DELETE FROM account_transfers WHERE position = 4 AND account = 5",
            "lacks transfer 4",
        ),
        (
            "INSERT INTO account_transfers VALUES (2, 999)",
            "has no transfer 999",
        ),
        ("DELETE FROM chip_keys", "has no chip of card"),
        ("UPDATE chip_keys SET document = 2", "has a wrong chip"),
        (
            "PRAGMA ignore_check_constraints = ON;
             INSERT INTO other_claims SELECT * FROM tap_claims; DELETE FROM tap_claims",
            "CHECK constraint failed in other_claims",
        ),
        (
            "DROP INDEX documents_of_sales;
             CREATE UNIQUE INDEX documents_of_sales ON documents (collection, id)
                 WHERE collection = 'charge' AND version > 1;
             PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX documents_of_sales
                 ON documents (collection, id) WHERE +collection IN (''charge'', ''tap_seen'')'
                 WHERE name = 'documents_of_sales'",
            "missing from index documents_of_sales",
        ),
        (
            "DROP INDEX commands_of_sales;
             CREATE UNIQUE INDEX commands_of_sales ON commits (scope)
                 WHERE of_sale = 1 AND at_ms < 0;
             PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX commands_of_sales
                 ON commits (scope) WHERE of_sale = 1' WHERE name = 'commands_of_sales'",
            "missing from index commands_of_sales",
        ),
        (
            "UPDATE commits SET batch = (SELECT max(batch) FROM commits WHERE of_sale = 0)
                 WHERE position = (SELECT max(position) FROM commits WHERE of_sale = 1)",
            "twice",
        ),
    ] {
        let damaged = folder.join("damaged.db");
        std::fs::copy(file, &damaged).unwrap();
        let connection = rusqlite::Connection::open(&damaged).unwrap();
        connection.execute_batch(damage).unwrap();
        connection.close().unwrap();
        let store = match SqliteStore::open(&damaged, Arc::new(SystemClock)) {
            Ok(store) => store,
            // So small a file is checked when it is opened, down to the row in a wrong tree.
            Err(error) => {
                assert!(error.to_string().contains(expected), "{damage}: {error}");
                continue;
            }
        };
        let found = store.check_file().await.unwrap();
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{damage}: {found:?}"
        );
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_schema_1_is_brought_up() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema/postgres-1.sql");
    let text = std::fs::read_to_string(text).unwrap();
    cluster.raw().await.batch_execute(&text).await.unwrap();
    let config = PostgresConfig::new(cluster.url(cluster.port, "sslmode=disable"));
    let clock = Arc::new(SystemClock);
    let store = PostgresStore::connect(config.schema("first"), clock).await;
    let store = store.unwrap();
    let health = store.health().await.unwrap();
    assert_eq!(health.schema_version, health.known_schema_version);
    assert_eq!(health.commits, 15);
    assert_eq!(store.verify().await, Ok(Vec::new()));
    // The tables as they were are beside it, without channels.
    let raw = cluster.raw().await;
    let count = async |sql: &str| raw.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    let copy = "first_schema_1";
    let version = format!("SELECT schema_version FROM {copy}.head");
    assert_eq!(count(&version).await, 1);
    for table in [
        "commits",
        "transfers",
        "holds",
        "accounts",
        "documents",
        "events",
        "settings",
    ] {
        let [old, new] =
            [copy, "first"].map(|schema| format!("SELECT count(*) FROM {schema}.{table}"));
        assert_eq!(count(&old).await, count(&new).await, "{table}");
    }
    let channels = format!(
        "SELECT count(*) FROM {copy}.node_state WHERE primary_namespace = 'monitors' OR key = 'manager'"
    );
    assert_eq!(count(&channels).await, 0);
    assert_eq!(
        count(&format!("SELECT count(*) FROM {copy}.node_state")).await,
        2
    );
    // Opened again it is neither migrated nor copied again.
    let config = PostgresConfig::new(cluster.url(cluster.port, "sslmode=disable"));
    let again = PostgresStore::connect(config.schema("first"), Arc::new(SystemClock)).await;
    again.unwrap().close().await.unwrap();
    let copies = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'first_schema_%'";
    assert_eq!(count(copies).await, 1);
    // A dump that was restored: its node is not at home here.
    let refused = store.begin_epoch().await.unwrap_err();
    assert_eq!(refused.code(), "store.stale_node_state");
    // Its chain goes on, and the whole of it is sound.
    let mut steps = postgres::steps::Steps::new(8, 1_700_000_000_000);
    for _ in 0..20 {
        drop(store.commit(steps.batch()).await);
    }
    let memory = MemoryStore::new(Arc::new(SystemClock));
    let stream = store.export(NodeState::LeaveOut).await.unwrap();
    let arrival = memory.import(stream, &[]).await.unwrap();
    assert!(arrival.commits > 15, "{arrival:?}");
    assert_eq!(arrival.heads.len(), 1);
}

#[test]
fn a_migration_that_fails_leaves_the_file_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = old_file(folder.path(), "old.db");
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection
        .execute_batch("CREATE TABLE moves (something INTEGER)")
        .unwrap();
    drop(connection);
    let before = std::fs::read(&file).unwrap();
    let refused = SqliteStore::open(&file, Arc::new(SystemClock))
        .err()
        .unwrap();
    assert_eq!(refused.code(), "store.io", "{refused}");
    assert!(std::fs::read(&file).unwrap() == before);
    assert!(folder.path().join("old.db.schema-1").exists());
    // And where the copy cannot be written, nothing is begun.
    let folder = tempfile::tempdir().unwrap();
    let file = old_file(folder.path(), "old.db");
    std::fs::create_dir(folder.path().join("old.db.schema-1")).unwrap();
    let before = std::fs::read(&file).unwrap();
    SqliteStore::open(&file, Arc::new(SystemClock))
        .err()
        .unwrap();
    assert!(std::fs::read(&file).unwrap() == before);
}
