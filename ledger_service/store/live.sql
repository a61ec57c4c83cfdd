-- The text of a transaction id sorts otherwise than it does: each "order by" names its table.

-- name: newest
-- The last row that is certain to have no more rows before it: every transaction up to here has ended.
select transaction_id::text as transaction_id, position
from event_log e
where e.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
order by e.transaction_id desc, e.position desc
limit 1

-- name: after
-- The next $3 rows after ($1, $2), and up to ($5, $6) where that is given; without the bodies of other types than $4.
select transaction_id::text as transaction_id, position, type, account_id, operation_id, occurred_at, recorded_at,
       case when type = any ($4::text[]) then body::text end as body
from event_log e
where (e.transaction_id, e.position) > ($1::text::xid8, $2::bigint)
  and ($5::text is null or (e.transaction_id, e.position) <= ($5::text::xid8, $6::bigint))
  and e.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
order by e.transaction_id, e.position
limit $3

-- name: recent
-- Of the newest $1 rows of the log those of the types $2, newest first.
select transaction_id::text as transaction_id, position, type, account_id, operation_id, occurred_at, recorded_at,
       body::text as body
from (
    select * from event_log
    where transaction_id < pg_snapshot_xmin(pg_current_snapshot())
    order by transaction_id desc, position desc
    limit $1
) newest
where type = any ($2::text[])
order by newest.transaction_id desc, newest.position desc

-- name: recent_of_account
-- The same of one account's rows: ids of events are of their time, so its newest come from the key.
select transaction_id::text as transaction_id, position, type, account_id, operation_id, occurred_at, recorded_at,
       body::text as body
from (
    select * from event_log
    where account_id = $3 and transaction_id < pg_snapshot_xmin(pg_current_snapshot())
    order by event_id desc
    limit $1
) newest
where type = any ($2::text[])
order by newest.transaction_id desc, newest.position desc
