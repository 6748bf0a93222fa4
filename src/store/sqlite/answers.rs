//! Old answers are forgotten, from the oldest commit on.

use rusqlite::{Connection, Result, params};

/// Up to which commit answers were forgotten.
const FORGOTTEN: &str = "answers_forgotten_to";

pub(super) fn forget(connection: &Connection, before_ms: i64, limit: usize) -> Result<usize> {
    let before: i64 = connection
        .prepare_cached("SELECT coalesce((SELECT value FROM settings WHERE name = ?1), 0)")?
        .query_row([FORGOTTEN], |row| row.get(0))?;
    let (mut reached, mut forgotten) = (before, 0);
    {
        let mut commits = connection.prepare_cached(
            "SELECT position, at_ms, scope IS NOT NULL FROM commits WHERE position > ?1 ORDER BY position",
        )?;
        let mut forget = connection.prepare_cached(
            "UPDATE commits SET answer = NULL, answer_event = NULL WHERE position = ?1",
        )?;
        let mut rows = commits.query([reached])?;
        while forgotten < limit
            && let Some(row) = rows.next()?
        {
            // Commit times never decrease, so nothing older comes after this one.
            if row.get::<_, i64>(1)? >= before_ms {
                break;
            }
            reached = row.get(0)?;
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
