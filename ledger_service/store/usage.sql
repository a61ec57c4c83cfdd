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

-- name: present
-- Of the account $1 now, in one statement and so of one snapshot: its terms as in terms.sql ($3: the default plan), what
-- it used in the month $2 (null: the current one), in columns, and the counters of the account as a whole that most
-- limits look at: those of windows that hold at the month's last moment or now. None but a lifetime ($4: its end) is
-- longer than 31 days and the hour of a clock's change; what other counters are needed is for others to find. xmin,
-- read_at and the lock are as in moments.sql.
with seen as materialized (
    select pg_snapshot_xmin(pg_current_snapshot())::text as xmin, clock_timestamp() as read_at,
           pg_advisory_xact_lock_shared(7205759403792801)
),
asked as materialized (
    select s.xmin, s.read_at, m.month,
           least(greatest(s.read_at, m.month::timestamp at time zone 'UTC'),
                 (m.month + interval '1 month') at time zone 'UTC' - interval '1 microsecond') as moment
    from seen s
    cross join lateral (select coalesce($2, date_trunc('month', s.read_at at time zone 'UTC')::date)) m (month)
)
select q.xmin, q.read_at, q.month, a.account_id is not null as is_known, $1 as account_id,
       coalesce(a.plan_id, $3) as plan_id, coalesce(a.time_zone, 'UTC') as time_zone,
       coalesce(a.billing_anchor, '2000-01-01') as billing_anchor, coalesce(a.limits_version, 0) as limits_version,
       p.version as plan_version, u.operations, u.providers, u.models, u.calls, u.units, u.costs_nanos, u.failures,
       c.period_ends, c.period_starts, c.counter_ids, c.settled, c.held
from asked q
left join accounts a on a.account_id = $1
left join plans p on p.plan_id = coalesce(a.plan_id, $3)
cross join lateral (
    select array_agg(r.operation) as operations, array_agg(r.provider) as providers, array_agg(r.model) as models,
           array_agg(r.calls) as calls, array_agg(r.units) as units, array_agg(r.cost_nanos) as costs_nanos,
           array_agg(r.failures) as failures
    from (
        select operation, provider, model, calls, units, cost_nanos, failures
        from usage_summary
        where account_id = $1 and period = q.month
        order by operation, provider, model
    ) r
) u
cross join lateral (
    select array_agg(k.period_end) as period_ends, array_agg(k.period_start) as period_starts,
           array_agg(k.counter_id) as counter_ids, array_agg(k.settled) as settled, array_agg(k.held) as held
    from (
        select period_end, period_start, counter_id, settled, held
        from counters
        where account_id = $1 and scope_key = 'account'
          and period_end > q.moment and period_end <= q.moment + interval '32 days' and period_start <= q.moment
        union all
        select period_end, period_start, counter_id, settled, held
        from counters
        where account_id = $1 and scope_key = 'account' and period_end = $4 and period_start <= q.moment
    ) k
) c

-- part: entries
select account_id, operation_id, event_id, outcome, user_id, project_id, api_key_id, operation, provider,
       requested_provider, model, quantity, cost_nanos, requested_at, occurred_at, counted_at, recorded_at, duration_ms,
       status_code, retry_count, request_bytes, response_bytes, endpoint, error_code, error_message,
       metadata::text as metadata, adjusted_calls, adjusted_failures, adjustment::text as adjustment, booked_period

-- part: of_account
-- Each bound stands for itself, also where it is none: so the key is gone through from there, whatever plan is kept.
where account_id = $1
  and occurred_at >= coalesce($2::timestamptz, '-infinity')
  and occurred_at < coalesce($3::timestamptz, 'infinity')
  and (occurred_at, operation_id)
      < (coalesce($4::timestamptz, 'infinity'), coalesce($5::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))

-- part: newest_first
order by occurred_at desc, operation_id desc

-- part: chosen
      ($7::text[] is null or operation = any ($7))
  and ($8::text[] is null or provider = any ($8))
  and ($9::text[] is null or model = any ($9))
  and ($10::text is null or user_id = $10)
  and ($11::text is null or project_id = $11)
  and ($12::text is null or api_key_id = $12)
  and ($13::text is null or outcome = $13 or ($13 = 'counted' and outcome <> 'failed'))
  and ($14::text is null or endpoint = $14)
  and ($15::timestamptz is null or recorded_at >= $15)
  and ($16::timestamptz is null or recorded_at < $16)
  and ($17::timestamptz is null or counted_at >= $17)
  and ($18::timestamptz is null or counted_at < $18)

-- name: log_page
-- Newest first, after the cursor ($4, $5) where there is one: $6 rows at most, of the next $19 (null: all) of the account
-- that occurred from $2 until before $3.
-- take: entries
from (
    select *
    from usage_log
    -- take: of_account
    -- take: newest_first
    limit $19::bigint
) walked
where
  -- take: chosen
-- take: newest_first
limit $6

-- name: walked_until
-- Which row is the last that such a page looks at; none, where all of them are fewer. An index alone answers.
select occurred_at, operation_id
from usage_log
-- take: of_account
-- take: newest_first
offset $6::bigint - 1
limit 1

-- name: log_page_of_failures
-- The same of what failed alone: a statement of its own, as an index has only those.
-- take: entries
from (
    select *
    from usage_log
    -- take: of_account
      and outcome = 'failed'
    -- take: newest_first
    limit $19::bigint
) walked
where
  -- take: chosen
-- take: newest_first
limit $6

-- name: walked_until_of_failures
select occurred_at, operation_id
from usage_log
-- take: of_account
  and outcome = 'failed'
-- take: newest_first
offset $6::bigint - 1
limit 1

-- name: log_page_of_adjustments
-- The same of corrections alone, all of them: they are few, and an index has them in another order.
-- take: entries
from usage_log
-- take: of_account
  and outcome = 'adjustment'
  and
  -- take: chosen
-- take: newest_first
limit $6

-- name: log_page_of_counted
-- The same of what limits count in a time, all of it, where that is little.
-- take: entries
from (
    select *
    from usage_log
    where account_id = $1
      and counted_at >= coalesce($17::timestamptz, '-infinity')
      and counted_at < coalesce($18::timestamptz, 'infinity')
    offset 0
) counted
-- take: of_account
  and
  -- take: chosen
-- take: newest_first
limit $6

-- name: counted_up_to
-- How many rows limits count from $2 until before $3, where those are fewer than $4. An index alone answers.
select count(*)
from (
    select
    from usage_log
    where account_id = $1
      and counted_at >= coalesce($2::timestamptz, '-infinity')
      and counted_at < coalesce($3::timestamptz, 'infinity')
    limit $4
) counted

-- part: corrections
where outcome = 'adjustment'
  and ($1::timestamptz is null or recorded_at >= $1)
  and ($2::timestamptz is null or recorded_at < $2)
  and ($3::text[] is null or adjustment ->> 'kind' = any ($3))
  and ($4::text is null or adjustment ->> 'author' = $4)
  and ($5::timestamptz is null or (recorded_at, account_id, operation_id) < ($5, $6::text, $7::uuid))

-- part: corrections_page
order by recorded_at desc, account_id desc, operation_id desc
limit $8

-- name: corrections
-- Newest recorded first, $1 ≤ recorded_at < $2, of these kinds and this author, after the cursor ($5, $6, $7).
-- take: entries
from usage_log
-- take: corrections
-- take: corrections_page

-- name: corrections_of_account
-- The same of one account: a statement of its own, as another index has it.
-- take: entries
from usage_log
-- take: corrections
  and account_id = $9
-- take: corrections_page

-- name: accounts_of
select distinct account_id from decisions where operation_id = $1 order by account_id limit 2

-- name: entry
-- An operation's, or an adjustment's; then what corrects it, $3 of those at most.
-- take: entries
from (
    select true as is_first, u.*
    from event_log e
    cross join lateral (
        select * from usage_log u
        where u.account_id = $1 and u.occurred_at = e.occurred_at and u.operation_id = $2
        offset 0
    ) u
    where e.account_id = $1 and e.operation_id = $2 and e.terminal
    union all
    (select false, u.* from usage_log u where u.account_id = $1 and u.corrects = $2 order by u.recorded_at limit $3)
) found
order by is_first desc, recorded_at, operation_id

-- name: entry_amounts
-- What it comes to, with all that corrects it.
select coalesce(sum(counted_calls(outcome, adjusted_calls)), 0)::bigint as calls,
       coalesce(sum(counted_units(outcome, quantity)), 0)::bigint as units,
       coalesce(sum(cost_nanos), 0)::bigint as cost_nanos,
       coalesce(sum(counted_failures(outcome, adjusted_failures)), 0)::bigint as failures
from (
    select u.*
    from event_log e
    cross join lateral (
        select * from usage_log u
        where u.account_id = $1 and u.occurred_at = e.occurred_at and u.operation_id = $2
        offset 0
    ) u
    where e.account_id = $1 and e.operation_id = $2 and e.terminal
    union all
    select u.* from usage_log u where u.account_id = $1 and u.corrects = $2
) found

-- name: events_of
-- The decision's, with those that it moved the hold from, and those named.
select e.event_id, e.type, e.source, e.source_sequence, e.occurred_at, e.recorded_at, e.position, e.body::text as body
from (
    select event_id from decisions where account_id = $1 and operation_id = $2
    union
    select p.event_id
    from decisions d
    cross join lateral placements($1, d.event_id) p
    where d.account_id = $1 and d.operation_id = $2 and d.moved_from is not null
    union
    select unnest($3::uuid[])
) k
cross join lateral (select * from event_log e where e.account_id = $1 and e.event_id = k.event_id offset 0) e
order by e.recorded_at, e.position
