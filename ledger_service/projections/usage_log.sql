-- name: apply
insert into usage_log
    (account_id, operation_id, event_id, outcome, user_id, project_id, api_key_id, operation, provider,
     requested_provider, model, quantity, cost_nanos, requested_at, occurred_at, counted_at, recorded_at, duration_ms,
     status_code, retry_count, request_bytes, response_bytes, endpoint, error_code, error_message, metadata,
     held_cost_nanos, lease_id)
select i.account_id, i.operation_id, i.event_id, i.outcome, i.user_id, i.project_id, i.api_key_id, i.operation,
       i.provider, i.requested_provider, i.model, i.quantity, i.cost_nanos, i.requested_at, i.occurred_at,
       coalesce(l.decided_at, d.decided_at, i.occurred_at), i.recorded_at, i.duration_ms, i.status_code, i.retry_count,
       i.request_bytes, i.response_bytes, i.endpoint, i.error_code, i.error_message, i.metadata,
       case when l.decided_at is null then d.estimated_cost_nanos end, i.lease_id
from incoming i
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
