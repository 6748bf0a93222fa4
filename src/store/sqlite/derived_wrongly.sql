-- What follows from other rows and does not stand as they say: nothing, in a sound file.
WITH said (collection, name, key, id, document) AS (
    SELECT d.collection, json_extract(j.value, '$[0]'), json_extract(j.value, '$[1]'), d.id,
           d.number
    FROM documents d JOIN json_each(coalesce(d.keys, '[]')) j),
moved (account, position) AS (
    SELECT debit, position FROM transfers UNION ALL SELECT credit, position FROM transfers)
SELECT 'document_keys has no ' || name || ' of ' || collection || ' ' || id FROM (
    SELECT * FROM said
    EXCEPT SELECT collection, name, key, id, document FROM document_keys)
UNION ALL
SELECT 'document_keys has a wrong ' || name || ' of ' || collection || ' ' || id FROM (
    SELECT collection, name, key, id, document FROM document_keys
    EXCEPT SELECT * FROM said)
UNION ALL
SELECT 'account_transfers lacks transfer ' || position || ' of account ' || account FROM (
    SELECT * FROM moved
    EXCEPT SELECT account, position FROM account_transfers)
UNION ALL
SELECT 'account_transfers has no transfer ' || position || ' of account ' || account FROM (
    SELECT account, position FROM account_transfers
    EXCEPT SELECT * FROM moved)
