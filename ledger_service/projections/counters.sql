-- name: apply
-- Settles: gives back what was held, and adds what was used to every counter of the window in which it was admitted.
with finished as materialized (
    select i.account_id, i.operation_id, i.user_id, i.project_id, i.api_key_id, i.operation, i.provider, i.model,
           (i.outcome = 'completed')::int::bigint as calls,
           case when i.outcome = 'completed' then i.quantity else 0 end as units, i.cost_nanos,
           coalesce(d.decided_at, i.occurred_at) as counted_at
    from incoming i
    left join decisions d on d.account_id = i.account_id and d.operation_id = i.operation_id and d.state <> 'denied'
    where i.outcome is not null
),
settling as (
    update decisions d
    set state = case when f.calls = 0 and f.cost_nanos = 0 then 'released' else 'settled' end
    from finished f
    join decisions was on was.account_id = f.account_id and was.operation_id = f.operation_id
    where d.account_id = f.account_id and d.operation_id = f.operation_id and d.state <> 'denied'
    returning d.*, was.state = 'held' as was_held
),
shares as (
    select account_id, scope_keys(user_id, project_id, api_key_id) as scope_keys, operation, provider, model,
           counted_at, calls, units, cost_nanos, false as held
    from finished
    union all
    select account_id, scope_keys(user_id, project_id, api_key_id), operation, provider, model,
           decided_at, 1, quantity, estimated_cost_nanos, true
    from settling
    where was_held
),
deltas as (
    select c.account_id, c.scope_key, c.period_end, c.counter_id,
           coalesce(sum(meter_amount(c.meter, s.calls, s.units, s.cost_nanos)) filter (where not s.held), 0)::bigint
               as settled,
           coalesce(sum(meter_amount(c.meter, s.calls, s.units, s.cost_nanos)) filter (where s.held), 0)::bigint
               as held
    from shares s
    join counters c on c.account_id = s.account_id and c.scope_key = any (s.scope_keys) and c.period_end > s.counted_at
    where selected(c, s.operation, s.provider, s.model, s.counted_at)
    group by c.account_id, c.scope_key, c.period_end, c.counter_id
)
update counters c set settled = c.settled + d.settled, held = c.held - d.held
from deltas d
where c.account_id = d.account_id and c.scope_key = d.scope_key and c.period_end = d.period_end
  and c.counter_id = d.counter_id
