-- name: summary
select operation, provider, model, calls, units, cost_nanos, failures
from usage_summary
where account_id = $1 and period = $2
order by operation, provider, model

-- name: summary_of_log
-- The same from the usage log: for the past, of which there are no totals.
select operation, provider, model, sum(counted_calls(outcome, adjusted_calls))::bigint as calls,
       sum(counted_units(outcome, quantity))::bigint as units, sum(cost_nanos)::bigint as cost_nanos,
       sum(counted_failures(outcome, adjusted_failures))::bigint as failures
from (
    select *
    from usage_log
    where account_id = $1 and occurred_at >= $2::date::timestamp at time zone 'UTC'
      and occurred_at < ($2::date + interval '1 month') at time zone 'UTC' and booked_period is null
    union all
    select * from usage_log where account_id = $1 and booked_period = $2
) booked
where $3::timestamptz is null or recorded_at > $3
group by operation, provider, model
order by operation, provider, model

-- name: log_page
-- Newest first, after the cursor ($13, $14) where there is one.
select account_id, operation_id, event_id, outcome, user_id, project_id, api_key_id, operation, provider,
       requested_provider, model, quantity, cost_nanos, requested_at, occurred_at, counted_at, recorded_at, duration_ms,
       status_code, retry_count, request_bytes, response_bytes, endpoint, error_code, error_message,
       metadata::text as metadata, adjusted_calls, adjusted_failures, adjustment::text as adjustment, booked_period
from usage_log
where account_id = $1
  and ($2::timestamptz is null or occurred_at >= $2)
  and ($3::timestamptz is null or occurred_at < $3)
  and ($4::timestamptz is null or counted_at >= $4)
  and ($5::timestamptz is null or counted_at < $5)
  and ($6::text[] is null or operation = any ($6))
  and ($7::text[] is null or provider = any ($7))
  and ($8::text[] is null or model = any ($8))
  and ($9::text is null or user_id = $9)
  and ($10::text is null or project_id = $10)
  and ($11::text is null or api_key_id = $11)
  and ($12::text is null or outcome = $12)
  and ($16::text is null or endpoint = $16)
  and ($17::timestamptz is null or recorded_at >= $17)
  and ($18::timestamptz is null or recorded_at < $18)
  and ($13::timestamptz is null or (occurred_at, operation_id) < ($13, $14::uuid))
order by occurred_at desc, operation_id desc
limit $15
