//! A stream taken in.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::journal::Journal;
use super::{Cell, FORMAT, Table};
use crate::ledger::ChainHead;
use crate::store::{Arrival, ByteSource, MoveError, StoreError};

/// The longest line: a node's value, written in hex digits, is the longest there is.
const LONGEST_LINE: usize = 64 << 20;

/// Where rows go, within one transaction.
#[async_trait]
pub(in crate::store) trait Sink: Send {
    /// The next row of a table.
    async fn put(&mut self, table: &'static Table, row: Vec<Cell>) -> Result<(), StoreError>;
}

/// What came holds together line by line, but one table does not follow from the others.
pub(in crate::store) fn does_not_follow(arrived: &Arrival, reason: String) -> MoveError {
    // The first line and the last are no rows.
    let line = arrived.rows.saturating_add(2);
    MoveError::BadLine { line, reason }
}

/// True for what the node knows of its channels, and for what it can learn again. The static
/// facts of channels, the peers and the on-chain wallet are none of that.
pub(in crate::store) fn is_channel_state(primary: &str, secondary: &str, key: &str) -> bool {
    match (primary, secondary) {
        ("monitors" | "monitor_updates" | "archived_monitors", _) => true,
        ("", "") => CHANNEL_KEYS.contains(&key),
        _ => false,
    }
}

/// Of the node's outermost namespace: what is in channels, the events about them, and what can be
/// learned again. The sweeper stays: what is on its way out of a closed channel is in it alone.
const CHANNEL_KEYS: &[&str] = &[
    "manager",
    "manager_backup",
    "events",
    "network_graph",
    "scorer",
    "external_pathfinding_scores_cache",
];

#[derive(Deserialize)]
struct Header {
    flashkit_export: i64,
    node_state: String,
    heads: Vec<ChainHead>,
}

/// A stream as far as it was read.
struct Reading<'a> {
    sink: &'a mut dyn Sink,
    header: Option<Header>,
    journal: Journal,
    digest: Sha256,
    lines: u64,
    rows: u64,
    /// The place of the last row's table in the order of tables.
    table: usize,
    events: i64,
    ended: bool,
}

/// Reads a stream to its end, puts its rows, and checks them.
///
/// # Errors
/// `move.*`; then nothing of what was put may stay.
pub(in crate::store) async fn arrive(
    source: &mut dyn ByteSource,
    kept: &[ChainHead],
    sink: &mut dyn Sink,
) -> Result<Arrival, MoveError> {
    let mut reading = Reading {
        sink,
        header: None,
        journal: Journal::new(kept),
        digest: Sha256::new(),
        lines: 0,
        rows: 0,
        table: 0,
        events: 0,
        ended: false,
    };
    let mut rest: Vec<u8> = Vec::new();
    while let Some(piece) = source.next_piece().await? {
        let mut piece = piece.as_slice();
        while let Some(at) = piece.iter().position(|byte| *byte == b'\n') {
            let (line, after) = piece.split_at(at + 1);
            piece = after;
            if rest.is_empty() {
                reading.line(line).await?;
            } else {
                rest.extend(line);
                reading.line(&std::mem::take(&mut rest)).await?;
            }
        }
        rest.extend(piece);
        if rest.len() > LONGEST_LINE {
            return Err(reading.bad("it is too long"));
        }
    }
    if !rest.is_empty() || !reading.ended {
        let lines = reading.lines;
        return Err(MoveError::Truncated { lines });
    }
    reading.finish()
}

impl Reading<'_> {
    fn bad(&self, reason: impl Into<String>) -> MoveError {
        MoveError::BadLine {
            line: self.lines,
            reason: reason.into(),
        }
    }

    /// A line, with its end.
    async fn line(&mut self, line: &[u8]) -> Result<(), MoveError> {
        self.lines = self.lines.saturating_add(1);
        if self.ended {
            return Err(self.bad("nothing comes after the end"));
        }
        let value: Value = match serde_json::from_slice(line) {
            Ok(value) => value,
            Err(_) if self.header.is_none() => return Err(other("the first line is no JSON")),
            Err(error) => return Err(self.bad(error.to_string())),
        };
        match value {
            value if self.header.is_none() => self.header(value)?,
            Value::Array(values) => self.row(&values).await?,
            _ => return self.end(line),
        }
        self.digest.update(line);
        Ok(())
    }

    fn header(&mut self, value: Value) -> Result<(), MoveError> {
        let header: Header =
            serde_json::from_value(value).map_err(|error| other(error.to_string()))?;
        if header.flashkit_export != FORMAT {
            let found = header.flashkit_export;
            return Err(other(format!(
                "format {found}, this version reads {FORMAT}"
            )));
        }
        if !["left_out", "handed_over"].contains(&header.node_state.as_str()) {
            return Err(other("it does not say what became of the node"));
        }
        self.header = Some(header);
        Ok(())
    }

    async fn row(&mut self, values: &[Value]) -> Result<(), MoveError> {
        let Some((Value::String(name), values)) = values.split_first() else {
            return Err(self.bad("no table is named"));
        };
        let Some((place, table)) = Table::find(name) else {
            return Err(self.bad("there is no such table"));
        };
        // The tables of the journal come by turns.
        let stage = |place: usize| if (1..=4).contains(&place) { 1 } else { place };
        if stage(place) < stage(self.table) {
            return Err(self.bad("the table comes too late"));
        }
        self.table = place;
        let row = table.read_values(values).map_err(|error| self.bad(error))?;
        let checked = self.journal.row(table.name, &row);
        checked.map_err(|error| self.bad(error))?;
        match (table.name, row.as_slice()) {
            ("events", [Cell::Integer(position), ..]) => {
                if *position != self.events.saturating_add(1) {
                    return Err(self.bad("an event is missing before it"));
                }
                self.events = *position;
            }
            ("settings", [Cell::Text(name), ..])
                if ["node_epoch", "answers_forgotten_to"].contains(&name.as_str()) => {}
            ("settings", _) => return Err(self.bad("this setting is not moved")),
            (
                "node_state",
                [
                    Cell::Text(primary),
                    Cell::Text(secondary),
                    Cell::Text(key),
                    ..,
                ],
            ) if !self.has_node_state() && is_channel_state(primary, secondary, key) => {
                return Err(self.bad("channels in a stream that has none"));
            }
            _ => {}
        }
        self.rows = self.rows.saturating_add(1);
        self.sink.put(table, row).await.map_err(MoveError::Store)
    }

    fn has_node_state(&self) -> bool {
        let header = self.header.as_ref();
        header.is_some_and(|header| header.node_state == "handed_over")
    }

    /// The last line must be, byte for byte, the one that belongs to those before.
    fn end(&mut self, line: &[u8]) -> Result<(), MoveError> {
        let digest = hex::encode(self.digest.finalize_reset());
        let end = json!({ "rows": self.rows, "sha256": digest });
        if format!("{end}\n").into_bytes() != line {
            return Err(MoveError::Altered);
        }
        self.ended = true;
        Ok(())
    }

    fn finish(self) -> Result<Arrival, MoveError> {
        let lines = self.lines;
        let has_node_state = self.has_node_state();
        let commits = self.journal.commits();
        let (mut problems, heads) = self.journal.finish().map_err(|reason| {
            let line = lines;
            MoveError::BadLine { line, reason }
        })?;
        let said = self.header.map(|header| header.heads).unwrap_or_default();
        for head in &said {
            if !heads.contains(head) && problems.is_empty() {
                problems.push(crate::ledger::JournalProblem::OtherChain {
                    writer: head.writer.clone(),
                    sequence: head.sequence,
                });
            }
        }
        if !problems.is_empty() {
            return Err(MoveError::Journal { problems });
        }
        Ok(Arrival {
            rows: self.rows,
            commits,
            heads,
            has_node_state,
        })
    }
}

fn other(reason: impl Into<String>) -> MoveError {
    MoveError::OtherFormat {
        reason: reason.into(),
    }
}
