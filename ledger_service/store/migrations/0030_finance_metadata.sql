-- works with: 0018
-- PostgreSQL reads no member of a JSON that has a NUL in it: one event with one failed everybody's queries by metadata.
create or replace view finance.usage_log as
select u.account_id, u.operation_id, u.outcome, u.outcome = 'adjustment' as is_correction,
       u.outcome <> 'adjustment' and u.booked_period is not null as is_late,
       u.user_id, u.project_id, u.api_key_id, u.operation, u.provider, u.requested_provider, u.model,
       counted_calls(u.outcome, u.adjusted_calls) as calls, counted_units(u.outcome, u.quantity) as units,
       counted_failures(u.outcome, u.adjusted_failures) as failures,
       (u.cost_nanos * 0.000000001)::numeric(38, 9) as cost, u.occurred_at, coalesce(u.booked_period, own_period(u.occurred_at)) as booked_month,
       own_period(u.occurred_at) as month_utc, (u.occurred_at at time zone 'UTC')::date as day_utc,
       date_trunc('month', u.occurred_at at time zone coalesce(a.time_zone, 'UTC'))::date as month_local,
       (u.occurred_at at time zone coalesce(a.time_zone, 'UTC'))::date as day_local,
       u.counted_at as admitted_at, u.recorded_at, (u.held_cost_nanos * 0.000000001)::numeric(38, 9) as held_cost,
       u.quantity, u.duration_ms, u.status_code, u.retry_count, u.endpoint, u.error_code,
       without_nul(u.metadata) as metadata, u.lease_id,
       u.corrects as corrects_operation_id, u.adjustment ->> 'kind' as correction_kind,
       u.adjustment ->> 'author' as correction_author, u.adjustment ->> 'reason' as correction_reason, u.event_id
from usage_log u
left join accounts a on a.account_id = u.account_id;
