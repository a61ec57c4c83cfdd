-- name: apply
-- Settles: gives back what was held, and adds what was used to every counter of the window in which it was admitted.
-- "lateral … offset 0" keeps the batch on the outside of each join, however small the other table is when the plan is
-- made; an insert that always conflicts is an update that is driven by its source, for the same reason.
with finished as materialized (
    select i.account_id, i.operation_id, i.user_id, i.project_id, i.api_key_id, i.operation, i.provider, i.model,
           (i.outcome = 'completed')::int::bigint as calls,
           case when i.outcome = 'completed' then i.quantity else 0 end as units, i.cost_nanos,
           coalesce(d.decided_at, i.occurred_at) as counted_at, d as decision
    from incoming i
    left join lateral (
        select * from decisions d
        where d.account_id = i.account_id and d.operation_id = i.operation_id and d.state <> 'denied'
        offset 0
    ) d on true
    where i.outcome is not null
),
settled as (
    insert into decisions as d
    select account_id, operation_id, (decision).event_id, (decision).request_digest,
           case when calls = 0 and cost_nanos = 0 then 'released' else 'settled' end, (decision).user_id,
           (decision).project_id, (decision).api_key_id, (decision).operation, (decision).provider, (decision).model,
           (decision).quantity, (decision).estimated_cost_nanos, (decision).decided_at, (decision).expires_at
    from finished
    where (decision).state is not null
    on conflict (account_id, operation_id) do update set state = excluded.state
),
shares as (
    select account_id, scope_keys(user_id, project_id, api_key_id) as scope_keys, operation, provider, model,
           counted_at, calls, units, cost_nanos, false as held
    from finished
    union all
    select account_id, scope_keys((decision).user_id, (decision).project_id, (decision).api_key_id),
           (decision).operation, (decision).provider, (decision).model, counted_at, 1, (decision).quantity,
           (decision).estimated_cost_nanos, true
    from finished
    where (decision).state = 'held'
)
insert into counters as c (account_id, scope_key, period_end, period_start, counter_id, meter, settled, held)
select t.account_id, t.scope_key, t.period_end, t.period_start, t.counter_id, t.meter,
       sum(case when s.held then 0 else meter_amount(t.meter, s.calls, s.units, s.cost_nanos) end),
       -sum(case when s.held then meter_amount(t.meter, s.calls, s.units, s.cost_nanos) else 0 end)
from shares s
cross join lateral (
    select c.account_id, c.scope_key, c.period_end, c.period_start, c.counter_id, c.meter
    from counters c
    where c.account_id = s.account_id and c.scope_key = any (s.scope_keys) and c.period_end > s.counted_at
      and selected(c, s.operation, s.provider, s.model, s.counted_at)
    offset 0
) t
group by t.account_id, t.scope_key, t.period_end, t.period_start, t.counter_id, t.meter
on conflict (account_id, scope_key, period_end, period_start, counter_id) do update
set settled = c.settled + excluded.settled, held = c.held + excluded.held
