//! A whole engine as a stream of lines.
//!
//! # Format 1
//! UTF-8, one JSON value a line, each ended by a line feed.
//!
//! - The first line is an object: `flashkit_export` (1), `node_state` (`left_out` or
//!   `handed_over`), `heads` (the ends of the chains).
//! - Every other line but the last is an array: the name of a table and the values of a row, in
//!   the order of the columns below. Numbers are integers; JSON columns and lifetime totals are
//!   text; bytes are hex digits; a missing value is `null`.
//! - The last line is an object with `rows` and `sha256`, the digest of all bytes before it. Of the
//!   streams of a store that was handed over one alone ever gets it.
//!
//! Tables come in this order: `accounts`; `holds`, `commits`, `transfers` and `hold_changes`
//! by turns; then the others. After some commits, in the order of their positions, come their
//! transfers, the holds that were made by them, and their changes of holds. Everything that has
//! a position has them from 1 without gaps.
//!
//! The digest says that nothing was lost on the way. That nobody has written the stream anew is
//! said by the journal: its hashes, and heads that were kept elsewhere. What follows from the
//! journal has to: totals, what is left of holds, what was undone, and that every commit with a
//! key has that key, once. Nothing vouches for the others (what a key's request and answer were,
//! documents, names that were claimed, counters, usage, events, jobs, cursors): the way a stream
//! comes has to be one that is trusted.

mod departure;
mod journal;
mod pieces;
mod reader;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;
mod table;

pub(in crate::store) use departure::{Leave, Snapshot, depart};
pub(in crate::store) use journal::hold_from;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(in crate::store) use journal::is_shown;
pub(in crate::store) use pieces::{Pieces, pieces};
pub(in crate::store) use reader::{Sink, arrive, does_not_follow, is_channel_state};
pub(in crate::store) use table::{Cell, TABLES, Table};

#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(in crate::store) use sql::{Dialect, insert, select, select_held};
#[cfg(feature = "postgres")]
pub(in crate::store) use table::Kind;

pub use pieces::{ReadSource, write_to};

/// The name of the stream's format in its first line.
const FORMAT: i64 = 1;
/// Rows in one page of a table.
const PAGE: usize = 500;
