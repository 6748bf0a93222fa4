//! Statements of an account: what stood at the beginning of a period, what moved, what stands at
//! its end.
//!
//! A period is a stretch of the order of all transfers, found by time once: rows that are written
//! later have later places, so that pages that are read one after the other fit together whatever
//! moves meanwhile. Nothing is kept in memory but one page.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use super::ReportError;
use crate::Error;
use crate::core::{Core, unreadable};
use crate::ids::TransferId;
use crate::ledger::{Account, Side, TransferKind, TransferRow};
use crate::money::Asset;
use crate::store::{MAX_PAGE, StoreError};

/// Which stretch of time a statement is of. Days and months are those of the owner's time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum StatementPeriod {
    /// From one moment up to another, which is not a part of it; milliseconds since the epoch.
    Between {
        /// The first moment.
        from_ms: i64,
        /// The first moment after it.
        to_ms: i64,
    },
    /// From one day to another, both of them whole: `2026-11-01`.
    Days {
        /// The first day.
        first: String,
        /// The last day.
        last: String,
    },
    /// A calendar month.
    Month {
        /// The year.
        year: i16,
        /// The month, 1 to 12.
        month: i8,
    },
}

/// What moved in a period for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindTotal {
    /// Why it moved.
    pub kind: TransferKind,
    /// How many rows.
    pub count: u64,
    /// What it raised the balance by, all of them together, in the asset's unit.
    pub incoming: i128,
    /// What it lowered the balance by.
    pub outgoing: i128,
}

/// A statement of an account. Its rows are read page by page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The account.
    pub account: Account,
    /// The time zone of its days.
    pub time_zone: String,
    /// The first moment of the period, milliseconds since the epoch.
    pub from_ms: i64,
    /// The first moment after it.
    pub to_ms: i64,
    /// What stood before the first row, towards the account's side, in the asset's unit. Holds
    /// have moved nothing.
    pub opening: i64,
    /// What stood after the last row.
    pub closing: i64,
    /// What moved, by its reason.
    pub totals: Vec<KindTotal>,
    /// How many rows there are.
    pub count: u64,
    /// What the first page of its rows is before: rows that were written since are not in it.
    pub before: i64,
}

/// Some rows of a statement, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementPage {
    /// The rows.
    pub rows: Vec<StatementRow>,
    /// What the next page is before; `None` after the last.
    pub next: Option<i64>,
}

/// A row of a statement: one transfer, as the account sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementRow {
    /// When, in the owner's time zone: `2026-11-26T12:00:00.000-05:00`.
    pub at: String,
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
    /// Why.
    pub kind: TransferKind,
    /// By how much the balance changed, in the asset's unit.
    pub amount: i64,
    /// The balance after it.
    pub balance: i64,
    /// What is counted.
    pub asset: Asset,
    /// The transfer.
    pub transfer: TransferId,
    /// The object it belongs to.
    pub reference: String,
}

/// How rows are written for other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// Comma-separated values (RFC 4180), with the names of the columns before the first page.
    Csv,
    /// One JSON object a line.
    JsonLines,
}

/// A part of an export. All parts one after the other are the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPage {
    /// The text.
    pub text: String,
    /// What the next part is before; `None` after the last.
    pub next: Option<i64>,
}

/// A stretch of time in a time zone.
struct Stretch {
    zone: TimeZone,
    from_ms: i64,
    to_ms: i64,
}

fn stretch(period: &StatementPeriod, time_zone: &str) -> Result<Stretch, ReportError> {
    let bad = |_| ReportError::BadPeriod;
    let zone = TimeZone::get(time_zone).map_err(bad)?;
    let midnight = |date: Date| -> Result<i64, jiff::Error> {
        // Where the clock is set forward at midnight, the day begins later.
        let day = date.to_zoned(zone.clone())?.start_of_day()?;
        Ok(day.timestamp().as_millisecond())
    };
    let days = |first: Date, next: Date| Ok((midnight(first)?, midnight(next)?));
    let bounds = match period {
        StatementPeriod::Between { from_ms, to_ms } => Ok((*from_ms, *to_ms)),
        StatementPeriod::Days { first, last } => {
            let (first, last) = (
                first.parse().map_err(bad)?,
                last.parse::<Date>().map_err(bad)?,
            );
            last.checked_add(1.day()).and_then(|next| days(first, next))
        }
        StatementPeriod::Month { year, month } => {
            Date::new(*year, *month, 1).and_then(|first| days(first, first.checked_add(1.month())?))
        }
    };
    let (from_ms, to_ms) = bounds.map_err(bad)?;
    if from_ms >= to_ms {
        return Err(ReportError::BadPeriod);
    }
    Ok(Stretch {
        zone,
        from_ms,
        to_ms,
    })
}

/// By how much a row changes the balance of one of its two accounts.
fn change(row: &TransferRow, account: &Account) -> i64 {
    let grows = match account.kind().side() {
        Side::Credit => row.credit == *account,
        Side::Debit => row.debit == *account,
    };
    if grows { row.amount } else { -row.amount }
}

/// What moved for each reason, in the order of their names.
#[derive(Default)]
struct Sums {
    by_kind: BTreeMap<&'static str, KindTotal>,
    count: u64,
    change: i128,
}

impl Sums {
    fn add(&mut self, row: &TransferRow, account: &Account) {
        let amount = i128::from(change(row, account));
        let total = self.by_kind.entry(row.kind.as_str()).or_insert(KindTotal {
            kind: row.kind,
            count: 0,
            incoming: 0,
            outgoing: 0,
        });
        total.count += 1;
        total.incoming += amount.max(0);
        total.outgoing += (-amount).max(0);
        self.count += 1;
        self.change += amount;
    }
}

/// A statement of an account.
pub(crate) async fn statement(
    core: &Core,
    account: Account,
    time_zone: &str,
    period: &StatementPeriod,
) -> Result<Statement, Error> {
    let Stretch { from_ms, to_ms, .. } = stretch(period, time_zone)?;
    let first = place_at(core, &account, from_ms).await?;
    let before = place_at(core, &account, to_ms).await?;
    let opening = balance_before(core, &account, first).await?;
    let closing = balance_before(core, &account, before).await?;
    let (mut sums, mut next) = (Sums::default(), Some(before));
    while let Some(at) = next {
        let rows = rows_before(core, &account, first, at, MAX_PAGE).await?;
        for row in &rows {
            sums.add(row, &account);
        }
        next = rows.last().map(|row| row.position);
    }
    if i128::from(opening) + sums.change != i128::from(closing) {
        let reason = format!("the rows of {account} do not come to its balance");
        return Err(StoreError::Corrupt { reason }.into());
    }
    Ok(Statement {
        account,
        time_zone: time_zone.to_owned(),
        from_ms,
        to_ms,
        opening,
        closing,
        totals: sums.by_kind.into_values().collect(),
        count: sums.count,
        before,
    })
}

/// Rows of a statement, newest first.
pub(crate) async fn rows(
    core: &Core,
    account: Account,
    time_zone: &str,
    period: &StatementPeriod,
    before: Option<i64>,
    limit: usize,
) -> Result<StatementPage, Error> {
    let limit = limit.clamp(1, MAX_PAGE);
    let Stretch {
        zone,
        from_ms,
        to_ms,
    } = stretch(period, time_zone)?;
    let first = place_at(core, &account, from_ms).await?;
    let end = place_at(core, &account, to_ms).await?;
    let before = before.map_or(end, |before| before.min(end));
    let found = rows_before(core, &account, first, before, limit).await?;
    let is_full = found.len() == limit;
    let next = found.last().map(|row| row.position).filter(|_| is_full);
    let rows = found
        .into_iter()
        .map(|row| shown(row, &account, &zone))
        .collect::<Result<_, _>>()?;
    Ok(StatementPage { rows, next })
}

fn shown(row: TransferRow, account: &Account, zone: &TimeZone) -> Result<StatementRow, Error> {
    let bad = |_| ReportError::BadPeriod;
    let at = Timestamp::from_millisecond(row.at_ms).map_err(bad)?;
    let at = at.to_zoned(zone.clone());
    let at = jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S.%3f%:z", &at).map_err(bad)?;
    Ok(StatementRow {
        at,
        at_ms: row.at_ms,
        kind: row.kind,
        amount: change(&row, account),
        balance: row.balance_after(account),
        asset: account.asset(),
        transfer: row.id,
        reference: row.reference,
    })
}

/// Rows as the text of a file.
pub(crate) fn export(
    page: StatementPage,
    format: ExportFormat,
    is_first: bool,
) -> Result<ExportPage, Error> {
    let StatementPage { rows, next } = page;
    let text = match format {
        ExportFormat::Csv => csv_text(&rows, is_first)?,
        ExportFormat::JsonLines => {
            let mut text = String::new();
            for row in &rows {
                text.push_str(&serde_json::to_string(row).map_err(unreadable)?);
                text.push('\n');
            }
            text
        }
    };
    Ok(ExportPage { text, next })
}

const COLUMNS: [&str; 8] = [
    "at",
    "at_ms",
    "kind",
    "amount",
    "balance",
    "asset",
    "transfer",
    "reference",
];

fn csv_text(rows: &[StatementRow], is_first: bool) -> Result<String, Error> {
    let unwritten = |reason: String| Error::from(StoreError::Corrupt { reason });
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    if is_first {
        let written = writer.write_record(COLUMNS);
        written.map_err(|error| unwritten(error.to_string()))?;
    }
    for row in rows {
        let written = writer.write_record([
            row.at.as_str(),
            &row.at_ms.to_string(),
            row.kind.as_str(),
            &row.amount.to_string(),
            &row.balance.to_string(),
            &row.asset.to_string(),
            &row.transfer.to_string(),
            &row.reference,
        ]);
        written.map_err(|error| unwritten(error.to_string()))?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|error| unwritten(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| unwritten(error.to_string()))
}

/// Rows of an account from the place `first` on, before a place, newest first.
async fn rows_before(
    core: &Core,
    account: &Account,
    first: i64,
    before: i64,
    limit: usize,
) -> Result<Vec<TransferRow>, Error> {
    let mut rows = core.store.transfers(account, Some(before), limit).await?;
    rows.retain(|row| row.position >= first);
    Ok(rows)
}

/// The balance that the last row before a place has left.
async fn balance_before(core: &Core, account: &Account, place: i64) -> Result<i64, Error> {
    let rows = core.store.transfers(account, Some(place), 1).await?;
    Ok(rows.first().map_or(0, |row| row.balance_after(account)))
}

/// The place in the order of all transfers before which those of an account are earlier than a
/// moment, and from which on they are not. Commit times never decrease, so that it is found by
/// halving.
async fn place_at(core: &Core, account: &Account, at_ms: i64) -> Result<i64, Error> {
    let newest = core.store.transfers(account, None, 1).await?;
    let (mut low, mut high) = (0, newest.first().map_or(0, |row| row.position + 1));
    while low < high {
        let middle = low + (high - low + 1) / 2;
        let rows = core.store.transfers(account, Some(middle), 1).await?;
        match rows.first().filter(|row| row.at_ms >= at_ms) {
            Some(row) => high = row.position,
            None => low = middle,
        }
    }
    Ok(high)
}
