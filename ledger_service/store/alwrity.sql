-- name: known
-- Of each event whether it is in the log, and whether its operation has an outcome there.
select k.event_id,
       exists (select 1 from event_log e where e.account_id = k.account_id and e.event_id = k.event_id) as is_recorded,
       exists (select 1 from event_log e
               where e.account_id = k.account_id and e.operation_id = k.operation_id and e.terminal) as is_finished
from unnest($1::text[], $2::uuid[], $3::uuid[]) as k (account_id, event_id, operation_id)

-- name: archived
-- One of these accounts of whose imported rows, or of what an import ($3) adjusted, some from before $2 are in archives.
select o.account_id
from event_log o
where o.account_id = any ($1::text[]) and o.terminal and o.occurred_at < $2
  and (o.source = $4 or o.type = $5 and without_nul(o.body) -> 'data' -> 'adjustment' ->> 'author' = $3)
  and not exists (
      select from usage_log u
      where u.account_id = o.account_id and u.occurred_at = o.occurred_at and u.operation_id = o.operation_id
  )
limit 1

-- name: recorded
-- What an account has of imported rows, by ALwrity's billing period, with what aggregated rows count beyond one call.
with imported as (
    select operation_id, without_nul(metadata) ->> $2 as period, occurred_at,
           counted_calls(outcome, adjusted_calls) as calls, counted_failures(outcome, adjusted_failures) as failures,
           cost_nanos, coalesce((without_nul(metadata) ->> 'tokens_total')::bigint, 0) as tokens
    from usage_log
    where account_id = $1 and without_nul(metadata) ->> $2 is not null
), counted as (
    select i.period, 1 as rows, i.calls + coalesce(a.calls, 0) as calls, i.failures + coalesce(a.failures, 0) as failures,
           i.cost_nanos + coalesce(a.cost_nanos, 0) as cost_nanos, i.tokens,
           to_char(i.occurred_at at time zone 'UTC', 'YYYY-MM') <> i.period as is_elsewhere
    from imported i
    left join lateral (
        select sum(l.adjusted_calls) as calls, sum(l.adjusted_failures) as failures, sum(l.cost_nanos) as cost_nanos
        from usage_log l
        where l.account_id = $1 and l.corrects = i.operation_id and l.adjustment ->> 'author' = $3
        offset 0
    ) a on true
)
select period, is_elsewhere, sum(rows)::bigint as rows, sum(calls)::bigint as calls, sum(failures)::bigint as failures,
       sum(cost_nanos)::bigint as cost_nanos, sum(tokens)::bigint as tokens
from counted
group by period, is_elsewhere

-- name: opened
-- What the import's opening balances of an account come to, by month.
select to_char(occurred_at at time zone 'UTC', 'YYYY-MM') as period, sum(adjusted_calls)::bigint as calls,
       sum(cost_nanos)::bigint as cost_nanos
from usage_log
where account_id = $1 and outcome = 'adjustment' and corrects is null and operation = $2
  and adjustment ->> 'author' = $3
group by 1

-- name: totals
-- All that an account has, by month (UTC).
select to_char(period, 'YYYY-MM') as period, sum(calls)::bigint as calls, sum(failures)::bigint as failures,
       sum(cost_nanos)::bigint as cost_nanos
from usage_summary
where account_id = $1
group by 1

-- name: plan_versions
-- Every form that a plan ever had.
select body::text as body from event_log where account_id = '' and type = $1 and body -> 'data' ->> 'plan_id' = $2

-- name: aggregates
-- The aggregated rows of an account that were imported.
select event_id, requested_provider, without_nul(metadata) ->> $3 as period, occurred_at
from usage_log
where account_id = $1 and operation = $2 and without_nul(metadata) ->> $3 is not null

-- name: details
-- What an account has of imported rows of single calls, of one provider and billing period.
select event_id, occurred_at, outcome, cost_nanos
from usage_log
where account_id = $1 and requested_provider = $2 and without_nul(metadata) ->> $3 = $4 and operation <> $5
