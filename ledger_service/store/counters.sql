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

-- part: archived
-- What rows of the usage log that are in archives count, read from the log, once for all counters of an account that
-- begin before the usage log does: those of all time, and stretches of credit, be they over. As many of the latter as
-- grants cut time into are made at once, of whatever came before.
archived as materialized (
    select k.account_id, scope_keys(d.user_id, d.project_id, d.api_key_id) as scope_keys, d.operation,
           coalesce(d.actual_provider, d.provider) as provider, d.model,
           coalesce(l.decided_at, h.decided_at, d.counted_at, e.occurred_at) as counted_at,
           counted_calls(e.outcome, d.calls) as calls, counted_units(e.outcome, coalesce(d.quantity, d.units)) as units,
           (d.cost::numeric * 1000000000)::bigint as cost_nanos
    from (
        select distinct n.account_id
        from json_populate_recordset(null::counters, $1::json) as n
        where usage_log_begins() > n.period_start
    ) k
    cross join lateral (
        select o.operation_id, o.occurred_at, split_part(o.type, '.', 3) as outcome,
               json_populate_record(null::fact_body, without_nul(o.body)) as b
        from event_log o
        where o.account_id = k.account_id and o.terminal and o.occurred_at < usage_log_begins()
          and not exists (
              select from usage_log u
              where u.account_id = o.account_id and u.occurred_at = o.occurred_at and u.operation_id = o.operation_id
          )
        offset 0
    ) e
    cross join lateral (select ((e.b).data).*) d
    -- Counted when it was admitted: as in projections/usage_log.sql.
    left join lateral (
        select decided_at from decisions h
        where h.account_id = k.account_id and h.operation_id = e.operation_id and h.state <> 'denied' and not h.is_lease
        offset 0
    ) h on true
    left join lateral (
        select decided_at from decisions l
        where l.account_id = k.account_id and l.operation_id = replace((e.b).leaseid, 'urn:uuid:', '')::uuid
          and l.is_lease and l.state <> 'denied' and l.user_id = d.user_id
          and l.project_id is not distinct from d.project_id and l.api_key_id is not distinct from d.api_key_id
          and l.operation = d.operation and l.provider = d.provider and l.model = d.model
        offset 0
    ) l on true
)

-- part: archived_sum
           select sum(meter_amount(n.meter, a.calls, a.units, a.cost_nanos))
           from archived a
           where a.account_id = n.account_id and usage_log_begins() > n.period_start
             and n.scope_key = any (a.scope_keys)
             and selected(n, a.operation, a.provider, a.model, a.counted_at)

-- name: create_missing
-- Makes counters from what the usage log and the open holds say. Under the accounts' locks, nobody else changes either.
with
-- take: archived
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
       ), 0) + coalesce((
-- take: archived_sum
       ), 0),
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
with
-- take: archived
select n.account_id, n.scope_key, n.period_end, n.period_start, n.counter_id,
       coalesce((
           select sum(meter_amount(n.meter, counted_calls(u.outcome, u.adjusted_calls),
                                   counted_units(u.outcome, u.quantity), u.cost_nanos))
           from usage_log u
           where u.account_id = n.account_id and u.counted_at >= n.period_start and u.counted_at < n.period_end
             and n.scope_key = any (scope_keys(u.user_id, u.project_id, u.api_key_id))
             and selected(n, u.operation, u.provider, u.model, u.counted_at)
       ), 0)::bigint + coalesce((
-- take: archived_sum
       ), 0)::bigint as settled,
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
