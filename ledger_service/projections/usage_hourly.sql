-- name: apply
-- All three rollups. The rows of all accounts are written last, and sorted as all sort them: transactions about other
-- accounts want the same ones, and wait for them until this one ends.
with cells as materialized (
    select account_id, date_trunc('hour', occurred_at, 'UTC') as hour, operation, provider, model, outcome,
           sum(counted_calls(outcome, adjusted_calls))::bigint as calls,
           sum(counted_units(outcome, quantity))::bigint as units, sum(cost_nanos)::bigint as cost_nanos,
           sum(counted_failures(outcome, adjusted_failures))::bigint as failures
    from incoming
    where outcome is not null
    group by 1, 2, 3, 4, 5, 6
),
own as (
    insert into usage_hourly as h
        (account_id, hour, operation, provider, model, outcome, calls, units, cost_nanos, failures)
    select account_id, hour, operation, provider, model, outcome, calls, units, cost_nanos, failures
    from cells
    on conflict (account_id, hour, operation, provider, model, outcome) do update
    set calls = h.calls + excluded.calls, units = h.units + excluded.units,
        cost_nanos = h.cost_nanos + excluded.cost_nanos, failures = h.failures + excluded.failures
    returning 1
),
everybody as materialized (
    select account_shard(account_id) as shard, hour, operation, provider, model, outcome, sum(calls)::bigint as calls,
           sum(units) as units, sum(cost_nanos) as cost_nanos, sum(failures)::bigint as failures
    from cells
    group by 1, 2, 3, 4, 5, 6
),
by_hour as (
    insert into usage_hourly_all as h
        (shard, hour, operation, provider, model, outcome, calls, units, cost_nanos, failures)
    select shard, hour, operation, provider, model, outcome, calls, units, cost_nanos, failures
    from everybody
    where (select count(*) from own) > 0
    order by 1, 2, 3, 4, 5, 6
    on conflict (hour, operation, provider, model, outcome, shard) do update
    set calls = h.calls + excluded.calls, units = h.units + excluded.units,
        cost_nanos = h.cost_nanos + excluded.cost_nanos, failures = h.failures + excluded.failures
    returning 1
)
insert into usage_daily_all as d
    (day, operation, provider, model, outcome, calls, units, cost_nanos, failures)
select date_trunc('day', hour, 'UTC'), operation, provider, model, outcome, sum(calls), sum(units), sum(cost_nanos),
       sum(failures)
from everybody
where (select count(*) from by_hour) > 0
group by 1, 2, 3, 4, 5
order by 1, 2, 3, 4, 5
on conflict (day, operation, provider, model, outcome) do update
set calls = d.calls + excluded.calls, units = d.units + excluded.units,
    cost_nanos = d.cost_nanos + excluded.cost_nanos, failures = d.failures + excluded.failures

-- name: rebuild
select account_id, date_trunc('hour', occurred_at, 'UTC') as hour, operation, provider, model, outcome,
       sum(counted_calls(outcome, adjusted_calls))::bigint as calls,
       sum(counted_units(outcome, quantity))::bigint as units,
       sum(cost_nanos)::bigint as cost_nanos,
       sum(counted_failures(outcome, adjusted_failures))::bigint as failures
from outcomes
group by 1, 2, 3, 4, 5, 6
