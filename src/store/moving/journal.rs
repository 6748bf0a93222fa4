//! The journal in a stream, checked while it comes.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Cell;
use crate::ledger::{
    Account, Balance, ChainHash, ChainHead, CommitRow, HoldChange, HoldChangeRow, HoldState,
    JournalCheck, JournalProblem, NewHold, NewTransfer, TransferRow,
};

/// Why a row is none.
type Bad = String;

fn bad(error: impl std::fmt::Display) -> Bad {
    error.to_string()
}

fn integer(row: &[Cell], at: usize) -> Result<i64, Bad> {
    match row.get(at) {
        Some(Cell::Integer(number)) => Ok(*number),
        _ => Err(format!("column {} is no number", at + 1)),
    }
}

fn maybe_integer(row: &[Cell], at: usize) -> Result<Option<i64>, Bad> {
    match row.get(at) {
        Some(Cell::Null) => Ok(None),
        _ => integer(row, at).map(Some),
    }
}

fn text(row: &[Cell], at: usize) -> Result<&str, Bad> {
    match row.get(at) {
        Some(Cell::Text(text)) => Ok(text),
        _ => Err(format!("column {} is no text", at + 1)),
    }
}

fn maybe_text(row: &[Cell], at: usize) -> Result<Option<&str>, Bad> {
    match row.get(at) {
        Some(Cell::Null) => Ok(None),
        _ => text(row, at).map(Some),
    }
}

fn parsed<T>(row: &[Cell], at: usize) -> Result<T, Bad>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text(row, at)?.parse().map_err(bad)
}

fn named<T: DeserializeOwned>(row: &[Cell], at: usize) -> Result<T, Bad> {
    serde_json::from_value(Value::String(text(row, at)?.to_owned())).map_err(bad)
}

/// A row of the table of holds.
pub(in crate::store) fn hold_from(row: &[Cell]) -> Result<HoldState, Bad> {
    let transfer = NewTransfer {
        id: parsed(row, 0)?,
        debit: parsed(row, 1)?,
        credit: parsed(row, 2)?,
        amount: integer(row, 3)?,
        kind: named(row, 5)?,
        reference: text(row, 6)?.to_owned(),
        credit_ceiling: maybe_integer(row, 7)?,
    };
    let usage = maybe_text(row, 9)?.map(serde_json::from_str).transpose();
    let hold = NewHold {
        transfer,
        expires_at_ms: maybe_integer(row, 8)?,
        usage: usage.map_err(bad)?.unwrap_or_default(),
    };
    let remaining = integer(row, 4)?;
    Ok(HoldState { hold, remaining })
}

/// Whether the balance that a table of accounts shows to people is that of the totals, which are
/// the debits and the credits that were posted.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(in crate::store) fn is_shown(account: &str, totals: &[String; 2], shown: Option<i64>) -> bool {
    let [debits, credits] = totals;
    let (Ok(account), Ok(debits_posted), Ok(credits_posted)) =
        (account.parse::<Account>(), debits.parse(), credits.parse())
    else {
        return false;
    };
    let balance = Balance {
        debits_posted,
        credits_posted,
        ..Balance::default()
    };
    i64::try_from(balance.posted(account.kind().side())).ok() == shown
}

fn commit_from(row: &[Cell]) -> Result<CommitRow, Bad> {
    let Some(Cell::Bytes(hash)) = row.get(6) else {
        return Err("the hash is missing".to_owned());
    };
    let hash = <[u8; 32]>::try_from(hash.as_slice()).map_err(bad)?;
    Ok(CommitRow {
        position: integer(row, 0)?,
        batch: parsed(row, 1)?,
        at_ms: integer(row, 2)?,
        scope: maybe_text(row, 3)?.map(str::to_owned),
        writer: text(row, 4)?.to_owned(),
        sequence: integer(row, 5)?,
        hash: ChainHash::new(hash),
    })
}

/// Takes the first row if it is one of those.
fn next_of<T>(rows: &mut VecDeque<T>, is_one: impl Fn(&T) -> bool) -> Option<T> {
    let is_next = rows.front().is_some_and(is_one);
    is_next.then(|| rows.pop_front()).flatten()
}

/// A hold of which something is left.
struct Open {
    hold: NewHold,
    /// What is left of it now, and at the end of the stream.
    remaining: i64,
    at_the_end: i64,
}

/// What was checked so far.
pub(super) struct Journal {
    check: JournalCheck,
    accounts: HashMap<i64, (Account, Balance)>,
    known: HashMap<Account, i64>,
    open: BTreeMap<String, Open>,
    commits: Vec<CommitRow>,
    transfers: VecDeque<TransferRow>,
    changes: VecDeque<HoldChangeRow>,
    /// The last positions of commits, transfers and changes of holds.
    last: [i64; 3],
    last_ms: i64,
}

impl Journal {
    pub(super) fn new(kept: &[ChainHead]) -> Self {
        Self {
            check: JournalCheck::new(kept),
            accounts: HashMap::new(),
            known: HashMap::new(),
            open: BTreeMap::new(),
            commits: Vec::new(),
            transfers: VecDeque::new(),
            changes: VecDeque::new(),
            last: [0; 3],
            last_ms: 0,
        }
    }

    /// How many commits there were.
    pub(super) fn commits(&self) -> i64 {
        self.last[0]
    }

    /// Takes a row of a table; what belongs to no journal is passed over.
    pub(super) fn row(&mut self, table: &str, row: &[Cell]) -> Result<(), Bad> {
        match table {
            "accounts" => self.account(row),
            "holds" => self.hold(row),
            "commits" => {
                // A new page begins: the one before is complete.
                if !self.transfers.is_empty() || !self.changes.is_empty() {
                    self.settle()?;
                }
                let commit = commit_from(row)?;
                self.follows(0, commit.position)?;
                if commit.at_ms < self.last_ms {
                    return Err("the commit is older than the one before".to_owned());
                }
                self.last_ms = commit.at_ms;
                self.commits.push(commit);
                Ok(())
            }
            "transfers" => self.transfer(row),
            "hold_changes" => self.hold_change(row),
            _ if self.commits.is_empty() => Ok(()),
            _ => self.settle(),
        }
    }

    fn follows(&mut self, which: usize, position: i64) -> Result<(), Bad> {
        let last = self.last.get_mut(which);
        match last {
            Some(last) if position == last.saturating_add(1) => {
                *last = position;
                Ok(())
            }
            _ => Err(format!("position {position} does not come next")),
        }
    }

    fn account(&mut self, row: &[Cell]) -> Result<(), Bad> {
        let account: Account = parsed(row, 1)?;
        let balance = Balance {
            debits_posted: parsed(row, 2)?,
            credits_posted: parsed(row, 3)?,
            debits_pending: integer(row, 4)?,
            credits_pending: integer(row, 5)?,
        };
        let shown = i64::try_from(balance.posted(account.kind().side())).ok();
        if maybe_integer(row, 6)? != shown {
            return Err("the balance is not that of the totals".to_owned());
        }
        let id = integer(row, 0)?;
        let is_new = self.known.insert(account, id).is_none();
        if self.accounts.insert(id, (account, balance)).is_some() || !is_new {
            return Err("the account comes twice".to_owned());
        }
        Ok(())
    }

    fn account_of(&self, row: &[Cell], at: usize) -> Result<Account, Bad> {
        let id = integer(row, at)?;
        let account = self.accounts.get(&id).map(|(account, _)| *account);
        account.ok_or_else(|| format!("there is no account {id}"))
    }

    fn transfer(&mut self, row: &[Cell]) -> Result<(), Bad> {
        let transfer = TransferRow {
            position: integer(row, 0)?,
            commit: integer(row, 1)?,
            id: parsed(row, 2)?,
            follows: maybe_text(row, 3)?
                .map(str::parse)
                .transpose()
                .map_err(bad)?,
            at_ms: integer(row, 4)?,
            debit: self.account_of(row, 5)?,
            credit: self.account_of(row, 6)?,
            amount: integer(row, 7)?,
            kind: named(row, 8)?,
            reference: text(row, 9)?.to_owned(),
            debit_balance_after: integer(row, 10)?,
            credit_balance_after: integer(row, 11)?,
        };
        self.follows(1, transfer.position)?;
        self.transfers.push_back(transfer);
        Ok(())
    }

    fn hold(&mut self, row: &[Cell]) -> Result<(), Bad> {
        let HoldState { hold, remaining } = hold_from(row)?;
        let id = hold.transfer.id.to_string();
        let open = Open {
            remaining: hold.transfer.amount,
            at_the_end: remaining,
            hold,
        };
        match self.open.insert(id, open) {
            None => Ok(()),
            Some(_) => Err("the hold comes twice".to_owned()),
        }
    }

    fn hold_change(&mut self, row: &[Cell]) -> Result<(), Bad> {
        let id = text(row, 2)?;
        let Some(open) = self.open.get_mut(id) else {
            return Err("there is no such hold, or nothing of it left".to_owned());
        };
        let change = HoldChangeRow {
            position: integer(row, 0)?,
            commit: integer(row, 1)?,
            hold: open.hold.clone(),
            change: named(row, 3)?,
            amount: integer(row, 4)?,
            remaining: integer(row, 5)?,
        };
        let left = match change.change {
            HoldChange::Held => open.hold.transfer.amount,
            _ => open.remaining.saturating_sub(change.amount),
        };
        if left != change.remaining || left < 0 {
            return Err("more is made of the hold than there was".to_owned());
        }
        open.remaining = left;
        if left == 0 {
            if open.at_the_end != 0 {
                return Err("of the hold something is left that was used".to_owned());
            }
            self.open.remove(id);
        }
        self.follows(2, change.position)?;
        self.changes.push_back(change);
        Ok(())
    }

    /// Checks the commits that wait, with all they made.
    fn settle(&mut self) -> Result<(), Bad> {
        for commit in std::mem::take(&mut self.commits) {
            let (mut transfers, mut changes) = (Vec::new(), Vec::new());
            while let Some(row) = next_of(&mut self.transfers, |row| row.commit == commit.position)
            {
                if row.at_ms != commit.at_ms {
                    return Err("a transfer has another time than its commit".to_owned());
                }
                transfers.push(row);
            }
            while let Some(row) = next_of(&mut self.changes, |row| row.commit == commit.position) {
                changes.push(row);
            }
            self.check.commit(&commit, &transfers, &changes);
        }
        if self.transfers.is_empty() && self.changes.is_empty() {
            Ok(())
        } else {
            Err("rows of a commit that did not come before them".to_owned())
        }
    }

    /// What was found, and the ends of the chains.
    pub(super) fn finish(mut self) -> Result<(Vec<JournalProblem>, Vec<ChainHead>), Bad> {
        self.settle()?;
        if let Some((id, _)) = self
            .open
            .iter()
            .find(|(_, open)| open.remaining != open.at_the_end)
        {
            return Err(format!(
                "what is left of the hold {id} is not what was made of it"
            ));
        }
        for (account, balance) in self.accounts.into_values() {
            self.check.account(account, balance);
        }
        Ok(self.check.finish())
    }
}
