//! A key of a few texts that is looked for without being made.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A collection, an index and a key of it; or a collection and an id, with nothing in the third
/// place.
#[derive(Debug, Clone)]
pub(super) struct Key([Arc<str>; 3]);

/// What a [`Key`] is looked for by.
pub(super) trait Parts {
    fn parts(&self) -> [&str; 3];
}

impl Parts for Key {
    fn parts(&self) -> [&str; 3] {
        self.0.each_ref().map(|part| &**part)
    }
}

impl Parts for [&str; 3] {
    fn parts(&self) -> [&str; 3] {
        *self
    }
}

impl From<[&str; 3]> for Key {
    fn from(parts: [&str; 3]) -> Self {
        Self(parts.map(Arc::from))
    }
}

impl<'a> Borrow<dyn Parts + 'a> for Key {
    fn borrow(&self) -> &(dyn Parts + 'a) {
        self
    }
}

impl Hash for dyn Parts + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for dyn Parts + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Parts + '_ {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Key {}
