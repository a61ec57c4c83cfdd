-- name: rebuild
select date_trunc('day', hour, 'UTC') as day, operation, provider, model, outcome, sum(calls)::bigint as calls,
       sum(units) as units, sum(cost_nanos) as cost_nanos, sum(failures)::bigint as failures
from usage_hourly_all
group by 1, 2, 3, 4, 5
