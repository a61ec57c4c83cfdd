-- name: scan
-- A report reads much of a table once: here, unlike elsewhere, the planner may read it from end to end.
select set_config('enable_seqscan', 'on', true), set_config('enable_hashjoin', 'on', true)

-- name: estimates
-- What checks held as cost beside what their operations cost in the end: those that occurred from $1 until before $2, of
-- account $3 (null = all). Failures that nobody billed released their hold and say nothing of its size. The provider
-- is the one that was asked for, whose price was held. What an operation cost is what it comes to with its corrections; one that was taken back says nothing either.
with corrected as (
    select account_id, corrects, sum(cost_nanos)::bigint as cost_nanos,
           bool_or(adjustment ->> 'kind' = 'void' and adjustment -> 'reference' ->> 'operation_id' is not null) as is_void
    from usage_log
    where corrects is not null and ($3::text is null or account_id = $3)
    group by account_id, corrects
),
finished as (
    select u.account_id, u.operation_id, u.requested_provider, u.model, u.operation, u.outcome, u.occurred_at,
           u.held_cost_nanos, u.cost_nanos + coalesce(c.cost_nanos, 0) as cost_nanos
    from usage_log u
    left join corrected c on c.account_id = u.account_id and c.corrects = u.operation_id
    where c.is_void is not true
),
settled as (
    select requested_provider as provider, model, operation, operation_id, account_id, held_cost_nanos as held,
           cost_nanos as cost, cost_nanos - held_cost_nanos as over,
           cost_nanos::numeric / nullif(held_cost_nanos, 0) as ratio
    from finished
    where occurred_at >= $1 and occurred_at < $2 and ($3::text is null or account_id = $3)
      and held_cost_nanos is not null and (outcome = 'completed' or cost_nanos > 0)
)
select provider, model, operation, count(*) as operations, sum(held) as held, sum(cost) as settled,
       count(*) filter (where held = 0) as held_at_nothing, count(*) filter (where over > 0) as above,
       coalesce(max(over) filter (where over > 0), 0) as worst_above,
       (array_agg(account_id order by over desc, operation_id) filter (where over > 0))[1] as worst_account_id,
       (array_agg(operation_id order by over desc, operation_id) filter (where over > 0))[1] as worst_operation_id,
       percentile_disc(0.5) within group (order by ratio) as p50,
       percentile_disc(0.95) within group (order by ratio) as p95
from settled
group by provider, model, operation
order by provider, model, operation
limit $4
