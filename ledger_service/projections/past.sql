-- name: event_log
select * from event_log where recorded_at <= $1::timestamptz

-- name: events
select * from event_log

-- name: usage_log
select * from usage_log where recorded_at <= $1::timestamptz

-- name: usage_summary
select account_id, coalesce(booked_period, own_period(occurred_at)) as period, operation, provider, model,
       sum(counted_calls(outcome, adjusted_calls))::bigint as calls,
       sum(counted_units(outcome, quantity))::bigint as units, sum(cost_nanos)::bigint as cost_nanos,
       sum(counted_failures(outcome, adjusted_failures))::bigint as failures
from usage_log
group by 1, 2, 3, 4, 5

-- name: period_closings
-- By the moment from which on nothing was booked in the month: what is in it was recorded before that.
select * from period_closings where closed_at <= $1::timestamptz

-- name: limit_alerts
select a.* from limit_alerts a join event_log e on e.account_id = a.account_id and e.event_id = a.event_id

-- name: accounts
-- Whoever remembers terms by limits_version remembers those of now.
select s.account_id, r.plan_id, coalesce(r.time_zone, 'UTC') as time_zone,
       coalesce(r.billing_anchor, '2000-01-01') as billing_anchor, coalesce(r.version, 0) as version,
       1 as limits_version
from accounts s
left join lateral (
    select d.*
    from event_log e
    cross join lateral json_to_record(e.body -> 'data') as d (
        plan_id text, time_zone text, billing_anchor date, version integer)
    where e.account_id = s.account_id and e.type = 'ledger.account.changed.v1' and e.operation_id is null
    order by e.position desc
    limit 1
) r on true
where exists (select from event_log e where e.account_id = s.account_id)

-- name: decisions
-- An outcome ends a hold when it is recorded, and then nothing changes it any more. Without one, a hold that ended by then
-- was released or expired. What a lease has left is what it was given, less what operations under it used. What was moved
-- later was open, and held what it was moved from.
select d.account_id, d.operation_id, d.event_id, d.request_digest,
       case
           when d.state in ('denied', 'held', 'expired') and (d.closed_at is null or d.closed_at <= $1) then d.state
           when not d.is_lease and exists (
               select from event_log o
               where o.account_id = d.account_id and o.operation_id = d.operation_id and o.terminal
           ) then d.state
           when d.closed_at > $1 then 'held'
           else coalesce((
               select split_part(c.type, '.', 3)
               from event_log c
               where c.account_id = d.account_id and c.operation_id = d.operation_id
                 and c.type in ('ledger.reservation.released.v1', 'ledger.reservation.expired.v1')
                 and c.event_id between least_event_id(d.closed_at - interval '1 minute')
                                    and least_event_id(d.closed_at + interval '1 minute')
           ), d.state)
       end as state,
       d.user_id, d.project_id, d.api_key_id, d.operation, d.provider, d.model,
       case when d.is_lease and (d.closed_at is null or d.closed_at > $1) then
           greatest((
               select (p.body -> 'data' -> 'check' ->> 'quantity')::bigint
               from event_log p where p.account_id = d.account_id and p.event_id = d.event_id
           ) - coalesce((
               select sum(u.quantity) from usage_log u
               where u.account_id = d.account_id and u.counted_at = d.decided_at and u.lease_id = d.operation_id
           ), 0), 0)::bigint
       else d.quantity end as quantity,
       case when d.is_lease and (d.closed_at is null or d.closed_at > $1) then
           greatest((
               select ((p.body -> 'data' -> 'decision' ->> 'estimated_cost')::numeric * 1000000000)::bigint
               from event_log p where p.account_id = d.account_id and p.event_id = d.event_id
           ) - coalesce((
               select sum(u.cost_nanos) from usage_log u
               where u.account_id = d.account_id and u.counted_at = d.decided_at and u.lease_id = d.operation_id
           ), 0), 0)::bigint
       else d.estimated_cost_nanos end as estimated_cost_nanos,
       d.decided_at,
       case
           when d.expires_at is null then null
           else coalesce((
               select (x.body -> 'data' ->> 'expires_at')::timestamptz
               from event_log x
               where x.account_id = d.account_id and x.operation_id = d.operation_id
                 and x.type = 'ledger.reservation.extended.v1'
                 and x.event_id between least_event_id(d.decided_at - interval '1 minute')
                                    and least_event_id(d.expires_at + interval '1 minute')
                 and (d.moved_from is null or x.position > (
                     select p.position from event_log p where p.account_id = d.account_id and p.event_id = d.event_id
                 ))
               order by x.position desc
               limit 1
           ), (
               select (p.body -> 'data' -> 'decision' -> 'reservation' ->> 'expires_at')::timestamptz
               from event_log p where p.account_id = d.account_id and p.event_id = d.event_id
           ))
       end as expires_at,
       case when d.is_lease and (d.closed_at is null or d.closed_at > $1) then
           greatest((
               select (p.body -> 'data' -> 'check' ->> 'calls')::bigint
               from event_log p where p.account_id = d.account_id and p.event_id = d.event_id
           ) - (
               select count(*) from usage_log u
               where u.account_id = d.account_id and u.counted_at = d.decided_at and u.lease_id = d.operation_id
           ), 0)::bigint
       else d.calls end as calls,
       d.is_lease,
       case
           when d.closed_at <= $1 then d.closed_at
           when not d.is_lease and exists (
               select from event_log o
               where o.account_id = d.account_id and o.operation_id = d.operation_id and o.terminal
           ) then d.closed_at
       end as closed_at,
       d.denial_code, d.denial_limit_id, d.moved_from
from decisions d
where d.decided_at <= $1::timestamptz
union all
select d.account_id, d.operation_id, p.event_id, p.request_digest, 'held', d.user_id, d.project_id, d.api_key_id,
       d.operation, p.provider, p.model, p.quantity, p.estimated_cost_nanos, p.decided_at,
       coalesce((
           select (x.body -> 'data' ->> 'expires_at')::timestamptz
           from event_log x
           where x.account_id = d.account_id and x.operation_id = d.operation_id
             and x.type = 'ledger.reservation.extended.v1'
             and x.event_id between least_event_id(p.decided_at - interval '1 minute')
                                and least_event_id($1::timestamptz + interval '1 minute')
             and x.position between p.position and p.until_position
           order by x.position desc
           limit 1
       ), p.expires_at),
       d.calls, d.is_lease, null, null, null, p.moved_from
from decisions d
cross join lateral (
    select * from placements(d.account_id, d.event_id)
    where decided_at <= $1::timestamptz
    order by position desc
    limit 1
) p
where d.decided_at > $1::timestamptz and d.moved_from is not null
