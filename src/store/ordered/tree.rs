//! What an engine has to be: one ordered tree of keys and values.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::store::StoreError;

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Rows in their order. An error is answered as an item, and nothing more is asked after it.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row, StoreError>> + 'a>;

/// What is to be written, by key: the new value, or `None` where the key is taken away. One that is
/// to be taken away may be missing.
pub type TreeChanges = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// From which end rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The smallest key first.
    Forwards,
    /// The greatest key first.
    Backwards,
}

/// A write was not made, or is not known to have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Nothing of it was changed, nor ever will be. Where that is not certain it is
    /// [`Unknown`](Self::Unknown): whoever is told that nothing was changed may not ask again.
    #[error("nothing was written: {0}")]
    Undone(#[source] StoreError),
    /// It may have been made, or may be found made after the next open: a flush failed half-way.
    /// Whoever waits for it is told `store.outcome_unknown`, and finds out by asking again.
    ///
    /// **It is settled before any later write is answered**: from the next view on it is in or out,
    /// for ever, also after the next open. What is decided upon a view without it would otherwise be
    /// overwritten in part when it is found made. An engine that cannot settle it answers every write
    /// with an error until it is opened again.
    #[error("it is not known whether it was written: {0}")]
    Unknown(#[source] StoreError),
}

/// An engine that keeps an ordered tree of keys and values in one place: a file, a folder.
///
/// # Contract
/// - **Bytes.** Keys are ordered by their bytes, as `[u8]` is. A key has at least one byte. Most have
///   fewer than 200, but texts that a host chooses are among them (keys of commands, ids), so that
///   there is no most: one that an engine cannot take is `store.misconfigured`, and never cut. So is
///   a write that is too large for it. Values have any length, none included. Neither is changed in
///   any way.
/// - **Whole.** [`write`](Self::write) makes all of its changes or none, whatever happens.
/// - **Durable.** What it has answered survives the end of the process and of the machine.
/// - **Durable before seen.** No view shows a change that is not durable, neither while `write` is
///   still flushing it nor after a flush that failed: commands are answered out of views. An engine
///   that shows a batch before it is flushed (`apply`, then `flush`) needs views of before meanwhile.
/// - **Seen.** A view that is taken after a write was answered shows that write.
/// - **Of one moment.** A [`View`] shows what stood when it was taken, whatever is written
///   meanwhile, and a write does not wait until it is dropped.
/// - **Alone.** Nobody else writes to the place while this one is open, in this process or another:
///   a second one is refused with `store.in_use` by whatever opens it.
/// - **Threads.** It is used from several threads at once: one writes, others read. A thread may have
///   several views at a time, and write while it has them. Any call may block. When it is dropped the
///   place is closed, and can be opened again.
/// - **Panics.** One is taken for `store.corrupt` in a read, and for an unknown outcome in a write.
///
/// # Errors
/// What stands there and cannot be read is `store.corrupt`, and is never answered as a missing row;
/// a full disk is `store.full`. See [`StoreError`].
pub trait Tree: Send + Sync + 'static {
    /// What is seen at one moment.
    type View<'a>: View
    where
        Self: 'a;

    /// What stands now.
    ///
    /// # Errors
    /// `store.*`.
    fn view(&self) -> Result<Self::View<'_>, StoreError>;

    /// Makes the changes, and answers when they are durable. It is never called twice at once, nor
    /// without a change.
    ///
    /// # Errors
    /// [`WriteError`], which says whether anything can have been changed.
    fn write(&self, changes: &TreeChanges) -> Result<(), WriteError>;
}

/// What stood in a [`Tree`] when the view was taken.
pub trait View {
    /// The value of a key.
    ///
    /// # Errors
    /// `store.*`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The rows from and with `keys.start` up to and without `keys.end`, in the order that is asked
    /// for. They are read as they are taken: many may be asked for and few taken. The end is never
    /// before the start.
    ///
    /// # Errors
    /// `store.*`.
    fn range(&self, keys: Range<&[u8]>, order: Order) -> Result<Rows<'_>, StoreError>;
}
