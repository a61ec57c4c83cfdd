-- name: apply
-- The accounts are locked from here on: the batch's outcomes take effect now, and the log says so.
with effect as (
    insert into outcome_effects default values returning position
)
insert into usage_log
    (account_id, operation_id, event_id, outcome, user_id, project_id, api_key_id, operation, provider,
     requested_provider, model, quantity, cost_nanos, requested_at, occurred_at, counted_at, recorded_at, duration_ms,
     status_code, retry_count, request_bytes, response_bytes, endpoint, error_code, error_message, metadata,
     held_cost_nanos, lease_id, position, adjusted_calls, adjusted_failures, corrects, adjustment,
     booked_period)
select i.account_id, i.operation_id, i.event_id, i.outcome, i.user_id, i.project_id, i.api_key_id, i.operation,
       i.provider, i.requested_provider, i.model, i.quantity, i.cost_nanos, i.requested_at, i.occurred_at,
       coalesce(l.decided_at, d.decided_at, i.counted_at, i.occurred_at), i.recorded_at, i.duration_ms, i.status_code, i.retry_count,
       i.request_bytes, i.response_bytes, i.endpoint, i.error_code, i.error_message,
       case when i.has_metadata then with_nul(without_nul(i.body) -> 'data' -> 'metadata') end,
       case when l.decided_at is null then d.estimated_cost_nanos end, i.lease_id, effect.position, i.adjusted_calls,
       i.adjusted_failures, i.corrects, case when i.outcome = 'adjustment' then i.body -> 'data' -> 'adjustment' end,
       case when i.occurred_at < ((select max(period) from period_closings) + interval '1 month') at time zone 'UTC'
            then nullif(booked_period(i.account_id, own_period(i.occurred_at)), own_period(i.occurred_at)) end
from incoming i
cross join effect
left join lateral (
    select decided_at, estimated_cost_nanos from decisions d
    where d.account_id = i.account_id and d.operation_id = i.operation_id and d.state <> 'denied'
      and not d.is_lease
    offset 0
) d on true
left join lateral (
    select decided_at from decisions l
    where l.account_id = i.account_id and l.operation_id = i.lease_id and l.is_lease and l.state <> 'denied'
      and l.user_id = i.user_id and l.project_id is not distinct from i.project_id
      and l.api_key_id is not distinct from i.api_key_id and l.operation = i.operation
      and l.provider = i.requested_provider and l.model = i.model
    offset 0
) l on true
where i.outcome is not null
order by i.account_id, i.occurred_at

-- name: rebuild
select o.account_id, o.operation_id, o.event_id, o.outcome, o.user_id, o.project_id, o.api_key_id, o.operation,
       o.provider, o.requested_provider, o.model, o.quantity, o.cost_nanos, o.requested_at, o.occurred_at,
       coalesce(l.decided_at, d.decided_at, o.counted_at, o.occurred_at) as counted_at, o.recorded_at, o.duration_ms, o.status_code,
       o.retry_count, o.request_bytes, o.response_bytes, o.endpoint, o.error ->> 'code' as error_code,
       o.error ->> 'message' as error_message, o.metadata,
       case when l.decided_at is null then d.cost_nanos end as held_cost_nanos, o.lease_id,
       o.effect_position as position, o.adjusted_calls, o.adjusted_failures,
       (o.adjustment ->> 'corrects')::uuid as corrects, o.adjustment, o.booked_period
from booked_outcomes o
left join checks d on d.account_id = o.account_id and d.operation_id = o.operation_id and d.allowed and not d.is_lease
left join leased l on l.account_id = o.account_id and l.operation_id = o.operation_id
