-- What follows from other rows.
CREATE TABLE keys_of_documents (
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (collection, id, name, key)
) STRICT, WITHOUT ROWID;
INSERT INTO keys_of_documents SELECT collection, id, name, key FROM document_keys;
UPDATE documents SET keys = (
    SELECT json_group_array(json_array(k.name, k.key)) FROM keys_of_documents k
    WHERE k.collection = documents.collection AND k.id = documents.id)
    WHERE EXISTS (SELECT 1 FROM keys_of_documents k
        WHERE k.collection = documents.collection AND k.id = documents.id);
DROP TABLE keys_of_documents;
UPDATE chip_keys SET document = coalesce((
    SELECT d.number FROM documents d WHERE d.collection = chip_keys.collection
        AND d.id = chip_keys.id AND +d.collection NOT IN ('charge', 'tap_seen')), 0);
UPDATE charge_keys SET document = coalesce((
    SELECT d.number FROM documents d WHERE d.collection = charge_keys.collection
        AND d.id = charge_keys.id AND +d.collection IN ('charge', 'tap_seen')), 0);
UPDATE other_keys SET document = coalesce((
    SELECT d.number FROM documents d WHERE d.collection = other_keys.collection
        AND d.id = other_keys.id AND +d.collection NOT IN ('charge', 'tap_seen')), (
    SELECT d.number FROM documents d WHERE d.collection = other_keys.collection
        AND d.id = other_keys.id AND +d.collection IN ('charge', 'tap_seen')), 0);
INSERT INTO account_transfers (account, position)
    SELECT debit, position FROM transfers UNION ALL SELECT credit, position FROM transfers;
