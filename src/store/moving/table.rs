//! The tables as every database has them.

use serde_json::Value;

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Cell {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// What stands in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    Integer,
    Text,
    /// JSON, carried as its text.
    Json,
    /// A number wider than 64 bits, carried as its digits.
    Wide,
    Bytes,
}

use Kind::{Bytes, Integer, Json, Text, Wide};

/// A table: its columns, of which the first `key` are its key.
pub(in crate::store) struct Table {
    pub(in crate::store) name: &'static str,
    pub(in crate::store) columns: &'static [(&'static str, Kind)],
    pub(in crate::store) key: usize,
    /// Which rows of it are moved.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(in crate::store) only: &'static str,
}

macro_rules! tables {
    ($($name:ident[$key:literal] $($only:literal)? { $($column:ident $kind:ident),* })*) => {
        &[$(Table {
            name: stringify!($name),
            columns: &[$((stringify!($column), $kind)),*],
            key: $key,
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            only: concat!("", $($only)?),
        }),*]
    };
}

/// All tables, in the order of the stream. The first five are the journal.
pub(in crate::store) const TABLES: &[Table] = tables! {
    accounts[1] { id Integer, account Text, debits_posted Wide, credits_posted Wide,
        debits_pending Integer, credits_pending Integer, balance Integer }
    commits[1] { position Integer, batch Text, at_ms Integer, scope Text, writer Text,
        sequence Integer, hash Bytes }
    transfers[1] { position Integer, commit_position Integer, id Text, follows Text,
        at_ms Integer, debit Integer, credit Integer, amount Integer, kind Text, reference Text,
        debit_balance_after Integer, credit_balance_after Integer }
    holds[1] { id Text, debit Text, credit Text, amount Integer, remaining Integer, kind Text,
        reference Text, credit_ceiling Integer, expires_at_ms Integer, usage Json }
    hold_changes[1] { position Integer, commit_position Integer, hold Text, change Text,
        amount Integer, remaining Integer }
    commands[1] { scope Text, fingerprint Text, at_ms Integer, answer Json }
    reversals[1] { transfer Text, amount Integer }
    documents[2] { collection Text, id Text, version Integer, body Json }
    document_keys[4] { collection Text, name Text, key Text, id Text }
    claims[1] { name Text, claimed_by Text }
    counters[1] { name Text, value Integer }
    usage[2] { subject Text, start_ms Integer, end_ms Integer, used Integer }
    events[1] { position Integer, at_ms Integer, kind Text, object Text, body Json }
    due[2] { kind Text, object Text, due_at_ms Integer, leased_until_ms Integer }
    cursors[1] { name Text, position Integer }
    settings[1] "name IN ('answers_forgotten_to', 'node_epoch')" { name Text, value Integer }
    node_state[3] { primary_namespace Text, secondary_namespace Text, key Text, value Bytes }
};

impl Table {
    /// The table with this name, and its place in the order.
    pub(in crate::store) fn find(name: &str) -> Option<(usize, &'static Table)> {
        TABLES
            .iter()
            .enumerate()
            .find(|(_, table)| table.name == name)
    }

    /// A row as a line of the stream has it.
    pub(super) fn to_line(&self, row: &[Cell]) -> Vec<u8> {
        let mut values = vec![Value::from(self.name)];
        values.extend(row.iter().map(|cell| match cell {
            Cell::Null => Value::Null,
            Cell::Integer(number) => Value::from(*number),
            Cell::Text(text) => Value::from(text.as_str()),
            Cell::Bytes(bytes) => Value::from(hex::encode(bytes)),
        }));
        let mut line = Value::Array(values).to_string().into_bytes();
        line.push(b'\n');
        line
    }

    /// A row out of the values of a line.
    pub(super) fn read_values(&self, values: &[Value]) -> Result<Vec<Cell>, String> {
        if values.len() != self.columns.len() {
            return Err(format!("{} values in a row of {}", values.len(), self.name));
        }
        let cell = |((name, kind), value): (&(&str, Kind), &Value)| {
            let cell = match (kind, value) {
                (_, Value::Null) => Some(Cell::Null),
                (Integer, value) => value.as_i64().map(Cell::Integer),
                (Bytes, Value::String(text)) => hex::decode(text).ok().map(Cell::Bytes),
                (Text | Json | Wide, Value::String(text)) => Some(Cell::Text(text.clone())),
                _ => None,
            };
            cell.ok_or_else(|| format!("{}.{name} cannot be {value}", self.name))
        };
        self.columns.iter().zip(values).map(cell).collect()
    }
}
