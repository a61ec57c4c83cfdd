-- name: find_counted
select u.operation_id, u.adjustment ->> 'kind' as kind, null::uuid as voids, u.corrects,
       counted_calls(u.outcome, u.adjusted_calls) as calls, counted_units(u.outcome, u.quantity) as units,
       counted_failures(u.outcome, u.adjusted_failures) as failures, u.cost_nanos, u.user_id, u.project_id,
       u.api_key_id, u.operation, u.provider, u.model, u.occurred_at, u.counted_at
from unnest($2::uuid[]) as k (operation_id)
cross join lateral (
    select * from event_log e where e.account_id = $1 and e.operation_id = k.operation_id and e.terminal offset 0
) e
cross join lateral (
    select * from usage_log u
    where u.account_id = $1 and u.occurred_at = e.occurred_at and u.operation_id = k.operation_id
    offset 0
) u

-- name: find_corrections
-- Of these operations and free adjustments; in their order.
select u.operation_id, u.adjustment ->> 'kind' as kind,
       case when u.adjustment ->> 'kind' = 'void' then
           coalesce(u.adjustment -> 'reference' ->> 'operation_id', u.adjustment -> 'reference' ->> 'adjustment_id')::uuid
       end as voids,
       u.corrects, counted_calls(u.outcome, u.adjusted_calls) as calls, counted_units(u.outcome, u.quantity) as units,
       counted_failures(u.outcome, u.adjusted_failures) as failures, u.cost_nanos, u.user_id, u.project_id,
       u.api_key_id, u.operation, u.provider, u.model, u.occurred_at, u.counted_at
from unnest($2::uuid[]) as k (root)
cross join lateral (select * from usage_log u where u.account_id = $1 and u.corrects = k.root offset 0) u
order by u.position

-- name: reserve_cells
insert into usage_summary (account_id, period, operation, provider, model, calls, units, cost_nanos, failures)
select distinct on (period, operation, provider, model) $1, period, operation, provider, model, 0, 0, 0, 0
from unnest($2::date[], $3::text[], $4::text[], $5::text[]) as k (period, operation, provider, model)
order by period, operation, provider, model
on conflict (account_id, period, operation, provider, model) do update set calls = usage_summary.calls
returning period, operation, provider, model, xmax = 0 as is_new

-- name: give_back_cells
delete from usage_summary s
using unnest($2::date[], $3::text[], $4::text[], $5::text[]) as k (period, operation, provider, model)
where s.account_id = $1 and s.period = k.period and s.operation = k.operation and s.provider = k.provider
  and s.model = k.model
