-- name: opening
select coalesce(sum(calls), 0)::bigint as calls, coalesce(sum(units), 0)::bigint as units,
       coalesce(sum(failures), 0)::bigint as failures, coalesce(sum(cost_nanos), 0)::bigint as cost_nanos
from usage_summary
where account_id = $1 and period < $2

-- name: lines
select operation, provider, model, calls, units, failures, cost_nanos
from usage_summary
where account_id = $1 and period = $2
order by operation, provider, model

-- name: sections
-- The same figures by where they come from: the month itself, late arrivals, corrections.
select section, count(*) as rows, sum(counted_calls(outcome, adjusted_calls))::bigint as calls,
       sum(counted_units(outcome, quantity))::bigint as units,
       sum(counted_failures(outcome, adjusted_failures))::bigint as failures, sum(cost_nanos)::bigint as cost_nanos
from (
    select case when outcome = 'adjustment' then 'corrections' else 'usage' end as section, outcome, quantity, cost_nanos,
           adjusted_calls, adjusted_failures
    from usage_log
    where account_id = $1 and occurred_at >= $2::date::timestamp at time zone 'UTC'
      and occurred_at < ($2::date + interval '1 month') at time zone 'UTC' and booked_period is null
    union all
    select case when outcome = 'adjustment' then 'corrections' else 'late' end, outcome, quantity, cost_nanos,
           adjusted_calls, adjusted_failures
    from usage_log
    where account_id = $1 and booked_period = $2
) booked
group by section

-- part: booked
from (
    select *
    from usage_log
    where account_id = $1 and occurred_at >= $2::date::timestamp at time zone 'UTC'
      and occurred_at < ($2::date + interval '1 month') at time zone 'UTC' and booked_period is null
      and outcome = 'adjustment'
    union all
    select * from usage_log where account_id = $1 and booked_period = $2
) booked

-- name: entries
-- At most $3 late arrivals and corrections after a place ($4, $5), in the order in which they took effect.
select operation_id, adjustment ->> 'kind' as kind,
       coalesce(adjustment -> 'reference' ->> 'operation_id', adjustment -> 'reference' ->> 'adjustment_id')::uuid
           as reference,
       adjustment ->> 'author' as author, adjustment ->> 'reason' as reason, operation, provider, model, occurred_at,
       recorded_at, counted_calls(outcome, adjusted_calls) as calls, counted_units(outcome, quantity) as units,
       counted_failures(outcome, adjusted_failures) as failures, cost_nanos, position
-- take: booked
where (position, operation_id) > ($4::bigint, $5::uuid)
order by position, operation_id
limit $3

-- name: rest
-- The sums of those after a place ($3, $4).
select coalesce(adjustment ->> 'kind', 'late') as kind, operation, provider, model, count(*) as entries,
       sum(counted_calls(outcome, adjusted_calls))::bigint as calls,
       sum(counted_units(outcome, quantity))::bigint as units,
       sum(counted_failures(outcome, adjusted_failures))::bigint as failures, sum(cost_nanos)::bigint as cost_nanos
-- take: booked
where (position, operation_id) > ($3::bigint, $4::uuid)
group by 1, 2, 3, 4
order by 1, 2, 3, 4
