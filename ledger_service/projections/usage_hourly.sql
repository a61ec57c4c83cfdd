-- name: apply
insert into usage_hourly as h
    (account_id, hour, operation, provider, model, outcome, calls, units, cost_nanos, failures)
select account_id, date_trunc('hour', occurred_at, 'UTC'), operation, provider, model, outcome,
       sum(counted_calls(outcome, adjusted_calls)), sum(counted_units(outcome, quantity)), sum(cost_nanos),
       sum(counted_failures(outcome, adjusted_failures))
from incoming
where outcome is not null
group by 1, 2, 3, 4, 5, 6
on conflict (account_id, hour, operation, provider, model, outcome) do update
set calls = h.calls + excluded.calls, units = h.units + excluded.units,
    cost_nanos = h.cost_nanos + excluded.cost_nanos, failures = h.failures + excluded.failures

-- name: rebuild
select account_id, date_trunc('hour', occurred_at, 'UTC') as hour, operation, provider, model, outcome,
       sum(counted_calls(outcome, adjusted_calls))::bigint as calls,
       sum(counted_units(outcome, quantity))::bigint as units,
       sum(cost_nanos)::bigint as cost_nanos,
       sum(counted_failures(outcome, adjusted_failures))::bigint as failures
from outcomes
group by 1, 2, 3, 4, 5, 6
