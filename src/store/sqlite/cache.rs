//! Documents that were read lately: what every command reads first, without a thread to wait for.
//!
//! The file has one writer, so the cache is exact: a document that is written is replaced here
//! after the flush and before anybody is told of the commit. Half of it is thrown away at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ledger::{Document, NewDocument};
use crate::store::{DocumentPosition, DocumentQuery};

/// The most documents in one of the two halves.
const HALF: usize = 1_024;

/// A collection and an id.
type Name = (String, String);
/// A collection, an index and a key of it.
type IndexKey = (String, String, String);

#[derive(Clone)]
struct Kept {
    /// `None`: there is none with this name.
    document: Option<Document>,
    /// Where it is known to be the first document under a key.
    first_under: Vec<IndexKey>,
}

#[derive(Default)]
struct Half {
    documents: HashMap<Name, Kept>,
    first: HashMap<IndexKey, Name>,
}

#[derive(Default)]
struct Documents {
    young: Half,
    old: Half,
    /// How often the tables were changed: what was read before the last time is not put in.
    changes: u64,
}

impl Half {
    fn put(&mut self, name: Name, kept: Kept) {
        for key in &kept.first_under {
            self.first.insert(key.clone(), name.clone());
        }
        self.documents.insert(name, kept);
    }

    fn take(&mut self, name: &Name) -> Option<Kept> {
        let kept = self.documents.remove(name)?;
        for key in &kept.first_under {
            self.first.remove(key);
        }
        Some(kept)
    }

    /// The document is not known any more to be the first under the key.
    fn forget_first(&mut self, key: &IndexKey) {
        if let Some(name) = self.first.remove(key)
            && let Some(kept) = self.documents.get_mut(&name)
        {
            kept.first_under.retain(|other| other != key);
        }
    }
}

impl Documents {
    /// What is known under the name: the document, or that there is none.
    fn get(&mut self, name: &Name) -> Option<Option<Document>> {
        if let Some(kept) = self.young.documents.get(name) {
            return Some(kept.document.clone());
        }
        let kept = self.old.take(name)?;
        let document = kept.document.clone();
        self.put(name.clone(), kept);
        Some(document)
    }

    fn put(&mut self, name: Name, kept: Kept) {
        if self.young.documents.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.put(name, kept);
    }

    fn replace(&mut self, written: &NewDocument, version: i64) {
        let name = (written.collection.to_owned(), written.id.clone());
        for half in [&mut self.young, &mut self.old] {
            for (index, key) in &written.index_keys {
                let key = (name.0.clone(), (*index).to_owned(), key.clone());
                half.forget_first(&key);
            }
            // Its keys may be others now.
            let was_kept = half.take(&name).is_some();
            if was_kept {
                let document = Document {
                    id: written.id.clone(),
                    version,
                    body: written.body.clone(),
                };
                let kept = Kept {
                    document: Some(document),
                    first_under: Vec::new(),
                };
                half.put(name.clone(), kept);
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
        let name = (collection.to_owned(), id.to_owned());
        documents.get(&name).ok_or(changes)
    }

    /// The first document under a key, if that is what is asked for and it is here.
    pub(super) fn first(&self, query: &DocumentQuery) -> Looked<(DocumentPosition, Document)> {
        let mut documents = self.lock();
        let changes = documents.changes;
        let found = one_key(query).and_then(|key| {
            let name = [&documents.young, &documents.old]
                .into_iter()
                .find_map(|half| half.first.get(&key))?
                .clone();
            let document = documents.get(&name)??;
            Some((
                DocumentPosition {
                    key: key.2,
                    id: name.1,
                },
                document,
            ))
        });
        found.ok_or(changes)
    }

    /// The version of the document that the last commit left, if that is here; 0 for none.
    pub(super) fn version(&self, collection: &str, id: &str) -> Option<i64> {
        let documents = self.lock();
        let name = (collection.to_owned(), id.to_owned());
        let halves = [&documents.young, &documents.old];
        let kept = halves.iter().find_map(|half| half.documents.get(&name))?;
        Some(
            kept.document
                .as_ref()
                .map_or(0, |document| document.version),
        )
    }

    /// Keeps what was read under a name while the tables had been changed so often.
    pub(super) fn keep(&self, name: Name, document: Option<&Document>, read_at: u64) {
        self.keep_under(name, document, None, read_at);
    }

    /// Keeps the first document under a key.
    pub(super) fn keep_first(&self, query: &DocumentQuery, document: &Document, read_at: u64) {
        if let Some(key) = one_key(query) {
            let name = (query.collection.to_owned(), document.id.clone());
            self.keep_under(name, Some(document), Some(key), read_at);
        }
    }

    fn keep_under(
        &self,
        name: Name,
        document: Option<&Document>,
        key: Option<IndexKey>,
        read_at: u64,
    ) {
        let mut documents = self.lock();
        if documents.changes != read_at {
            return;
        }
        let before = documents.young.take(&name);
        let before = before.or_else(|| documents.old.take(&name));
        let mut first_under = before.map_or(Vec::new(), |kept| kept.first_under);
        first_under.extend(key);
        let document = document.cloned();
        documents.put(
            name,
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
fn one_key(query: &DocumentQuery) -> Option<IndexKey> {
    let key = query.of_first_under()?;
    let (collection, index) = (query.collection.to_owned(), query.index.to_owned());
    Some((collection, index, key.to_owned()))
}
