//! What SQLite does for us, seen through its own counters: every connection of this process tells
//! of each statement when it ends (<https://sqlite.org/c3ref/trace_v2.html>).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ops::AddAssign;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, ffi};

/// What may be scanned: what a subquery with a limit has found, rows that stand in the statement
/// itself, the table of how often the books were moved, and what the tables are.
const SMALL: [&str; 5] = [
    "(subquery",
    "CONSTANT",
    "moves",
    "sqlite_schema",
    "pragma_table_info",
];

/// The work of some statements.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Instructions of SQLite's virtual machine.
    pub steps: i64,
    /// Different pages, each counted once for every connection that needed it.
    pub pages: i64,
    /// How often a page was asked for.
    pub visits: i64,
    /// Rows that were stepped over in a scan of a whole table.
    pub scanned: i64,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.pages += other.pages;
        self.visits += other.visits;
        self.scanned += other.scanned;
    }
}

#[derive(Default)]
struct Seen {
    work: Work,
    statements: BTreeSet<String>,
    /// What each statement needed since the last call of [`by_statement`].
    works: BTreeMap<String, Work>,
    /// Connections that have forgotten their pages since the last call of [`take`].
    cold: HashSet<usize>,
}

static SEEN: Mutex<Option<Seen>> = Mutex::new(None);

fn seen() -> MutexGuard<'static, Option<Seen>> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on every new connection is watched.
pub fn watch_new_connections() {
    *seen() = Some(Seen::default());
    // SAFETY: the entry point has the signature that SQLite asks for and lives as long as we do.
    let registered = unsafe { ffi::sqlite3_auto_extension(Some(opened)) };
    assert_eq!(registered, ffi::SQLITE_OK, "SQLite cannot be watched");
}

/// What was done since the last call. From now on each connection begins with an empty cache, so
/// that every page it needs is missed once.
pub fn take() -> Work {
    let mut seen = seen();
    let seen = seen.get_or_insert_default();
    seen.cold.clear();
    std::mem::take(&mut seen.work)
}

/// What each statement needed since the last call.
pub fn by_statement() -> BTreeMap<String, Work> {
    std::mem::take(&mut seen().get_or_insert_default().works)
}

/// Forgets the statements that have run.
pub fn forget_statements() {
    seen().get_or_insert_default().statements.clear();
}

/// Every statement that has run since.
pub fn statements() -> BTreeSet<String> {
    seen().get_or_insert_default().statements.clone()
}

/// Whether no statement that has run plans to read a whole table.
pub fn plans_are_well(file: &Path) -> rusqlite::Result<bool> {
    let connection = Connection::open(file)?;
    let (mut asked, mut all_well) = (0, true);
    for sql in statements() {
        let Ok(mut plan) = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")) else {
            continue;
        };
        asked += 1;
        let lines = plan.raw_query().mapped(|row| row.get::<_, String>(3));
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        // The row at an end of a table, as every opening reads it: a scan that ends with its first
        // step, since nothing is sorted and no row is left out.
        if lines.len() == 1 && sql.ends_with(" LIMIT 1") && !sql.contains(" WHERE ") {
            continue;
        }
        for line in lines {
            let what = line.strip_prefix("SCAN ");
            let is_small =
                what.is_none_or(|what| SMALL.iter().any(|small| what.starts_with(small)));
            if !is_small {
                all_well = false;
                println!("  {line}: {sql}");
            }
        }
    }
    println!("\n{asked} statements, no scan in any plan: {all_well}");
    Ok(all_well)
}

unsafe extern "C" fn opened(
    connection: *mut ffi::sqlite3,
    _: *mut *const c_char,
    _: *const ffi::sqlite3_api_routines,
) -> c_int {
    let kinds = (ffi::SQLITE_TRACE_STMT | ffi::SQLITE_TRACE_PROFILE) as c_uint;
    // SAFETY: the connection was opened just now; the callback needs no context.
    unsafe { ffi::sqlite3_trace_v2(connection, kinds, Some(traced), std::ptr::null_mut()) }
}

/// Called on the connection's own thread, when a statement begins and when it ends.
unsafe extern "C" fn traced(
    kind: c_uint,
    _: *mut c_void,
    statement: *mut c_void,
    _: *mut c_void,
) -> c_int {
    let statement = statement.cast::<ffi::sqlite3_stmt>();
    let mut seen = seen();
    let seen = seen.get_or_insert_default();
    // SAFETY: for these kinds of call it is a statement, of the connection whose thread this is.
    unsafe {
        let connection = ffi::sqlite3_db_handle(statement);
        if kind == ffi::SQLITE_TRACE_STMT as c_uint {
            if seen.cold.insert(connection as usize) {
                ffi::sqlite3_db_release_memory(connection);
                page_counts(connection);
            }
            return ffi::SQLITE_OK;
        }
        let counted = |what| i64::from(ffi::sqlite3_stmt_status(statement, what, 1));
        let (hits, misses) = page_counts(connection);
        let work = Work {
            steps: counted(ffi::SQLITE_STMTSTATUS_VM_STEP),
            pages: misses,
            visits: hits + misses,
            scanned: counted(ffi::SQLITE_STMTSTATUS_FULLSCAN_STEP),
        };
        seen.work += work;
        let sql = CStr::from_ptr(ffi::sqlite3_sql(statement)).to_string_lossy();
        *seen.works.entry(sql.clone().into_owned()).or_default() += work;
        if !seen.statements.contains(sql.as_ref()) {
            seen.statements.insert(sql.into_owned());
        }
    }
    ffi::SQLITE_OK
}

/// How many pages were found in the cache and how many were not, since the last call.
unsafe fn page_counts(connection: *mut ffi::sqlite3) -> (i64, i64) {
    let count = |what| {
        let (mut now, mut most) = (0, 0);
        // SAFETY: the caller's connection, and two places for the answer.
        unsafe { ffi::sqlite3_db_status(connection, what, &raw mut now, &raw mut most, 1) };
        i64::from(now)
    };
    (
        count(ffi::SQLITE_DBSTATUS_CACHE_HIT),
        count(ffi::SQLITE_DBSTATUS_CACHE_MISS),
    )
}
