//! The promises of an engine below a store: see [`Tree`].

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::ContractViolation;
use super::probe::Kept;
use crate::store::StoreError;
use crate::store::ordered::{Order, Row, Tree, TreeChanges, View, WriteError};

const PROMISE: &str = "tree";

fn same<A: Debug + PartialEq>(what: &'static str, found: A, expected: A) -> Kept {
    if found == expected {
        return Ok(());
    }
    Err(ContractViolation::Broken {
        promise: PROMISE,
        what,
        expected: format!("{expected:?}"),
        found: format!("{found:?}"),
    })
}

fn failed(error: StoreError) -> ContractViolation {
    ContractViolation::Failed {
        promise: PROMISE,
        error,
    }
}

fn written<T: Tree>(tree: &T, changes: &[(&[u8], Option<&[u8]>)]) -> Kept {
    let changes: TreeChanges = changes
        .iter()
        .map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)))
        .collect();
    tree.write(&changes)
        .map_err(|(WriteError::Undone(error) | WriteError::Unknown(error))| failed(error))
}

fn rows(view: &impl View, from: &[u8], to: &[u8], order: Order) -> Kept<Vec<Row>> {
    let found = view.range(from..to, order).map_err(failed)?;
    found.collect::<Result<_, _>>().map_err(failed)
}

/// Every range of the keys, both ways, and every key by itself, are what the rows say.
fn shows(what: &'static str, view: &impl View, expected: &BTreeMap<Vec<u8>, Vec<u8>>) -> Kept {
    for from in KEYS {
        let found = view.get(from).map_err(failed)?;
        same(what, found, expected.get(*from).cloned())?;
        for to in KEYS.iter().filter(|to| *from <= **to) {
            let within = expected.range(from.to_vec()..to.to_vec());
            let mut within: Vec<Row> = within
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            same(what, rows(view, from, to, Order::Forwards)?, within.clone())?;
            within.reverse();
            same(what, rows(view, from, to, Order::Backwards)?, within)?;
        }
    }
    Ok(())
}

/// In another order than that of their bytes as numbers with a sign, or of their lengths.
const KEYS: &[&[u8]] = &[
    b"\0",
    b"\0\0",
    b"\0\xff",
    b"\x01",
    b"a",
    b"a\0",
    b"a\0\0",
    b"aa",
    b"b",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\0",
    b"\xff\xff",
];

/// Two keys that differ at their very ends are two, or too long for the engine.
fn check_long_keys(tree: &impl Tree) -> Kept {
    let long = |last: u8| [vec![0x61; 4_000], vec![last]].concat();
    let keys = [long(1), long(2)];
    let put = |keys: &[Vec<u8>]| -> TreeChanges {
        let value = |key: &Vec<u8>| Some(vec![key[key.len() - 1]]);
        keys.iter().map(|key| (key.clone(), value(key))).collect()
    };
    match tree.write(&put(&keys)) {
        Err(WriteError::Undone(StoreError::Misconfigured { .. })) => return Ok(()),
        Err(WriteError::Undone(error) | WriteError::Unknown(error)) => return Err(failed(error)),
        Ok(()) => {}
    }
    let view = tree.view().map_err(failed)?;
    for key in &keys {
        let found = view.get(key).map_err(failed)?;
        same("a long key", found, Some(vec![key[key.len() - 1]]))?;
    }
    let taken: TreeChanges = keys.iter().map(|key| (key.clone(), None)).collect();
    tree.write(&taken)
        .map_err(|(WriteError::Undone(error) | WriteError::Unknown(error))| failed(error))
}

/// Checks what an engine promises below [`OrderedStore`](crate::store::ordered::OrderedStore):
/// the order of keys, where ranges begin and end, that no key is cut, that writes are whole and
/// seen, that a view is of one moment, that nobody else can open the place meanwhile, and that all of
/// it is there when it is opened again. `open` opens **the same place** each time, which is empty at
/// first. What it cannot see is what a machine that dies leaves, and whether a view shows what is not
/// durable yet.
///
/// The store upon it is checked by [`check_all`](super::check_all) all the same: this one finds a
/// fault of the engine where it is.
///
/// # Errors
/// The promise that is broken.
pub fn check_tree<T: Tree>(
    open: impl Fn() -> Result<T, StoreError>,
) -> Result<(), ContractViolation> {
    let tree = open().map_err(failed)?;
    let long = vec![0x5a; 100_000];
    let first: BTreeMap<Vec<u8>, Vec<u8>> = KEYS
        .iter()
        .step_by(2)
        .map(|key| (key.to_vec(), key.repeat(2)))
        .collect();
    let empty = tree.view().map_err(failed)?;
    shows("an empty tree", &empty, &BTreeMap::new())?;
    let changes: Vec<_> = first
        .iter()
        .map(|(key, value)| (key.as_slice(), Some(value.as_slice())))
        .collect();
    written(&tree, &changes)?;
    shows("a view of before a write", &empty, &BTreeMap::new())?;
    let before = tree.view().map_err(failed)?;
    shows("what was written", &before, &first)?;

    // One key new, one changed, one emptied, one taken away, one that was never there.
    let mut second = first.clone();
    second.insert(KEYS[1].to_vec(), long.clone());
    second.insert(KEYS[2].to_vec(), b"other".to_vec());
    second.insert(KEYS[4].to_vec(), Vec::new());
    second.remove(KEYS[6]);
    written(
        &tree,
        &[
            (KEYS[1], Some(&long)),
            (KEYS[2], Some(b"other")),
            (KEYS[4], Some(b"")),
            (KEYS[6], None),
            (KEYS[7], None),
        ],
    )?;
    shows("a view of before a write", &before, &first)?;
    let after = tree.view().map_err(failed)?;
    shows("what was written over it", &after, &second)?;
    let taken = after.range(KEYS[0]..KEYS[13], Order::Forwards);
    let begun = taken.map_err(failed)?.next();
    same("the first row alone", begun.is_some(), true)?;
    drop((empty, before, after));
    check_long_keys(&tree)?;
    let second_one = open().map(drop).err().map(|error| error.code());
    same("opened by two", second_one, Some("store.in_use"))?;
    drop(tree);

    let tree = open().map_err(failed)?;
    let again = tree.view().map_err(failed)?;
    shows("what was opened again", &again, &second)
}
