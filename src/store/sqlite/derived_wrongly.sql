-- What follows from other rows and does not stand as they say: nothing, in a sound file.
WITH said (collection, name, key, id, document) AS (
    SELECT d.collection, json_extract(j.value, '$[0]'), json_extract(j.value, '$[1]'), d.id,
           d.number
    FROM documents d JOIN json_each(coalesce(d.keys, '[]')) j),
reversed (transfer, amount) AS (
    SELECT follows, sum(amount) FROM transfers WHERE kind = 'reversal' GROUP BY follows),
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
SELECT 'hold ' || h.id || ' has another rest than its last change' FROM holds h
    LEFT JOIN (SELECT hold, remaining, max(position) FROM hold_changes GROUP BY hold) c
    ON c.hold = h.id WHERE h.remaining IS NOT c.remaining
UNION ALL
SELECT 'transfer ' || transfer || ' has another sum of reversals' FROM (
    SELECT * FROM (SELECT transfer, amount FROM reversals
        EXCEPT SELECT * FROM reversed)
    UNION
    SELECT * FROM (SELECT * FROM reversed EXCEPT SELECT transfer, amount FROM reversals))
UNION ALL
SELECT 'transfer ' || t.position || ' has another time than its commit' FROM transfers t
    LEFT JOIN commits c ON c.position = t.commit_position WHERE t.at_ms IS NOT c.at_ms
UNION ALL
SELECT 'account ' || account || ' has another balance than its totals' FROM accounts
    WHERE length(debits_posted) < 19 AND length(credits_posted) < 19
    AND abs(balance) <> abs(CAST(debits_posted AS INTEGER) - CAST(credits_posted AS INTEGER))
