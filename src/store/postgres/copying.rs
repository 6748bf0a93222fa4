//! The tables as they were before a migration, kept in a schema of their own.

use deadpool_postgres::Object;

use super::connection::{Failed, not_done};
use crate::store::StoreError;
use crate::store::moving::is_channel_state;

/// How long the schema's own name may be in that of its copy: names have 63 bytes.
const NAME: usize = 40;
/// How many copies of one version there may be, of databases that were put back and migrated again.
const MOST: usize = 100;

/// Copies all tables of `schema`, which has the version `found`, within the transaction that
/// migrates them. What the node knows of its channels is not copied: it would be an older state.
///
/// The copy is in the schema `<schema>_schema_<version>`, or one with a further number where there
/// are tables in that already; one that was made beforehand is used.
pub(super) async fn copy_before(
    connection: &Object,
    schema: &str,
    found: i64,
) -> Result<(), Failed> {
    // Nobody commits meanwhile: what is read table by table is the state of one moment.
    let lock = format!("SELECT 1 FROM {schema}.head FOR UPDATE");
    connection.batch_execute(&lock).await.map_err(not_done)?;
    let copy = empty_schema(connection, schema, found).await?;
    for table in tables_of(connection, schema).await? {
        let filter = if table == "node_state" {
            " WITH NO DATA"
        } else {
            ""
        };
        let sql = format!("CREATE TABLE {copy}.{table} AS TABLE {schema}.{table}{filter}");
        connection.batch_execute(&sql).await.map_err(not_done)?;
    }
    copy_node_state(connection, schema, &copy).await
}

async fn copy_node_state(connection: &Object, schema: &str, copy: &str) -> Result<(), Failed> {
    let sql =
        format!("SELECT primary_namespace, secondary_namespace, key FROM {schema}.node_state");
    let insert = format!(
        "INSERT INTO {copy}.node_state SELECT * FROM {schema}.node_state
         WHERE primary_namespace = $1 AND secondary_namespace = $2 AND key = $3"
    );
    for row in connection.query(&sql, &[]).await.map_err(not_done)? {
        let part = |at: usize| row.try_get::<_, String>(at).map_err(not_done);
        let (primary, secondary, key) = (part(0)?, part(1)?, part(2)?);
        if !is_channel_state(&primary, &secondary, &key) {
            let inserted = connection
                .execute(&insert, &[&primary, &secondary, &key])
                .await;
            inserted.map_err(not_done)?;
        }
    }
    Ok(())
}

/// The names of its tables, which are the migrations' own.
async fn tables_of(connection: &Object, schema: &str) -> Result<Vec<String>, Failed> {
    let sql = "SELECT table_name::text FROM information_schema.tables
               WHERE table_schema = $1 AND table_type = 'BASE TABLE' ORDER BY 1";
    let rows = connection.query(sql, &[&schema]).await.map_err(not_done)?;
    rows.iter()
        .map(|row| row.try_get(0).map_err(not_done))
        .collect()
}

async fn empty_schema(connection: &Object, schema: &str, found: i64) -> Result<String, Failed> {
    let own: String = schema.chars().take(NAME).collect();
    for number in 1..=MOST {
        let name = match number {
            1 => format!("{own}_schema_{found}"),
            _ => format!("{own}_schema_{found}_{number}"),
        };
        let sql = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1),
                          EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n
                                  ON n.oid = c.relnamespace WHERE n.nspname = $1)";
        let row = connection.query_one(sql, &[&name]).await;
        let row = row.map_err(not_done)?;
        let is_there: bool = row.try_get(0).map_err(not_done)?;
        let has_tables: bool = row.try_get(1).map_err(not_done)?;
        if has_tables {
            continue;
        }
        if !is_there {
            let create = format!("CREATE SCHEMA {name}");
            connection.batch_execute(&create).await.map_err(not_done)?;
        }
        return Ok(name);
    }
    let reason = format!("there are {MOST} copies of {schema} already");
    Err(StoreError::Io { reason }.into())
}
