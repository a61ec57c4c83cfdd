-- name: begins
select usage_log_begins()

-- name: list
select month, state, file, digest, bytes, rows, calls, units, cost_nanos, failures, written_at, archived_at
from usage_archives
order by month

-- name: lock
-- Held until the connection ends. The same as a rebuild's: neither runs beside the other.
select pg_try_advisory_lock(7205759403792796)

-- name: months
-- Booked months in the usage log before $1, and whether each is closed for all; what is in archives is not among them.
select month::date as month,
       coalesce((select max(period) from period_closings where account_id = '') >= month, false) as is_closed
from generate_series(
    (select least(min(period), $1) from usage_summary), $1::date - interval '1 day', interval '1 month') as month
where month not in (select month from usage_archives)
order by month

-- name: totals
-- What the usage summary has of a month.
select coalesce(sum(calls), 0)::bigint as calls, coalesce(sum(units), 0)::bigint as units,
       coalesce(sum(cost_nanos), 0)::bigint as cost_nanos, coalesce(sum(failures), 0)::bigint as failures
from usage_summary
where period = $1

-- name: cells
-- The same by account, operation, provider and model: those that are not all zero.
select account_id, operation, provider, model, calls, units, cost_nanos, failures
from usage_summary
where period = $1 and (calls, units, cost_nanos, failures) <> (0, 0, 0, 0)

-- name: settings
select set_config('enable_seqscan', 'on', true), set_config('work_mem', '64MB', true), set_config('jit', 'off', true)

-- name: begin
insert into usage_archives (month, state, file, digest, bytes, rows, calls, units, cost_nanos, failures)
values ($1, 'removing', $2, $3, $4, $5, $6, $7, $8, $9)

-- name: turn
update usage_archives
set state = $2, archived_at = case when $2 = 'archived' then clock_timestamp() end
where month = $1

-- name: forget
delete from usage_archives where month = $1

-- name: remove
-- What accounts ($1) have booked in a month ($2).
with gone as (
    delete from usage_log
    where account_id = any ($1::text[])
      and (booked_period is null and occurred_at >= $2::date::timestamp at time zone 'UTC'
               and occurred_at < ($2::date + interval '1 month') at time zone 'UTC'
           or booked_period = $2)
    returning account_id
)
select account_id, count(*) as rows from gone group by account_id

-- name: restored_table
create temp table if not exists restored (like usage_log) on commit delete rows

-- name: restore
insert into usage_log select * from restored on conflict do nothing

-- name: left
-- Rows of a month that are in the table.
select count(*)
from usage_log
where booked_period is null and occurred_at >= $1::date::timestamp at time zone 'UTC'
  and occurred_at < ($1::date + interval '1 month') at time zone 'UTC'
   or booked_period = $1
