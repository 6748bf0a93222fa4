//! Documents that were read lately: what every command reads first, without a thread to wait for.
//!
//! The file has one writer, so the cache is exact: a document that is written is replaced here
//! after the flush and before anybody is told of the commit. Half of it is thrown away at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::key::{Key, Parts};
use crate::ledger::{Document, NewDocument};
use crate::store::{DocumentPosition, DocumentQuery};

/// The most documents in one of the two halves.
const HALF: usize = 1_024;

#[derive(Clone)]
struct Kept {
    /// `None`: there is none with this name.
    document: Option<Document>,
    /// Where it is known to be the first document under a key.
    first_under: Vec<Key>,
}

#[derive(Default)]
struct Half {
    /// By collection and id.
    documents: HashMap<Key, Kept>,
    /// By collection, index and key: the name of the document.
    first: HashMap<Key, Key>,
}

#[derive(Default)]
struct Documents {
    young: Half,
    old: Half,
    /// How often the tables were changed: what was read before the last time is not put in.
    changes: u64,
}

impl Half {
    fn put(&mut self, name: Key, kept: Kept) {
        for key in &kept.first_under {
            self.first.insert(key.clone(), name.clone());
        }
        self.documents.insert(name, kept);
    }

    fn take(&mut self, name: &dyn Parts) -> Option<(Key, Kept)> {
        let (name, kept) = self.documents.remove_entry(name)?;
        for key in &kept.first_under {
            self.first.remove(key);
        }
        Some((name, kept))
    }

    /// The document is not known any more to be the first under the key.
    fn forget_first(&mut self, key: &dyn Parts) {
        if let Some(name) = self.first.remove(key)
            && let Some(kept) = self.documents.get_mut(&name)
        {
            kept.first_under
                .retain(|other| other.parts() != key.parts());
        }
    }
}

/// What a document is known by.
fn name<'a>(collection: &'a str, id: &'a str) -> [&'a str; 3] {
    [collection, id, ""]
}

impl Documents {
    /// What is known under the name: the document, or that there is none.
    fn get(&mut self, name: &dyn Parts) -> Option<Option<Document>> {
        if let Some(kept) = self.young.documents.get(name) {
            return Some(kept.document.clone());
        }
        let (name, kept) = self.old.take(name)?;
        let document = kept.document.clone();
        self.put(name, kept);
        Some(document)
    }

    fn put(&mut self, name: Key, kept: Kept) {
        if self.young.documents.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.put(name, kept);
    }

    fn replace(&mut self, written: &NewDocument, version: i64) {
        for half in [&mut self.young, &mut self.old] {
            for (index, key) in &written.index_keys {
                half.forget_first(&[written.collection, index, key]);
            }
            // Its keys may be others now.
            let kept = half.take(&name(written.collection, &written.id));
            if let Some((name, _)) = kept {
                let document = Document {
                    id: written.id.clone(),
                    version,
                    body: written.body.clone(),
                };
                let kept = Kept {
                    document: Some(document),
                    first_under: Vec::new(),
                };
                half.put(name, kept);
            }
        }
    }
}

/// Shared by the store's clones and its writer.
#[derive(Clone, Default)]
pub(super) struct Cache(Arc<Mutex<Documents>>);

/// What [`Cache`] answered, and how often the tables had been changed by then.
pub(super) type Looked<T> = Result<T, u64>;

impl Cache {
    fn lock(&self) -> MutexGuard<'_, Documents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The document, or that there is none, if that is here.
    pub(super) fn document(&self, collection: &str, id: &str) -> Looked<Option<Document>> {
        let mut documents = self.lock();
        let changes = documents.changes;
        documents.get(&name(collection, id)).ok_or(changes)
    }

    /// The first document under a key, if that is what is asked for and it is here.
    pub(super) fn first(&self, query: &DocumentQuery) -> Looked<(DocumentPosition, Document)> {
        let mut documents = self.lock();
        let changes = documents.changes;
        let found = one_key(query).and_then(|parts| {
            let name = [&documents.young, &documents.old]
                .into_iter()
                .find_map(|half| half.first.get(&parts as &dyn Parts))?
                .clone();
            let document = documents.get(&name)??;
            let position = DocumentPosition {
                key: query.from.clone(),
                id: document.id.clone(),
            };
            Some((position, document))
        });
        found.ok_or(changes)
    }

    /// The version of the document that the last commit left, if that is here; 0 for none.
    pub(super) fn version(&self, collection: &str, id: &str) -> Option<i64> {
        let documents = self.lock();
        let name: &dyn Parts = &name(collection, id);
        let halves = [&documents.young, &documents.old];
        let kept = halves.iter().find_map(|half| half.documents.get(name))?;
        Some(
            kept.document
                .as_ref()
                .map_or(0, |document| document.version),
        )
    }

    /// Keeps what was read under a name while the tables had been changed so often.
    pub(super) fn keep(
        &self,
        (collection, id): (&str, &str),
        document: Option<&Document>,
        read_at: u64,
    ) {
        self.keep_under(name(collection, id), document, None, read_at);
    }

    /// Keeps the first document under a key.
    pub(super) fn keep_first(&self, query: &DocumentQuery, document: &Document, read_at: u64) {
        if let Some(key) = one_key(query) {
            let name = name(query.collection, &document.id);
            self.keep_under(name, Some(document), Some(key.into()), read_at);
        }
    }

    fn keep_under(
        &self,
        name: [&str; 3],
        document: Option<&Document>,
        key: Option<Key>,
        read_at: u64,
    ) {
        let mut documents = self.lock();
        if documents.changes != read_at {
            return;
        }
        let before = documents.young.take(&name);
        let before = before.or_else(|| documents.old.take(&name));
        let mut first_under = before.map_or(Vec::new(), |(_, kept)| kept.first_under);
        first_under.extend(key);
        let document = document.cloned();
        documents.put(
            name.into(),
            Kept {
                document,
                first_under,
            },
        );
    }

    /// What was written, before anybody is told.
    pub(super) fn written<'a>(&self, written: impl IntoIterator<Item = &'a (i64, NewDocument)>) {
        let mut documents = self.lock();
        documents.changes = documents.changes.wrapping_add(1);
        for (version, document) in written {
            documents.replace(document, *version);
        }
    }

    /// It is not known what was written.
    pub(super) fn clear(&self) {
        let mut documents = self.lock();
        let changes = documents.changes.wrapping_add(1);
        *documents = Documents {
            changes,
            ..Documents::default()
        };
    }
}

/// The key, if the query is for the first document under one.
fn one_key(query: &DocumentQuery) -> Option<[&str; 3]> {
    let key = query.of_first_under()?;
    Some([query.collection, query.index, key])
}
