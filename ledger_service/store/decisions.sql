-- name: write
-- Logs decisions, all made at $1, and adds $19 to what is held of the counters at the places $18. A row's place holds
-- still while its account is locked. $20: the event of the decision whose hold was taken out for them, where one was.
with decided as (
    select *
    from unnest($2::text::text[], $3::text::uuid[], $4::text::uuid[], string_to_array($5, e'\n'), $6::text::bytea[],
                $7::text::text[], $8::text::text[], $9::text::text[], $10::text::text[], $11::text::text[],
                $12::text::text[], $13::text::bigint[], $14::text::bigint[], $15::text::timestamptz[],
                $16::text::boolean[], $17::text::bigint[])
        as t (account_id, operation_id, event_id, body, request_digest, user_id, project_id, api_key_id, operation,
              provider, model, quantity, estimated_cost_nanos, expires_at, is_lease, calls)
),
logged as (
    insert into event_log (account_id, event_id, type, operation_id, terminal, source, occurred_at, body)
    select account_id, event_id,
           case when expires_at is null then 'ledger.check.denied.v1'
                when $20::uuid is null then 'ledger.reservation.placed.v1' else 'ledger.reservation.moved.v1' end,
           operation_id, false, 'ledger', $1, body::json
    from decided
),
kept as (
    insert into decisions
        (account_id, operation_id, event_id, request_digest, state, user_id, project_id, api_key_id, operation,
         provider, model, calls, quantity, estimated_cost_nanos, decided_at, expires_at, is_lease, denial_code,
         denial_limit_id, moved_from)
    select account_id, operation_id, event_id, request_digest,
           case when expires_at is null then 'denied' else 'held' end, user_id, project_id, api_key_id, operation,
           provider, model, calls, quantity, estimated_cost_nanos, $1, expires_at, is_lease, denial ->> 'code',
           denial ->> 'limit_id', $20
    from decided
    cross join lateral (
        select case when expires_at is null
                    then without_nul(body::json) -> 'data' -> 'decision' -> 'denial' end as denial
    ) n
)
update counters c
set held = c.held + p.amount
from unnest($18::text::tid[], $19::text::bigint[]) as p (place, amount)
where c.ctid = p.place

-- name: close
-- Ends open holds and gives their shares back. $5 = only those whose time is over. Answers those it ended. The log and
-- the decision say the same moment.
with closing as materialized (
    select d.*, k.event_id as closing_event_id, n.now
    from (select clock_timestamp() as now offset 0) n
    cross join unnest($1::text[], $2::uuid[], $3::uuid[]) as k (account_id, operation_id, event_id)
    cross join lateral (
        select * from decisions d
        where d.account_id = k.account_id and d.operation_id = k.operation_id and d.state = 'held'
          and (not $5::boolean or d.expires_at <= n.now)
        offset 0
    ) d
),
closed as (
    insert into decisions as d
        (account_id, operation_id, event_id, request_digest, state, user_id, operation, provider, model, quantity,
         estimated_cost_nanos, decided_at, closed_at)
    select account_id, operation_id, event_id, request_digest, $4, user_id, operation, provider, model, quantity,
           estimated_cost_nanos, decided_at, now
    from closing
    on conflict (account_id, operation_id) do update set state = excluded.state, closed_at = excluded.closed_at
),
logged as (
    insert into event_log (account_id, event_id, type, operation_id, terminal, source, occurred_at, body)
    select account_id, closing_event_id, 'ledger.reservation.' || $4 || '.v1', operation_id, false, 'ledger', now,
           json_build_object(
               'specversion', '1.0', 'id', closing_event_id, 'type', 'ledger.reservation.' || $4 || '.v1',
               'source', 'ledger', 'subject', account_id, 'time', now,
               'data', json_build_object('operation_id', operation_id, 'account_id', account_id))
    from closing
),
returned as (
    insert into counters as c (account_id, scope_key, period_end, period_start, counter_id, meter, settled, held)
    select t.account_id, t.scope_key, t.period_end, t.period_start, t.counter_id, t.meter, 0,
           -sum(meter_amount(t.meter, d.calls, d.quantity, d.estimated_cost_nanos))
    from closing d
    cross join lateral touched_counters(d.account_id, d.user_id, d.project_id, d.api_key_id, d.operation, d.provider,
                                        d.model, d.decided_at) t
    group by t.account_id, t.scope_key, t.period_end, t.period_start, t.counter_id, t.meter
    on conflict (account_id, scope_key, period_end, period_start, counter_id) do update
    set held = c.held + excluded.held
)
select account_id, operation_id from closing

-- name: due
select account_id, operation_id from decisions
where state = 'held' and expires_at <= clock_timestamp()
order by expires_at
limit $1

-- name: find_state
-- Not of leases: those end by their token.
select account_id, state from decisions
where operation_id = $1 and ($2::text is null or account_id = $2) and not is_lease
order by account_id
limit 1

-- name: extend
with extended as (
    update decisions set expires_at = clock_timestamp() + make_interval(secs => $3)
    where account_id = $1 and operation_id = $2 and state = 'held'
    returning account_id, operation_id, expires_at
),
logged as (
    insert into event_log (account_id, event_id, type, operation_id, terminal, source, occurred_at, body)
    select account_id, $4, 'ledger.reservation.extended.v1', operation_id, false, 'ledger', clock_timestamp(),
           json_build_object(
               'specversion', '1.0', 'id', $4::uuid, 'type', 'ledger.reservation.extended.v1', 'source', 'ledger',
               'subject', account_id, 'time', clock_timestamp(),
               'data', json_build_object('operation_id', operation_id, 'account_id', account_id,
                                         'expires_at', expires_at))
    from extended
)
select expires_at from extended

-- name: find_placement
-- The decision that a hold stands by, and what it was moved from.
select d.event_id, d.state, d.request_digest, d.decided_at, d.user_id, d.project_id, d.api_key_id, d.operation,
       (e.body -> 'data' -> 'decision')::text as decision, e.body -> 'data' ->> 'billed' as billed,
       f.occurred_at as moved_from_placed_at,
       case when d.moved_from is null then 0
            else (select count(*) - 1 from placements(d.account_id, d.event_id)) end as moves
from decisions d
join event_log e on e.account_id = d.account_id and e.event_id = d.event_id
left join event_log f on f.account_id = d.account_id and f.event_id = d.moved_from
where d.account_id = $1 and d.operation_id = $2 and d.state <> 'denied'

-- name: take_out
-- Takes an open hold out, as if it had never been placed, for another decision to be put in its place.
with taken as (
    delete from decisions where account_id = $1 and operation_id = $2 and state = 'held' returning *
)
update counters c
set held = c.held - meter_amount(t.meter, d.calls, d.quantity, d.estimated_cost_nanos)
from taken d
cross join lateral touched_counters(d.account_id, d.user_id, d.project_id, d.api_key_id, d.operation, d.provider,
                                    d.model, d.decided_at) t
where c.ctid = t.place

-- name: find
select d.account_id, d.operation_id, d.state, d.expires_at, d.event_id, d.moved_from, e.position, e.body::text as body,
       u.outcome, u.quantity, u.cost_nanos, u.occurred_at
from decisions d
join event_log e on e.account_id = d.account_id and e.event_id = d.event_id
left join event_log o on o.account_id = d.account_id and o.operation_id = d.operation_id and o.terminal
left join usage_log u on u.account_id = o.account_id and u.occurred_at = o.occurred_at
    and u.operation_id = o.operation_id
where d.operation_id = $1 and ($2::text is null or d.account_id = $2)
order by d.account_id
limit 1
