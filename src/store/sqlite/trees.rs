//! Which tree a name stands in.
//!
//! All that stands in a tree makes it deep. What a sale brings and what it looks for is little, so
//! it stands in trees of its own, and not under what a million cards have brought. The tables say
//! the same, in the conditions of their indexes and in their checks; a name that were looked for in
//! another tree than it stands in would not be found.

use crate::ledger::{Account, AccountKind};

/// Whose names a tree has, as an index of part of a table says it: SQLite takes such an index for
/// a statement that says the same in the same words. Without the `+` it would go through a list
/// by its members, and not in the order of names.
macro_rules! condition {
    (sale_documents) => {
        "+collection IN ('charge', 'tap_seen')"
    };
    (other_documents) => {
        "+collection NOT IN ('charge', 'tap_seen')"
    };
    (points) => {
        "substr(account, 1, 15) = 'points_balance/'"
    };
    (other_accounts) => {
        "substr(account, 1, 15) <> 'points_balance/'"
    };
    (sale_commits) => {
        "of_sale = 1"
    };
    (other_commits) => {
        "of_sale = 0"
    };
}

/// What the scope of a sale's command has in it. The column of the table that the conditions speak
/// of is reckoned from the same.
const SALES: [&str; 3] = ["/cards.charge/", "/cards.authorize/", "/cards.capture/"];

/// The greatest batch of all, which stands at the end of one of two trees.
pub(super) const GREATEST_BATCH: &str = concat!(
    "SELECT max(batch) FROM (SELECT max(batch) AS batch FROM commits WHERE ",
    condition!(sale_commits),
    " UNION ALL SELECT max(batch) FROM commits WHERE ",
    condition!(other_commits),
    ")"
);

/// All commits, to find one by its batch.
pub(super) const COMMITS: &str = concat!(
    "(SELECT * FROM commits WHERE ",
    condition!(sale_commits),
    " UNION ALL SELECT * FROM commits WHERE ",
    condition!(other_commits),
    ")"
);

/// All documents, in the order of their names where that is asked for.
pub(super) const DOCUMENTS: &str = concat!(
    "(SELECT * FROM documents WHERE ",
    condition!(sale_documents),
    " UNION ALL SELECT * FROM documents WHERE ",
    condition!(other_documents),
    ")"
);

/// All accounts, in the order of their names where that is asked for.
pub(super) const ACCOUNTS: &str = concat!(
    "(SELECT * FROM accounts WHERE ",
    condition!(points),
    " UNION ALL SELECT * FROM accounts WHERE ",
    condition!(other_accounts),
    ")"
);

/// Finds a document by its collection and its id, the first two values of the statement.
pub(super) fn document_is(collection: &str) -> &'static str {
    match collection {
        "charge" | "tap_seen" => {
            concat!(
                "collection = ?1 AND id = ?2 AND ",
                condition!(sale_documents)
            )
        }
        _ => concat!(
            "collection = ?1 AND id = ?2 AND ",
            condition!(other_documents)
        ),
    }
}

/// Finds an account by its name, the first value of the statement.
pub(super) fn account_is(account: &Account) -> &'static str {
    if account.kind() == AccountKind::PointsBalance {
        concat!("account = ?1 AND ", condition!(points))
    } else {
        concat!("account = ?1 AND ", condition!(other_accounts))
    }
}

/// Finds the commit of a command by its scope, the first value of the statement.
pub(super) fn command_is(scope: &str) -> &'static str {
    if SALES.iter().any(|operation| scope.contains(operation)) {
        concat!("scope = ?1 AND ", condition!(sale_commits))
    } else {
        concat!("scope = ?1 AND ", condition!(other_commits))
    }
}

/// The table of the keys under which documents are found.
pub(super) fn keys(collection: &str, name: &str) -> &'static str {
    match (collection, name) {
        ("card", "chip") => "chip_keys",
        ("charge", _) => "charge_keys",
        _ => "other_keys",
    }
}

/// The table of claims.
pub(super) fn claims(name: &str) -> &'static str {
    if name.starts_with("tap/") {
        "tap_claims"
    } else {
        "other_claims"
    }
}

/// The table of counters. Where the claims of a card begin is asked only for taps taken offline.
pub(super) fn counters(name: &str) -> &'static str {
    if name.ends_with("/claimed_from") {
        "claimed_from_counters"
    } else {
        "other_counters"
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::store::sqlite::schema;

    fn tables() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::create(&mut connection).unwrap();
        connection
    }

    fn count(connection: &Connection, sql: &str, of: &[&str]) -> i64 {
        let of = rusqlite::params_from_iter(of);
        connection.query_row(sql, of, |row| row.get(0)).unwrap()
    }

    fn plan(connection: &Connection, sql: &str) -> Vec<String> {
        let mut plan = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let lines = plan.raw_query().mapped(|row| row.get::<_, String>(3));
        lines.collect::<Result<_, _>>().unwrap()
    }

    /// The statement goes down the tree whose name begins like this, and reads nothing else.
    fn goes_down(connection: &Connection, sql: &str, tree: &str) {
        let lines = plan(connection, sql);
        assert!(lines.len() == 1 && lines[0].contains(tree), "{lines:?}");
    }

    #[test]
    fn documents_and_accounts_are_looked_for_where_they_stand() {
        let connection = tables();
        for collection in ["charge", "tap_seen", "card", "charges", "Charge", "tap"] {
            let put =
                "INSERT INTO documents (collection, id, version, body) VALUES (?1, 'x', 1, '1')";
            connection.execute(put, [collection]).unwrap();
            assert!(connection.execute(put, [collection]).is_err());
            let sql = format!(
                "SELECT count(*) FROM documents WHERE {}",
                document_is(collection)
            );
            assert_eq!(count(&connection, &sql, &[collection, "x"]), 1);
            goes_down(&connection, &sql, "documents_of_");
        }
        let program = "prog_00000000000070008000000000000001";
        for account in [
            format!("points_balance/card_00000000000070008000000000000001/points:{program}"),
            format!("points_issued/{program}/points:{program}"),
            "card_balance/card_00000000000070008000000000000001/BTC".to_owned(),
            "node_channels/operator/BTC".to_owned(),
        ] {
            let put = "INSERT INTO accounts (account, debits_posted, credits_posted,
                           debits_pending, credits_pending) VALUES (?1, '0', '0', 0, 0)";
            connection.execute(put, [&account]).unwrap();
            assert!(connection.execute(put, [&account]).is_err());
            let is = account_is(&account.parse().unwrap());
            let sql = format!("SELECT count(*) FROM accounts WHERE {is}");
            assert_eq!(count(&connection, &sql, &[&account]), 1);
            goes_down(&connection, &sql, "accounts_of_");
        }
    }

    /// A row that is moved in is put where it is looked for, and no other place takes it.
    #[test]
    fn a_name_stands_in_one_tree_and_is_looked_for_there() {
        let connection = tables();
        type Tree = fn(&str) -> &'static str;
        let all: [(&str, &str, Tree, [&str; 2]); 2] = [
            (
                "claims",
                "claimed_by",
                claims,
                ["tap_claims", "other_claims"],
            ),
            (
                "counters",
                "value",
                counters,
                ["claimed_from_counters", "other_counters"],
            ),
        ];
        let names = [
            "tap/card/v1/1",
            "tap",
            "tap0",
            "tap.",
            "tap/",
            "TAP/",
            "chip/tap/",
            "",
            "é",
            "card/v1",
            "card/v1/claimed_from",
            "claimed_from",
            "/claimed_from",
            "/Claimed_from",
            "é/claimed_from",
            "a/claimed_from\0b",
            "a\0b/claimed_from",
            "tap/\0",
            "t\0ap/",
        ];
        for (view, value, tree, tables) in all {
            for name in names {
                let put = |table: &str| {
                    let sql = format!("INSERT INTO {table} (name, {value}) VALUES (?1, 1)");
                    connection.execute(&sql, [name])
                };
                put(view).unwrap();
                let found = format!("SELECT count(*) FROM {} WHERE name = ?1", tree(name));
                assert_eq!(count(&connection, &found, &[name]), 1, "{name:?}");
                assert!(tables.iter().all(|table| put(table).is_err()), "{name:?}");
            }
            let no_name = format!("INSERT INTO {view} (name, {value}) VALUES (NULL, 1)");
            assert!(connection.execute(&no_name, []).is_err());
            let all = count(&connection, &format!("SELECT count(*) FROM {view}"), &[]);
            assert_eq!(usize::try_from(all), Ok(names.len()));
        }
    }

    const SCOPES: [(&str, bool); 12] = [
        ("cred_1/cards.charge/key", true),
        ("cred_1/cards.authorize/key", true),
        ("cred_1/cards.capture/key", true),
        ("cred_1/cards.charge/", true),
        ("é\0/cards.charge/key\0é", true),
        ("cred_1/cards.issue/a/cards.charge/b", true),
        ("cred_1/cards.charges/key", false),
        ("cred_1/Cards.charge/key", false),
        ("cred_1/cards.issue/key", false),
        ("cards.charge/", false),
        ("cred_1/cards.charge\0/key", false),
        ("", false),
    ];

    /// A commit's two trees are of sales or of others both, and whoever looks for a batch looks
    /// into both.
    #[test]
    fn a_commit_stands_in_the_trees_where_it_is_looked_for() {
        let connection = tables();
        let put = "INSERT INTO commits (position, batch, at_ms, scope, writer, sequence, hash)
                   VALUES (?1, ?2, 1, ?3, 'sqlite', ?1, zeroblob(32))";
        let scopes = SCOPES
            .iter()
            .map(|(scope, of_sale)| (Some(*scope), *of_sale));
        for (position, (scope, of_sale)) in (1..).zip(scopes.chain([(None, false)])) {
            let batch = format!("bat_{position:02}");
            let row = rusqlite::params![position, batch, scope];
            connection.execute(put, row).unwrap();
            for (batch, is_taken) in [(batch.as_str(), true), ("bat_99", scope.is_some())] {
                let again = connection.execute(put, rusqlite::params![99, batch, scope]);
                assert_eq!(again.is_err(), is_taken, "{scope:?}");
            }
            connection
                .execute("DELETE FROM commits WHERE position = 99", [])
                .unwrap();
            let stands = "SELECT of_sale FROM commits WHERE position = ?1";
            assert_eq!(
                count(&connection, stands, &[&position.to_string()]),
                i64::from(of_sale)
            );
            let by_batch = format!("SELECT count(*) FROM {COMMITS} WHERE batch = ?1");
            assert_eq!(count(&connection, &by_batch, &[&batch]), 1);
            let greatest = format!("SELECT ({GREATEST_BATCH}) = ?1");
            assert_eq!(count(&connection, &greatest, &[&batch]), 1);
            if let Some(scope) = scope {
                let sql = format!("SELECT count(*) FROM commits WHERE {}", command_is(scope));
                assert_eq!(count(&connection, &sql, &[scope]), 1, "{scope:?}");
                goes_down(&connection, &sql, "commands_of_");
            }
        }
        for sql in [
            format!("SELECT at_ms FROM {COMMITS} WHERE batch = ?1"),
            GREATEST_BATCH.to_owned(),
        ] {
            let lines = plan(&connection, &sql);
            for tree in ["batches_of_sales", "batches_of_others"] {
                let goes_down = |line: &&String| line.starts_with("SEARCH") && line.contains(tree);
                assert_eq!(lines.iter().filter(goes_down).count(), 1, "{lines:?}");
            }
            assert!(!lines.iter().any(|line| line.contains("SCAN")), "{lines:?}");
        }
    }

    #[test]
    fn a_key_stands_in_one_tree_and_is_looked_for_there() {
        let connection = tables();
        let names = [
            ("card", "chip"),
            ("card", "any_chip"),
            ("card", "chips"),
            ("cards", "chip"),
            ("charge", "card"),
            ("charge", "chip"),
            ("tap_seen", "chip"),
            ("invoice", "all"),
        ];
        for (collection, name) in [("NULL", "'chip'"), ("'card'", "NULL")] {
            let sql =
                format!("INSERT INTO document_keys VALUES ({collection}, {name}, 'k', 'x', 0)");
            assert!(connection.execute(&sql, []).is_err());
        }
        for (collection, name) in names {
            let put = |table: &str| {
                let sql = format!(
                    "INSERT INTO {table} (collection, name, key, id) VALUES (?1, ?2, 'k', 'x')"
                );
                connection.execute(&sql, [collection, name])
            };
            put("document_keys").unwrap();
            let found = format!(
                "SELECT count(*) FROM {} WHERE collection = ?1 AND name = ?2",
                keys(collection, name)
            );
            assert_eq!(count(&connection, &found, &[collection, name]), 1);
            for table in ["chip_keys", "charge_keys", "other_keys"] {
                assert!(put(table).is_err(), "{collection} {name} in {table}");
            }
        }
    }

    /// What is read page by page goes on where the page before ended, in every tree.
    #[test]
    fn pages_go_on_where_they_ended() {
        let connection = tables();
        for (from, key) in [
            (DOCUMENTS, "collection, id"),
            (ACCOUNTS, "account"),
            ("document_keys", "collection, name, key, id"),
            ("claims", "name"),
            ("counters", "name"),
            ("commands", "scope"),
        ] {
            let after = vec!["?"; key.split(',').count()].join(", ");
            let sql = format!(
                "SELECT {key} FROM {from} WHERE ({key}) > ({after}) ORDER BY {key} LIMIT 500"
            );
            let lines = plan(&connection, &sql);
            let searches = lines.iter().filter(|line| line.starts_with("SEARCH"));
            let all: Vec<&String> = searches.collect();
            assert!(all.len() >= 2, "{lines:?}");
            for line in &all {
                assert!(line.contains(">?") || line.contains(">(?"), "{line}");
            }
            let sorted = |line: &String| line.contains("SCAN") || line.contains("TEMP");
            assert!(!lines.iter().any(sorted), "{lines:?}");
        }
    }
}
