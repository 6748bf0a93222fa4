//! A store written as a stream.

use std::collections::VecDeque;

use async_trait::async_trait;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::reader::is_channel_state;
use super::{Cell, FORMAT, PAGE, Pieces, TABLES, Table};
use crate::ledger::ChainHead;
use crate::ports::BoxFuture;
use crate::store::{MoveError, StoreError};

/// A store at one moment.
#[async_trait]
pub(in crate::store) trait Snapshot: Send + Sync {
    /// A page of a table: the first, or that after a key.
    async fn page(&self, table: &'static Table, after: Option<&[Cell]>) -> Rows;
    /// The holds that were made by the changes after one position and up to another.
    async fn held(&self, after: i64, to: i64) -> Rows;
    /// The ends of the chains.
    async fn heads(&self) -> Result<Vec<ChainHead>, StoreError>;
}

type Rows = Result<Vec<Vec<Cell>>, StoreError>;

/// Takes the one departure there is of a store that was handed over, durably, or is refused: without
/// it a stream has no last line, and arrives nowhere.
pub(in crate::store) type Leave = BoxFuture<'static, Result<(), StoreError>>;

/// What is written where, and what of it was written so far.
struct Departing<'a> {
    to: &'a Pieces,
    /// Of a stream that has the node's channels in it.
    leave: Option<Leave>,
    buffer: Vec<u8>,
    digest: Sha256,
    rows: u64,
}

/// How full a piece is made.
const PIECE: usize = 65_536;

/// Writes the whole stream: with the node's channels in it where the store was handed over and
/// something says when it has left.
pub(in crate::store) async fn depart(snapshot: &dyn Snapshot, leave: Option<Leave>, to: &Pieces) {
    let departing = Departing {
        to,
        leave,
        buffer: Vec::new(),
        digest: Sha256::new(),
        rows: 0,
    };
    if let Err(error) = departing.write(snapshot).await {
        to.fail(error);
    }
}

impl Departing<'_> {
    async fn write(mut self, snapshot: &dyn Snapshot) -> Result<(), MoveError> {
        let node = match self.leave {
            None => "left_out",
            Some(_) => "handed_over",
        };
        let heads = snapshot.heads().await?;
        let header = json!({ "flashkit_export": FORMAT, "node_state": node, "heads": heads });
        self.line(format!("{header}\n").into_bytes()).await?;
        for table in TABLES {
            match table.name {
                "commits" => self.journal(snapshot).await?,
                "transfers" | "holds" | "hold_changes" => {}
                _ => self.table(snapshot, table).await?,
            }
        }
        let rows = self.rows;
        let digest = hex::encode(self.digest.finalize_reset());
        let end = json!({ "rows": rows, "sha256": digest });
        if let Some(leave) = self.leave.take() {
            // Once all lines but the last are taken: for whoever gives up before there is another.
            self.to.put(std::mem::take(&mut self.buffer)).await?;
            self.to.all_taken().await?;
            leave.await?;
        }
        self.buffer.extend(format!("{end}\n").into_bytes());
        self.to.put(std::mem::take(&mut self.buffer)).await
    }

    async fn line(&mut self, line: Vec<u8>) -> Result<(), MoveError> {
        self.digest.update(&line);
        self.buffer.extend(line);
        if self.buffer.len() >= PIECE {
            self.to.put(std::mem::take(&mut self.buffer)).await?;
        }
        Ok(())
    }

    async fn row(&mut self, table: &Table, row: &[Cell]) -> Result<(), MoveError> {
        self.rows = self.rows.saturating_add(1);
        self.line(table.to_line(row)).await
    }

    async fn table(
        &mut self,
        snapshot: &dyn Snapshot,
        table: &'static Table,
    ) -> Result<(), MoveError> {
        let mut last: Option<Vec<Cell>> = None;
        loop {
            let page = snapshot.page(table, last.as_deref()).await?;
            for row in &page {
                if table.name != "node_state" || self.travels(row) {
                    self.row(table, row).await?;
                }
            }
            if page.len() < PAGE {
                return Ok(());
            }
            let key = page.last().and_then(|row| row.get(..table.key));
            last = key.map(<[Cell]>::to_vec);
        }
    }

    fn travels(&self, row: &[Cell]) -> bool {
        match (&self.leave, row) {
            (Some(_), _) => true,
            (
                _,
                [
                    Cell::Text(primary),
                    Cell::Text(secondary),
                    Cell::Text(key),
                    ..,
                ],
            ) => !is_channel_state(primary, secondary, key),
            _ => false,
        }
    }

    /// Commits, and after each page of them what they made.
    async fn journal(&mut self, snapshot: &dyn Snapshot) -> Result<(), MoveError> {
        let [commits, transfers, holds, hold_changes] =
            ["commits", "transfers", "holds", "hold_changes"].map(Table::find);
        let (Some((_, commits)), Some((_, transfers)), Some((_, holds)), Some((_, changes))) =
            (commits, transfers, holds, hold_changes)
        else {
            return Ok(());
        };
        let mut last: Option<Vec<Cell>> = None;
        let (mut transfers, mut changes) = (Ahead::new(transfers), Ahead::new(changes));
        loop {
            let page = snapshot.page(commits, last.as_deref()).await?;
            for row in &page {
                self.row(commits, row).await?;
            }
            let Some(row) = page.last() else {
                return Ok(());
            };
            let to = number(row, 0);
            last = row.get(..1).map(<[Cell]>::to_vec);
            while let Some(row) = transfers.next(snapshot, to).await? {
                self.row(transfers.table, &row).await?;
            }
            let (from, mut rows) = (changes.done, Vec::new());
            while let Some(row) = changes.next(snapshot, to).await? {
                rows.push(row);
            }
            for hold in snapshot.held(from, changes.done).await? {
                self.row(holds, &hold).await?;
            }
            for row in rows {
                self.row(changes.table, &row).await?;
            }
        }
    }
}

fn number(row: &[Cell], at: usize) -> i64 {
    match row.get(at) {
        Some(Cell::Integer(number)) => *number,
        _ => 0,
    }
}

/// A table whose first column is a position and whose second is that of a commit, read ahead.
struct Ahead {
    table: &'static Table,
    read: Option<Vec<Cell>>,
    waiting: VecDeque<Vec<Cell>>,
    /// Up to which position rows were given out.
    done: i64,
}

impl Ahead {
    fn new(table: &'static Table) -> Self {
        Self {
            table,
            read: None,
            waiting: VecDeque::new(),
            done: 0,
        }
    }

    /// The next row of a commit up to and with `to`.
    async fn next(
        &mut self,
        snapshot: &dyn Snapshot,
        to: i64,
    ) -> Result<Option<Vec<Cell>>, StoreError> {
        if self.waiting.is_empty() {
            let page = snapshot.page(self.table, self.read.as_deref()).await?;
            if let Some(row) = page.last() {
                self.read = row.get(..1).map(<[Cell]>::to_vec);
            }
            self.waiting.extend(page);
        }
        let is_next = self.waiting.front().is_some_and(|row| number(row, 1) <= to);
        let next = is_next.then(|| self.waiting.pop_front()).flatten();
        if let Some(row) = &next {
            self.done = number(row, 0);
        }
        Ok(next)
    }
}
