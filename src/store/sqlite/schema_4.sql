-- The fourth schema. A tree is as deep as all that stands in it makes it: a sale, whose own rows are
-- few, went down as many levels as all cards needed. What sales bring and look for stands in trees
-- of its own now; `trees.rs` says which names those are.
-- Functions of texts end at a NUL, so that a name is looked at as its bytes.

DROP VIEW commands;
CREATE TABLE split_commits (
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
INSERT INTO split_commits SELECT * FROM commits ORDER BY position;
DROP TABLE commits;
ALTER TABLE split_commits RENAME TO commits;
CREATE UNIQUE INDEX batches_of_sales ON commits (batch) WHERE of_sale = 1;
CREATE UNIQUE INDEX batches_of_others ON commits (batch) WHERE of_sale = 0;
CREATE UNIQUE INDEX commands_of_sales ON commits (scope) WHERE of_sale = 1;
CREATE UNIQUE INDEX commands_of_others ON commits (scope)
    WHERE of_sale = 0 AND scope IS NOT NULL;

CREATE TABLE split_accounts (
    id INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    debits_posted TEXT NOT NULL,
    credits_posted TEXT NOT NULL,
    debits_pending INTEGER NOT NULL,
    credits_pending INTEGER NOT NULL,
    balance INTEGER
) STRICT;
INSERT INTO split_accounts SELECT * FROM accounts ORDER BY id;
DROP TABLE accounts;
ALTER TABLE split_accounts RENAME TO accounts;
CREATE UNIQUE INDEX accounts_of_points ON accounts (account)
    WHERE substr(account, 1, 15) = 'points_balance/';
CREATE UNIQUE INDEX accounts_of_others ON accounts (account)
    WHERE substr(account, 1, 15) <> 'points_balance/';

CREATE TABLE split_documents (
    number INTEGER PRIMARY KEY,
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    keys TEXT
) STRICT;
INSERT INTO split_documents SELECT * FROM documents ORDER BY number;
DROP TABLE documents;
ALTER TABLE split_documents RENAME TO documents;
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
INSERT INTO chip_keys SELECT * FROM document_keys WHERE collection = 'card' AND name = 'chip'
    ORDER BY collection, name, key, id;
INSERT INTO charge_keys SELECT * FROM document_keys WHERE collection = 'charge'
    ORDER BY collection, name, key, id;
INSERT INTO other_keys SELECT * FROM document_keys
    WHERE collection <> 'charge' AND (collection <> 'card' OR name <> 'chip')
    ORDER BY collection, name, key, id;
DROP TABLE document_keys;

CREATE TABLE tap_claims (
    name TEXT PRIMARY KEY CHECK (name >= 'tap/' AND name < 'tap0'),
    claimed_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE other_claims (
    name TEXT PRIMARY KEY CHECK (name < 'tap/' OR name >= 'tap0'),
    claimed_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO tap_claims SELECT * FROM claims WHERE name >= 'tap/' AND name < 'tap0' ORDER BY name;
INSERT INTO other_claims SELECT * FROM claims WHERE name < 'tap/' OR name >= 'tap0' ORDER BY name;
DROP TABLE claims;

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
INSERT INTO claimed_from_counters SELECT * FROM counters
    WHERE substr(CAST(name AS BLOB), -13) IS CAST('/claimed_from' AS BLOB) ORDER BY name;
INSERT INTO other_counters SELECT * FROM counters
    WHERE substr(CAST(name AS BLOB), -13) IS NOT CAST('/claimed_from' AS BLOB) ORDER BY name;
DROP TABLE counters;

-- What they were before, for people and for the stream of a store that is moved. Of the commands,
-- their commits come first.
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
