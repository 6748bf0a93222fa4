//! What the people in this story write down, so that a run killed at any moment goes on.
//!
//! A till keeps its command before it sends it, a chip keeps its keys and its counter, a merchant
//! keeps the invoice of its own node. All of it is one small JSON file here, replaced whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Failure;

pub struct Notebook {
    file: PathBuf,
    pages: BTreeMap<String, Value>,
}

impl Notebook {
    pub fn open(file: &Path) -> Result<Self, Failure> {
        let pages = match fs::read(file) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            file: file.to_owned(),
            pages,
        })
    }

    pub fn read<T: DeserializeOwned>(&self, page: &str) -> Result<Option<T>, Failure> {
        match self.pages.get(page) {
            Some(value) => Ok(Some(serde_json::from_value(value.clone())?)),
            None => Ok(None),
        }
    }

    /// On disk before it returns.
    pub fn write<T: Serialize>(&mut self, page: &str, value: &T) -> Result<(), Failure> {
        self.pages
            .insert(page.to_owned(), serde_json::to_value(value)?);
        let new = self.file.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(&self.pages)?)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, &self.file)?;
        Ok(())
    }

    /// What stands on the page, or what `make` makes of it, written down first.
    pub async fn keep<T: Serialize + DeserializeOwned>(
        &mut self,
        page: &str,
        make: impl AsyncFnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Some(value) = self.read(page)? {
            return Ok(value);
        }
        let value = make().await?;
        self.write(page, &value)?;
        Ok(value)
    }
}
