//! What is to be written at once, over what stands: whatever is read here sees it already.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::Range;

use serde::Serialize;

use super::keys::Part;
use super::tables::{Table, corrupt};
use super::tree::{Order, Row, Rows, TreeChanges, View};
use crate::store::StoreError;

pub(super) struct Draft<'a> {
    view: &'a dyn View,
    changes: TreeChanges,
}

impl<'a> Draft<'a> {
    pub(super) fn new(view: &'a dyn View) -> Self {
        let changes = TreeChanges::new();
        Self { view, changes }
    }

    pub(super) fn put<V: Serialize>(
        &mut self,
        table: &Table<V>,
        key: impl Part,
        row: &V,
    ) -> Result<(), StoreError> {
        let row = serde_json::to_vec(row).map_err(corrupt)?;
        self.put_bytes(table.key(key), row);
        Ok(())
    }

    pub(super) fn put_bytes(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    pub(super) fn finish(self) -> TreeChanges {
        self.changes
    }
}

impl View for Draft<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.view.get(key),
        }
    }

    fn range(&self, keys: Range<&[u8]>, order: Order) -> Result<Rows<'_>, StoreError> {
        let changed = self.changes.range(keys.start.to_vec()..keys.end.to_vec());
        let changed: Changed<'_> = match order {
            Order::Forwards => Box::new(changed),
            Order::Backwards => Box::new(changed.rev()),
        };
        Ok(Box::new(Merged {
            rows: self.view.range(keys, order)?.peekable(),
            changed: changed.peekable(),
            order,
        }))
    }
}

type Changed<'a> = Box<dyn Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)> + 'a>;

struct Merged<'a> {
    rows: Peekable<Rows<'a>>,
    changed: Peekable<Changed<'a>>,
    order: Order,
}

impl Iterator for Merged<'_> {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((key, _)) = self.changed.peek() else {
                return self.rows.next();
            };
            let comes = match self.rows.peek() {
                None => Ordering::Less,
                Some(Err(_)) => return self.rows.next(),
                Some(Ok((other, _))) if self.order == Order::Forwards => key.as_slice().cmp(other),
                Some(Ok((other, _))) => other.as_slice().cmp(key),
            };
            match comes {
                Ordering::Greater => return self.rows.next(),
                // What stood there before.
                Ordering::Equal => drop(self.rows.next()),
                Ordering::Less => {}
            }
            if let Some((key, Some(value))) = self.changed.next() {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    struct Stands(BTreeMap<Vec<u8>, Vec<u8>>);

    impl View for Stands {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(self.0.get(key).cloned())
        }

        fn range(&self, keys: Range<&[u8]>, order: Order) -> Result<Rows<'_>, StoreError> {
            let rows = self.0.range(keys.start.to_vec()..keys.end.to_vec());
            let rows = rows.map(|(key, value)| Ok((key.clone(), value.clone())));
            Ok(match order {
                Order::Forwards => Box::new(rows),
                Order::Backwards => Box::new(rows.rev()),
            })
        }
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0_u8..3, 1..4)
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..2)
    }

    proptest! {
        #[test]
        fn what_is_drafted_is_read_as_if_it_stood(
            stands in proptest::collection::btree_map(key(), value(), 0..20),
            changes in proptest::collection::vec((key(), proptest::option::of(value())), 0..20),
            from in key(),
            to in key(),
        ) {
            let mut model = stands.clone();
            let stands = Stands(stands);
            let mut draft = Draft::new(&stands);
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        model.insert(key.clone(), value.clone());
                        draft.put_bytes(key, value);
                    }
                    None => {
                        model.remove(&key);
                        draft.remove(key);
                    }
                }
            }
            let (from, to) = (from.clone().min(to.clone()), from.max(to));
            let mut expected: Vec<Row> = model.range(from.clone()..to.clone())
                .map(|(key, value)| (key.clone(), value.clone())).collect();
            let found: Result<Vec<Row>, _> = draft.range(&from..&to, Order::Forwards).unwrap().collect();
            prop_assert_eq!(found.unwrap(), expected.clone());
            let found: Result<Vec<Row>, _> = draft.range(&from..&to, Order::Backwards).unwrap().collect();
            expected.reverse();
            prop_assert_eq!(found.unwrap(), expected);
            prop_assert_eq!(draft.get(&from).unwrap(), model.get(&from).cloned());
        }
    }
}
