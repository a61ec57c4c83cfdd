-- name: hold
-- Ingest takes the same lock with the statement that appends to the log: see event_log.sql.
select pg_advisory_xact_lock_shared(7205759403792797)

-- name: lock
-- Whoever closes holds nothing else while waiting for this, and waits for nobody once it has it.
select pg_advisory_xact_lock(7205759403792797)

-- name: now
select clock_timestamp()

-- name: booked
select month, booked_period($1, month) as booked from unnest($2::date[]) as month

-- name: closing
select account_id, period, event_id, author, reason, closed_at
from period_closings
where account_id in ($1, '') and period >= $2
order by closed_at
limit 1

-- name: closings
-- Of an account ($1), with those for all; or (null) of every account.
select account_id, period, event_id, author, reason, closed_at
from period_closings
where $1::text is null or account_id in ($1, '')
order by period, account_id
limit $2

-- name: add
insert into period_closings (account_id, period, event_id, author, reason, closed_at) values ($1, $2, $3, $4, $5, $6)
