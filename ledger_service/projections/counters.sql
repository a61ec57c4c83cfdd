-- name: apply
-- Settles: gives back what was held, and adds what was used to every counter of the window in which it was admitted.
-- "lateral … offset 0" keeps the batch on the outside of each join, however small the other table is when the plan is
-- made; an insert that always conflicts is an update that is driven by its source, for the same reason.
with finished as materialized (
    select i.account_id, i.operation_id, i.user_id, i.project_id, i.api_key_id, i.operation, i.provider, i.model,
           counted_calls(i.outcome, i.adjusted_calls) as calls, counted_units(i.outcome, i.quantity) as units,
           i.cost_nanos, i.quantity, coalesce(l.decided_at, d.decided_at, i.counted_at, i.occurred_at) as counted_at,
           d as decision, l as lease
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
           (decision).estimated_cost_nanos, (decision).decided_at, coalesce((decision).closed_at, e.took_effect_at)
    from finished
    -- The one that the usage log has just written.
    cross join (
        select took_effect_at from outcome_effects
        where transaction_id = pg_current_xact_id() order by position desc limit 1
    ) e
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

-- name: rebuild
-- Of every counter that exists, what it counts (its id says), and the sums of that. A period is met by the hours or days
-- that it touches, so that many short ones need not be looked at for every operation; then the rule is that of selected().
with defined as (
    select c.*, p.part[1] as meant_meter,
           (select string_to_array(substr(one, 11), ',') from unnest(p.part[4:]) as one where one like 'operation=%')
               as meant_operations,
           (select string_to_array(substr(one, 10), ',') from unnest(p.part[4:]) as one where one like 'provider=%')
               as meant_providers,
           (select string_to_array(substr(one, 7), ',') from unnest(p.part[4:]) as one where one like 'model=%')
               as meant_models
    from live_counters c
    cross join lateral string_to_array(c.counter_id, ' ') as p (part)
    where p.part[1] in ('calls', 'units', 'cost') and p.part[2] = split_part(c.scope_key, ':', 1)
      and p.part[2] in ('account', 'project', 'user', 'api_key')
      and p.part[3] in ('minute', 'hour', 'day', 'month', 'billing_period', 'lifetime')
      and array_remove(array [
              (select one from unnest(p.part[4:]) as one where one like 'operation=_%' limit 1),
              (select one from unnest(p.part[4:]) as one where one like 'provider=_%' limit 1),
              (select one from unnest(p.part[4:]) as one where one like 'model=_%' limit 1)], null) = p.part[4:]
      and c.period_start < c.period_end
),
spans as (
    select d.account_id, d.scope_key, d.period_end, d.period_start, d.counter_id, d.meant_meter as meter,
           d.meant_operations as operations, d.meant_providers as providers, d.meant_models as models, b.grain, b.bucket
    from defined d
    cross join lateral (
        select 'hour' as grain, hour as bucket
        from generate_series(date_bin('1 hour', d.period_start, '1970-01-01 00:00+00'), d.period_end - interval '1 microsecond',
                             interval '1 hour') as hour
        where d.period_end - d.period_start <= interval '1 hour'
        union all
        select 'day', day
        from generate_series(date_bin('24 hours', d.period_start, '1970-01-01 00:00+00'), d.period_end - interval '1 microsecond',
                             interval '24 hours') as day
        where d.period_end - d.period_start > interval '1 hour' and d.period_end - d.period_start <= interval '50 hours'
        union all
        select 'all', '-infinity'
        where d.period_end - d.period_start > interval '50 hours'
    ) b
),
shares as not materialized (
    select account_id, k.scope_key, operation, provider, model, counted_at as at,
           counted_calls(outcome, adjusted_calls) as calls, counted_units(outcome, quantity) as units, cost_nanos,
           false as held
    from rebuilt_usage_log
    cross join lateral unnest(scope_keys(user_id, project_id, api_key_id)) as k (scope_key)
    where k.scope_key is not null
    union all
    select account_id, k.scope_key, operation, provider, model, decided_at, calls, quantity, estimated_cost_nanos, true
    from rebuilt_decisions
    cross join lateral unnest(scope_keys(user_id, project_id, api_key_id)) as k (scope_key)
    where state = 'held' and k.scope_key is not null
),
met as (
    select c.account_id, c.scope_key, c.period_end, c.period_start, c.counter_id, s.held,
           meter_amount(c.meter, s.calls, s.units, s.cost_nanos) as amount
    from shares s
    join spans c on c.account_id = s.account_id and c.scope_key = s.scope_key and c.grain = 'all'
    where c.period_start <= s.at and c.period_end > s.at and (c.operations is null or s.operation = any (c.operations))
      and (c.providers is null or s.provider = any (c.providers)) and (c.models is null or s.model = any (c.models))
    union all
    select c.account_id, c.scope_key, c.period_end, c.period_start, c.counter_id, s.held,
           meter_amount(c.meter, s.calls, s.units, s.cost_nanos)
    from shares s
    join spans c on c.account_id = s.account_id and c.scope_key = s.scope_key and c.grain = 'day'
        and c.bucket = date_bin('24 hours', s.at, '1970-01-01 00:00+00')
    where c.period_start <= s.at and c.period_end > s.at and (c.operations is null or s.operation = any (c.operations))
      and (c.providers is null or s.provider = any (c.providers)) and (c.models is null or s.model = any (c.models))
    union all
    select c.account_id, c.scope_key, c.period_end, c.period_start, c.counter_id, s.held,
           meter_amount(c.meter, s.calls, s.units, s.cost_nanos)
    from shares s
    join spans c on c.account_id = s.account_id and c.scope_key = s.scope_key and c.grain = 'hour'
        and c.bucket = date_bin('1 hour', s.at, '1970-01-01 00:00+00')
    where c.period_start <= s.at and c.period_end > s.at and (c.operations is null or s.operation = any (c.operations))
      and (c.providers is null or s.provider = any (c.providers)) and (c.models is null or s.model = any (c.models))
),
sums as (
    select account_id, scope_key, period_end, period_start, counter_id,
           coalesce(sum(amount) filter (where not held), 0)::bigint as settled,
           coalesce(sum(amount) filter (where held), 0)::bigint as held
    from met
    group by account_id, scope_key, period_end, period_start, counter_id
),
-- What the last limit check told ingest to look for is taken at its word where it makes sense; otherwise the next check
-- says it anew. Of the thresholds below warn_at, each has raised its alert.
watches as (
    select d.account_id, d.scope_key, d.period_end, d.period_start, d.counter_id,
           bool_and(coalesce(t.amount = greatest(1, ceil(t.maximum * t.percent / 100)) and t.maximum * t.percent >= 0, false)) as makes_sense,
           min(t.amount) filter (where a.limit_id is null and t.amount <= 9223372036854775807) as first_silent,
           bool_or(t.amount = d.warn_at) as is_a_threshold
    from defined d
    cross join lateral (
        select w ->> 'limit_id' as limit_id,
               case when w ->> 'percent' ~ '^\d{1,9}$' then (w ->> 'percent')::numeric end as percent,
               case when w ->> 'maximum' ~ '^\d{1,30}$' then (w ->> 'maximum')::numeric end as maximum,
               case when w ->> 'amount' ~ '^\d{1,30}$' then (w ->> 'amount')::numeric end as amount
        from json_array_elements(case when json_typeof(d.watched) = 'array' then d.watched else '[0]' end) as e (one)
        cross join lateral (select case when json_typeof(e.one) = 'object' then e.one end as w) as o
    ) t
    left join rebuilt_limit_alerts a on a.account_id = d.account_id and a.limit_id = t.limit_id
        and a.scope_key = d.scope_key and a.period_start = d.period_start and a.period_end = d.period_end
        and a.threshold = t.percent and a.maximum = t.maximum
    where d.watched is not null
    group by d.account_id, d.scope_key, d.period_end, d.period_start, d.counter_id
)
select d.account_id, d.scope_key, d.period_end, d.period_start, d.counter_id, d.meant_meter as meter,
       d.meant_operations as operations, d.meant_providers as providers, d.meant_models as models, coalesce(s.settled, 0) as settled, coalesce(s.held, 0) as held,
       case when w.makes_sense then d.watched end as watched,
       case when w.makes_sense then
           case when d.warn_at is null and w.first_silent is null
                    or w.is_a_threshold and d.warn_at <= coalesce(w.first_silent, d.warn_at)
                then d.warn_at else w.first_silent::bigint end
       end as warn_at
from defined d
left join sums s on s.account_id = d.account_id and s.scope_key = d.scope_key and s.period_end = d.period_end
    and s.period_start = d.period_start and s.counter_id = d.counter_id
left join watches w on w.account_id = d.account_id and w.scope_key = d.scope_key and w.period_end = d.period_end
    and w.period_start = d.period_start and w.counter_id = d.counter_id
