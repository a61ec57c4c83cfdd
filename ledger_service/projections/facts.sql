-- name: administration
-- What is about no operation: rare, and found by an index of its own.
select account_id, event_id, type, occurred_at, recorded_at, transaction_id, position, body -> 'data' as data
from events
where operation_id is null

-- name: facts
-- Every event about an operation that a projection is made of, its body read once. Of outcomes also when they took
-- effect.
select e.account_id, e.operation_id, e.event_id, e.type, e.terminal, e.occurred_at, e.recorded_at, e.position,
       f.position as effect_position, f.took_effect_at,
       -- urn:uuid:… is a UUID to the contract
       replace(e.leaseid, 'urn:uuid:', '')::uuid as lease_id,
       coalesce(d.user_id, (e.c).user_id) as user_id, coalesce(d.project_id, (e.c).project_id) as project_id,
       coalesce(d.api_key_id, (e.c).api_key_id) as api_key_id, coalesce(d.operation, (e.c).operation) as operation,
       coalesce(d.provider, (e.c).provider) as provider, d.actual_provider, coalesce(d.model, (e.c).model) as model,
       coalesce(d.quantity, (e.c).quantity, d.units) as quantity, (e.c).calls,
       (coalesce(d.cost, (d.decision).estimated_cost)::numeric * 1000000000)::bigint as cost_nanos,
       event_moment(d.requested_at) as requested_at, d.duration_ms, d.status_code, d.retry_count, d.request_bytes,
       d.response_bytes, d.endpoint, d.error, with_nul(d.metadata) as metadata,
       substring(sha256(convert_to(d."check"::text, 'UTF8')) for 16) as request_digest,
       coalesce(d.expires_at, ((d.decision).reservation).expires_at) as expires_at, d.calls as adjusted_calls,
       d.failures as adjusted_failures, d.counted_at, d.adjustment, ((d.decision).denial).code as denial_code,
       ((d.decision).denial).limit_id as denial_limit_id, d.moved_from
from (
    select e.account_id, e.operation_id, e.event_id, e.type, e.terminal, e.occurred_at, e.recorded_at,
           e.transaction_id, e.position, (e.b).leaseid, (e.b).data,
           json_populate_record(null::fact_check, ((e.b).data)."check") as c
    from (
        select *, json_populate_record(null::fact_body, without_nul(body)) as b
        from events
        where operation_id is not null and type <> 'usage.operation.requested.v1'
        offset 0
    ) e
    offset 0
) e
cross join lateral (select (e.data).*) d
left join lateral (
    select position, took_effect_at from outcome_effects f
    where f.transaction_id = e.transaction_id and f.position > e.position
    order by f.position
    limit 1
) f on e.terminal

-- name: outcomes
select account_id, operation_id, event_id, occurred_at, recorded_at, effect_position, took_effect_at, lease_id,
       case type when 'usage.operation.completed.v1' then 'completed' when 'usage.operation.failed.v1' then 'failed'
                 when 'ledger.adjustment.recorded.v1' then 'adjustment' end as outcome,
       user_id, project_id, api_key_id, operation, provider as requested_provider,
       coalesce(actual_provider, provider) as provider, model, quantity, cost_nanos,
       -- Of what an operation alone has, an adjustment has none.
       coalesce(requested_at, occurred_at) as requested_at, coalesce(duration_ms, 0) as duration_ms, status_code,
       coalesce(retry_count, 0) as retry_count, coalesce(request_bytes, 0) as request_bytes, response_bytes, endpoint,
       error, metadata, adjusted_calls, adjusted_failures, counted_at, adjustment
from facts
where terminal

-- name: closings
-- Of these accounts, and of all.
select account_id, (data ->> 'period')::date as period, position
from administration
where type = 'ledger.period.closed.v1'
union
select account_id, (body -> 'data' ->> 'period')::date, position
from event_log
where account_id = '' and type = 'ledger.period.closed.v1' and operation_id is null

-- name: closed_months
-- Each month with the position of what closed it: the first closing of it, or of a later one.
select account_id, month::date as month, position
from (select *, lag(period) over (partition by account_id order by period) as previous from closings) c
cross join lateral generate_series(coalesce(previous + interval '1 month', '2000-01-01'), period, interval '1 month') month

-- name: booked_outcomes
-- With the month in which they are booked, where their own was closed when they took effect.
select o.*,
       case when m.position < o.effect_position or a.position < o.effect_position then
           ((select max(c.period) from closings c
             where c.account_id in (o.account_id, '') and c.position < o.effect_position) + interval '1 month')::date
       end as booked_period
from outcomes o
left join closed_months m on m.account_id = o.account_id and m.month = own_period(o.occurred_at)
left join closed_months a on a.account_id = '' and a.month = own_period(o.occurred_at)

-- name: checks
-- Limit checks, allowed and denied; a lease is one for several calls. Of a hold that was moved, the last.
select account_id, operation_id, event_id, type <> 'ledger.check.denied.v1' as allowed, request_digest, user_id,
       project_id, api_key_id, operation, provider, model, coalesce(calls, 1) as calls, quantity,
       coalesce(cost_nanos, 0) as cost_nanos, occurred_at as decided_at, expires_at, calls is not null as is_lease,
       denial_code, denial_limit_id, moved_from, position
from facts f
where type in ('ledger.reservation.placed.v1', 'ledger.reservation.moved.v1', 'ledger.check.denied.v1')
  and not exists (
      select from facts m
      where m.type = 'ledger.reservation.moved.v1' and m.account_id = f.account_id and m.moved_from = f.event_id
  )

-- name: ends
-- How holds ended without an outcome.
select account_id, operation_id, split_part(type, '.', 3) as state, occurred_at as ended_at, position
from facts
where type in ('ledger.reservation.released.v1', 'ledger.reservation.expired.v1')

-- name: leased
-- Outcomes that were admitted by a lease: it is for them, and was there before them.
select o.account_id, o.operation_id, o.effect_position, o.quantity, o.cost_nanos, l.operation_id as lease_id,
       l.decided_at
from outcomes o
join checks l on l.account_id = o.account_id and l.operation_id = o.lease_id and l.is_lease and l.allowed
    and l.user_id = o.user_id and l.project_id is not distinct from o.project_id
    and l.api_key_id is not distinct from o.api_key_id and l.operation = o.operation
    and l.provider = o.requested_provider and l.model = o.model and l.position < o.effect_position
where o.lease_id is not null
