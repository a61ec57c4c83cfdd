-- name: selected
-- What is exported: rows that were known at $16, in the stretch of the order of keys from after ($17, $18, $19) to
-- ($20, $21, $22) inclusive; without the latter, to the end. The statements below stand alone, over the whole usage log,
-- and over these rows where they follow `with usage_log as (…)`.
select *
from usage_log
where ($1::text is null or account_id = $1)
  and ($2::timestamptz is null or occurred_at >= $2)
  and ($3::timestamptz is null or occurred_at < $3)
  and ($4::timestamptz is null or recorded_at >= $4)
  and ($5::timestamptz is null or recorded_at < $5)
  and ($6::timestamptz is null or counted_at >= $6)
  and ($7::timestamptz is null or counted_at < $7)
  and ($8::text[] is null or operation = any ($8))
  and ($9::text[] is null or provider = any ($9))
  and ($10::text[] is null or model = any ($10))
  and ($11::text is null or user_id = $11)
  and ($12::text is null or project_id = $12)
  and ($13::text is null or api_key_id = $13)
  and ($14::text is null or outcome = $14 or ($14 = 'counted' and outcome <> 'failed'))
  and ($15::text is null or endpoint = $15)
  and recorded_at <= $16::timestamptz
  and ($17::text is null or (account_id, occurred_at, operation_id) > ($17, $18::timestamptz, $19::uuid))
  and ($20::text is null or (account_id, occurred_at, operation_id) <= ($20, $21::timestamptz, $22::uuid))

-- name: window_end
-- The key of the $10th row after ($4, $5, $6) and before ($7, $8, $9), of account $1 (null = all) that occurred from $2 until before $3: an index
-- alone answers. Whatever else is selected, no page reads more rows than this.
select account_id, occurred_at, operation_id
from usage_log
where ($1::text is null or account_id = $1)
  and ($2::timestamptz is null or occurred_at >= $2)
  and ($3::timestamptz is null or occurred_at < $3)
  and ($4::text is null or (account_id, occurred_at, operation_id) > ($4, $5::timestamptz, $6::uuid))
  and ($7::text is null or (account_id, occurred_at, operation_id) < ($7, $8::timestamptz, $9::uuid))
order by account_id, occurred_at, operation_id
offset $10::bigint - 1
limit 1

-- name: totals
select count(*) as row_count, coalesce(sum(counted_calls(outcome, adjusted_calls)), 0)::bigint as calls,
       coalesce(sum(counted_units(outcome, quantity)), 0)::bigint as units, coalesce(sum(cost_nanos), 0)::bigint as cost_nanos,
       coalesce(sum(counted_failures(outcome, adjusted_failures)), 0)::bigint as failures
from usage_log

-- name: span
-- When the first and the last row occurred, of account $1 (null = all).
select min(occurred_at) as first, max(occurred_at) as last
from usage_log
where $1::text is null or account_id = $1

-- name: usage_log_typed
-- For columns of their own types: as short as it can be written, and quickly.
select account_id, operation_id, event_id, outcome, user_id, project_id, api_key_id, operation, provider,
       requested_provider, model, quantity, cost_nanos, counted_calls(outcome, adjusted_calls) as calls,
       counted_units(outcome, quantity) as units, counted_failures(outcome, adjusted_failures) as failures,
       coalesce(booked_period, own_period(occurred_at)) as period, requested_at, occurred_at, counted_at, recorded_at,
       duration_ms, status_code, retry_count, request_bytes, response_bytes, endpoint, error_code, error_message,
       metadata, corrects, adjustment ->> 'kind' as adjustment_kind, adjustment ->> 'author' as adjustment_author,
       adjustment ->> 'reason' as adjustment_reason
from usage_log
order by account_id, occurred_at, operation_id

-- name: usage_log_csv
-- Cells that a spreadsheet would run as a formula begin with an apostrophe; names and ids cannot be such.
select account_id, operation_id, event_id, outcome, user_id, project_id, api_key_id, operation, provider,
       requested_provider, model, quantity, cost_nanos * 0.000000001 as cost,
       counted_calls(outcome, adjusted_calls) as calls, counted_units(outcome, quantity) as units,
       counted_failures(outcome, adjusted_failures) as failures,
       coalesce(booked_period, own_period(occurred_at)) as period,
       to_char(requested_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as requested_at,
       to_char(occurred_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as occurred_at,
       to_char(counted_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as counted_at,
       to_char(recorded_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as recorded_at, duration_ms, status_code, retry_count,
       request_bytes, response_bytes,
       case when endpoint ~ '^[-=+@\t\r]' then '''' || endpoint else endpoint end as endpoint, error_code,
       case when error_message ~ '^[-=+@\t\r]' then '''' || error_message else error_message end as error_message,
       metadata, corrects, adjustment ->> 'kind' as adjustment_kind,
       case when adjustment ->> 'author' ~ '^[-=+@\t\r]' then '''' || (adjustment ->> 'author')
            else adjustment ->> 'author' end as adjustment_author,
       case when adjustment ->> 'reason' ~ '^[-=+@\t\r]' then '''' || (adjustment ->> 'reason')
            else adjustment ->> 'reason' end as adjustment_reason
from usage_log
order by usage_log.account_id, usage_log.occurred_at, usage_log.operation_id

-- name: usage_log_jsonl
-- White space in metadata is as its sender wrote it: a line stays one line.
select row_to_json(r)
from (
    select account_id, operation_id, event_id, outcome, user_id, project_id, api_key_id, operation, provider,
           requested_provider, model, quantity, (cost_nanos * 0.000000001)::text as cost,
           counted_calls(outcome, adjusted_calls) as calls, counted_units(outcome, quantity) as units,
           counted_failures(outcome, adjusted_failures) as failures,
           coalesce(booked_period, own_period(occurred_at)) as period, requested_at, occurred_at, counted_at,
           recorded_at, duration_ms, status_code, retry_count, request_bytes, response_bytes, endpoint, error_code,
           error_message, translate(metadata::text, e'\n\r\t', '   ')::json as metadata, corrects,
           adjustment ->> 'kind' as adjustment_kind, adjustment ->> 'author' as adjustment_author,
           adjustment ->> 'reason' as adjustment_reason
    from usage_log
    order by account_id, occurred_at, operation_id
) r
