//! Old answers are forgotten, from the oldest commit on.

use rusqlite::{Connection, Result, params};

/// Up to which commit answers were forgotten.
const FORGOTTEN: &str = "answers_forgotten_to";
/// The most commits that are looked at in one turn of the writer, for which all others wait: most
/// may have no answer.
const MOST_COMMITS: usize = 10_000;

pub(super) fn forget(connection: &Connection, before_ms: i64, limit: usize) -> Result<usize> {
    let before: i64 = connection
        .prepare_cached("SELECT coalesce((SELECT value FROM settings WHERE name = ?1), 0)")?
        .query_row([FORGOTTEN], |row| row.get(0))?;
    let (mut reached, mut forgotten, mut looked_at) = (before, 0, 0);
    {
        let mut commits = connection.prepare_cached(
            "SELECT position, at_ms, scope IS NOT NULL FROM commits WHERE position > ?1 ORDER BY position",
        )?;
        let mut forget = connection.prepare_cached(
            "UPDATE commits SET answer = NULL, answer_event = NULL WHERE position = ?1",
        )?;
        let mut rows = commits.query([reached])?;
        while forgotten < limit
            && looked_at < MOST_COMMITS
            && let Some(row) = rows.next()?
        {
            // Commit times never decrease, so nothing older comes after this one.
            if row.get::<_, i64>(1)? >= before_ms {
                break;
            }
            reached = row.get(0)?;
            looked_at += 1;
            if row.get(2)? {
                forget.execute([reached])?;
                forgotten += 1;
            }
        }
    }
    // Asked often and with nothing to forget mostly: then nothing is written, and flushed.
    if reached > before {
        connection
            .prepare_cached(
                "INSERT INTO settings (name, value) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET value = ?2",
            )?
            .execute(params![FORGOTTEN, reached])?;
    }
    Ok(forgotten)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::schema;

    /// Retention is switched on in old books: a long way of commits without answers is gone in
    /// turns, and the answers behind them are found.
    #[test]
    fn a_turn_looks_at_so_many_commits_and_the_next_one_goes_on() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::create(&mut connection).unwrap();
        let made = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
            INSERT INTO commits (position, batch, at_ms, scope, writer, sequence, hash, fingerprint,
                                 answer)
            SELECT n, 'batch_' || n, n, CASE WHEN n = ?1 THEN 'scope' END, 'sqlite', n,
                   randomblob(32), CASE WHEN n = ?1 THEN 'print' END,
                   CASE WHEN n = ?1 THEN '1' END FROM n";
        let all = i64::try_from(2 * MOST_COMMITS + 1).unwrap();
        connection.execute(made, [all]).unwrap();
        let turn = || forget(&connection, i64::MAX, 5).unwrap();
        assert_eq!([turn(), turn(), turn(), turn()], [0, 0, 1, 0]);
    }
}
