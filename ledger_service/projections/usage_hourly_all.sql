-- name: apply
-- Sorted as all sort: transactions of other accounts want the same rows.
insert into usage_hourly_all as h
    (shard, hour, operation, provider, model, outcome, calls, units, cost_nanos, failures)
select account_shard(account_id), date_trunc('hour', occurred_at, 'UTC'), operation, provider, model, outcome,
       sum(counted_calls(outcome, adjusted_calls)), sum(counted_units(outcome, quantity)), sum(cost_nanos),
       sum(counted_failures(outcome, adjusted_failures))
from incoming
where outcome is not null
group by 1, 2, 3, 4, 5, 6
order by 1, 2, 3, 4, 5, 6
on conflict (hour, operation, provider, model, outcome, shard) do update
set calls = h.calls + excluded.calls, units = h.units + excluded.units,
    cost_nanos = h.cost_nanos + excluded.cost_nanos, failures = h.failures + excluded.failures

-- name: rebuild
select account_shard(account_id) as shard, hour, operation, provider, model, outcome, sum(calls)::bigint as calls,
       sum(units)::bigint as units, sum(cost_nanos)::bigint as cost_nanos, sum(failures)::bigint as failures
from usage_hourly
group by 1, 2, 3, 4, 5, 6
