//! Statements: exact to the unit beside the books at that time, in the card's time zone, over any
//! number of rows, and as files that other programs read.

mod support;

use std::collections::BTreeMap;

use flashkit::cards::{CardLimits, CardStatementQuery};
use flashkit::ids::{BatchId, CardId, TransferId};
use flashkit::ledger::{Account, Batch, NewTransfer, Step, TransferKind};
use flashkit::reports::{ExportFormat, Statement, StatementPeriod, StatementRow};
use proptest::prelude::*;
use support::scene::{NOON, Scene, on_both_stores, told};
use support::shop::SAT;

const HOUR: i64 = 3_600_000;

/// What a row should say: when, why, by how much, and what stands after it.
type Moved = (i64, TransferKind, i64, i64);

/// A card whose history is written row by row, and what it should be.
struct History {
    scene: Scene,
    card: CardId,
    moved: Vec<Moved>,
    balance: i64,
}

impl History {
    async fn new(is_sqlite: bool) -> Self {
        let limits = CardLimits {
            time_zone: "America/Jamaica".to_owned(),
            ..CardLimits::default()
        };
        let scene = Scene::new(is_sqlite, limits).await;
        let (card, balance) = (scene.card.id, 50_000 * SAT);
        let moved = vec![(NOON, TransferKind::TopUp, balance, balance)];
        Self {
            scene,
            card,
            moved,
            balance,
        }
    }

    /// Rows of one commit at a time.
    async fn write(&mut self, at_ms: i64, amounts: &[i64]) {
        self.scene.clock.set(at_ms);
        let (card, other) = (Account::card_balance(self.card), Account::node_channels());
        let mut steps = Vec::new();
        for amount in amounts {
            let (kind, debit, credit) = match *amount > 0 {
                true => (TransferKind::TopUp, other, card),
                false => (TransferKind::Charge, card, other),
            };
            self.balance += amount;
            self.moved.push((at_ms, kind, *amount, self.balance));
            steps.push(Step::Transfer(NewTransfer {
                id: TransferId::from_parts(1, random(self.moved.len())),
                debit,
                credit,
                amount: amount.abs(),
                kind,
                reference: format!("number {}, \"{amount}\"", self.moved.len()),
                credit_ceiling: None,
            }));
        }
        let batch = Batch {
            id: BatchId::from_parts(1, random(self.moved.len())),
            command: None,
            steps: steps.into(),
        };
        self.scene.store.commit(batch).await.unwrap();
    }

    fn query(&self, period: StatementPeriod) -> CardStatementQuery {
        let card = self.card;
        CardStatementQuery { card, period }
    }

    async fn statement(&self, query: &CardStatementQuery) -> Statement {
        let cards = self.scene.engine().cards();
        let holder = &self.scene.card.holder;
        cards.statement(holder, query).await.unwrap().value
    }

    async fn rows(
        &self,
        query: &CardStatementQuery,
        before: i64,
        limit: usize,
    ) -> Vec<StatementRow> {
        let cards = self.scene.engine().cards();
        let (mut rows, mut next) = (Vec::new(), Some(before));
        while next.is_some() {
            let holder = &self.scene.card.holder;
            let page = cards.statement_rows(holder, query, next, limit).await;
            let page = page.unwrap().value;
            assert!(page.rows.len() <= limit);
            rows.extend(page.rows);
            next = page.next;
        }
        rows.reverse();
        rows
    }

    /// A statement, beside the rows that were written and beside the books at that time.
    async fn check(&self, period: StatementPeriod, limit: usize) -> Statement {
        let query = self.query(period);
        let statement = self.statement(&query).await;
        let Statement { from_ms, to_ms, .. } = statement;
        let account = Account::card_balance(self.card);
        let store = &self.scene.store;
        let opening = store.balance_at(&account, from_ms - 1).await.unwrap();
        let closing = store.balance_at(&account, to_ms - 1).await.unwrap();
        assert_eq!((statement.opening, statement.closing), (opening, closing));
        let within = |row: &&Moved| (from_ms..to_ms).contains(&row.0);
        let expected: Vec<Moved> = self.moved.iter().filter(within).copied().collect();
        let rows = self.rows(&query, statement.before, limit).await;
        let found = rows.iter();
        let found: Vec<Moved> = found
            .map(|row| (row.at_ms, row.kind, row.amount, row.balance))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(statement.count, u64::try_from(expected.len()).unwrap());
        let mut totals = BTreeMap::new();
        for (_, kind, amount, _) in expected {
            let total: &mut (u64, i128, i128) = totals.entry(kind.as_str()).or_default();
            total.0 += 1;
            match amount > 0 {
                true => total.1 += i128::from(amount),
                false => total.2 -= i128::from(amount),
            }
        }
        let told = statement.totals.iter();
        let told = told.map(|it| (it.kind.as_str(), (it.count, it.incoming, it.outgoing)));
        assert_eq!(told.collect::<BTreeMap<_, _>>(), totals);
        statement
    }
}

fn random(number: usize) -> [u8; 10] {
    let mut bytes = [0x33; 10];
    bytes[..8].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
    bytes
}

fn days(first: &str, last: &str) -> StatementPeriod {
    let (first, last) = (first.to_owned(), last.to_owned());
    StatementPeriod::Days { first, last }
}

on_both_stores! {
    a_day_is_the_cards_own;
    thousands_of_rows_are_exact;
    an_export_reads_back;
    a_period_that_is_none_is_refused;
}

/// In Jamaica a day begins at five in the morning of UTC.
async fn a_day_is_the_cards_own(is_sqlite: bool) {
    let mut history = History::new(is_sqlite).await;
    // The card was topped up at noon of the 24th: seven in the morning there.
    let midnight = NOON + 17 * HOUR;
    history.write(midnight - 1, &[-1, -2]).await;
    history.write(midnight, &[5, -3]).await;
    history.write(midnight + 24 * HOUR - 1, &[-4]).await;
    history.write(midnight + 24 * HOUR, &[-6]).await;
    let first = history.check(days("2026-11-24", "2026-11-24"), 2).await;
    assert_eq!(
        (first.from_ms, first.to_ms),
        (midnight - 24 * HOUR, midnight)
    );
    assert_eq!((first.opening, first.count), (0, 3));
    let second = history.check(days("2026-11-25", "2026-11-25"), 1).await;
    assert_eq!(second.opening, first.closing);
    assert_eq!((second.count, second.closing - second.opening), (3, -2));
    let both = history.check(days("2026-11-24", "2026-11-25"), 3).await;
    assert_eq!((both.count, both.closing), (6, second.closing));
    let (year, month) = (2026, 11);
    let month = history
        .check(StatementPeriod::Month { year, month }, 10)
        .await;
    assert_eq!((month.count, month.closing), (7, history.balance));
    let empty = history.check(days("2026-11-28", "2026-11-30"), 1).await;
    assert_eq!(
        (empty.opening, empty.closing),
        (history.balance, history.balance)
    );
    let before = history.check(days("2020-01-01", "2020-12-31"), 1).await;
    assert_eq!((before.opening, before.closing, before.count), (0, 0, 0));
    let query = history.query(days("2026-11-25", "2026-11-25"));
    let rows = history.rows(&query, i64::MAX, 10).await;
    assert_eq!(rows.len(), 3, "and none of the day after");
    assert_eq!(rows[0].at, "2026-11-25T00:00:00.000-05:00");
    assert_eq!(rows[2].at, "2026-11-25T23:59:59.999-05:00");
    history.scene.stop("days").await;
}

/// More rows than any page, and more that are written while it is read.
async fn thousands_of_rows_are_exact(is_sqlite: bool) {
    let mut history = History::new(is_sqlite).await;
    for minute in 1..=35 {
        let amounts: Vec<i64> = (1..=100)
            .map(|it| if it % 7 == 0 { it } else { -it })
            .collect();
        history.write(NOON + minute * 60_000, &amounts).await;
    }
    let (from_ms, to_ms) = (NOON + 3 * 60_000, NOON + 34 * 60_000);
    let middle = StatementPeriod::Between { from_ms, to_ms };
    assert_eq!(history.check(middle, 1_000).await.count, 3_100);
    let (year, month) = (2026, 11);
    let query = history.query(StatementPeriod::Month { year, month });
    let statement = history.statement(&query).await;
    assert_eq!(statement.count, 3_501);
    let written = history.moved.len();
    history.write(NOON + HOUR, &[-1; 50]).await;
    let rows = history.rows(&query, statement.before, 333).await;
    assert_eq!(rows.len(), written);
    assert_eq!(rows.last().unwrap().balance, statement.closing);
    history.scene.stop("thousands").await;
}

async fn an_export_reads_back(is_sqlite: bool) {
    let mut history = History::new(is_sqlite).await;
    history.write(NOON + 1, &[-7, 8, -9]).await;
    let query = history.query(days("2026-11-24", "2026-11-24"));
    let expected = history.rows(&query, i64::MAX, 10).await;
    let cards = history.scene.engine().cards();
    let mut texts = Vec::new();
    for format in [ExportFormat::Csv, ExportFormat::JsonLines] {
        let (mut text, mut before) = (String::new(), None);
        loop {
            let holder = &history.scene.card.holder;
            let page = cards.export_statement(holder, &query, format, before, 3);
            let page = page.await.unwrap().value;
            text.push_str(&page.text);
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        texts.push(text);
    }
    let mut lines: Vec<StatementRow> = texts[1]
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines.reverse();
    assert_eq!(lines, expected);
    let mut reader = csv::Reader::from_reader(texts[0].as_bytes());
    let columns = reader.headers().unwrap().clone();
    assert_eq!(columns.iter().next(), Some("at"));
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 4);
    for (record, row) in records.iter().rev().zip(&expected) {
        let (amount, balance) = (row.amount.to_string(), row.balance.to_string());
        let (at_ms, transfer) = (row.at_ms.to_string(), row.transfer.to_string());
        let kind = row.kind.as_str();
        let texts = [&row.at, &at_ms, kind, &amount, &balance, "BTC", &transfer];
        assert_eq!(record.iter().take(7).collect::<Vec<_>>(), texts);
        // Commas and quotation marks are kept.
        assert_eq!(record.get(7), Some(row.reference.as_str()));
    }
    history.scene.stop("export").await;
}

async fn a_period_that_is_none_is_refused(is_sqlite: bool) {
    let history = History::new(is_sqlite).await;
    let cards = history.scene.engine().cards();
    let between = |from_ms, to_ms| StatementPeriod::Between { from_ms, to_ms };
    let month = |year, month| StatementPeriod::Month { year, month };
    for period in [
        between(5, 5),
        between(6, 5),
        days("2026-11-25", "2026-11-24"),
        days("2026-02-30", "2026-03-01"),
        days("yesterday", "today"),
        month(2026, 13),
        month(2026, 0),
        month(i16::MAX, 1),
        days("9999-12-31", "9999-12-31"),
    ] {
        let query = history.query(period.clone());
        let refused = cards.statement(&history.scene.card.holder, &query).await;
        assert_eq!(
            told(refused).unwrap_err(),
            "report.bad_period",
            "{period:?}"
        );
    }
    let till = &history.scene.merchant.till;
    let query = history.query(between(0, i64::MAX));
    let refused = cards.statement(till, &query).await;
    assert_eq!(told(refused).unwrap_err(), "access.not_allowed");
    let whole = history.check(between(i64::MIN + 1, i64::MAX), 1).await;
    assert_eq!(whole.count, 1);
    history.scene.stop("periods").await;
}

/// Times that grow, and what moves at each.
fn rows() -> impl Strategy<Value = Vec<(i64, Vec<i64>)>> {
    let amounts =
        proptest::collection::vec((-50_i64..50).prop_filter("nothing", |it| *it != 0), 1..4);
    proptest::collection::vec((0_i64..4, amounts), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_period_is_exact(rows in rows(), from in -2_i64..30, length in 1_i64..30, limit in 1_usize..6) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let (mut history, mut at_ms) = (History::new(false).await, NOON);
            for (later, amounts) in rows {
                at_ms += later;
                history.write(at_ms, &amounts).await;
            }
            let (from_ms, to_ms) = (NOON + from, NOON + from + length);
            history.check(StatementPeriod::Between { from_ms, to_ms }, limit).await;
            history.scene.stop("any").await;
        });
    }
}
