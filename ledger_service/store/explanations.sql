-- name: plan_version
select body::text from event_log
where account_id = '' and type = 'ledger.plan.changed.v1' and operation_id is null
  and body -> 'data' ->> 'plan_id' = $1 and (body -> 'data' ->> 'version')::integer = $2
order by position desc
limit 1

-- name: override_version
-- Versions begin anew once an override was taken back: the last one before the decision is meant.
select body::text from event_log
where account_id = $1 and type = 'ledger.limit_override.changed.v1' and operation_id is null
  and body -> 'data' -> 'limit' ->> 'limit_id' = $2 and body -> 'data' ->> 'scope_id' is not distinct from $3::text
  and (body -> 'data' ->> 'version')::integer = $4
  and (body -> 'data' ->> 'valid_from')::timestamptz is not distinct from $5::timestamptz
  and position < $6
order by position desc
limit 1

-- name: account_at
-- The account as it was registered before a position of the log.
select body::text from event_log
where account_id = $1 and type = 'ledger.account.changed.v1' and operation_id is null and position < $2
order by position desc
limit 1

-- name: counter
select settled, held from counters
where account_id = $1 and scope_key = $2 and period_end = $3 and period_start = $4 and counter_id = $5

-- name: open_holds
-- What was held of a counter when the decision of ($3, $4) was taken. Events of holds that were open then, placed or
-- extended, have ids from $5 to $6. At most $7 of them, and of those still open, are looked at, the newest. Holds of one
-- batch share decided_at. $9: the operation that was decided on, whose own hold it may have taken out.
with candidates as (
    select operation_id
    from (
        select operation_id from decisions
        where account_id = $1 and state = 'held' and decided_at <= $3
        order by decided_at desc
        limit $7
    ) still_open
    union
    select operation_id
    from (
        select operation_id from event_log
        where account_id = $1 and event_id between $5 and $6
          and type in ('ledger.reservation.placed.v1', 'ledger.reservation.moved.v1', 'ledger.reservation.extended.v1')
        order by event_id desc
        limit $7
    ) newest
),
open_then as (
    select d.operation_id, d.user_id, d.state, h.decided_at, h.expires_at, d.closed_at, d.is_lease, h.position,
           meter_amount(n.meter, d.calls, h.quantity, h.estimated_cost_nanos) as amount
    from json_populate_record(null::counters, $2::json) n
    cross join candidates k
    cross join lateral (
        select * from decisions d where d.account_id = $1 and d.operation_id = k.operation_id offset 0
    ) d
    -- As it was held then, where it was moved since.
    cross join lateral (
        select d.provider, d.model, d.quantity, d.estimated_cost_nanos, d.decided_at, d.expires_at, e.position
        from event_log e
        where d.moved_from is null and e.account_id = $1 and e.event_id = d.event_id
          and (d.decided_at, e.position) < ($3, $4)
        union all
        (select p.provider, p.model, p.quantity, p.estimated_cost_nanos, p.decided_at,
                case when p.until_position is null then d.expires_at else p.expires_at end, p.position
         from placements($1, d.event_id) p
         where d.moved_from is not null and (p.decided_at, p.position) < ($3, $4)
         order by p.position desc
         limit 1)
        offset 0
    ) h
    where d.state <> 'denied' and d.operation_id <> $9
      and (d.closed_at is null or d.closed_at > $3)
      and n.scope_key = any (scope_keys(d.user_id, d.project_id, d.api_key_id))
      and selected(n, d.operation, h.provider, h.model, h.decided_at)
)
select operation_id, user_id, state, decided_at, expires_at, closed_at, is_lease, amount,
       count(*) over () as holds, sum(amount) over () as total
from open_then
order by decided_at, position
limit $8

-- name: moved_from
-- What the hold of this decision was before it was moved here, the first first.
select event_id, provider, model, quantity, estimated_cost_nanos, decided_at
from placements($1, $2)
where until_position is not null
order by position
