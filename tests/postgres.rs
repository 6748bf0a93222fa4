//! The PostgreSQL store: its contract, several instances on one database, and what is lost when a
//! connection or the server is.

#[path = "support/searches.rs"]
mod searches;
#[path = "support/postgres/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flashkit::ids::{BatchId, CardId, MerchantId, TransferId};
use flashkit::ledger::{
    Account, Batch, CommandRecord, Commit, DueJob, HoldChangeRow, JournalCheck, NewEvent, NewHold,
    NewReversal, NewTransfer, Refusal, Step, TransferKind, TransferRow,
};
use flashkit::store::contract::{FreshStore, check_all, check_reopening};
use flashkit::store::postgres::{PostgresConfig, PostgresStore};
use flashkit::store::{
    CommitError, DocumentQuery, KeyPath, KeyValue, KeyValueWrite, MAX_PAGE, MemoryStore,
    NodeHolder, NodeState, Store, StoreAdmin, StoreError,
};
use flashkit::testkit::clock::ManualClock;
use support::Cluster;
use support::proxy::{Fault, Proxy};
use support::steps::Steps;

const NOW_MS: i64 = 1_700_000_000_000;

fn number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(1);
    LAST.fetch_add(1, Ordering::SeqCst)
}

fn random_part(number: u64) -> [u8; 10] {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    random
}

fn card(number: u64) -> Account {
    Account::card_balance(CardId::from_parts(1, random_part(number)))
}

fn merchant(number: u64) -> Account {
    Account::merchant_payable(MerchantId::from_parts(1, random_part(number)))
}

fn transfer(debit: Account, credit: Account, amount: i64) -> Step {
    Step::Transfer(NewTransfer {
        id: TransferId::from_parts(1, random_part(number())),
        debit,
        credit,
        amount,
        kind: TransferKind::Charge,
        reference: "test".into(),
        credit_ceiling: None,
    })
}

fn fund(account: Account, amount: i64) -> Step {
    transfer(Account::node_channels(), account, amount)
}

fn event(object: &str) -> Step {
    Step::Emit(NewEvent {
        kind: "test.happened",
        object: object.into(),
        body: serde_json::json!({ "object": object }).into(),
    })
}

fn claim(name: &str) -> Step {
    let (name, by) = (name.into(), "test".into());
    Step::Claim { name, by }
}

fn batch(steps: Vec<Step>) -> Batch {
    let id = BatchId::from_parts(1, random_part(number()));
    let command = None;
    Batch {
        id,
        command,
        steps: steps.into(),
    }
}

/// A schema of its own on the shared cluster.
struct Bench {
    cluster: Arc<Cluster>,
    schema: String,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Option<Self> {
        Some(Self {
            cluster: Cluster::shared()?,
            schema: format!("test_{}", number()),
            clock: Arc::new(ManualClock::at(NOW_MS)),
        })
    }

    fn config(&self, port: u16) -> PostgresConfig {
        PostgresConfig::new(self.cluster.url(port, "sslmode=disable")).schema(&self.schema)
    }

    async fn store(&self) -> PostgresStore {
        self.through(self.cluster.port).await
    }

    async fn through(&self, port: u16) -> PostgresStore {
        PostgresStore::connect(self.config(port), self.clock.clone())
            .await
            .unwrap()
    }

    /// A connection behind the stores' back, in their schema.
    async fn raw(&self) -> tokio_postgres::Client {
        let raw = self.cluster.raw().await;
        let path = format!("SET search_path = {}", self.schema);
        raw.batch_execute(&path).await.unwrap();
        raw
    }
}

async fn available(store: &PostgresStore, account: Account) -> i128 {
    let balance = store.balance(&account).await.unwrap();
    balance.available(account.kind().side())
}

async fn objects(store: &PostgresStore) -> Vec<String> {
    let events = store.events(0, MAX_PAGE).await.unwrap();
    events.into_iter().map(|event| event.object).collect()
}

/// Commits in the background.
fn begin(
    store: &PostgresStore,
    batch: Batch,
) -> tokio::task::JoinHandle<Result<Commit, CommitError>> {
    let store = store.clone();
    tokio::spawn(async move { store.commit(batch).await })
}

async fn wait_until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !ask().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until so many sessions wait for a lock, such as the head's.
async fn sessions_wait(raw: &tokio_postgres::Client, sessions: i64) {
    sessions_wait_for(raw, sessions, "FROM head FOR UPDATE").await;
}

async fn sessions_wait_for(raw: &tokio_postgres::Client, sessions: i64, lock: &str) {
    wait_until("sessions that wait for a lock", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE wait_event_type = 'Lock' AND strpos(query, $1) > 0";
        let row = raw.query_one(waiting, &[&lock]).await.unwrap();
        row.get::<_, i64>(0) >= sessions
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_postgres_store_keeps_the_contract() {
    let Some(bench) = Bench::new() else { return };
    let kept = check_all(|clock| {
        let schema = format!("contract_{}", number());
        let config = bench.config(bench.cluster.port).schema(schema);
        async move {
            let store = Arc::new(PostgresStore::connect(config, clock.clone()).await?);
            Ok(FreshStore::new(store.clone(), store, clock))
        }
    })
    .await
    .unwrap_or_else(|violation| panic!("{violation}"));
    println!("{} promises kept: {}", kept.len(), kept.join(", "));
    assert!(kept.len() >= 41);

    check_reopening(|clock| {
        let config = bench.config(bench.cluster.port).schema("reopened");
        async move {
            let store = Arc::new(PostgresStore::connect(config, clock.clone()).await?);
            Ok(FreshStore::new(store.clone(), store, clock))
        }
    })
    .await
    .unwrap_or_else(|violation| panic!("{violation}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_never_overspend_one_account() {
    const CALLS: u64 = 200;
    let Some(bench) = Bench::new() else { return };
    let stores = [bench.store().await, bench.store().await];
    let steps = vec![fund(card(1), 1_000)];
    stores[0].commit(batch(steps)).await.unwrap();
    let calls: Vec<_> = (0..CALLS)
        .map(|call| {
            let store = &stores[usize::from(call % 2 == 0)];
            let shop = merchant(call % 3);
            begin(
                store,
                batch(vec![transfer(card(1), shop, 10), event("paid")]),
            )
        })
        .collect();
    let (mut paid, mut refused) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => paid += 1,
            Err(CommitError::Refused(Refusal::InsufficientFunds { .. })) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((paid, refused), (100, 100));
    for store in &stores {
        assert_eq!(available(store, card(1)).await, 0);
        let mut earned = 0;
        for shop in 0..3 {
            earned += available(store, merchant(shop)).await;
        }
        assert_eq!(earned, 1_000);
        assert_eq!(objects(store).await.len(), 100);
        // Each row says what the balance was after it: no two were made from the same one.
        let rows = store.transfers(&card(1), None, MAX_PAGE).await.unwrap();
        let after: BTreeSet<_> = rows
            .iter()
            .filter(|row| row.debit == card(1))
            .map(|row| row.debit_balance_after)
            .collect();
        assert_eq!(after.len(), 100);
    }
}

/// Everything that can be read of a store, as text.
async fn picture(store: &dyn Store) -> Vec<String> {
    let mut seen = Vec::new();
    for row in store.balances(None, MAX_PAGE).await.unwrap() {
        let due = store.standing(&row.0, i64::MAX, &[]).await.unwrap();
        let past = store.balance_at(&row.0, NOW_MS + 60).await.unwrap();
        seen.push(format!("{row:?} {past} {due:?}"));
        let rows = store.transfers(&row.0, None, MAX_PAGE).await.unwrap();
        seen.push(format!("{rows:?}"));
    }
    for row in store.journal(0, MAX_PAGE).await.unwrap() {
        seen.push(format!("{row:?}"));
    }
    for row in store.hold_changes(0, MAX_PAGE).await.unwrap() {
        let state = store.hold(row.hold.transfer.id).await.unwrap();
        seen.push(format!("{row:?} {state:?}"));
    }
    for row in store.commits(0, MAX_PAGE).await.unwrap() {
        // Each store has a name for its writer, and the hashes cover it.
        seen.push(format!("{} {} {:?}", row.position, row.at_ms, row.scope));
    }
    let query = DocumentQuery {
        collection: "thing",
        index: "colour",
        from: String::new(),
        to: None,
        after: None,
        limit: MAX_PAGE,
    };
    seen.push(format!("{:?}", store.documents(query).await.unwrap()));
    seen.push(format!("{:?}", store.events(0, MAX_PAGE).await.unwrap()));
    for name in 0..400 {
        let claim = store.claim(&format!("claim {name}")).await.unwrap();
        let counter = store.counter(&format!("name {name}")).await.unwrap();
        let command = store.command(&format!("scope {name}")).await.unwrap();
        seen.push(format!("{claim:?} {counter:?} {command:?}"));
    }
    let late_ms = NOW_MS + 1_000_000;
    let jobs = store
        .lease_due(late_ms, Duration::ZERO, &[], MAX_PAGE)
        .await
        .unwrap();
    seen.push(format!("{jobs:?}"));
    seen
}

/// While one instance writes alone it knows the rows, and a group is one round trip. What another
/// has written meanwhile is seen under the lock: the group is decided again.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_one_round_trip_while_nobody_else_writes() {
    let Some(bench) = Bench::new() else { return };
    let proxy = Proxy::to(bench.cluster.port).await;
    let (store, other) = (bench.through(proxy.port).await, bench.store().await);
    let pay = |from: u64, amount| {
        let claim = claim(&format!("sale {}", number()));
        batch(vec![
            transfer(card(from), merchant(1), amount),
            claim,
            event("paid"),
        ])
    };
    for account in [card(1), card(2)] {
        store
            .commit(batch(vec![fund(account, 1_000)]))
            .await
            .unwrap();
    }
    // The first that finds the head where it was left learns that nobody else is there.
    store.commit(pay(1, 10)).await.unwrap();
    store.commit(pay(2, 10)).await.unwrap();
    proxy.take_round_trips();
    for sale in 0..6 {
        store.commit(pay(1 + sale % 2, 10)).await.unwrap();
    }
    assert_eq!(proxy.take_round_trips(), [1; 6]);

    // Another instance takes what is on the card. What was known of it would let the next sale pass.
    other.commit(pay(1, 950)).await.unwrap();
    let refused = store.commit(pay(1, 20)).await.unwrap_err();
    let expected = Refusal::InsufficientFunds {
        step: 0,
        account: card(1),
        available: 10,
        needed: 20,
    };
    assert_eq!(refused, CommitError::Refused(expected));
    assert_eq!(proxy.take_round_trips(), [1], "the one that was refuted");
    for _ in 0..3 {
        store.commit(pay(2, 10)).await.unwrap();
    }
    assert_eq!(proxy.take_round_trips(), [2, 1, 1]);

    // A refusal is of now, whatever was known: money has come from elsewhere.
    store.commit(pay(1, 20)).await.unwrap_err();
    other.commit(batch(vec![fund(card(1), 100)])).await.unwrap();
    store.commit(pay(1, 20)).await.unwrap();
    assert_eq!(available(&other, card(1)).await, 90);
    assert_eq!(available(&other, merchant(1)).await, 1_080);
}

/// A hold on the card, of 10.
fn hold_of(from: u64, expires_at_ms: Option<i64>) -> (TransferId, Step) {
    let Step::Transfer(transfer) = transfer(card(from), merchant(1), 10) else {
        unreachable!("a transfer was made");
    };
    let id = transfer.id;
    let hold = NewHold {
        transfer,
        expires_at_ms,
        usage: Vec::new(),
    };
    (id, Step::Hold(hold))
}

fn capture(hold: TransferId, amount: i64, release_rest: bool) -> (TransferId, Step) {
    let id = TransferId::from_parts(1, random_part(number()));
    let step = Step::Capture {
        hold,
        id,
        amount,
        release_rest,
    };
    (id, step)
}

fn reverse(of: TransferId, amount: i64) -> Step {
    Step::Reverse(NewReversal {
        id: TransferId::from_parts(1, random_part(number())),
        of,
        amount,
        shortfall: None,
        usage: Vec::new(),
    })
}

/// What names an old row is one round trip as well, where the row was written or loaded lately; and
/// a card with open holds is charged in one. What another has done with them is seen all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_lately_is_known_by_its_name() {
    let Some(bench) = Bench::new() else { return };
    let proxy = Proxy::to(bench.cluster.port).await;
    let (store, other) = (bench.through(proxy.port).await, bench.store().await);
    let commit = async |step| store.commit(batch(vec![step])).await.map(drop);
    for _ in 0..2 {
        commit(fund(card(1), 1_000)).await.unwrap();
    }
    let ends = Some(NOW_MS + 60_000);
    let (open, step) = hold_of(1, ends);
    commit(step).await.unwrap();
    // Who is alone has asked which holds end in the next minutes.
    bench.clock.set(NOW_MS + 2_000);
    proxy.take_round_trips();
    let (taken, step) = hold_of(1, ends);
    commit(step).await.unwrap();
    let (returned, step) = hold_of(1, None);
    commit(step).await.unwrap();
    let (sold, step) = capture(taken, 4, false);
    commit(step).await.unwrap();
    commit(capture(taken, 3, true).1).await.unwrap();
    commit(Step::Release { hold: returned }).await.unwrap();
    // With an open hold on the card.
    commit(transfer(card(1), merchant(1), 20)).await.unwrap();
    commit(reverse(sold, 1)).await.unwrap();
    commit(reverse(sold, 2)).await.unwrap();
    let (in_group, step) = hold_of(1, ends);
    let (captured, capture_too) = capture(in_group, 10, false);
    let steps = vec![step, capture_too, reverse(captured, 10)];
    store.commit(batch(steps)).await.unwrap();
    assert_eq!(proxy.take_round_trips(), [1; 9]);
    assert_eq!(available(&store, card(1)).await, 2_000 - 10 - 7 - 20 + 3);

    // Nothing more of it stands, and that is said as of now.
    let refused = commit(reverse(sold, 2)).await.unwrap_err();
    assert!(matches!(
        refused,
        CommitError::Refused(Refusal::ReversalExceeded { standing: 1, .. })
    ));
    commit(capture(taken, 1, false).1).await.unwrap_err();
    // The open one ends by itself: whoever needs its money has it.
    bench.clock.set(NOW_MS + 60_000);
    proxy.take_round_trips();
    commit(transfer(card(1), merchant(1), 1_976)).await.unwrap();
    assert_eq!(proxy.take_round_trips(), [1]);
    assert_eq!(available(&store, card(1)).await, 0);
    let ended = store.hold(open).await.unwrap().unwrap();
    assert_eq!(ended.remaining, 0);

    // Another instance takes a hold that is known here.
    let taken_by_another = async || {
        let (open, step) = hold_of(1, None);
        commit(step).await.unwrap();
        let takes = batch(vec![capture(open, 10, false).1]);
        other.commit(takes).await.unwrap();
        open
    };
    commit(fund(card(1), 100)).await.unwrap();
    let open = taken_by_another().await;
    proxy.take_round_trips();
    let refused = commit(capture(open, 10, false).1).await.unwrap_err();
    assert!(matches!(
        refused,
        CommitError::Refused(Refusal::HoldNotOpen { .. })
    ));
    assert_eq!(proxy.take_round_trips(), [1], "the one that was refuted");
    assert_eq!(available(&other, card(1)).await, 90);

    // And what is loaded in between, for a batch that names what nobody knows, is not taken for
    // all that has changed.
    commit(fund(card(1), 1)).await.unwrap();
    let open = taken_by_another().await;
    let nobodys = TransferId::from_parts(1, random_part(number()));
    commit(Step::Release { hold: nobodys }).await.unwrap_err();
    // Both accounts of the hold are known again, with as much on hold, and the instance is alone.
    commit(hold_of(1, None).1).await.unwrap();
    for _ in 0..2 {
        commit(transfer(card(1), merchant(1), 1)).await.unwrap();
    }
    let refused = commit(capture(open, 10, false).1).await.unwrap_err();
    assert!(matches!(
        refused,
        CommitError::Refused(Refusal::HoldNotOpen { .. })
    ));
}

/// Two instances write at once, and each now and then believes that it is alone. What refutes that is
/// answered before the group was sent in full, on a machine that is busy: it is no failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guess_that_is_refuted_early_is_no_failure() {
    const EACH: usize = 80;
    let Some(bench) = Bench::new() else { return };
    let mut proxies = Vec::new();
    let mut tasks = Vec::new();
    for from in [1, 2] {
        let proxy = Proxy::to(bench.cluster.port).await;
        let store = bench.through(proxy.port).await;
        proxies.push(proxy);
        tasks.push(tokio::spawn(async move {
            let funds = batch(vec![fund(card(from), 1_000)]);
            store.commit(funds).await.unwrap();
            for _ in 0..EACH {
                let sale = batch(vec![transfer(card(from), merchant(from), 1)]);
                store.commit(sale).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let trips: Vec<_> = proxies.iter().flat_map(Proxy::take_round_trips).collect();
    println!("{trips:?}");
    let store = bench.store().await;
    assert_eq!(
        store.journal(0, MAX_PAGE).await.unwrap().len(),
        2 * (EACH + 1)
    );
}

/// Batches of every kind, one at a time, by one instance or the other: whether they were decided
/// upon what the instance knows or upon what it has loaded, they come to the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_comes_to_what_is_loaded() {
    let Some(bench) = Bench::new() else { return };
    let proxy = Proxy::to(bench.cluster.port).await;
    let stores = [bench.through(proxy.port).await, bench.store().await];
    let model = MemoryStore::new(bench.clock.clone());
    let mut steps = Steps::new(31, NOW_MS);
    for turn in 0..400 {
        steps.now_ms += 3;
        bench.clock.set(steps.now_ms);
        // Mostly the first, so that it is alone for a while: for a few batches, and later for many.
        let often = if turn < 200 { 12 } else { 67 };
        let store = &stores[usize::from(turn % often == often - 1)];
        let batch = steps.batch();
        let answer = store.commit(batch.clone()).await;
        assert_eq!(
            answer,
            model.commit(batch.clone()).await,
            "{turn} {batch:?}"
        );
    }
    assert_eq!(picture(&stores[0]).await, picture(&model).await);
    let round_trips = proxy.take_round_trips();
    let one = round_trips.iter().filter(|trips| **trips == 1).count();
    println!(
        "{one} of {} transactions in one round trip",
        round_trips.len()
    );
    assert!(one >= 60 && one < round_trips.len());
}

/// A group is applied in memory and written table by table: the same batches one by one, in a
/// store that does neither, must come to the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_comes_to_what_its_batches_come_to_one_by_one() {
    const ROUNDS: usize = 12;
    const GROUP: usize = 40;
    let Some(bench) = Bench::new() else { return };
    let stores = [bench.store().await, bench.store().await];
    let model = MemoryStore::new(bench.clock.clone());
    let mut steps = Steps::new(2_026, NOW_MS);
    let (raw, watch) = (bench.raw().await, bench.raw().await);
    let (mut done, mut refused) = (0, BTreeSet::new());
    for round in 0..ROUNDS {
        let store = &stores[round % 2];
        steps.now_ms += 10;
        bench.clock.set(steps.now_ms);
        let batches: Vec<_> = (0..GROUP).map(|_| steps.batch()).collect();
        // All but the first wait for it, and are one group.
        raw.batch_execute("BEGIN; SELECT 1 FROM head FOR UPDATE")
            .await
            .unwrap();
        let mut answers = Vec::new();
        for (at, batch) in batches.iter().enumerate() {
            let mut answer = store.commit(batch.clone());
            // The first poll submits it.
            let first = std::future::poll_fn(|context| {
                std::task::Poll::Ready(answer.as_mut().poll(context).is_ready())
            });
            assert!(!first.await);
            answers.push(answer);
            if at == 0 {
                sessions_wait(&watch, 1).await;
            }
        }
        raw.batch_execute("ROLLBACK").await.unwrap();
        for (batch, answer) in batches.into_iter().zip(answers) {
            let answer = answer.await;
            assert_eq!(answer, model.commit(batch.clone()).await, "{batch:?}");
            match answer {
                Ok(_) => done += 1,
                Err(CommitError::Refused(refusal)) => drop(refused.insert(refusal.code())),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(picture(store).await, picture(&model).await, "round {round}");
    }
    println!(
        "{done} of {} were done, others refused: {refused:?}",
        ROUNDS * GROUP
    );
    assert!(done > 150 && refused.len() >= 12);

    let store = &stores[0];
    let transfers = store.journal(0, MAX_PAGE).await.unwrap();
    let changes = store.hold_changes(0, MAX_PAGE).await.unwrap();
    let mut check = JournalCheck::new(&store.chain_heads().await.unwrap());
    for commit in store.commits(0, MAX_PAGE).await.unwrap() {
        let of_commit = |row: &&TransferRow| row.commit == commit.position;
        let rows: Vec<_> = transfers.iter().filter(of_commit).cloned().collect();
        let of_commit = |row: &&HoldChangeRow| row.commit == commit.position;
        let changes: Vec<_> = changes.iter().filter(of_commit).cloned().collect();
        check.commit(&commit, &rows, &changes);
    }
    for (account, balance) in store.balances(None, MAX_PAGE).await.unwrap() {
        check.account(account, balance);
    }
    let (problems, heads) = check.finish();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(heads, store.chain_heads().await.unwrap());
}

/// Whatever the size of the tables, every row is found by an index.
#[tokio::test(flavor = "multi_thread")]
async fn no_statement_scans_a_table() {
    let Some(bench) = Bench::new() else { return };
    let raw = bench.raw().await;
    // A session that ends reports what it did.
    let scans = async |store: PostgresStore| {
        store.close().await.unwrap();
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'scans'";
        wait_until("the end of the sessions", async || {
            let row = raw.query_one(sessions, &[]).await.unwrap();
            row.get::<_, i64>(0) == 0
        })
        .await;
        let rows = "SELECT relname::text, coalesce(seq_scan, 0), coalesce(idx_scan, 0)
                    FROM pg_stat_user_tables WHERE schemaname = $1 ORDER BY relname";
        let rows = raw.query(rows, &[&bench.schema]).await.unwrap();
        let scans = rows
            .iter()
            .map(|row| (row.get(0), (row.get(1), row.get(2))));
        scans.collect::<std::collections::BTreeMap<String, (i64, i64)>>()
    };
    let open = async || {
        let options = "sslmode=disable&application_name=scans";
        let config = PostgresConfig::new(bench.cluster.url(bench.cluster.port, options));
        let config = config.schema(&bench.schema);
        PostgresStore::connect(config, bench.clock.clone())
            .await
            .unwrap()
    };
    // Making the tables scans them.
    let before = scans(open().await).await;
    let store = open().await;
    let mut steps = Steps::new(7, NOW_MS);
    for _ in 0..150 {
        drop(store.commit(steps.batch()).await);
    }
    picture(&store).await;
    store.forget_answers(NOW_MS + 1, 5).await.unwrap();
    store.acknowledge("reader", 1).await.unwrap();
    store.cursor("reader").await.unwrap();
    let after = scans(store).await;
    println!("{after:?}");
    for (table, (scanned, found)) in after {
        let (scanned_before, found_before) = before[&table];
        // The head has one row, and its place in the index is not looked up.
        if table != "head" {
            assert_eq!(scanned, scanned_before, "{table} was scanned");
        }
        let unused = ["node_state", "head", "moves"].contains(&table.as_str());
        assert!(unused || found > found_before, "{table} was not used");
    }
}

/// More ended holds than are loaded at first, given back by one group.
#[tokio::test(flavor = "multi_thread")]
async fn many_ended_holds_are_given_back() {
    const HOLDS: u64 = 300;
    let Some(bench) = Bench::new() else { return };
    let store = bench.store().await;
    let mut steps = vec![fund(card(1), 300)];
    for hold in 0..HOLDS {
        let Step::Transfer(transfer) = transfer(card(1), merchant(hold), 1) else {
            continue;
        };
        steps.push(Step::Hold(NewHold {
            transfer,
            expires_at_ms: Some(NOW_MS + 5_000),
            usage: Vec::new(),
        }));
    }
    store.commit(batch(steps)).await.unwrap();
    assert_eq!(available(&store, card(1)).await, 0);
    bench.clock.set(NOW_MS + 5_000);
    // 64 at a time: five batches of one group need them all.
    let pay = || batch(vec![transfer(card(1), merchant(1), 60)]);
    let calls: Vec<_> = (0..5).map(|_| begin(&store, pay())).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(available(&store, card(1)).await, 0);
    assert_eq!(available(&store, merchant(1)).await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_commits_late_is_not_stepped_over() {
    let Some(bench) = Bench::new() else { return };
    let store = bench.store().await;
    store.commit(batch(vec![event("first")])).await.unwrap();
    // Another instance has its position, and has not committed yet.
    let other = bench.raw().await;
    other.batch_execute("BEGIN").await.unwrap();
    let head = "SELECT event_position FROM head FOR UPDATE";
    let row = other.query_one(head, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    let written = "INSERT INTO events VALUES (2, 0, 'test.happened', 'early', '{}');
                   UPDATE head SET event_position = 2";
    other.batch_execute(written).await.unwrap();
    let late = begin(&store, batch(vec![event("late")]));
    let waits = {
        let store = store.clone();
        tokio::spawn(async move { store.event_after(1).await })
    };
    sessions_wait(&bench.raw().await, 1).await;
    // Whoever reads now must not see the later one, and go on behind it.
    assert_eq!(objects(&store).await, ["first"]);
    assert!(!late.is_finished() && !waits.is_finished());
    other.batch_execute("COMMIT").await.unwrap();
    waits.await.unwrap().unwrap();
    late.await.unwrap().unwrap();
    assert_eq!(objects(&store).await, ["first", "early", "late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_every_event_of_two_writers() {
    const EVENTS: usize = 300;
    let Some(bench) = Bench::new() else { return };
    let stores = [bench.store().await, bench.store().await];
    let reader = bench.store().await;
    let writing: Vec<_> = (0..EVENTS)
        .map(|turn| begin(&stores[turn % 2], batch(vec![event(&turn.to_string())])))
        .collect();
    let mut seen = Vec::new();
    while seen.len() < EVENTS {
        let after = seen
            .last()
            .map_or(0, |event: &flashkit::ledger::EventRecord| event.position);
        // It hears of them although it writes nothing itself.
        let heard = reader.event_after(after);
        let heard = tokio::time::timeout(Duration::from_secs(20), heard).await;
        heard.unwrap().unwrap();
        seen.extend(reader.events(after, 7).await.unwrap());
    }
    for written in writing {
        written.await.unwrap().unwrap();
    }
    let all = reader.events(0, MAX_PAGE).await.unwrap();
    assert_eq!(seen, all);
    let positions: Vec<_> = all.iter().map(|event| event.position).collect();
    assert_eq!(positions, (1..=300).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_time_never_decreases_between_instances() {
    let Some(bench) = Bench::new() else { return };
    let ahead = bench.store().await;
    let slow = Arc::new(ManualClock::at(NOW_MS - 5_000));
    let config = bench.config(bench.cluster.port);
    let behind = PostgresStore::connect(config, slow.clone()).await.unwrap();
    let mut times = Vec::new();
    for turn in 0..6 {
        bench.clock.set(NOW_MS + turn);
        let store = if turn % 2 == 0 { &ahead } else { &behind };
        times.push(
            store
                .commit(batch(vec![event("time")]))
                .await
                .unwrap()
                .at_ms,
        );
    }
    let expected = [0, 0, 2, 2, 4, 4].map(|after| NOW_MS + after);
    assert_eq!(times, expected);
    slow.jump(NOW_MS + 10);
    let at_ms = behind
        .commit(batch(vec![event("time")]))
        .await
        .unwrap()
        .at_ms;
    assert_eq!(at_ms, NOW_MS + 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_known_by_submitting_the_batch_again() {
    let Some(bench) = Bench::new() else { return };
    let proxy = Proxy::to(bench.cluster.port).await;
    let store = bench.through(proxy.port).await;
    let unknown = Err(CommitError::Store(StoreError::OutcomeUnknown));
    for (turn, fault, was_done) in [
        (1, Fault::LoseAnswer, true),
        (2, Fault::LoseRequest, false),
        (3, Fault::LoseAnswer, true),
    ] {
        // The connection is there, so that the fault finds the commit and not the greeting.
        store.commit(batch(vec![event("before")])).await.unwrap();
        let submitted = batch(vec![fund(card(9), 10)]);
        proxy.set(fault);
        assert_eq!(store.commit(submitted.clone()).await, unknown, "{fault:?}");
        assert_eq!(proxy.fired(), turn);
        bench.clock.set(NOW_MS + i64::try_from(turn).unwrap());
        let commit = store.commit(submitted.clone()).await.unwrap();
        assert_eq!(commit.replayed, was_done, "{fault:?}");
        let moved = i128::try_from(turn * 10).unwrap();
        assert_eq!(available(&store, card(9)).await, moved);
        let again = store.commit(submitted).await.unwrap();
        assert!(again.replayed && again.at_ms == commit.at_ms);
        assert_eq!(available(&store, card(9)).await, moved);
    }
}

/// What was sent over a connection that is lost may still be delivered. Once its caller was told that
/// it is refused, or not there, it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_comes_late_does_nothing_after_a_refusal() {
    let Some(_cluster) = Cluster::shared() else {
        return;
    };
    for way in ["submitted again", "looked for", "by the next process"] {
        let Some(bench) = Bench::new() else { return };
        let proxy = Proxy::to(bench.cluster.port).await;
        let store = bench.through(proxy.port).await;
        store.commit(batch(vec![fund(card(1), 50)])).await.unwrap();
        let ends_ms = NOW_MS + 60_000;
        let (hold, step) = hold_of(1, Some(ends_ms));
        store.commit(batch(vec![step])).await.unwrap();
        let scope = "till/capture/1";
        let (captured, step) = capture(hold, 10, false);
        let late = Batch {
            command: Some(CommandRecord {
                scope: scope.to_owned(),
                fingerprint: "f".to_owned(),
                answer: serde_json::Value::Null.into(),
            }),
            ..batch(vec![step])
        };
        proxy.set(Fault::Late);
        let unknown = Err(StoreError::OutcomeUnknown.into());
        assert_eq!(store.commit(late.clone()).await, unknown, "{way}");
        assert_eq!(proxy.fired(), 1, "{way}");
        bench.clock.set(ends_ms + 1);
        match way {
            "submitted again" => {
                let refused = store.commit(late.clone()).await;
                assert!(matches!(refused, Err(CommitError::Refused(_))));
            }
            "looked for" => assert_eq!(store.command(scope).await, Ok(None)),
            _ => {
                let refused = bench.store().await.commit(late.clone()).await;
                assert!(matches!(refused, Err(CommitError::Refused(_))));
            }
        }
        proxy.let_go().await;
        assert_eq!(store.transfer(captured).await, Ok(None), "{way}");
        assert_eq!(store.command(scope).await, Ok(None), "{way}");
        // And it goes on as before, in one round trip.
        for _ in 0..2 {
            store.commit(batch(vec![fund(card(1), 1)])).await.unwrap();
        }
        proxy.take_round_trips();
        store.commit(batch(vec![fund(card(1), 1)])).await.unwrap();
        assert_eq!(proxy.take_round_trips(), [1], "{way}");
    }
}

/// The same with the node's state: an older value does not come back over a newer one.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_wrote_to_a_lost_connection_comes_too_late() {
    let Some(bench) = Bench::new() else { return };
    let proxy = Proxy::to(bench.cluster.port).await;
    let store = bench.through(proxy.port).await;
    let path = |key: &str| KeyPath {
        primary: "monitors".to_owned(),
        secondary: String::new(),
        key: key.to_owned(),
    };
    let put = |key: &str, value: u8| KeyValueWrite::Put {
        path: path(key),
        value: vec![value],
    };
    let remove = |key: &str| KeyValueWrite::Remove { path: path(key) };
    let epoch = store.begin_epoch().await.unwrap();
    for (late, then) in [
        (put("whole", 1), put("whole", 2)),
        (remove("update"), put("update", 2)),
        (put("removed", 1), remove("removed")),
    ] {
        store.write(epoch, put("before", 0)).await.unwrap();
        proxy.set(Fault::Late);
        // Given up with its connection, and done over another one.
        store.write(epoch, late).await.unwrap();
        store.write(epoch, then).await.unwrap();
        proxy.let_go().await;
    }
    assert_eq!(proxy.fired(), 3);
    assert_eq!(store.read(path("whole")).await, Ok(Some(vec![2])));
    assert_eq!(store.read(path("update")).await, Ok(Some(vec![2])));
    assert_eq!(store.read(path("removed")).await, Ok(None));
    // Another instance that has its turn has numbers of its own, and takes it for good.
    let other = bench.store().await;
    let next = other.begin_epoch().await.unwrap();
    other.write(next, put("whole", 3)).await.unwrap();
    let fenced = StoreError::Fenced {
        given: epoch,
        current: next,
    };
    assert_eq!(store.write(epoch, put("whole", 4)).await, Err(fenced));
    other.write(next, put("before", 5)).await.unwrap();
    assert_eq!(store.read(path("whole")).await, Ok(Some(vec![3])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_ended_loses_nothing() {
    let Some(bench) = Bench::new() else { return };
    let store = bench.store().await;
    store.commit(batch(vec![fund(card(1), 10)])).await.unwrap();
    let raw = bench.raw().await;
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE application_name = $1 AND pid <> pg_backend_pid()";
    // While idle: the next call has another connection.
    let mine = format!("flashkit_{}", bench.schema);
    let url = bench.cluster.url(
        bench.cluster.port,
        &format!("sslmode=disable&application_name={mine}"),
    );
    let config = PostgresConfig::new(url).schema(&bench.schema);
    let named = PostgresStore::connect(config, bench.clock.clone())
        .await
        .unwrap();
    named.commit(batch(vec![fund(card(1), 10)])).await.unwrap();
    let row = raw.query_one(ended, &[&mine]).await.unwrap();
    assert!(row.get::<_, i64>(0) >= 1);
    assert_eq!(available(&named, card(1)).await, 20);
    named.commit(batch(vec![fund(card(1), 10)])).await.unwrap();
    // In the middle of a transaction, before its commit: it is done again, once.
    raw.batch_execute("BEGIN; SELECT 1 FROM head FOR UPDATE")
        .await
        .unwrap();
    let waiting = begin(&named, batch(vec![fund(card(1), 10)]));
    sessions_wait(&bench.raw().await, 1).await;
    raw.query_one(ended, &[&mine]).await.unwrap();
    raw.batch_execute("ROLLBACK").await.unwrap();
    assert!(!waiting.await.unwrap().unwrap().replayed);
    assert_eq!(available(&store, card(1)).await, 40);
    named.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_holds_the_others_up_for_a_bounded_time() {
    let Some(bench) = Bench::new() else { return };
    let proxy = Proxy::to(bench.cluster.port).await;
    let config = bench.config(proxy.port).stall(Duration::from_millis(700));
    let config = config.patience(Duration::from_secs(4));
    let stopping = PostgresStore::connect(config, bench.clock.clone())
        .await
        .unwrap();
    let other = bench.store().await;
    stopping.commit(batch(vec![event("before")])).await.unwrap();
    proxy.set(Fault::Freeze);
    let lost = batch(vec![fund(card(1), 10)]);
    let stopped = begin(&stopping, lost.clone());
    wait_until("the freeze", async || proxy.fired() == 1).await;
    let begun = Instant::now();
    other.commit(batch(vec![event("meanwhile")])).await.unwrap();
    let waited = begun.elapsed();
    println!("the other instance waited {waited:?} for one that stopped");
    assert!(waited < Duration::from_secs(20));
    // The server said that it had ended the session before it heard of the commit, so the batch
    // could be done again, and was done once.
    assert!(!stopped.await.unwrap().unwrap().replayed);
    assert!(stopping.commit(lost).await.unwrap().replayed);
    assert_eq!(available(&other, card(1)).await, 10);
}

/// So does one that stops while it ends the books, or while it gives up what its node knew.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_while_it_ends_or_mends_the_node_holds_nobody_up_for_long() {
    for mends in [false, true] {
        let Some(bench) = Bench::new() else { return };
        let proxy = Proxy::to(bench.cluster.port).await;
        let config = bench.config(proxy.port).stall(Duration::from_millis(700));
        let stopping = PostgresStore::connect(config, bench.clock.clone())
            .await
            .unwrap();
        let other = bench.store().await;
        other.begin_epoch().await.unwrap();
        if mends {
            let elsewhere = "UPDATE settings SET value = 0 WHERE name = 'node_home'";
            bench.raw().await.batch_execute(elsewhere).await.unwrap();
        }
        proxy.set(Fault::Freeze);
        let stopped = tokio::spawn(async move {
            if mends {
                stopping.forget_channels(Vec::new()).await.map(drop)
            } else {
                let exported = stopping.export(NodeState::HandOver).await;
                exported.map(drop).map_err(|_| StoreError::Closed)
            }
        });
        wait_until("the freeze", async || proxy.fired() == 1).await;
        let begun = Instant::now();
        other.commit(batch(vec![event("meanwhile")])).await.unwrap();
        let waited = begun.elapsed();
        println!("the other instance waited {waited:?} for one that stopped");
        assert!(waited < Duration::from_secs(8));
        // Nothing of it was done.
        stopped.await.unwrap().unwrap_err();
        let health = StoreAdmin::health(&other).await.unwrap();
        assert_eq!(health.node_locked.is_some(), mends);
        other.commit(batch(vec![event("after")])).await.unwrap();
    }
}

/// Whoever stands by asks once a second, and the holder's writes share a lock: the asking waits for
/// none, and has none that could be kept by one that stops.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_stands_by_locks_nothing() {
    let Some(bench) = Bench::new() else { return };
    let proxy = Proxy::to(bench.cluster.port).await;
    let store = bench.through(proxy.port).await;
    let lasts = Duration::from_secs(60);
    let (holder, standing_by) = (NodeHolder(1), NodeHolder(2));
    let epoch = store.take_lease(holder, lasts).await.unwrap();
    let raw = bench.raw().await;
    let lock = "BEGIN; SELECT 1 FROM settings WHERE name = 'node_epoch' FOR UPDATE";
    raw.batch_execute(lock).await.unwrap();
    let begun = Instant::now();
    let refused = store.take_lease(standing_by, lasts).await.unwrap_err();
    assert_eq!(refused.code(), "store.lease_held");
    let fenced = store.renew_lease(epoch + 1, lasts).await.unwrap_err();
    assert_eq!(fenced.code(), "store.fenced");
    assert!(begun.elapsed() < Duration::from_secs(8));
    // What is true under the lock counts: somebody else begins an epoch while this one waits for it.
    let renewing = tokio::spawn({
        let store = store.clone();
        async move { store.renew_lease(epoch, lasts).await }
    });
    sessions_wait_for(&bench.raw().await, 1, "'node_epoch' FOR UPDATE").await;
    let begin = "UPDATE settings SET value = value + 1 WHERE name = 'node_epoch'; COMMIT";
    raw.batch_execute(begin).await.unwrap();
    let fenced = StoreError::Fenced {
        given: epoch,
        current: epoch + 1,
    };
    assert_eq!(renewing.await.unwrap(), Err(fenced));

    // Whoever changes something is done with it in one round trip.
    proxy.take_round_trips();
    let epoch = store.begin_epoch().await.unwrap();
    store.renew_lease(epoch, lasts).await.unwrap();
    store.release_lease(epoch).await.unwrap();
    store.take_lease(standing_by, lasts).await.unwrap();
    assert_eq!(proxy.take_round_trips(), [1; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_outlives_a_crash_of_the_server() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let config = PostgresConfig::new(cluster.url(cluster.port, "sslmode=disable"));
    let store = PostgresStore::connect(config, clock).await.unwrap();
    let (mut answered, mut unsure) = (0, Vec::new());
    for round in 0..3 {
        let calls: Vec<_> = (0..100)
            .map(|_| batch(vec![fund(card(1), 1)]))
            .map(|batch| (batch.clone(), begin(&store, batch)))
            .collect();
        if round < 2 {
            cluster.crash();
            cluster.go_on();
        }
        for (batch, call) in calls {
            match call.await.unwrap() {
                Ok(_) => answered += 1,
                Err(_) => unsure.push(batch),
            }
        }
    }
    println!("{answered} answered, {} not", unsure.len());
    for batch in unsure {
        store.commit(batch).await.unwrap();
    }
    assert_eq!(available(&store, card(1)).await, 300);
}

/// The host sees that nothing can be written, and that it can again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_trouble_until_it_is_back() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let config = PostgresConfig::new(cluster.url(cluster.port, "sslmode=disable"));
    let config = config.patience(Duration::from_secs(3));
    let store = PostgresStore::connect(config, clock).await.unwrap();
    store.commit(batch(vec![event("before")])).await.unwrap();
    assert_eq!(store.trouble(), None);
    cluster.crash();
    let refused = store.commit(batch(vec![event("meanwhile")])).await;
    let refused = refused.unwrap_err();
    let trouble = store.trouble().expect("it is in trouble");
    assert_eq!(CommitError::Store(trouble.error), refused);
    assert_eq!(trouble.since_ms, NOW_MS);
    cluster.go_on();
    wait_until("it writes again", async || {
        store.commit(batch(vec![event("after")])).await.is_ok()
    })
    .await;
    assert_eq!(store.trouble(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_database_cannot_take_does_not_take_others_with_it() {
    let Some(bench) = Bench::new() else { return };
    let store = bench.store().await;
    let raw = bench.raw().await;
    raw.batch_execute("BEGIN; SELECT 1 FROM head FOR UPDATE")
        .await
        .unwrap();
    // What is submitted while the first one waits is one group.
    let first = begin(&store, batch(vec![event("first")]));
    sessions_wait(&bench.raw().await, 1).await;
    let sound = begin(&store, batch(vec![claim("sound"), event("sound")]));
    let unsound = begin(&store, batch(vec![claim("no\0text"), event("unsound")]));
    let again = begin(&store, batch(vec![event("again")]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    raw.batch_execute("ROLLBACK").await.unwrap();
    for fine in [first, sound, again] {
        fine.await.unwrap().unwrap();
    }
    let error = unsound.await.unwrap().unwrap_err();
    assert!(
        matches!(error, CommitError::Store(StoreError::Io { .. })),
        "{error}"
    );
    let kept: BTreeSet<_> = objects(&store).await.into_iter().collect();
    let expected = ["again", "first", "sound"].map(String::from);
    assert_eq!(kept, BTreeSet::from(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_the_jobs_that_are_due() {
    const JOBS: usize = 200;
    const LEASE: Duration = Duration::from_secs(60);
    let Some(bench) = Bench::new() else { return };
    let stores = [bench.store().await, bench.store().await];
    let steps = (0..JOBS).map(|job| {
        Step::Due(DueJob {
            kind: "test".into(),
            object: job.to_string(),
            due_at_ms: NOW_MS,
        })
    });
    stores[0].commit(batch(steps.collect())).await.unwrap();
    let taking: Vec<_> = (0..8)
        .map(|taker| {
            let store = stores[taker % 2].clone();
            tokio::spawn(async move {
                let mut taken = Vec::new();
                loop {
                    let jobs = store.lease_due(NOW_MS, LEASE, &[], 5).await.unwrap();
                    if jobs.is_empty() {
                        return taken;
                    }
                    taken.extend(jobs.into_iter().map(|job| job.object));
                }
            })
        })
        .collect();
    let mut taken = Vec::new();
    for taker in taking {
        taken.extend(taker.await.unwrap());
    }
    let distinct: BTreeSet<_> = taken.iter().collect();
    // One that another taker had locked may be left for the next look; none is taken twice.
    assert_eq!(distinct.len(), taken.len());
    let left = stores[1].lease_due(NOW_MS, LEASE, &[], JOBS).await;
    assert_eq!(taken.len() + left.unwrap().len(), JOBS);
}

/// Leases go by the server's clock: nobody takes another's job because their own clocks differ.
#[tokio::test(flavor = "multi_thread")]
async fn instances_whose_clocks_differ_leave_each_other_their_jobs() {
    const LEASE: Duration = Duration::from_secs(30);
    let Some(bench) = Bench::new() else { return };
    let ahead = Arc::new(ManualClock::at(NOW_MS + 5_000));
    let config = bench.config(bench.cluster.port);
    let exact = (bench.store().await, NOW_MS);
    let ahead = (
        PostgresStore::connect(config, ahead).await.unwrap(),
        NOW_MS + 5_000,
    );
    for [first, second] in [[&exact, &ahead], [&ahead, &exact]] {
        let job = DueJob {
            kind: "test".into(),
            object: "one".into(),
            due_at_ms: NOW_MS,
        };
        first.0.commit(batch(vec![Step::Due(job)])).await.unwrap();
        for (store, expected) in [(first, 1), (second, 0), (first, 0)] {
            let taken = store.0.lease_due(store.1, LEASE, &[], 5).await.unwrap();
            assert_eq!(taken.len(), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let store = bench.store().await;
    store.commit(batch(vec![event("before")])).await.unwrap();
    let raw = bench.raw().await;
    let newer = "UPDATE head SET schema_version = 99";
    raw.batch_execute(newer).await.unwrap();
    let error = StoreError::NewerSchema {
        found: 99,
        known: 2,
    };
    let config = bench.config(bench.cluster.port);
    let opened = PostgresStore::connect(config, bench.clock.clone()).await;
    assert_eq!(opened.err(), Some(error.clone()));
    // So is an instance that was there before another one migrated the tables.
    let answer = store.commit(batch(vec![event("after")])).await;
    assert_eq!(answer, Err(error.into()));
    assert_eq!(objects(&store).await, ["before"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_start_at_once_make_the_tables_once() {
    let Some(bench) = Bench::new() else { return };
    let starting: Vec<_> = (0..6)
        .map(|_| {
            let config = bench.config(bench.cluster.port);
            tokio::spawn(PostgresStore::connect(config, bench.clock.clone()))
        })
        .collect();
    for started in starting {
        let store = started.await.unwrap().unwrap();
        store.commit(batch(vec![fund(card(1), 1)])).await.unwrap();
    }
    assert_eq!(available(&bench.store().await, card(1)).await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_store_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let raw = bench.cluster.raw().await;
    let strange = format!(
        "CREATE SCHEMA {0}; CREATE TABLE {0}.other (id int)",
        bench.schema
    );
    raw.batch_execute(&strange).await.unwrap();
    let open = async |config: PostgresConfig| {
        let opened = PostgresStore::connect(config, bench.clock.clone()).await;
        opened.err().map(|error| error.code())
    };
    let port = bench.cluster.port;
    let config = bench.config(port);
    assert_eq!(open(config).await, Some("store.corrupt"));
    let nobody = bench.cluster.url(port, "user=nobody&sslmode=disable");
    let nobody = PostgresConfig::new(nobody);
    assert_eq!(open(nobody).await, Some("store.misconfigured"));
    let nowhere = bench.cluster.url(port, "dbname=nowhere&sslmode=disable");
    let nowhere = PostgresConfig::new(nowhere);
    assert_eq!(open(nowhere).await, Some("store.misconfigured"));
    let closed = PostgresConfig::new("host=127.0.0.1 port=1 user=nobody");
    let closed = closed.patience(Duration::from_millis(500));
    assert_eq!(open(closed).await, Some("store.io"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_as_the_connection_string_says() {
    let Some(bench) = Bench::new() else { return };
    let authority = bench.cluster.authority();
    let authority = authority.to_str().unwrap();
    let raw = bench.cluster.raw().await;
    let encrypted =
        "SELECT bool_and(ssl.ssl) FROM pg_stat_ssl ssl JOIN pg_stat_activity USING (pid)
                     WHERE application_name = $1";
    let verified = format!("sslmode=verify-full&sslrootcert={authority}");
    for (options, works, tls) in [
        ("sslmode=disable".to_owned(), true, false),
        ("sslmode=prefer".to_owned(), true, true),
        ("sslmode=require".to_owned(), true, true),
        (verified.clone(), true, true),
        (
            format!("sslmode=require&sslrootcert={authority}"),
            true,
            true,
        ),
        // No authority of the web knows this server.
        ("sslmode=verify-full".to_owned(), false, true),
    ] {
        let name = format!("tls_{}", number());
        let options = format!("{options}&application_name={name}");
        let url = bench.cluster.url(bench.cluster.port, &options);
        let config = PostgresConfig::new(url).schema(&bench.schema);
        let config = config.patience(Duration::from_secs(2));
        let opened = PostgresStore::connect(config, bench.clock.clone()).await;
        assert_eq!(opened.is_ok(), works, "{options}: {:?}", opened.err());
        if let Ok(store) = opened {
            store.commit(batch(vec![event(&name)])).await.unwrap();
            let row = raw.query_one(encrypted, &[&name]).await.unwrap();
            assert_eq!(row.get::<_, bool>(0), tls, "{options}");
        }
    }
    // The right authority, and another name than the certificate's.
    let url = bench.cluster.url(bench.cluster.port, &verified);
    let config = PostgresConfig::new(url.replace("localhost", "db.example"));
    let opened = PostgresStore::connect(config, bench.clock.clone()).await;
    assert!(opened.is_err());
}

/// A copy of the database, as a restored dump is: the books are usable, the node does not run.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_never_runs_on_a_copy_of_its_state() {
    let Some(bench) = Bench::new() else { return };
    let raw = bench.cluster.raw().await;
    let original = format!("original_{}", number());
    let copied = format!("copied_{}", number());
    raw.batch_execute(&format!("CREATE DATABASE {original}"))
        .await
        .unwrap();
    let at = |database: &str| {
        let url = bench.cluster.url(bench.cluster.port, "sslmode=disable");
        let url = url.replace("/postgres?", &format!("/{database}?"));
        assert!(url.contains(database), "{url}");
        PostgresConfig::new(url).schema(&bench.schema)
    };
    let open = async |database: &str| {
        let store = PostgresStore::connect(at(database), bench.clock.clone());
        store.await.unwrap()
    };
    let store = open(&original).await;
    store.commit(batch(vec![fund(card(1), 5)])).await.unwrap();
    let epoch = store.begin_epoch().await.unwrap();
    let change = KeyValueWrite::Put {
        path: KeyPath {
            primary: "monitors".to_owned(),
            secondary: String::new(),
            key: "channel".to_owned(),
        },
        value: vec![1],
    };
    store.write(epoch, change).await.unwrap();
    assert_eq!(store.begin_epoch().await, Ok(epoch + 1), "at home");
    store.close().await.unwrap();
    let copy = format!("CREATE DATABASE {copied} TEMPLATE {original}");
    let deadline = Instant::now() + Duration::from_secs(10);
    // The server lets go of the store's connections a little later.
    while let Err(error) = raw.batch_execute(&copy).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let store = open(&copied).await;
    let stale = StoreError::StaleNodeState {
        found: 1,
        expected: None,
    };
    assert_eq!(store.begin_epoch().await, Err(stale));
    store.commit(batch(vec![fund(card(1), 5)])).await.unwrap();
    store.trust_node_state().await.unwrap();
    assert_eq!(store.begin_epoch().await, Ok(epoch + 2));
    let store = open(&original).await;
    assert_eq!(store.begin_epoch().await, Ok(epoch + 2), "still at home");
}

/// A dump that goes back into the database it is of, which is the usual way to restore one.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_was_restored_in_place_runs_no_node() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let raw = cluster.raw().await;
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let url = cluster.url(cluster.port, "sslmode=disable");
    let change = |value: u8| KeyValueWrite::Put {
        path: KeyPath {
            primary: "monitors".to_owned(),
            secondary: String::new(),
            key: "channel".to_owned(),
        },
        value: vec![value],
    };
    for way in ["tables", "rows", "handed over"] {
        let schema = format!("restored_{}", number());
        let config = PostgresConfig::new(url.as_str()).schema(&schema);
        let open = async || {
            let store = PostgresStore::connect(config.clone(), clock.clone()).await;
            store.unwrap()
        };
        let store = open().await;
        store.commit(batch(vec![fund(card(1), 5)])).await.unwrap();
        let epoch = store.begin_epoch().await.unwrap();
        store.write(epoch, change(1)).await.unwrap();
        let mut dumping = cluster.command("pg_dump", &["--schema", &schema, &url]);
        if way == "rows" {
            dumping.arg("--data-only");
        }
        let dump = dumping.output().unwrap();
        assert!(dump.status.success(), "{dump:?}");

        // Nothing the server does by itself is a restore.
        let settings = format!("{schema}.settings");
        for sql in ["VACUUM (FREEZE)", "VACUUM (FULL)"] {
            raw.batch_execute(&format!("{sql} {settings}"))
                .await
                .unwrap();
        }
        store.write(epoch, change(2)).await.unwrap();
        let epoch = store.begin_epoch().await.unwrap();
        assert_eq!(StoreAdmin::health(&store).await.unwrap().node_locked, None);
        if way == "handed over" {
            drop(store.export(NodeState::HandOver).await.unwrap());
        }
        store.close().await.unwrap();

        let clear = if way == "rows" {
            let sql = "SELECT string_agg(format('%I.%I', table_schema, table_name), ', ')
                       FROM information_schema.tables WHERE table_schema = $1";
            let tables: String = raw.query_one(sql, &[&schema]).await.unwrap().get(0);
            format!("TRUNCATE {tables}")
        } else {
            format!("DROP SCHEMA {schema} CASCADE")
        };
        raw.batch_execute(&clear).await.unwrap();
        restore(&cluster, &url, &dump.stdout);

        let store = open().await;
        let stale = StoreError::StaleNodeState {
            found: 1,
            expected: None,
        };
        assert_eq!(store.begin_epoch().await, Err(stale.clone()), "{way}");
        assert_eq!(
            store.write(epoch, change(3)).await,
            Err(stale.clone()),
            "{way}"
        );
        let health = StoreAdmin::health(&store).await.unwrap();
        assert_eq!(health.node_locked, Some(stale), "{way}");
        assert!(store.export(NodeState::HandOver).await.is_err(), "{way}");
        // The books are usable, and once the channels were given up the node is as well.
        store.commit(batch(vec![fund(card(1), 5)])).await.unwrap();
        assert_eq!(store.forget_channels(Vec::new()).await, Ok(true), "{way}");
        store.begin_epoch().await.unwrap();
        store.close().await.unwrap();
    }
}

fn restore(cluster: &Cluster, url: &str, dump: &[u8]) {
    use std::io::Write as _;
    let mut restoring = cluster
        .command("psql", &["-q", "-v", "ON_ERROR_STOP=1", url])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    restoring.stdin.take().unwrap().write_all(dump).unwrap();
    assert!(restoring.wait().unwrap().success());
}

/// A commit waits for a standby that is gone, and the server starts anew: the commit is there to be
/// seen, on this machine alone. Nobody is told that it was made before a standby has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_standby_has_is_not_acknowledged_out_of_the_tables() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let config = PostgresConfig::new(cluster.url(cluster.port, "sslmode=disable"));
    let config = config.patience(Duration::from_secs(4));
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let store = PostgresStore::connect(config, clock.clone()).await.unwrap();
    let wait_for = async |names: &str| {
        let raw = cluster.raw().await;
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
        raw.batch_execute(&set).await.unwrap();
        raw.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    wait_for("*").await;
    // Its processes read new settings when they come to it, but at a start all of them do.
    cluster.crash();
    cluster.go_on();
    wait_until("it is read from again", async || {
        store.balance(&card(1)).await.is_ok()
    })
    .await;
    // Its wait is cancelled, and the server answers it as done.
    let config = PostgresConfig::new(cluster.url(cluster.port, "sslmode=disable"));
    let waiting = PostgresStore::connect(config.patience(Duration::from_secs(60)), clock.clone());
    let waiting = waiting.await.unwrap();
    let cancelled = batch(vec![fund(card(2), 5)]);
    let answer = begin(&waiting, cancelled.clone());
    let raw = cluster.raw().await;
    wait_until("it waits for a standby", async || {
        let sql = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                   WHERE wait_event = 'SyncRep'";
        raw.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    let unknown = Err(CommitError::Store(StoreError::OutcomeUnknown));
    assert_eq!(answer.await.unwrap(), unknown);
    let scope = "till/charge/1";
    let batch = Batch {
        command: Some(CommandRecord {
            scope: scope.to_owned(),
            fingerprint: "f".to_owned(),
            answer: serde_json::Value::Null.into(),
        }),
        ..batch(vec![fund(card(1), 5)])
    };
    let first = store.commit(batch.clone()).await;
    assert_eq!(first, Err(StoreError::OutcomeUnknown.into()));
    // It waits for the standby, and nobody may be told that it was not done.
    let unknown = Err(StoreError::OutcomeUnknown);
    assert_eq!(store.command(scope).await, unknown);
    cluster.crash();
    cluster.go_on();
    let raw = cluster.raw().await;
    let seen = raw
        .query_one("SELECT count(*) FROM flashkit.commits", &[])
        .await;
    assert_eq!(seen.unwrap().get::<_, i64>(0), 2);
    assert!(store.commit(batch.clone()).await.is_err());
    assert!(store.command(scope).await.is_err());
    wait_for("").await;
    let again = store.commit(batch).await.unwrap();
    assert!(again.replayed);
    assert!(waiting.commit(cancelled).await.unwrap().replayed);
    assert!(store.command(scope).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invoices_are_found_as_in_memory() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let clock = searches::clock();
    let store = MemoryStore::new(clock.clone());
    let in_memory = searches::search(Arc::new(store), clock).await;
    let clock = searches::clock();
    let url = cluster.url(cluster.port, "sslmode=disable");
    let config = PostgresConfig::new(url).schema("searches");
    let store = PostgresStore::connect(config, clock.clone()).await.unwrap();
    assert_eq!(searches::search(Arc::new(store), clock).await, in_memory);
}
