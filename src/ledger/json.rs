//! JSON as the text that it is kept as.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A JSON text. It is printed once, where a record becomes one, and shared from there on: by the
/// batch, what is kept of it for a second try, the group it is committed in, and a store's cache.
///
/// Two are equal when they say the same, however it is spaced and in whatever order: a store may
/// keep it as values.
///
/// ```
/// use flashkit::ledger::Json;
///
/// let body = Json::of(&("sats", 21))?;
/// assert_eq!(body.as_str(), r#"["sats",21]"#);
/// assert_eq!(body.read::<(String, u64)>()?, ("sats".to_owned(), 21));
/// assert_eq!(Json::from_text("[\"sats\", 21]")?, body);
/// assert!(Json::from_text("[\"sats\", 21").is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone)]
pub struct Json(Arc<str>);

impl Json {
    /// Prints a record.
    ///
    /// # Errors
    /// What cannot be said in JSON: a map whose keys are no texts.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_string(value).map(|text| Self(text.into()))
    }

    /// Takes a text as it was kept.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn from_text(text: impl Into<Arc<str>>) -> Result<Self, serde_json::Error> {
        let text = text.into();
        serde_json::from_str::<IgnoredAny>(&text)?;
        Ok(Self(text))
    }

    /// Reads the record that was printed, or a [`Value`].
    ///
    /// # Errors
    /// It says something else.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self(value.to_string().into())
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        let values = || Some((self.read::<Value>().ok()?, other.read::<Value>().ok()?));
        self.0 == other.0 || values().is_some_and(|(one, other)| one == other)
    }
}

impl Eq for Json {}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As the value that it says, not as a text.
impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value: Value = self.read().map_err(serde::ser::Error::custom)?;
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}
