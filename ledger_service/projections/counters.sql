-- name: apply
-- Settles: gives back what was held, and adds what was used to every counter of the window in which it was admitted.
-- "lateral … offset 0" keeps the batch on the outside of each join, however small the other table is when the plan is
-- made; an insert that always conflicts is an update that is driven by its source, for the same reason.
with finished as materialized (
    select i.account_id, i.operation_id, i.user_id, i.project_id, i.api_key_id, i.operation, i.provider, i.model,
           (i.outcome = 'completed')::int::bigint as calls,
           case when i.outcome = 'completed' then i.quantity else 0 end as units, i.cost_nanos,
           i.quantity, coalesce(l.decided_at, d.decided_at, i.occurred_at) as counted_at, d as decision, l as lease
    from incoming i
    left join lateral (
        select * from decisions d
        where d.account_id = i.account_id and d.operation_id = i.operation_id and d.state <> 'denied'
          and not d.is_lease
        offset 0
    ) d on true
    -- Under a lease it was admitted where that holds its share, whatever a check of which nobody heard came to. A lease
    -- for somebody or something else is none.
    left join lateral (
        select * from decisions l
        where l.account_id = i.account_id and l.operation_id = i.lease_id and l.is_lease and l.state <> 'denied'
          and l.user_id = i.user_id and l.project_id is not distinct from i.project_id
          and l.api_key_id is not distinct from i.api_key_id and l.operation = i.operation
          and l.provider = i.requested_provider and l.model = i.model
        offset 0
    ) l on true
    where i.outcome is not null
),
-- What operations under a lease take out of what it still holds: never more than there is.
drawn as materialized (
    select (lease).account_id, (lease).operation_id, (lease).event_id, (lease).request_digest, (lease).state,
           (lease).user_id, (lease).project_id, (lease).api_key_id, (lease).operation, (lease).provider, (lease).model,
           (lease).decided_at, (lease).calls as calls_left, (lease).quantity as units_left,
           (lease).estimated_cost_nanos as cost_nanos_left,
           least((lease).calls, count(*)) as calls, least((lease).quantity, sum(quantity))::bigint as units,
           least((lease).estimated_cost_nanos, sum(cost_nanos))::bigint as cost_nanos
    from finished
    where (lease).state = 'held'
    group by lease
),
used_up as (
    insert into decisions as d
        (account_id, operation_id, event_id, request_digest, state, user_id, operation, provider, model, calls,
         quantity, estimated_cost_nanos, decided_at)
    select account_id, operation_id, event_id, request_digest, state, user_id, operation, provider, model,
           calls_left - calls, units_left - units, cost_nanos_left - cost_nanos, decided_at
    from drawn
    on conflict (account_id, operation_id) do update
    set calls = excluded.calls, quantity = excluded.quantity, estimated_cost_nanos = excluded.estimated_cost_nanos
),
settled as (
    insert into decisions as d
        (account_id, operation_id, event_id, request_digest, state, user_id, operation, provider, model, quantity,
         estimated_cost_nanos, decided_at, closed_at)
    select account_id, operation_id, (decision).event_id, (decision).request_digest,
           case when calls = 0 and cost_nanos = 0 then 'released' else 'settled' end, (decision).user_id,
           (decision).operation, (decision).provider, (decision).model, (decision).quantity,
           (decision).estimated_cost_nanos, (decision).decided_at, coalesce((decision).closed_at, clock_timestamp())
    from finished
    where (decision).state is not null
    on conflict (account_id, operation_id) do update set state = excluded.state, closed_at = excluded.closed_at
),
shares as (
    select account_id, user_id, project_id, api_key_id, operation, provider, model, counted_at, calls, units,
           cost_nanos, false as held
    from finished
    union all
    select account_id, (decision).user_id, (decision).project_id, (decision).api_key_id, (decision).operation,
           (decision).provider, (decision).model, (decision).decided_at, (decision).calls, (decision).quantity,
           (decision).estimated_cost_nanos, true
    from finished
    where (decision).state = 'held'
    union all
    select account_id, user_id, project_id, api_key_id, operation, provider, model, decided_at, calls, units,
           cost_nanos, true
    from drawn
),
counted as (
    insert into counters as c (account_id, scope_key, period_end, period_start, counter_id, meter, settled, held)
    select t.account_id, t.scope_key, t.period_end, t.period_start, t.counter_id, t.meter,
           sum(case when s.held then 0 else meter_amount(t.meter, s.calls, s.units, s.cost_nanos) end),
           -sum(case when s.held then meter_amount(t.meter, s.calls, s.units, s.cost_nanos) else 0 end)
    from shares s
    cross join lateral touched_counters(s.account_id, s.user_id, s.project_id, s.api_key_id, s.operation, s.provider,
                                        s.model, s.counted_at) t
    group by t.account_id, t.scope_key, t.period_end, t.period_start, t.counter_id, t.meter
    on conflict (account_id, scope_key, period_end, period_start, counter_id) do update
    set settled = c.settled + excluded.settled, held = c.held + excluded.held
    returning c.account_id, c.scope_key, c.period_end, c.period_start, c.counter_id, c.meter,
              c.settled + c.held as used, c.watched, c.warn_at
)
-- Those that have reached a threshold.
select account_id, scope_key, period_end, period_start, counter_id, meter, used, watched::text as watched,
       clock_timestamp() as now
from counted
where used >= warn_at
