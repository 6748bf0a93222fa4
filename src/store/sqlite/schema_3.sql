-- The third schema. A row in an index tree without row ids stands in its inner pages as well, so that
-- wide rows made those trees deep: wide rows have a number now, and an index of their names.

-- `keys` are the names and keys under which a document is found, as they stand in document_keys:
-- what is to be taken away when it changes is not searched for.
CREATE TABLE numbered_documents (
    number INTEGER PRIMARY KEY,
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    keys TEXT,
    UNIQUE (collection, id)
) STRICT;
INSERT INTO numbered_documents (collection, id, version, body)
    SELECT collection, id, version, body FROM documents ORDER BY collection, id;
DROP TABLE documents;
ALTER TABLE numbered_documents RENAME TO documents;

CREATE TABLE numbered_keys (
    collection TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    id TEXT NOT NULL,
    document INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (collection, name, key, id)
) STRICT, WITHOUT ROWID;
INSERT INTO numbered_keys (collection, name, key, id)
    SELECT collection, name, key, id FROM document_keys ORDER BY collection, name, key, id;
DROP TABLE document_keys;
ALTER TABLE numbered_keys RENAME TO document_keys;

-- A command has one commit. Where the answer is what an event of the commit says, it is written
-- once: as the event.
ALTER TABLE commits ADD COLUMN fingerprint TEXT;
ALTER TABLE commits ADD COLUMN answer TEXT;
ALTER TABLE commits ADD COLUMN answer_event INTEGER;
UPDATE commits SET (fingerprint, answer) =
    (SELECT fingerprint, answer FROM commands WHERE commands.scope = commits.scope)
    WHERE scope IS NOT NULL;
DROP TABLE commands;
CREATE UNIQUE INDEX commits_by_scope ON commits (scope) WHERE scope IS NOT NULL;
CREATE VIEW commands (scope, fingerprint, at_ms, answer) AS
    SELECT scope, fingerprint, at_ms,
           coalesce(answer, (SELECT body FROM events WHERE events.position = answer_event))
    FROM commits WHERE scope IS NOT NULL AND fingerprint IS NOT NULL;
-- Of a store that is moved in; its commits come first.
CREATE TRIGGER commands_moved INSTEAD OF INSERT ON commands BEGIN
    SELECT RAISE(ABORT, 'a command without a commit, or twice') WHERE NOT EXISTS (
        SELECT 1 FROM commits WHERE scope = new.scope AND at_ms = new.at_ms
            AND fingerprint IS NULL AND new.fingerprint IS NOT NULL);
    UPDATE commits SET fingerprint = new.fingerprint, answer = new.answer
        WHERE scope = new.scope;
END;

-- The transfers of an account, on whichever side, are one list.
DROP INDEX transfers_by_debit;
DROP INDEX transfers_by_credit;
CREATE TABLE account_transfers (
    account INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (account, position)
) STRICT, WITHOUT ROWID;
