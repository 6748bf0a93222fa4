
-- What follows from other rows.
CREATE INDEX keys_of_document ON document_keys (collection, id);
UPDATE documents SET keys = (
    SELECT json_group_array(json_array(k.name, k.key)) FROM document_keys k
    WHERE k.collection = documents.collection AND k.id = documents.id)
    WHERE EXISTS (SELECT 1 FROM document_keys k
        WHERE k.collection = documents.collection AND k.id = documents.id);
DROP INDEX keys_of_document;
UPDATE document_keys SET document = coalesce((
    SELECT d.number FROM documents d
    WHERE d.collection = document_keys.collection AND d.id = document_keys.id), 0);
INSERT INTO account_transfers (account, position)
    SELECT debit, position FROM transfers UNION ALL SELECT credit, position FROM transfers;
