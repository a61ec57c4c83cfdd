-- name: rebuild
select account_shard(account_id) as shard, hour, operation, provider, model, outcome, sum(calls)::bigint as calls,
       sum(units) as units, sum(cost_nanos) as cost_nanos, sum(failures)::bigint as failures
from usage_hourly
group by 1, 2, 3, 4, 5, 6
