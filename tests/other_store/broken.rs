//! Engines that are wrong in one way each: the contract finds every one of them. And one that is
//! right, but fails when it is told to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use flashkit::ledger::{Batch, Step};
use flashkit::store::contract::{ContractViolation, check_all, check_tree};
use flashkit::store::ordered::{
    CopiesAreNotNoticed, Order, OrderedStore, Rows, Tree, TreeChanges, View, WriteError,
};
use flashkit::store::{CommitError, KeyPath, KeyValue, KeyValueWrite, Store, StoreError};
use flashkit::testkit::clock::ManualClock;

use super::{FIRST_MS, fresh, has_all, numbered};

/// The longest key that this engine takes.
const LONGEST: usize = 5_000;

/// A key at which it panics.
fn is_poison(key: &[u8]) -> bool {
    key.windows(6).any(|part| part == b"poison")
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// The second half of a write is not seen by the first look after it.
    Torn,
    /// One change of a write is left out.
    Incomplete,
    /// What is taken away stays.
    KeepsRemoved,
    /// A view shows what is written after it was taken.
    NoSnapshot,
    WithoutStart,
    WithEnd,
    WithoutLast,
    AlwaysForwards,
    AlwaysBackwards,
    /// Longer keys come after all shorter ones.
    ShortFirst,
    /// Of a key the first 255 bytes count.
    CutsKeys,
    /// Two may have the place open.
    Shared,
}

/// What the next writes do.
#[derive(Debug, Clone)]
enum Fails {
    Undone,
    UnknownAndMade,
    UnknownAndLost,
}

/// A tree in memory: one map, copied where somebody still looks at it.
#[derive(Clone)]
struct InMemory {
    wrong: Wrong,
    rows: Arc<RwLock<Arc<Map>>>,
    rest: Arc<Mutex<TreeChanges>>,
    fails: Arc<Mutex<Option<Fails>>>,
    /// How many writes were flushed.
    flushed: Arc<AtomicUsize>,
    /// Whoever has the place open.
    _opened: Option<Arc<Opened>>,
    is_open: Arc<AtomicBool>,
}

struct Opened(Arc<AtomicBool>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

struct Seen {
    wrong: Wrong,
    rows: Arc<Map>,
    lives: Arc<RwLock<Arc<Map>>>,
}

fn full() -> StoreError {
    StoreError::Full
}

impl InMemory {
    fn new(wrong: Wrong) -> Self {
        Self {
            wrong,
            rows: Arc::default(),
            rest: Arc::default(),
            fails: Arc::default(),
            flushed: Arc::default(),
            _opened: None,
            is_open: Arc::default(),
        }
    }

    /// The place, opened by one.
    fn open(&self) -> Result<Self, StoreError> {
        if self.is_open.swap(true, Ordering::SeqCst) && self.wrong != Wrong::Shared {
            let location = "memory".to_owned();
            return Err(StoreError::InUse { location });
        }
        Ok(Self {
            _opened: Some(Arc::new(Opened(self.is_open.clone()))),
            ..self.clone()
        })
    }

    fn flushed(&self) -> usize {
        self.flushed.load(Ordering::SeqCst)
    }

    fn make(&self, changes: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>) {
        let mut rows = self.rows.write().unwrap();
        let rows = Arc::make_mut(&mut rows);
        for (key, value) in changes {
            let key = match self.wrong {
                Wrong::CutsKeys => key[..key.len().min(255)].to_vec(),
                _ => key,
            };
            match value {
                Some(value) => drop(rows.insert(key, value)),
                None if self.wrong == Wrong::KeepsRemoved => {}
                None => drop(rows.remove(&key)),
            }
        }
    }
}

impl Tree for InMemory {
    type View<'a> = Seen;

    fn view(&self) -> Result<Seen, StoreError> {
        let seen = Seen {
            wrong: self.wrong,
            rows: self.rows.read().unwrap().clone(),
            lives: self.rows.clone(),
        };
        self.make(std::mem::take(&mut *self.rest.lock().unwrap()));
        Ok(seen)
    }

    fn write(&self, changes: &TreeChanges) -> Result<(), WriteError> {
        match self.fails.lock().unwrap().clone() {
            None => {}
            Some(Fails::Undone) => return Err(WriteError::Undone(full())),
            Some(Fails::UnknownAndLost) => return Err(WriteError::Unknown(full())),
            Some(Fails::UnknownAndMade) => {
                self.make(changes.clone());
                return Err(WriteError::Unknown(full()));
            }
        }
        if changes.keys().any(|key| key.len() > LONGEST) {
            let reason = "a key is too long".to_owned();
            return Err(WriteError::Undone(StoreError::Misconfigured { reason }));
        }
        assert!(!changes.keys().any(|key| is_poison(key)), "a damaged page");
        self.flushed.fetch_add(1, Ordering::SeqCst);
        let mut rest = std::mem::take(&mut *self.rest.lock().unwrap());
        rest.extend(changes.clone());
        let half = rest.len() / 2;
        let later: TreeChanges = match self.wrong {
            Wrong::Torn => rest.clone().into_iter().skip(half).collect(),
            _ => TreeChanges::new(),
        };
        rest.retain(|key, _| !later.contains_key(key));
        if self.wrong == Wrong::Incomplete && rest.len() > 1 {
            rest.pop_first();
        }
        self.make(rest);
        *self.rest.lock().unwrap() = later;
        Ok(())
    }
}

impl Seen {
    fn rows(&self) -> Arc<Map> {
        match self.wrong {
            Wrong::NoSnapshot => self.lives.read().unwrap().clone(),
            _ => self.rows.clone(),
        }
    }
}

impl View for Seen {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        assert!(!is_poison(key), "a damaged page");
        let key = match self.wrong {
            Wrong::CutsKeys => &key[..key.len().min(255)],
            _ => key,
        };
        Ok(self.rows().get(key).cloned())
    }

    fn range(&self, keys: Range<&[u8]>, order: Order) -> Result<Rows<'_>, StoreError> {
        let rows = self.rows();
        let rows = rows.iter();
        let is_within = |key: &[u8]| match self.wrong {
            Wrong::WithoutStart => keys.start < key && key < keys.end,
            Wrong::WithEnd => keys.start <= key && key <= keys.end,
            _ => keys.contains(&key),
        };
        let rows = rows.filter(|(key, _)| is_within(key));
        let mut rows: Vec<_> = rows
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if self.wrong == Wrong::ShortFirst {
            rows.sort_by_key(|(key, _)| (key.len(), key.clone()));
        }
        if self.wrong == Wrong::WithoutLast && rows.len() > 1 {
            rows.pop();
        }
        let backwards = match self.wrong {
            Wrong::AlwaysForwards => false,
            Wrong::AlwaysBackwards => true,
            _ => order == Order::Backwards,
        };
        if backwards {
            rows.reverse();
        }
        Ok(Box::new(rows.into_iter().map(Ok)))
    }
}

async fn contract_of(wrong: Wrong) -> Result<usize, ContractViolation> {
    let kept = check_all(|clock| async move {
        let store = OrderedStore::open(InMemory::new(wrong), clock.clone())?;
        Ok(fresh(Arc::new(store), clock))
    });
    Ok(kept.await?.len())
}

/// Whether the promises of the tree, and those of the store on it, find what is wrong.
#[tokio::test]
async fn whatever_is_wrong_with_an_engine_is_found() {
    let tree = InMemory::new(Wrong::Nothing);
    check_tree(|| tree.open()).unwrap();
    assert!(contract_of(Wrong::Nothing).await.unwrap() >= 41);
    for wrong in [
        Wrong::Torn,
        Wrong::Incomplete,
        Wrong::KeepsRemoved,
        Wrong::NoSnapshot,
        Wrong::WithoutStart,
        Wrong::WithEnd,
        Wrong::WithoutLast,
        Wrong::AlwaysForwards,
        Wrong::AlwaysBackwards,
        Wrong::ShortFirst,
        Wrong::CutsKeys,
        Wrong::Shared,
    ] {
        let tree = InMemory::new(wrong);
        let by_tree = check_tree(|| tree.open()).unwrap_err();
        println!("{wrong:?}: {}", short(&by_tree));
        // What is seen of one moment shows to two threads alone, and not each time; the store's
        // ranges begin and end between keys, its own keys are short, and it opens the place once.
        let not_by_store = [
            Wrong::NoSnapshot,
            Wrong::WithoutStart,
            Wrong::WithEnd,
            Wrong::CutsKeys,
            Wrong::Shared,
        ];
        if not_by_store.contains(&wrong) {
            continue;
        }
        let by_store = contract_of(wrong).await.unwrap_err();
        println!("{wrong:?}: {}", short(&by_store));
    }
}

fn short(violation: &ContractViolation) -> String {
    violation.to_string().chars().take(160).collect()
}

fn outcome(error: CommitError) -> &'static str {
    match error {
        CommitError::Store(error) => error.code(),
        CommitError::Refused(refusal) => refusal.code(),
    }
}

/// A write that fails is told as what it was, is seen in the store's health, and is done once when
/// it is asked for again.
#[tokio::test]
async fn a_write_that_fails_is_done_once_when_it_is_asked_for_again() {
    let tree = InMemory::new(Wrong::Nothing);
    let clock = Arc::new(ManualClock::at(FIRST_MS));
    let store = OrderedStore::open(tree.clone(), clock).unwrap();
    store.commit(numbered(0)).await.unwrap();
    let cases = [
        (Fails::Undone, "store.full", false),
        (Fails::UnknownAndLost, "store.outcome_unknown", false),
        (Fails::UnknownAndMade, "store.outcome_unknown", true),
    ];
    for (number, (fails, code, is_there)) in (1..).zip(cases) {
        *tree.fails.lock().unwrap() = Some(fails);
        let failed = store.commit(numbered(number)).await.unwrap_err();
        assert_eq!(outcome(failed), code);
        assert_eq!(store.trouble().unwrap().error, full());
        *tree.fails.lock().unwrap() = None;
        let before = tree.flushed();
        let again = store.commit(numbered(number)).await.unwrap();
        assert_eq!(again.replayed, is_there, "{code}");
        // Nobody knows whether the one of before was flushed, so one is that was answered.
        assert_eq!(tree.flushed(), before + 1, "{code}");
        assert_eq!(store.trouble(), None);
        store.commit(numbered(number)).await.unwrap();
        assert_eq!(
            tree.flushed(),
            before + 1,
            "{code}: there was nothing to write"
        );
        has_all(&store, number + 1).await;
    }
    store.close().await.unwrap();
}

/// A row that cannot be read is an error for whoever needs it, and for nobody else.
#[tokio::test]
async fn a_damaged_row_stops_nobody_else() {
    let tree = InMemory::new(Wrong::Nothing);
    let clock = Arc::new(ManualClock::at(FIRST_MS));
    let store = OrderedStore::open(tree.clone(), clock.clone()).unwrap();
    store.commit(numbered(0)).await.unwrap();
    let rows = tree.rows.read().unwrap().clone();
    let is_of_documents = |key: &&Vec<u8>| {
        let key = String::from_utf8_lossy(key);
        key.contains("thing") && !key.contains("number")
    };
    let key = rows.keys().find(is_of_documents).unwrap().clone();
    tree.make([(key, Some(b"{".to_vec()))]);
    let read = store.document("thing", "0").await.unwrap_err();
    assert_eq!(read.code(), "store.corrupt");
    let (damaged, other) = tokio::join!(store.commit(puts(1, "0")), store.commit(puts(2, "2")));
    assert_eq!(outcome(damaged.unwrap_err()), "store.corrupt");
    assert!(!other.unwrap().replayed);
    store.close().await.unwrap();
    let tree = InMemory::new(Wrong::Nothing);
    tree.make([(b"somebody else's".to_vec(), Some(Vec::new()))]);
    let refused = OrderedStore::open(tree, clock).map(drop).unwrap_err();
    assert_eq!(refused.code(), "store.corrupt");
}

/// A batch that puts one document.
fn puts(number: i64, id: &str) -> Batch {
    let mut batch = numbered(number);
    let put = batch.steps.iter().find_map(|step| match step {
        Step::Put(put) => Some(put.clone()),
        _ => None,
    });
    let mut put = put.unwrap();
    id.clone_into(&mut put.id);
    batch.steps = vec![Step::Put(put)].into();
    batch.command = None;
    batch
}

/// A key that the engine cannot take, and one at which it panics, are the trouble of whoever has them.
#[tokio::test]
async fn what_an_engine_cannot_do_stops_nobody_else() {
    let clock = Arc::new(ManualClock::at(FIRST_MS));
    let store = OrderedStore::open(InMemory::new(Wrong::Nothing), clock).unwrap();
    let long = "a".repeat(LONGEST);
    for (number, (id, code)) in (1..).zip([
        (long.as_str(), "store.misconfigured"),
        ("poison", "store.corrupt"),
    ]) {
        let (bad, good) = (puts(2 * number, id), numbered(2 * number + 1));
        let (bad, good) = tokio::join!(store.commit(bad), store.commit(good));
        assert_eq!(outcome(bad.unwrap_err()), code);
        assert!(!good.unwrap().replayed, "{code}");
        assert_eq!(store.trouble(), None, "{code}");
    }
    for _ in 0..8 {
        let read = store.document("thing", "poison").await;
        assert_eq!(read.unwrap_err().code(), "store.corrupt");
    }
    assert!(store.document("thing", "3").await.unwrap().is_some());
    store.close().await.unwrap();
}

/// Whatever became of the last transfer, the node can write.
#[tokio::test]
async fn the_node_writes_although_the_books_are_damaged() {
    let tree = InMemory::new(Wrong::Nothing);
    let clock = Arc::new(ManualClock::at(FIRST_MS));
    let store = Arc::new(OrderedStore::open(tree.clone(), clock).unwrap());
    let node = store.node_state(CopiesAreNotNoticed);
    store.commit(numbered(0)).await.unwrap();
    let rows = tree.rows.read().unwrap().clone();
    for key in rows.keys().filter(|key| !key.starts_with(&[1])) {
        tree.make([(key.clone(), Some(b"{".to_vec()))]);
    }
    assert!(store.commit(numbered(1)).await.is_err());
    let epoch = node.begin_epoch().await.unwrap();
    let path = KeyPath {
        primary: "monitors".to_owned(),
        secondary: String::new(),
        key: "one".to_owned(),
    };
    let change = KeyValueWrite::Put {
        path: path.clone(),
        value: vec![7],
    };
    node.write(epoch, change).await.unwrap();
    assert_eq!(node.read(path).await.unwrap(), Some(vec![7]));
    store.close().await.unwrap();
}

/// Where the rows of a schema lie that a version of before wrote: a key and a value a line, in hex.
const FIXTURE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/schema/ordered-1.txt"
);

const NODE_VALUE: [u8; 3] = [1, 0, 255];

fn monitor() -> KeyPath {
    KeyPath {
        primary: "monitors".to_owned(),
        secondary: "sub".to_owned(),
        key: "one".to_owned(),
    }
}

/// What the fixture has: something of every table that a batch writes, and a value of the node's.
async fn write_fixture(tree: &InMemory) {
    let clock = Arc::new(ManualClock::at(FIRST_MS));
    let store = Arc::new(OrderedStore::open(tree.clone(), clock).unwrap());
    for number in 0..3 {
        store.commit(numbered(number)).await.unwrap();
    }
    store.acknowledge("reader", 2).await.unwrap();
    let node = store.node_state(CopiesAreNotNoticed);
    let epoch = node.begin_epoch().await.unwrap();
    let change = KeyValueWrite::Put {
        path: monitor(),
        value: NODE_VALUE.to_vec(),
    };
    node.write(epoch, change).await.unwrap();
    store.close().await.unwrap();
}

/// Run by hand for a new schema; the file of an old one is never written again.
#[tokio::test]
#[ignore = "writes a fixture"]
async fn writes_the_fixture_of_the_schema() {
    let tree = InMemory::new(Wrong::Nothing);
    write_fixture(&tree).await;
    let rows = tree.rows.read().unwrap().clone();
    let line = |(key, value): (&Vec<u8>, &Vec<u8>)| {
        format!("{} {}\n", hex::encode(key), hex::encode(value))
    };
    let lines: String = rows.iter().map(line).collect();
    std::fs::write(FIXTURE, lines).unwrap();
}

#[tokio::test]
async fn what_an_earlier_version_wrote_is_read_and_gone_on_with() {
    let text = std::fs::read_to_string(FIXTURE).unwrap();
    let rows = text.lines().map(|line| {
        let (key, value) = line.split_once(' ').unwrap();
        (hex::decode(key).unwrap(), Some(hex::decode(value).unwrap()))
    });
    let tree = InMemory::new(Wrong::Nothing);
    tree.make(rows);
    let clock = Arc::new(ManualClock::at(FIRST_MS));
    let store = Arc::new(OrderedStore::open(tree.clone(), clock).unwrap());
    has_all(&*store, 3).await;
    assert_eq!(store.cursor("reader").await.unwrap(), 2);
    let node = store.node_state(CopiesAreNotNoticed);
    assert_eq!(node.read(monitor()).await.unwrap().unwrap(), NODE_VALUE);
    assert_eq!(node.begin_epoch().await.unwrap(), 2);
    assert!(store.commit(numbered(2)).await.unwrap().replayed);
    store.commit(numbered(3)).await.unwrap();
    has_all(&*store, 4).await;
    store.close().await.unwrap();
}
