//! The tables, and how they are made.

use deadpool_postgres::Object;

use super::connection::{Failed, not_done};
use super::copying::copy_before;
use crate::store::StoreError;

/// The schema this version writes.
pub(super) const SCHEMA_VERSION: i64 = 2;

/// What leads from each version of the schema to the next; the first makes it.
const MIGRATIONS: [&str; 2] = [FIRST, SECOND];

/// What became of the store as a whole, for ever; and whose chain goes on, which after a move is
/// that of the store before.
const SECOND: &str = r#"
CREATE TABLE moves (position bigserial PRIMARY KEY, what text NOT NULL, detail text NOT NULL);
ALTER TABLE head ADD COLUMN chain_writer text COLLATE "C" NOT NULL DEFAULT 'postgres';
"#;

// Text is compared by its bytes, as everywhere in the library. There are no foreign keys: rows
// are written by `ledger::apply` alone, and checking them again costs a fifth of the speed.
const FIRST: &str = r#"
-- One row. Whoever commits to the books locks it first, so commits have one order, and so have
-- the positions, which are given out from here.
CREATE TABLE head (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    schema_version bigint NOT NULL,
    last_commit_ms bigint NOT NULL,
    commit_position bigint NOT NULL,
    transfer_position bigint NOT NULL,
    hold_change_position bigint NOT NULL,
    event_position bigint NOT NULL,
    account_id bigint NOT NULL,
    chain_sequence bigint NOT NULL,
    chain_hash bytea NOT NULL
) WITH (fillfactor = 10);
CREATE TABLE settings (name text COLLATE "C" PRIMARY KEY, value bigint NOT NULL);
CREATE TABLE commits (
    position bigint PRIMARY KEY,
    batch text COLLATE "C" NOT NULL UNIQUE,
    at_ms bigint NOT NULL,
    scope text COLLATE "C",
    writer text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);
CREATE TABLE commands (
    scope text COLLATE "C" PRIMARY KEY,
    fingerprint text COLLATE "C" NOT NULL,
    at_ms bigint NOT NULL,
    answer json
);
-- Lifetime totals can outgrow 64 bits; `balance` is for people.
CREATE TABLE accounts (
    id bigint PRIMARY KEY,
    account text COLLATE "C" NOT NULL UNIQUE,
    debits_posted numeric(39) NOT NULL,
    credits_posted numeric(39) NOT NULL,
    debits_pending bigint NOT NULL,
    credits_pending bigint NOT NULL,
    balance bigint
) WITH (fillfactor = 60);
CREATE TABLE transfers (
    position bigint PRIMARY KEY,
    commit_position bigint NOT NULL,
    id text COLLATE "C" NOT NULL UNIQUE,
    follows text COLLATE "C",
    at_ms bigint NOT NULL,
    debit bigint NOT NULL,
    credit bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    kind text COLLATE "C" NOT NULL,
    reference text COLLATE "C" NOT NULL,
    debit_balance_after bigint NOT NULL,
    credit_balance_after bigint NOT NULL
);
CREATE INDEX transfers_by_debit ON transfers (debit, position);
CREATE INDEX transfers_by_credit ON transfers (credit, position);
CREATE TABLE holds (
    id text COLLATE "C" PRIMARY KEY,
    debit text COLLATE "C" NOT NULL,
    credit text COLLATE "C" NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    remaining bigint NOT NULL CHECK (remaining >= 0),
    kind text COLLATE "C" NOT NULL,
    reference text COLLATE "C" NOT NULL,
    credit_ceiling bigint,
    expires_at_ms bigint,
    usage json
) WITH (fillfactor = 80);
CREATE INDEX holds_due_by_debit ON holds (debit, expires_at_ms, id)
    WHERE expires_at_ms IS NOT NULL AND remaining > 0;
CREATE INDEX holds_due_by_credit ON holds (credit, expires_at_ms, id)
    WHERE expires_at_ms IS NOT NULL AND remaining > 0;
CREATE TABLE hold_changes (
    position bigint PRIMARY KEY,
    commit_position bigint NOT NULL,
    hold text COLLATE "C" NOT NULL,
    change text COLLATE "C" NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    remaining bigint NOT NULL CHECK (remaining >= 0)
);
CREATE TABLE reversals (
    transfer text COLLATE "C" PRIMARY KEY,
    amount bigint NOT NULL CHECK (amount > 0)
);
CREATE TABLE documents (
    collection text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    body json NOT NULL,
    PRIMARY KEY (collection, id)
) WITH (fillfactor = 80);
CREATE TABLE document_keys (
    collection text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    PRIMARY KEY (collection, name, key, id)
);
CREATE INDEX document_keys_by_document ON document_keys (collection, id);
CREATE TABLE claims (
    name text COLLATE "C" PRIMARY KEY,
    claimed_by text COLLATE "C" NOT NULL
);
CREATE TABLE counters (
    name text COLLATE "C" PRIMARY KEY,
    value bigint NOT NULL
) WITH (fillfactor = 80);
CREATE TABLE usage (
    subject text COLLATE "C" NOT NULL,
    start_ms bigint NOT NULL,
    end_ms bigint NOT NULL,
    used bigint NOT NULL,
    PRIMARY KEY (subject, start_ms)
) WITH (fillfactor = 80);
CREATE TABLE events (
    position bigint PRIMARY KEY,
    at_ms bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    object text COLLATE "C" NOT NULL,
    body json NOT NULL
);
CREATE TABLE due (
    kind text COLLATE "C" NOT NULL,
    object text COLLATE "C" NOT NULL,
    due_at_ms bigint NOT NULL,
    leased_until_ms bigint NOT NULL,
    PRIMARY KEY (kind, object)
);
CREATE INDEX due_by_time ON due (due_at_ms, kind, object);
CREATE TABLE cursors (name text COLLATE "C" PRIMARY KEY, position bigint NOT NULL);
CREATE TABLE node_state (
    primary_namespace text COLLATE "C" NOT NULL,
    secondary_namespace text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (primary_namespace, secondary_namespace, key)
);
INSERT INTO head (schema_version, last_commit_ms, commit_position, transfer_position,
                  hold_change_position, event_position, account_id, chain_sequence, chain_hash)
VALUES (0, 0, 0, 0, 0, 0, 0, 0, decode(repeat('00', 32), 'hex'));
"#;

/// Makes the tables, or brings older ones up to this version, one instance at a time.
pub(super) async fn prepare(connection: &Object, schema: &str) -> Result<(), Failed> {
    let encoding = connection
        .query_one("SELECT current_setting('server_encoding')", &[])
        .await
        .and_then(|row| row.try_get::<_, String>(0))
        .map_err(not_done)?;
    if encoding != "UTF8" {
        let reason = format!("the database's encoding is {encoding}, not UTF8");
        return Err(StoreError::Misconfigured { reason }.into());
    }
    connection
        .batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        .await
        .map_err(not_done)?;
    // It ends with the transaction, and is the same for every instance.
    let lock = format!("flashkit schema {schema}");
    connection
        .execute(
            "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
            &[&lock],
        )
        .await
        .map_err(not_done)?;
    match migrate(connection, schema).await {
        Ok(()) => connection.batch_execute("COMMIT").await.map_err(not_done),
        Err(error) => {
            drop(connection.batch_execute("ROLLBACK").await);
            Err(error)
        }
    }
}

/// What the head says once the books were handed over, less the version of its tables. More than
/// any version: so every group of every instance, also of an older program, finds under the head's
/// lock that it may not commit.
const HANDED_OVER: i64 = i64::MAX - 1_000_000;

/// In the transaction that hands the books over.
pub(super) const HAND_OVER: &str =
    "UPDATE head SET schema_version = 9223372036853775807 + schema_version";

/// Whether that was done.
pub(super) const IS_HANDED_OVER: &str = "SELECT schema_version > 9223372036853775807 FROM head";

/// The version of the tables, and whether the books were handed over, by what the head says.
pub(super) fn version(found: i64) -> (i64, bool) {
    let is_handed_over = found > HANDED_OVER;
    let version = if is_handed_over {
        found - HANDED_OVER
    } else {
        found
    };
    (version, is_handed_over)
}

async fn migrate(connection: &Object, schema: &str) -> Result<(), Failed> {
    let Some(found) = found_version(connection, schema).await? else {
        return run(connection, 0).await;
    };
    let (found, is_handed_over) = version(found);
    if found > SCHEMA_VERSION {
        let known = SCHEMA_VERSION;
        return Err(StoreError::NewerSchema { found, known }.into());
    }
    if found < SCHEMA_VERSION {
        copy_before(connection, schema, found).await?;
    }
    run(connection, found).await?;
    if is_handed_over && found < SCHEMA_VERSION {
        connection
            .batch_execute(HAND_OVER)
            .await
            .map_err(not_done)?;
    }
    Ok(())
}

/// The version of the tables; `None` where there are none, which makes the schema.
async fn found_version(connection: &Object, schema: &str) -> Result<Option<i64>, Failed> {
    let tables = connection
        .query(
            "SELECT table_name::text FROM information_schema.tables WHERE table_schema = $1",
            &[&schema],
        )
        .await
        .map_err(not_done)?;
    let is_head = |row: &tokio_postgres::Row| {
        row.try_get::<_, String>(0)
            .is_ok_and(|table| table == "head")
    };
    if tables.iter().any(is_head) {
        let row = connection
            .query_one("SELECT schema_version FROM head", &[])
            .await
            .map_err(not_done)?;
        return row.try_get(0).map(Some).map_err(not_done);
    }
    if !tables.is_empty() {
        let reason = format!("the schema {schema} belongs to another program");
        return Err(StoreError::Corrupt { reason }.into());
    }
    // The name was checked. Whoever may not make schemas has had one made for them.
    let exists = connection
        .query_opt("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&schema])
        .await
        .map_err(not_done)?;
    if exists.is_none() {
        let create = format!("CREATE SCHEMA {schema}");
        connection.batch_execute(&create).await.map_err(not_done)?;
    }
    Ok(None)
}

async fn run(connection: &Object, found: i64) -> Result<(), Failed> {
    let done = usize::try_from(found).unwrap_or(0);
    for migration in MIGRATIONS.iter().skip(done) {
        connection
            .batch_execute(migration)
            .await
            .map_err(not_done)?;
    }
    if found < SCHEMA_VERSION {
        connection
            .execute("UPDATE head SET schema_version = $1", &[&SCHEMA_VERSION])
            .await
            .map_err(not_done)?;
    }
    Ok(())
}
