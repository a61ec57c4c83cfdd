-- name: outcome_unknown
-- Newest first, after ($3, $4); without those that a correction was recorded for.
select u.account_id, u.operation_id, u.user_id, u.operation, u.provider, u.model, u.cost_nanos, u.requested_at as began_at,
       u.occurred_at as ended_at, (without_nul(u.metadata) -> 'provider_calls')::text as calls, u.error_message as message
from usage_log u
where u.error_code = 'outcome_unknown'
  and ($1::text is null or u.account_id = $1)
  and ($3::timestamptz is null or (u.occurred_at, u.operation_id) < ($3, $4::uuid))
  and not exists (select from usage_log c where c.account_id = u.account_id and c.corrects = u.operation_id)
order by u.occurred_at desc, u.operation_id desc
limit $2

-- name: open
-- Holds that were placed $5 seconds ago or before, those first that end first, after ($3, $4).
select d.account_id, d.operation_id, d.user_id, d.operation, d.provider, d.model,
       d.estimated_cost_nanos as cost_nanos, d.decided_at as began_at, d.expires_at as ended_at,
       null::text as calls, null::text as message
from decisions d
where d.state = 'held' and not d.is_lease
  and d.decided_at <= now() - make_interval(secs => $5)
  and ($1::text is null or d.account_id = $1)
  and ($3::timestamptz is null or (d.expires_at, d.operation_id) > ($3, $4::uuid))
order by d.expires_at, d.operation_id
limit $2

-- name: expired
-- Newest first, after ($3, $4).
select d.account_id, d.operation_id, d.user_id, d.operation, d.provider, d.model,
       d.estimated_cost_nanos as cost_nanos, d.decided_at as began_at, d.expires_at as ended_at,
       null::text as calls, null::text as message
from decisions d
where d.state = 'expired' and not d.is_lease
  and ($1::text is null or d.account_id = $1)
  and ($3::timestamptz is null or (d.expires_at, d.operation_id) < ($3, $4::uuid))
order by d.expires_at desc, d.operation_id desc
limit $2
