//! The tables, and how a file is recognised.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};

use super::{io_error, log, seat, sql_error};
use crate::store::StoreError;

/// Marks the file as ours: "FLSH" in the header of the file (`file` and SQLite tools show it).
const APPLICATION_ID: i64 = 0x464c_5348;

/// The schema this version writes.
pub(super) const SCHEMA_VERSION: i64 = 4;

/// The pages of a new file; SQLite's own are twice as large. A commit changes a row here and there on
/// many pages and writes each of them whole, so that smaller ones are fewer bytes to sum up and to
/// flush. Smaller still, and a sale's rows would not fit on one. Files of before keep what they have.
const PAGE_BYTES: i64 = 2_048;

/// A file up to this size is checked page by page when it is opened, which takes about a tenth of
/// a second; of a larger one the ends of every table, so that opening does not take longer the
/// older the books are. The whole is checked on demand, by
/// [`verify`](crate::store::StoreAdmin::verify).
const CHECKED_WHOLE_BYTES: u64 = 64 << 20;

/// The schema as a new file has it. The [`MIGRATIONS`] make the same of every older one.
/// What sales bring stands in trees of its own: which names those are is in [`super::trees`] as well.
const TABLES: &str = "
CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE commits (
    position INTEGER PRIMARY KEY,
    batch TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    scope TEXT,
    writer TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    fingerprint TEXT,
    answer TEXT,
    answer_event INTEGER,
    of_sale INTEGER AS (coalesce(instr(scope, '/cards.charge/') > 0
        OR instr(scope, '/cards.authorize/') > 0 OR instr(scope, '/cards.capture/') > 0, 0))
) STRICT;
CREATE UNIQUE INDEX batches_of_sales ON commits (batch) WHERE of_sale = 1;
CREATE UNIQUE INDEX batches_of_others ON commits (batch) WHERE of_sale = 0;
CREATE UNIQUE INDEX commands_of_sales ON commits (scope) WHERE of_sale = 1;
CREATE UNIQUE INDEX commands_of_others ON commits (scope)
    WHERE of_sale = 0 AND scope IS NOT NULL;
-- Lifetime totals can outgrow 64 bits, so they are decimal text; `balance` is for people.
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    debits_posted TEXT NOT NULL,
    credits_posted TEXT NOT NULL,
    debits_pending INTEGER NOT NULL,
    credits_pending INTEGER NOT NULL,
    balance INTEGER
) STRICT;
CREATE UNIQUE INDEX accounts_of_points ON accounts (account)
    WHERE substr(account, 1, 15) = 'points_balance/';
CREATE UNIQUE INDEX accounts_of_others ON accounts (account)
    WHERE substr(account, 1, 15) <> 'points_balance/';
CREATE TABLE transfers (
    position INTEGER PRIMARY KEY,
    commit_position INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE,
    follows TEXT,
    at_ms INTEGER NOT NULL,
    debit INTEGER NOT NULL REFERENCES accounts (id),
    credit INTEGER NOT NULL REFERENCES accounts (id),
    amount INTEGER NOT NULL CHECK (amount > 0),
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    debit_balance_after INTEGER NOT NULL,
    credit_balance_after INTEGER NOT NULL
) STRICT;
CREATE TABLE account_transfers (
    account INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (account, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE holds (
    id TEXT PRIMARY KEY,
    debit TEXT NOT NULL,
    credit TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    remaining INTEGER NOT NULL CHECK (remaining >= 0),
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    credit_ceiling INTEGER,
    expires_at_ms INTEGER,
    usage TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX holds_due_by_debit ON holds (debit, expires_at_ms, id)
    WHERE expires_at_ms IS NOT NULL AND remaining > 0;
CREATE INDEX holds_due_by_credit ON holds (credit, expires_at_ms, id)
    WHERE expires_at_ms IS NOT NULL AND remaining > 0;
CREATE TABLE hold_changes (
    position INTEGER PRIMARY KEY,
    commit_position INTEGER NOT NULL,
    hold TEXT NOT NULL REFERENCES holds (id),
    change TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    remaining INTEGER NOT NULL CHECK (remaining >= 0)
) STRICT;
CREATE TABLE reversals (
    transfer TEXT PRIMARY KEY,
    amount INTEGER NOT NULL CHECK (amount > 0)
) STRICT, WITHOUT ROWID;
CREATE TABLE documents (
    number INTEGER PRIMARY KEY,
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    keys TEXT
) STRICT;
CREATE UNIQUE INDEX documents_of_sales ON documents (collection, id)
    WHERE +collection IN ('charge', 'tap_seen');
CREATE UNIQUE INDEX documents_of_others ON documents (collection, id)
    WHERE +collection NOT IN ('charge', 'tap_seen');
CREATE TABLE chip_keys (
    collection TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    id TEXT NOT NULL,
    document INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (collection, name, key, id),
    CHECK (collection = 'card' AND name = 'chip')
) STRICT, WITHOUT ROWID;
CREATE TABLE charge_keys (
    collection TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    id TEXT NOT NULL,
    document INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (collection, name, key, id),
    CHECK (collection = 'charge')
) STRICT, WITHOUT ROWID;
CREATE TABLE other_keys (
    collection TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    id TEXT NOT NULL,
    document INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (collection, name, key, id),
    CHECK (collection <> 'charge' AND (collection <> 'card' OR name <> 'chip'))
) STRICT, WITHOUT ROWID;
CREATE TABLE tap_claims (
    name TEXT PRIMARY KEY CHECK (name >= 'tap/' AND name < 'tap0'),
    claimed_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE other_claims (
    name TEXT PRIMARY KEY CHECK (name < 'tap/' OR name >= 'tap0'),
    claimed_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE claimed_from_counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL,
    CHECK (substr(CAST(name AS BLOB), -13) IS CAST('/claimed_from' AS BLOB))
) STRICT, WITHOUT ROWID;
CREATE TABLE other_counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL,
    CHECK (substr(CAST(name AS BLOB), -13) IS NOT CAST('/claimed_from' AS BLOB))
) STRICT, WITHOUT ROWID;
CREATE TABLE usage (
    subject TEXT NOT NULL,
    start_ms INTEGER NOT NULL,
    end_ms INTEGER NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (subject, start_ms)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE TABLE due (
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    due_at_ms INTEGER NOT NULL,
    leased_until_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, object)
) STRICT, WITHOUT ROWID;
CREATE INDEX due_by_time ON due (due_at_ms);
CREATE TABLE cursors (name TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE node_state (
    primary_namespace TEXT NOT NULL,
    secondary_namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (primary_namespace, secondary_namespace, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE moves (
    position INTEGER PRIMARY KEY,
    what TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE VIEW commands (scope, fingerprint, at_ms, answer) AS
    SELECT scope, fingerprint, at_ms,
           coalesce(answer, (SELECT body FROM events WHERE events.position = answer_event))
    FROM commits WHERE of_sale = 1 AND fingerprint IS NOT NULL
    UNION ALL SELECT scope, fingerprint, at_ms,
           coalesce(answer, (SELECT body FROM events WHERE events.position = answer_event))
    FROM commits WHERE of_sale = 0 AND scope IS NOT NULL AND fingerprint IS NOT NULL;
CREATE TRIGGER commands_moved INSTEAD OF INSERT ON commands BEGIN
    SELECT RAISE(ABORT, 'a command without a commit, or twice') WHERE NOT EXISTS (
        SELECT 1 FROM commits WHERE scope = new.scope AND of_sale = 1 AND at_ms = new.at_ms
            AND fingerprint IS NULL AND new.fingerprint IS NOT NULL
        UNION ALL
        SELECT 1 FROM commits WHERE scope = new.scope AND of_sale = 0 AND at_ms = new.at_ms
            AND fingerprint IS NULL AND new.fingerprint IS NOT NULL);
    UPDATE commits SET fingerprint = new.fingerprint, answer = new.answer
        WHERE scope = new.scope AND of_sale = 1;
    UPDATE commits SET fingerprint = new.fingerprint, answer = new.answer
        WHERE scope = new.scope AND of_sale = 0;
END;
CREATE VIEW document_keys (collection, name, key, id, document) AS
    SELECT collection, name, key, id, document FROM chip_keys
    UNION ALL SELECT collection, name, key, id, document FROM charge_keys
    UNION ALL SELECT collection, name, key, id, document FROM other_keys;
CREATE TRIGGER chip_keys_moved INSTEAD OF INSERT ON document_keys
    WHEN new.collection = 'card' AND new.name = 'chip' BEGIN
    INSERT INTO chip_keys (collection, name, key, id)
        VALUES (new.collection, new.name, new.key, new.id);
END;
CREATE TRIGGER charge_keys_moved INSTEAD OF INSERT ON document_keys
    WHEN new.collection = 'charge' BEGIN
    INSERT INTO charge_keys (collection, name, key, id)
        VALUES (new.collection, new.name, new.key, new.id);
END;
CREATE TRIGGER other_keys_moved INSTEAD OF INSERT ON document_keys
    WHEN (new.collection = 'charge' OR (new.collection = 'card' AND new.name = 'chip'))
        IS NOT TRUE BEGIN
    INSERT INTO other_keys (collection, name, key, id)
        VALUES (new.collection, new.name, new.key, new.id);
END;
CREATE VIEW claims (name, claimed_by) AS
    SELECT name, claimed_by FROM tap_claims
    UNION ALL SELECT name, claimed_by FROM other_claims;
CREATE TRIGGER tap_claims_moved INSTEAD OF INSERT ON claims
    WHEN new.name >= 'tap/' AND new.name < 'tap0' BEGIN
    INSERT INTO tap_claims VALUES (new.name, new.claimed_by);
END;
CREATE TRIGGER other_claims_moved INSTEAD OF INSERT ON claims
    WHEN (new.name >= 'tap/' AND new.name < 'tap0') IS NOT TRUE BEGIN
    INSERT INTO other_claims VALUES (new.name, new.claimed_by);
END;
CREATE VIEW counters (name, value) AS
    SELECT name, value FROM claimed_from_counters
    UNION ALL SELECT name, value FROM other_counters;
CREATE TRIGGER claimed_from_counters_moved INSTEAD OF INSERT ON counters
    WHEN substr(CAST(new.name AS BLOB), -13) IS CAST('/claimed_from' AS BLOB) BEGIN
    INSERT INTO claimed_from_counters VALUES (new.name, new.value);
END;
CREATE TRIGGER other_counters_moved INSTEAD OF INSERT ON counters
    WHEN substr(CAST(new.name AS BLOB), -13) IS NOT CAST('/claimed_from' AS BLOB) BEGIN
    INSERT INTO other_counters VALUES (new.name, new.value);
END;
";

/// What leads from each version of the schema to the next. They are never changed.
const MIGRATIONS: [&str; 3] = [
    // 2: what became of the store as a whole, for ever.
    "CREATE TABLE moves (
        position INTEGER PRIMARY KEY,
        what TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT;",
    // 3: fewer and flatter trees.
    concat!(include_str!("schema_3.sql"), include_str!("derived_3.sql")),
    // 4: trees for sales alone.
    include_str!("schema_4.sql"),
];

/// Fills in what follows from other rows and is not moved with them: see the schema's third
/// version.
pub(super) const DERIVED: &str = include_str!("derived.sql");

/// Finds what of that does not follow.
pub(super) const DERIVED_WRONGLY: &str = include_str!("derived_wrongly.sql");

/// Makes the tables in a new file, or checks that an old one is ours and sound. Answers why what a
/// process that ended left in the log could not be flushed, where it could not.
pub(super) fn prepare(
    connection: &mut Connection,
    file: &Path,
    was_used: bool,
) -> Result<Option<StoreError>, StoreError> {
    log::check_not_orphaned(file)?;
    // A connection that ends writes the log back: into a file that may turn out not to be ours.
    let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection
        .set_db_config(keep_log, true)
        .map_err(sql_error)?;
    let unflushed = check_or_create(connection, file, was_used)?;
    connection
        .set_db_config(keep_log, false)
        .map_err(sql_error)?;
    Ok(unflushed)
}

fn check_or_create(
    connection: &mut Connection,
    file: &Path,
    was_used: bool,
) -> Result<Option<StoreError>, StoreError> {
    let application_id = number(connection, "PRAGMA application_id")?;
    let found = number(connection, "PRAGMA user_version")?;
    // Asked after the first read, which undoes what a crash left half-made. SQLite itself would
    // take the first bytes of a lost database for an empty one.
    if fs::metadata(file).map_err(io_error)?.len() == 0 {
        if was_used {
            let reason = "the file is empty, and was not before".to_owned();
            return Err(StoreError::Corrupt { reason });
        }
        return create(connection).map(|()| None);
    }
    if application_id != APPLICATION_ID {
        let reason = "the file belongs to another program".to_owned();
        return Err(StoreError::Corrupt { reason });
    }
    if found > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema {
            found,
            known: SCHEMA_VERSION,
        });
    }
    log::check_pair(connection, file)?;
    check_length(connection, file)?;
    if fs::metadata(file).map_err(io_error)?.len() <= CHECKED_WHOLE_BYTES {
        check_pages(connection)?;
    } else {
        check_ends(connection)?;
    }
    let unflushed = log::settle(connection, file).err();
    if found != SCHEMA_VERSION {
        // Nothing is to stand behind what may be lost.
        if let Some(error) = unflushed {
            return Err(error);
        }
        migrate(connection, file, found)?;
    }
    Ok(unflushed)
}

fn check_pages(connection: &Connection) -> Result<(), StoreError> {
    let verdict: Option<String> = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .optional()
        .map_err(sql_error)?;
    match verdict {
        Some(verdict) if verdict == "ok" => Ok(()),
        Some(reason) => Err(StoreError::Corrupt { reason }),
        None => Err(StoreError::Corrupt {
            reason: "the check gave no answer".into(),
        }),
    }
}

/// Reads the first and the last row of every table: the way down its tree on both sides, and with
/// the last rows what was written last.
fn check_ends(connection: &Connection) -> Result<(), StoreError> {
    let names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
    let mut names = connection.prepare(names).map_err(sql_error)?;
    let names = names.query_map([], |row| row.get(0)).map_err(sql_error)?;
    let names: Vec<String> = names.collect::<Result<_, _>>().map_err(sql_error)?;
    for name in names {
        let key = "SELECT group_concat(name || ' DESC', ', ')
                   FROM (SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk)";
        let key: String = connection
            .query_row(key, [&name], |row| row.get(0))
            .map_err(sql_error)?;
        let table = name.replace('"', "\"\"");
        for order in [key.replace(" DESC", ""), key] {
            let sql = format!("SELECT * FROM \"{table}\" ORDER BY {order} LIMIT 1");
            let mut statement = connection.prepare(&sql).map_err(sql_error)?;
            let columns = statement.column_count();
            let read = statement.query_row([], |row| {
                (0..columns).try_for_each(|column| row.get_ref(column).map(drop))
            });
            read.optional().map_err(sql_error)?;
        }
    }
    Ok(())
}

/// Brings an older file up to this version: first a copy of it is written beside it, as
/// `<file>.schema-<version>`; then all steps are one transaction.
fn migrate(connection: &mut Connection, file: &Path, found: i64) -> Result<(), StoreError> {
    let done = usize::try_from(found.saturating_sub(1)).ok();
    let Some(missing) = done.and_then(|done| MIGRATIONS.get(done..)) else {
        let reason = format!("there never was a schema {found}");
        return Err(StoreError::Corrupt { reason });
    };
    copy_before(connection, file, found)?;
    // A table that others refer to is made anew under its name. It is switched on by `harden`.
    connection
        .pragma_update(None, "foreign_keys", "OFF")
        .map_err(sql_error)?;
    let begins_log = !log::is_there(file);
    let transaction = connection.transaction().map_err(sql_error)?;
    for step in missing {
        transaction.execute_batch(step).map_err(sql_error)?;
    }
    if begins_log {
        log::change_number(&transaction).map_err(sql_error)?;
    }
    transaction
        .pragma_update(None, "user_version", SCHEMA_VERSION)
        .map_err(sql_error)?;
    transaction.commit().map_err(sql_error)
}

/// The whole file as it is, with what the node knows of its channels: put back at once it is the
/// newest there is, and later the number beside the file says that it is not.
fn copy_before(connection: &Connection, file: &Path, found: i64) -> Result<(), StoreError> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".schema-{found}"));
    let copy = PathBuf::from(name);
    let mut name = copy.clone().into_os_string();
    name.push(".unfinished");
    let unfinished = PathBuf::from(name);
    drop(fs::remove_file(&unfinished));
    let copied = connection
        .execute("VACUUM INTO ?1", [unfinished.to_string_lossy()])
        .map_err(sql_error)
        .and_then(|_| log::set_apart(&unfinished))
        .and_then(|()| fs::File::open(&unfinished).map_err(io_error))
        .and_then(|copied| copied.sync_all().map_err(io_error))
        .and_then(|()| fs::rename(&unfinished, &copy).map_err(io_error));
    if copied.is_err() {
        drop(fs::remove_file(&unfinished));
    }
    seat::flush_names(&copy);
    copied
}

/// A page that is cut short reads as if it ended in zeros. While there is a log, the file may be
/// behind it.
fn check_length(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    if log::is_there(file) {
        return Ok(());
    }
    let pages = number(connection, "PRAGMA page_count")?;
    let expected = pages.saturating_mul(number(connection, "PRAGMA page_size")?);
    let length = fs::metadata(file).map_err(io_error)?.len();
    if i64::try_from(length) == Ok(expected) {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        reason: format!("the file has {length} bytes of {expected}"),
    })
}

/// Makes the tables in a file that has none.
pub(super) fn create(connection: &mut Connection) -> Result<(), StoreError> {
    connection
        .pragma_update(None, "page_size", PAGE_BYTES)
        .map_err(sql_error)?;
    let transaction = connection.transaction().map_err(sql_error)?;
    transaction.execute_batch(TABLES).map_err(sql_error)?;
    transaction
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(sql_error)?;
    transaction
        .pragma_update(None, "user_version", SCHEMA_VERSION)
        .map_err(sql_error)?;
    transaction.commit().map_err(sql_error)
}

/// Writes what stands in every file, so that there is something to be flushed.
pub(super) fn write_again(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)
}

fn number(connection: &Connection, sql: &str) -> Result<i64, StoreError> {
    connection
        .query_row(sql, [], |row| row.get(0))
        .map_err(sql_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With so many rows that a table's tree has inner pages.
    fn tables() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        create(&mut connection).unwrap();
        let rows = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number
                                                  WHERE n < 2000)
                    INSERT INTO events SELECT n, n, 'kind', 'object', '{}' FROM number";
        connection.execute_batch(rows).unwrap();
        connection
    }

    #[test]
    fn the_ends_of_sound_tables_are_sound() {
        check_ends(&tables()).unwrap();
    }

    #[test]
    fn a_damaged_end_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("books.db");
        tables()
            .execute("VACUUM INTO ?1", [file.to_str().unwrap()])
            .unwrap();
        let whole = fs::read(&file).unwrap();
        let (mut found, mut pages) = (0, 0);
        for page in 1..whole.len() / 2_048 {
            let mut bytes = whole.clone();
            bytes[page * 2_048..][..8].fill(0xff);
            fs::write(&file, &bytes).unwrap();
            let connection = Connection::open(&file).unwrap();
            pages += 1;
            match check_ends(&connection) {
                Ok(()) => {}
                Err(StoreError::Corrupt { .. }) => found += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        println!("{found} of {pages} pages are at an end of a table");
        // The first and the last page of the rows, their root, and those of the empty tables; not
        // the pages in between, nor those of indices.
        assert!(found >= 15 && found < pages);
    }
}
