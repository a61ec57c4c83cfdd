-- name: apply
insert into usage_summary as s (account_id, period, operation, provider, model, calls, units, cost_nanos, failures)
select account_id,
       case when occurred_at < ((select max(period) from period_closings) + interval '1 month') at time zone 'UTC'
            then booked_period(account_id, own_period(occurred_at)) else own_period(occurred_at) end,
       operation, provider, model,
       count(*) filter (where outcome = 'completed') + coalesce(sum(adjusted_calls), 0),
       coalesce(sum(quantity) filter (where outcome <> 'failed'), 0),
       sum(cost_nanos),
       count(*) filter (where outcome = 'failed') + coalesce(sum(adjusted_failures), 0)
from incoming
where outcome is not null
group by 1, 2, 3, 4, 5
order by 1, 2, 3, 4, 5
on conflict (account_id, period, operation, provider, model) do update
set calls = s.calls + excluded.calls, units = s.units + excluded.units,
    cost_nanos = s.cost_nanos + excluded.cost_nanos, failures = s.failures + excluded.failures

-- name: rebuild
select account_id, coalesce(booked_period, own_period(occurred_at)) as period, operation, provider, model,
       sum(counted_calls(outcome, adjusted_calls))::bigint as calls,
       sum(counted_units(outcome, quantity))::bigint as units,
       sum(cost_nanos)::bigint as cost_nanos,
       sum(counted_failures(outcome, adjusted_failures))::bigint as failures
from booked_outcomes
group by 1, 2, 3, 4, 5
