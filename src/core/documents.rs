//! Typed documents.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Core;
use super::command::unreadable;
use crate::Error;
use crate::ledger::{Json, NewDocument, NewEvent, Step};
use crate::store::{DocumentPosition, DocumentQuery};

/// A document as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Loaded<T> {
    pub(crate) version: i64,
    pub(crate) value: T,
}

impl Core {
    pub(crate) async fn load<T: DeserializeOwned>(
        &self,
        collection: &'static str,
        id: &str,
    ) -> Result<Option<Loaded<T>>, Error> {
        let Some(document) = self.store.document(collection, id).await? else {
            return Ok(None);
        };
        let value = document.body.read().map_err(unreadable)?;
        Ok(Some(Loaded {
            version: document.version,
            value,
        }))
    }

    /// The one document under a key of an index.
    pub(crate) async fn find<T: DeserializeOwned>(
        &self,
        collection: &'static str,
        index: &'static str,
        key: &str,
    ) -> Result<Option<Loaded<T>>, Error> {
        let query = DocumentQuery::under(collection, index, key, 1);
        match self.store.documents(query).await?.pop() {
            Some((_, document)) => {
                let value = document.body.read().map_err(unreadable)?;
                Ok(Some(Loaded {
                    version: document.version,
                    value,
                }))
            }
            None => Ok(None),
        }
    }

    /// One page of documents under a key of an index, oldest first, after the document `after`.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        collection: &'static str,
        index: &'static str,
        key: &str,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<T>, Error> {
        let rows = self.list_each(collection, index, key, after, limit).await?;
        rows.into_iter().map(|(_, value)| value).collect()
    }

    /// As [`list`](Self::list), each with its id, and with what is wrong with it where it cannot
    /// be read.
    pub(crate) async fn list_each<T: DeserializeOwned>(
        &self,
        collection: &'static str,
        index: &'static str,
        key: &str,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<(String, Result<T, Error>)>, Error> {
        let query = DocumentQuery {
            after: after.map(|id| DocumentPosition {
                key: key.to_owned(),
                id,
            }),
            ..DocumentQuery::under(collection, index, key, limit)
        };
        let rows = self.store.documents(query).await?;
        Ok(rows
            .into_iter()
            .map(|(_, document)| {
                let value = document.body.read().map_err(unreadable);
                (document.id, value)
            })
            .collect())
    }
}

/// The step that writes a document.
pub(crate) fn put<T: Serialize>(
    collection: &'static str,
    id: String,
    read_version: i64,
    value: &T,
    index_keys: Vec<(&'static str, String)>,
) -> Result<Step, Error> {
    let body = Json::of(value).map_err(unreadable)?;
    Ok(Step::Put(NewDocument {
        collection,
        id,
        read_version,
        body,
        index_keys,
    }))
}

/// The step that writes an event with the object as it stands after it.
pub(crate) fn emit<T: Serialize>(
    kind: &'static str,
    object: String,
    value: &T,
) -> Result<Step, Error> {
    let body = Json::of(value).map_err(unreadable)?;
    Ok(Step::Emit(NewEvent { kind, object, body }))
}
