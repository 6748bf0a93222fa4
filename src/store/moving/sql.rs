//! The statements that read and write the tables.

use super::table::{Kind, Table};
use Kind::{Json, Wide};

/// How a database spells what is not the same everywhere.
#[allow(dead_code, reason = "a build has the stores that it asks for")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Dialect {
    Sqlite,
    Postgres,
}

fn read_columns(table: &Table, dialect: Dialect) -> String {
    let column = |(name, kind): &(&str, Kind)| match (dialect, kind) {
        (Dialect::Postgres, Json | Wide) => format!("{name}::text"),
        _ => (*name).to_owned(),
    };
    let columns: Vec<String> = table.columns.iter().map(column).collect();
    columns.join(", ")
}

/// Reads a page of a table in the order of its key: the first, or that after a key, which is then
/// the values of the statement.
pub(in crate::store) fn select(table: &Table, dialect: Dialect, is_first: bool) -> String {
    let columns = read_columns(table, dialect);
    let key: Vec<&str> = table
        .columns
        .iter()
        .take(table.key)
        .map(|(name, _)| *name)
        .collect();
    let key = key.join(", ");
    let mut conditions = Vec::new();
    if !table.only.is_empty() {
        conditions.push(table.only.to_owned());
    }
    if !is_first {
        let values: Vec<String> = (1..=table.key).map(|at| format!("${at}")).collect();
        conditions.push(format!("({key}) > ({})", values.join(", ")));
    }
    let only = if conditions.is_empty() {
        String::new()
    } else {
        format!("WHERE {}", conditions.join(" AND "))
    };
    let (name, page) = (table.name, super::PAGE);
    format!("SELECT {columns} FROM {name} {only} ORDER BY {key} LIMIT {page}")
}

/// Reads the holds that were made by the changes after one position and up to another.
pub(in crate::store) fn select_held(holds: &Table, dialect: Dialect) -> String {
    let columns = read_columns(holds, dialect);
    format!(
        "SELECT {columns} FROM holds WHERE id IN (SELECT hold FROM hold_changes
             WHERE position > $1 AND position <= $2 AND change = 'held') ORDER BY id"
    )
}

/// Writes a row.
pub(in crate::store) fn insert(table: &Table, dialect: Dialect) -> String {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (at, (name, kind)) in table.columns.iter().enumerate() {
        let at = at + 1;
        names.push(*name);
        values.push(match (dialect, kind) {
            (Dialect::Postgres, Json) => format!("${at}::text::json"),
            (Dialect::Postgres, Wide) => format!("${at}::text::numeric"),
            _ => format!("${at}"),
        });
    }
    let (name, names, values) = (table.name, names.join(", "), values.join(", "));
    format!("INSERT INTO {name} ({names}) VALUES ({values})")
}
