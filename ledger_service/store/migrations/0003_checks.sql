-- What a batch of limit checks needs to decide, in one round trip.

create type locked_account as (
    account_id text, plan_id text, plan_version integer, time_zone text, billing_anchor date, limits_version integer
);
create type known_operation as (
    account_id text, operation_id uuid, request_digest bytea, state text, decision text
);
create type touched_counter as (
    caller integer, place text, scope_key text, period_end timestamptz, period_start timestamptz, counter_id text,
    meter text, settled bigint, held bigint, watched text, warn_at bigint
);

-- Locks accounts, and then reads. In plpgsql every statement sees what was committed when it began, so that nothing here
-- is older than the locks: one statement for all of it would see the others' tables as they were before it waited.
create function lock_for_checks(
    account_ids text[], default_plan_id text, operation_account_ids text[], operation_ids uuid[],
    caller_account_ids text[], user_ids text[], project_ids text[], api_key_ids text[], operations text[],
    providers text[], models text[],
    out locked_at timestamptz, out accounts locked_account[], out known known_operation[],
    out counters touched_counter[]
)
    language plpgsql
as $$
begin
    perform from accounts a where a.account_id = any (account_ids) order by a.account_id for no key update;
    locked_at := clock_timestamp();
    accounts := array(
        select row (a.account_id, coalesce(a.plan_id, default_plan_id), p.version, a.time_zone, a.billing_anchor,
                    a.limits_version)::locked_account
        from accounts a
        left join plans p on p.plan_id = coalesce(a.plan_id, default_plan_id)
        where a.account_id = any (account_ids)
    );
    -- An earlier decision, an outcome, or both.
    known := array(
        select row (k.account_id, k.operation_id, d.request_digest, d.state,
                    (e.body -> 'data' -> 'decision')::text)::known_operation
        from unnest(operation_account_ids, operation_ids) as k (account_id, operation_id)
        left join lateral (
            select * from decisions d
            where d.account_id = k.account_id and d.operation_id = k.operation_id
            offset 0
        ) d on true
        left join lateral (
            select * from event_log e where e.account_id = d.account_id and e.event_id = d.event_id offset 0
        ) e on true
        left join lateral (
            select * from event_log o
            where o.account_id = k.account_id and o.operation_id = k.operation_id and o.terminal
            offset 0
        ) o on true
        where d.operation_id is not null or o.event_id is not null
    );
    -- Every counter that a share of these callers' operations would touch now.
    counters := array(
        select row (k.caller - 1, t.place::text, t.scope_key, t.period_end, t.period_start, t.counter_id, t.meter,
                    t.settled, t.held, t.watched::text, t.warn_at)::touched_counter
        from unnest(caller_account_ids, user_ids, project_ids, api_key_ids, operations, providers, models)
            with ordinality as k (account_id, user_id, project_id, api_key_id, operation, provider, model, caller)
        cross join lateral touched_counters(k.account_id, k.user_id, k.project_id, k.api_key_id, k.operation,
                                            k.provider, k.model, locked_at) t
    );
end;
$$;
