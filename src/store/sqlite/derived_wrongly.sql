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
UNION ALL
SELECT 'holds says that ' || h.remaining || ' is left of ' || h.id || ', its changes '
       || coalesce(x.remaining, 'nothing')
FROM holds h LEFT JOIN (SELECT hold, remaining, max(position) FROM hold_changes GROUP BY hold) x
     ON x.hold = h.id
WHERE h.remaining IS NOT x.remaining
UNION ALL
SELECT 'reversals says that ' || coalesce(r.amount, 'nothing') || ' was undone of ' || id
       || ', the transfers ' || coalesce(t.amount, 'nothing')
FROM (SELECT transfer AS id FROM reversals
      UNION SELECT follows FROM transfers WHERE kind = 'reversal')
LEFT JOIN reversals r ON r.transfer = id
LEFT JOIN (SELECT follows, sum(amount) AS amount FROM transfers WHERE kind = 'reversal'
           GROUP BY follows) t ON t.follows = id
WHERE r.amount IS NOT t.amount
UNION ALL
SELECT 'commits has no command of ' || scope FROM commits
WHERE scope IS NOT NULL AND fingerprint IS NULL
UNION ALL
SELECT 'commits has the batch ' || s.batch || ' twice' FROM commits s
WHERE s.of_sale = 1 AND EXISTS (SELECT 1 FROM commits o
    WHERE o.batch = s.batch AND o.of_sale = 0)
