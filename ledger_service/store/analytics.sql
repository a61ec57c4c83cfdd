-- name: settings
-- Of this transaction: how many milliseconds a statement may take, and $2: without parallel workers.
select set_config('statement_timeout', $1, true),
       case when $2::boolean then set_config('max_parallel_workers_per_gather', '0', true) end

-- part: keys_of_all
    cross join lateral (
        select
        coalesce(case $5::text when 'operation' then operation when 'provider' then provider when
                'model' then model when 'outcome' then outcome end, '') as k1,
        coalesce(case $6::text when 'operation' then operation when 'provider' then provider when
                'model' then model when 'outcome' then outcome end, '') as k2,
        coalesce(case $7::text when 'operation' then operation when 'provider' then provider when
                'model' then model when 'outcome' then outcome end, '') as k3,
        coalesce(case $8::text when 'operation' then operation when 'provider' then provider when
                'model' then model when 'outcome' then outcome end, '') as k4
    ) k

-- part: filters
      and ($10::text[] is null or operation = any ($10))
      and ($11::text[] is null or provider = any ($11))
      and ($12::text[] is null or model = any ($12))
      and ($13::text[] is null or outcome = any ($13))

-- part: order_of_groups
    group by k1, k2, k3, k4
    order by case $15::text when 'calls' then sum(calls) when 'units' then sum(units)
                            when 'failures' then sum(failures) else sum(cost_nanos) end desc, k1, k2, k3, k4
    limit coalesce($14::integer, 0)

-- part: result
select c.bucket, $14 is not null and f.k1 is null as is_others, case when $14 is null then c.k1 else f.k1 end as k1,
       case when $14 is null then c.k2 else f.k2 end as k2, case when $14 is null then c.k3 else f.k3 end as k3,
       case when $14 is null then c.k4 else f.k4 end as k4, sum(c.calls) as calls, sum(c.units) as units,
       sum(c.cost_nanos) as cost_nanos, sum(c.failures) as failures
from cells c
left join firsts f on f.k1 = c.k1 and f.k2 = c.k2 and f.k3 = c.k3 and f.k4 = c.k4
group by 1, 2, 3, 4, 5, 6
limit $16

-- name: usage_hourly_all
-- $1 ≤ time < $2, in intervals that begin at $3, of which the first $4 are of the period before; grouped by $5 … $8;
-- where accounts $9, operations $10, providers $11, models $12 and outcomes $13 are one of these. Of the groups only the
-- first $14, by $15 in what is not before, and all others as one. At most $16 rows.
with cells as (
    select width_bucket(hour, $3::timestamptz[]) as bucket, k1, k2, k3, k4, sum(calls) as calls, sum(units) as units,
           sum(cost_nanos) as cost_nanos, sum(failures) as failures
    from usage_hourly_all
    -- take: keys_of_all
    where hour >= $1 and hour < $2
      and $9::text[] is null
      -- take: filters
    group by 1, 2, 3, 4, 5
),
firsts as (
    select k1, k2, k3, k4
    from cells
    where bucket > $4::integer
    -- take: order_of_groups
)
-- take: result

-- part: rows_of_days
        select day as at, operation, provider, model, outcome, calls, units, cost_nanos, failures
        from usage_daily_all
        where day >= $1 and day < $2 and day <> all ($17::timestamptz[])
        union all
        select hour, operation, provider, model, outcome, calls, units, cost_nanos, failures
        from usage_hourly_all
        where hour = any ($18::timestamptz[])

-- name: usage_daily_all
-- The same: whole days, but not the days $17, of which only the hours $18 are meant, or which lie in two intervals.
with cells as (
    select width_bucket(at, $3::timestamptz[]) as bucket, k1, k2, k3, k4, sum(calls) as calls, sum(units) as units,
           sum(cost_nanos) as cost_nanos, sum(failures) as failures
    from (
        -- take: rows_of_days
    ) t
    -- take: keys_of_all
    where $9::text[] is null
      -- take: filters
    group by 1, 2, 3, 4, 5
),
firsts as (
    select k1, k2, k3, k4
    from cells
    where bucket > $4::integer
    -- take: order_of_groups
)
-- take: result

-- name: usage_daily_all_finely
-- The same for many groups in intervals of few days: sums of each in each are half as many as the rows, and to make those
-- takes longer than to read the rows twice, first to find the first groups.
with firsts as (
    select k1, k2, k3, k4
    from (
        -- take: rows_of_days
    ) t
    -- take: keys_of_all
    where $9::text[] is null and at >= ($3::timestamptz[])[$4::integer + 1]
      -- take: filters
    -- take: order_of_groups
),
cells as (
    select width_bucket(at, $3::timestamptz[]) as bucket, k1, k2, k3, k4, calls, units, cost_nanos, failures
    from (
        -- take: rows_of_days
    ) t
    -- take: keys_of_all
    where $9::text[] is null
      -- take: filters
)
-- take: result

-- name: usage_daily_all_moved
-- The same where many days lie in two intervals, as those of a zone do: all days but $17 are counted where their noon is, and
-- the hours $19 moved from there ($20) to $21, or away. Whether anything is left shows by the operations: a sum may be
-- nothing because of corrections. These are few, and read from their hours.
with moved as (
    select noon, to_at, k1, k2, k3, k4, sum(calls)::bigint as calls, sum(units) as units,
           sum(cost_nanos) as cost_nanos, sum(failures)::bigint as failures
    from unnest($19::timestamptz[], $20::timestamptz[], $21::timestamptz[]) m (hour, noon, to_at)
    join usage_hourly_all using (hour)
    -- take: keys_of_all
    where outcome <> 'adjustment'
      -- take: filters
    group by 1, 2, 3, 4, 5, 6
),
cells as (
    select width_bucket(at, $3::timestamptz[]) as bucket, k1, k2, k3, k4, sum(calls) as calls, sum(units) as units,
           sum(cost_nanos) as cost_nanos, sum(failures) as failures
    from (
        select at, k1, k2, k3, k4, calls, units, cost_nanos, failures,
               case when outcome = 'adjustment' then 1 else calls + failures end as operations
        from (
            select day + interval '12 hours' as at, operation, provider, model, outcome, calls, units, cost_nanos, failures
            from usage_daily_all
            where day > $1::timestamptz - interval '24 hours' and day < $2 and day <> all ($17::timestamptz[])
              and outcome <> 'adjustment'
            union all
            select hour, operation, provider, model, outcome, calls, units, cost_nanos, failures
            from usage_hourly_all
            where hour = any ($18::timestamptz[]) and outcome <> 'adjustment'
            union all
            select hour, operation, provider, model, outcome, calls, units, cost_nanos, failures
            from usage_hourly_all
            where hour >= $1 and hour < $2 and outcome = 'adjustment'
        ) t
        -- take: keys_of_all
        where $9::text[] is null
          -- take: filters
        union all
        select noon, k1, k2, k3, k4, -calls, -units, -cost_nanos, -failures, -calls - failures from moved
        union all
        select to_at, k1, k2, k3, k4, calls, units, cost_nanos, failures, calls + failures
        from moved
        where to_at is not null
    ) t
    group by 1, 2, 3, 4, 5
    having sum(operations) > 0
),
firsts as (
    select k1, k2, k3, k4
    from cells
    where bucket > $4::integer
    -- take: order_of_groups
)
-- take: result

-- name: usage_hourly
-- The same.
with cells as (
    select width_bucket(hour, $3::timestamptz[]) as bucket, k1, k2, k3, k4, sum(calls) as calls, sum(units) as units,
           sum(cost_nanos) as cost_nanos, sum(failures) as failures
    from usage_hourly
    cross join lateral (
        select
        coalesce(case $5::text when 'account' then account_id when 'operation' then operation when
                'provider' then provider when 'model' then model when 'outcome' then outcome end, '') as
                k1,
        coalesce(case $6::text when 'account' then account_id when 'operation' then operation when
                'provider' then provider when 'model' then model when 'outcome' then outcome end, '') as
                k2,
        coalesce(case $7::text when 'account' then account_id when 'operation' then operation when
                'provider' then provider when 'model' then model when 'outcome' then outcome end, '') as
                k3,
        coalesce(case $8::text when 'account' then account_id when 'operation' then operation when
                'provider' then provider when 'model' then model when 'outcome' then outcome end, '') as
                k4
    ) k
    where hour >= $1 and hour < $2
      and ($9::text[] is null or account_id = any ($9))
      -- take: filters
    group by 1, 2, 3, 4, 5
),
firsts as (
    select k1, k2, k3, k4
    from cells
    where bucket > $4::integer
    -- take: order_of_groups
)
-- take: result

-- name: first_accounts
-- The first $9 accounts, by $8 in the months $1, with the hours from $2 to $3 added to them, or taken away ($4 is 1 or -1);
-- of operations $5, providers $6 and models $7. Months have what is booked in them: what is of another one is moved there.
-- Who adds up to nothing may be in the months alone: that is looked up in the time itself, $10 to $11.
with t as (
    select account_id, operation, provider, model, calls, units, cost_nanos, failures
    from usage_summary
    where period = any ($1::date[])
    union all
    select h.account_id, h.operation, h.provider, h.model, r.sign * h.calls, r.sign * h.units, r.sign * h.cost_nanos,
           r.sign * h.failures
    from unnest($2::timestamptz[], $3::timestamptz[], $4::integer[]) as r (start, until, sign)
    join usage_hourly h on h.hour >= r.start and h.hour < r.until
    union all
    select u.account_id, u.operation, u.provider, u.model, m.sign * counted_calls(u.outcome, u.adjusted_calls),
           m.sign * counted_units(u.outcome, u.quantity), m.sign * u.cost_nanos,
           m.sign * counted_failures(u.outcome, u.adjusted_failures)
    from usage_log u
    cross join lateral (
        select (own_period(u.occurred_at) = any ($1))::integer - (u.booked_period = any ($1))::integer as sign
    ) m
    where u.booked_period is not null and m.sign <> 0
)
select account_id
from (
    select account_id, sum(case $8::text when 'calls' then calls when 'units' then units when 'failures' then failures
                                         else cost_nanos end) as amount
    from t
    where ($5::text[] is null or operation = any ($5))
      and ($6::text[] is null or provider = any ($6))
      and ($7::text[] is null or model = any ($7))
    group by account_id
    order by amount desc, account_id
) a
where amount <> 0
   or exists (
       select from usage_hourly h
       where h.account_id = a.account_id and h.hour >= $10 and h.hour < $11
         and ($5 is null or h.operation = any ($5))
         and ($6 is null or h.provider = any ($6))
         and ($7 is null or h.model = any ($7))
   )
order by amount desc, account_id
limit $9

-- part: keys_of_log
    cross join lateral (
        select
        coalesce(case $5::text when 'account' then account_id when 'user' then user_id when 'project'
                then project_id when 'api_key' then api_key_id when 'operation' then operation when
                'provider' then provider when 'model' then model when 'outcome' then outcome when
                'endpoint' then endpoint when 'metadata' then without_nul(metadata) ->> $22::text end,
                '') as k1,
        coalesce(case $6::text when 'account' then account_id when 'user' then user_id when 'project'
                then project_id when 'api_key' then api_key_id when 'operation' then operation when
                'provider' then provider when 'model' then model when 'outcome' then outcome when
                'endpoint' then endpoint when 'metadata' then without_nul(metadata) ->> $23::text end,
                '') as k2,
        coalesce(case $7::text when 'account' then account_id when 'user' then user_id when 'project'
                then project_id when 'api_key' then api_key_id when 'operation' then operation when
                'provider' then provider when 'model' then model when 'outcome' then outcome when
                'endpoint' then endpoint when 'metadata' then without_nul(metadata) ->> $24::text end,
                '') as k3,
        coalesce(case $8::text when 'account' then account_id when 'user' then user_id when 'project'
                then project_id when 'api_key' then api_key_id when 'operation' then operation when
                'provider' then provider when 'model' then model when 'outcome' then outcome when
                'endpoint' then endpoint when 'metadata' then without_nul(metadata) ->> $25::text end,
                '') as k4
    ) k

-- part: rows_of_log
    where occurred_at >= $1 and occurred_at < $2
      and ($9::text[] is null or account_id = any ($9))
      and ($10::text[] is null or operation = any ($10))
      and ($11::text[] is null or provider = any ($11))
      and ($12::text[] is null or model = any ($12))
      and ($13::text[] is null or outcome = any ($13))
      and ($17::text[] is null or coalesce(user_id, '') = any ($17))
      and ($18::text[] is null or coalesce(project_id, '') = any ($18))
      and ($19::text[] is null or coalesce(api_key_id, '') = any ($19))
      and ($20::text[] is null or coalesce(endpoint, '') = any ($20))
      and ($21::jsonb is null or not exists (
          select from jsonb_each($21) as wanted (key, "values")
          where not wanted."values" ? coalesce(without_nul(metadata) ->> wanted.key, '')))
      and ($26::timestamptz is null or recorded_at <= $26)

-- name: usage_log
-- The same, and users $17, projects $18, API keys $19, endpoints $20, where the empty text is what has none; metadata
-- $21: key → values; the keys of metadata by which to group $22 … $25; and only what was recorded until $26.
with cells as (
    select width_bucket(occurred_at, $3::timestamptz[]) as bucket, k1, k2, k3, k4,
           sum(counted_calls(outcome, adjusted_calls)) as calls, sum(counted_units(outcome, quantity)) as units,
           sum(cost_nanos) as cost_nanos, sum(counted_failures(outcome, adjusted_failures)) as failures
    from usage_log
    -- take: keys_of_log
    -- take: rows_of_log
    group by 1, 2, 3, 4, 5
),
firsts as (
    select k1, k2, k3, k4
    from cells
    where bucket > $4::integer
    -- take: order_of_groups
)
-- take: result

-- name: usage_log_durations
-- The same with durations, which cannot be added up.
with cells as materialized (
    select width_bucket(occurred_at, $3::timestamptz[]) as bucket, k1, k2, k3, k4,
           counted_calls(outcome, adjusted_calls) as calls, counted_units(outcome, quantity) as units, cost_nanos,
           counted_failures(outcome, adjusted_failures) as failures,
           case when outcome <> 'adjustment' then duration_ms end as duration_ms
    from usage_log
    -- take: keys_of_log
    -- take: rows_of_log
),
firsts as (
    select k1, k2, k3, k4
    from cells
    where bucket > $4::integer
    group by k1, k2, k3, k4
    order by case $15::text
                 when 'calls' then sum(calls) when 'units' then sum(units) when 'failures' then sum(failures)
                 when 'duration_p50' then percentile_disc(0.5) within group (order by duration_ms)
                 when 'duration_p90' then percentile_disc(0.9) within group (order by duration_ms)
                 when 'duration_p95' then percentile_disc(0.95) within group (order by duration_ms)
                 when 'duration_p99' then percentile_disc(0.99) within group (order by duration_ms)
                 else sum(cost_nanos)
             end desc nulls last, k1, k2, k3, k4
    limit coalesce($14::integer, 0)
)
select c.bucket, $14 is not null and f.k1 is null as is_others, case when $14 is null then c.k1 else f.k1 end as k1,
       case when $14 is null then c.k2 else f.k2 end as k2, case when $14 is null then c.k3 else f.k3 end as k3,
       case when $14 is null then c.k4 else f.k4 end as k4, sum(c.calls) as calls, sum(c.units) as units,
       sum(c.cost_nanos) as cost_nanos, sum(c.failures) as failures,
       percentile_disc(array [0.5, 0.9, 0.95, 0.99]) within group (order by c.duration_ms) as durations
from cells c
left join firsts f on f.k1 = c.k1 and f.k2 = c.k2 and f.k3 = c.k3 and f.k4 = c.k4
group by 1, 2, 3, 4, 5, 6
limit $16
