-- name: cursors
-- Every transaction before the horizon has ended, and facts are read up to there alone.
select feed, transaction_id::text as transaction_id, position,
       pg_snapshot_xmin(pg_current_snapshot())::text as horizon
from notification_cursors
where follower = $1
order by feed

-- name: lock
-- Where it still stands at ($3, $4); nothing where another process is at it.
select true
from notification_cursors
where follower = $1 and feed = $2 and (transaction_id, position) = ($3::text::xid8, $4::bigint)
for update skip locked

-- name: take
-- The same wherever it stands; who is at it is waited for.
select transaction_id::text as transaction_id, position
from notification_cursors
where follower = $1 and feed = $2
for update

-- name: move
-- Never back: two processes may have taken the same.
update notification_cursors
set transaction_id = $3::text::xid8, position = $4
where follower = $1 and feed = $2 and (transaction_id, position) < ($3::text::xid8, $4::bigint)

-- name: log
-- After ($1, $2), what is certain to have no more rows before it: every transaction up to here has ended.
-- Ordered by the numbers, and not by the text that the first column is in the answer.
select e.transaction_id::text as transaction_id, e.position, e.account_id, e.type as event, e.event_id::text as name,
       e.occurred_at, e.recorded_at, e.body::text as body
from event_log e
where (e.operation_id is null or e.type = 'ledger.check.denied.v1')
  and (e.transaction_id, e.position) > ($1::text::xid8, $2::bigint)
  and e.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
order by e.transaction_id, e.position
limit $3

-- name: letters
-- What was opened again since is further on; how a letter stands now is what is told of it.
select opened_in::text as transaction_id, dead_letter_id as position, '' as account_id, 'dead_letter' as event,
       encode(digest, 'hex') || '.' || opened_in::text as name, opened_at as occurred_at, opened_at as recorded_at,
       json_build_object('data', json_build_object(
           'dead_letter_id', dead_letter_id, 'code', code, 'detail', detail, 'origin', origin, 'subject', subject,
           'account_id', account_id, 'received_count', received_count, 'first_received_at', first_received_at
       ))::text as body
from dead_letters
where (opened_in, dead_letter_id) > ($1::text::xid8, $2::bigint)
  and opened_in < pg_snapshot_xmin(pg_current_snapshot())
order by opened_in, dead_letter_id
limit $3

-- name: holes
select found_in::text as transaction_id, hole_id as position, '' as account_id, 'source_hole' as event,
       source || '.' || first_sequence || '.' || found_in::text as name, found_at as occurred_at,
       found_at as recorded_at,
       json_build_object('data', json_build_object(
           'source', source, 'first_sequence', first_sequence, 'last_sequence', last_sequence,
           'missing_since', missing_since
       ))::text as body
from source_holes
where (found_in, hole_id) > ($1::text::xid8, $2::bigint) and found_in < pg_snapshot_xmin(pg_current_snapshot())
order by found_in, hole_id
limit $3
