-- name: find
select k.ordinal, c.settled, c.held, c.watched, c.warn_at
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[])
    with ordinality as k (account_id, scope_key, period_end, period_start, counter_id, ordinal)
cross join lateral (
    select c.settled, c.held, c.watched::text as watched, c.warn_at
    from counters c
    where c.account_id = k.account_id and c.scope_key = k.scope_key and c.period_end = k.period_end
      and c.period_start = k.period_start and c.counter_id = k.counter_id
    offset 0
) c

-- name: create_missing
-- Makes counters from what the usage log and the open holds say. Under the accounts' locks, nobody else changes either.
insert into counters
    (account_id, scope_key, period_end, period_start, counter_id, meter, operations, providers, models, settled, held)
select n.account_id, n.scope_key, n.period_end, n.period_start, n.counter_id, n.meter, n.operations, n.providers,
       n.models,
       coalesce((
           select sum(meter_amount(n.meter, counted_calls(u.outcome, u.adjusted_calls),
                                   counted_units(u.outcome, u.quantity), u.cost_nanos))
           from usage_log u
           where u.account_id = n.account_id and u.counted_at >= n.period_start and u.counted_at < n.period_end
             and n.scope_key = any (scope_keys(u.user_id, u.project_id, u.api_key_id))
             and selected(n, u.operation, u.provider, u.model, u.counted_at)
       ), 0) + case when n.period_end > now() and usage_log_begins() > n.period_start then coalesce((
           -- Of windows that are open now, only those without an end can have begun before: see archiving.py.
           select sum(meter_amount(n.meter, a.calls, a.units, a.cost_nanos))
           from archived_usage(n.account_id) a
           where n.scope_key = any (scope_keys(a.user_id, a.project_id, a.api_key_id))
             and selected(n, a.operation, a.provider, a.model, a.occurred_at)
       ), 0) else 0 end,
       coalesce((
           select sum(meter_amount(n.meter, d.calls, d.quantity, d.estimated_cost_nanos))
           from decisions d
           where d.account_id = n.account_id and d.state = 'held'
             and d.decided_at >= n.period_start and d.decided_at < n.period_end
             and n.scope_key = any (scope_keys(d.user_id, d.project_id, d.api_key_id))
             and selected(n, d.operation, d.provider, d.model, d.decided_at)
       ), 0)
from json_populate_recordset(null::counters, $1::json) as n
order by n.account_id, n.scope_key, n.period_end, n.period_start, n.counter_id
on conflict do nothing
returning account_id, scope_key, period_end, period_start, counter_id, settled, held, ctid::text as place

-- name: computed
-- What counters would be made with, as create_missing makes them, of one state of both tables. A hold that ended has
-- closed_at: of the past that is known sooner than how it ended.
select n.account_id, n.scope_key, n.period_end, n.period_start, n.counter_id,
       coalesce((
           select sum(meter_amount(n.meter, counted_calls(u.outcome, u.adjusted_calls),
                                   counted_units(u.outcome, u.quantity), u.cost_nanos))
           from usage_log u
           where u.account_id = n.account_id and u.counted_at >= n.period_start and u.counted_at < n.period_end
             and n.scope_key = any (scope_keys(u.user_id, u.project_id, u.api_key_id))
             and selected(n, u.operation, u.provider, u.model, u.counted_at)
       ), 0)::bigint + case when n.period_end > now() and usage_log_begins() > n.period_start then coalesce((
           select sum(meter_amount(n.meter, a.calls, a.units, a.cost_nanos))
           from archived_usage(n.account_id) a
           where n.scope_key = any (scope_keys(a.user_id, a.project_id, a.api_key_id))
             and selected(n, a.operation, a.provider, a.model, a.occurred_at)
       ), 0)::bigint else 0 end as settled,
       coalesce((
           select sum(meter_amount(n.meter, d.calls, d.quantity, d.estimated_cost_nanos))
           from decisions d
           where d.account_id = n.account_id and d.closed_at is null and d.state = 'held'
             and d.decided_at >= n.period_start and d.decided_at < n.period_end
             and n.scope_key = any (scope_keys(d.user_id, d.project_id, d.api_key_id))
             and selected(n, d.operation, d.provider, d.model, d.decided_at)
       ), 0)::bigint as held
from json_populate_recordset(null::counters, $1::json) as n

-- name: watch
update counters c
set watched = k.watched::json, warn_at = k.warn_at
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], $7::bigint[])
    as k (account_id, scope_key, period_end, period_start, counter_id, watched, warn_at)
where c.account_id = k.account_id and c.scope_key = k.scope_key and c.period_end = k.period_end
  and c.period_start = k.period_start and c.counter_id = k.counter_id
