-- part: denial_with_message
select d.account_id, d.operation_id, d.decided_at, d.denial_code as code, d.denial_limit_id as limit_id, d.user_id,
       d.project_id, d.api_key_id, d.operation, d.provider, d.model, d.calls, d.quantity,
       d.estimated_cost_nanos as estimated_cost, d.is_lease,
       without_nul(e.body) -> 'data' -> 'decision' -> 'denial' ->> 'message' as message
from (

-- part: chosen_newest_first
      and ($3::text[] is null or denial_code = any ($3)) and ($4::text is null or denial_limit_id = $4)
      and ($5::text is null or user_id = $5) and ($6::text is null or operation = $6)
      and ($7::timestamptz is null or (decided_at, account_id, operation_id) < ($7, $8::text, $9::uuid))
    order by decided_at desc, account_id desc, operation_id desc
    limit $10
) d
join event_log e on e.account_id = d.account_id and e.event_id = d.event_id
order by d.decided_at desc, d.account_id desc, d.operation_id desc

-- name: page
-- Newest first, $1 ≤ decided_at < $2, for these reasons, before the cursor ($7, $8, $9).
-- take: denial_with_message
    select * from decisions
    where state = 'denied' and decided_at >= $1 and decided_at < $2
      -- take: chosen_newest_first

-- name: page_of_account
-- The same of one account: a statement of its own, as another index has it.
-- take: denial_with_message
    select * from decisions
    where state = 'denied' and account_id = $11 and decided_at >= $1 and decided_at < $2
      -- take: chosen_newest_first

-- name: counts
-- How many there were in each interval of $3 seconds from $1 on, by reason. Interval by interval, for each has few
-- reasons: grouped by all three at once, every denial would be sorted.
select p.period, d.code, d.limit_id, d.denials
from generate_series($1::timestamptz, $2::timestamptz - interval '1 microsecond', make_interval(secs => $3)) as p (period)
cross join lateral (
    select denial_code as code, denial_limit_id as limit_id, count(*) as denials
    from decisions
    where state = 'denied' and decided_at >= p.period
      and decided_at < least(p.period + make_interval(secs => $3), $2)
    group by 1, 2
) d
order by 1, 4 desc, 2, 3
limit $4

-- name: counts_of_account
select p.period, d.code, d.limit_id, d.denials
from generate_series($1::timestamptz, $2::timestamptz - interval '1 microsecond', make_interval(secs => $3)) as p (period)
cross join lateral (
    select denial_code as code, denial_limit_id as limit_id, count(*) as denials
    from decisions
    where state = 'denied' and account_id = $5 and decided_at >= p.period
      and decided_at < least(p.period + make_interval(secs => $3), $2)
    group by 1, 2
) d
order by 1, 4 desc, 2, 3
limit $4

-- name: accounts
-- Who was denied most, of all accounts.
select account_id, count(*) as denials, max(decided_at) as latest_at
from decisions
where state = 'denied' and decided_at >= $1 and decided_at < $2
group by account_id
order by denials desc, account_id
limit $3

-- name: counted_until
select until from denials_counted

-- name: count_days
-- Counts the next days that ended an hour before $1 (else now), 7 at most. A decision is committed seconds after it was
-- made. Rows that are there are of a count that a rebuild made void. Answers until when all are counted; nothing where there is no such day.
with part as materialized (
    select begins, least(begins + interval '7 days', ends) as ends
    from (
        select d.ends, greatest(c.until, coalesce(least(f.day, d.ends), d.ends)) as begins
        from denials_counted c
        cross join (
            select date_trunc('day', coalesce($1::timestamptz, now()) - interval '1 hour', 'UTC') as ends
        ) d
        cross join (
            select date_trunc('day', min(decided_at), 'UTC') as day from decisions where state = 'denied'
        ) f
        where c.until < d.ends
        for update of c
    ) n
),
by_reason as (
    insert into denials_hourly (hour, code, limit_id, denials)
    select date_trunc('hour', decided_at, 'UTC'), coalesce(denial_code, ''), coalesce(denial_limit_id, ''), count(*)
    from decisions
    where state = 'denied' and decided_at >= (select begins from part) and decided_at < (select ends from part)
    group by 1, 2, 3
    on conflict (hour, code, limit_id) do update set denials = excluded.denials
),
by_account as (
    insert into denials_daily (account_id, day, denials, latest_at)
    select account_id, date_trunc('day', decided_at, 'UTC'), count(*), max(decided_at)
    from decisions
    where state = 'denied' and decided_at >= (select begins from part) and decided_at < (select ends from part)
    group by 1, 2
    on conflict (account_id, day) do update set denials = excluded.denials, latest_at = excluded.latest_at
)
update denials_counted set until = part.ends from part returning denials_counted.until

-- name: counts_of_all
-- As counts, whose $1 is the beginning of an hour: hours before $5, the end of one, as they are counted already.
select period, nullif(code, '') as code, nullif(limit_id, '') as limit_id, sum(denials)::bigint as denials
from (
    select date_bin(make_interval(secs => $3), hour, $1) as period, code, limit_id, denials
    from denials_hourly
    where hour >= $1 and hour < $5
    union all
    select p.period, coalesce(d.code, ''), coalesce(d.limit_id, ''), d.denials
    from generate_series(date_bin(make_interval(secs => $3), $5, $1), $2::timestamptz - interval '1 microsecond',
                         make_interval(secs => $3)) as p (period)
    cross join lateral (
        select denial_code as code, denial_limit_id as limit_id, count(*) as denials
        from decisions
        where state = 'denied' and decided_at >= greatest(p.period, $5)
          and decided_at < least(p.period + make_interval(secs => $3), $2)
        group by 1, 2
    ) d
) c
group by 1, 2, 3
order by 1, 4 desc, 2, 3
limit $4

-- name: accounts_of_all
-- As accounts: the days from $4 to $5, within $1 and $2, as they are counted already.
select account_id, sum(denials)::bigint as denials, max(latest_at) as latest_at
from (
    select account_id, denials, latest_at from denials_daily where day >= $4 and day < $5
    union all
    select account_id, count(*), max(decided_at)
    from decisions
    where state = 'denied' and decided_at >= $1 and decided_at < $4
    group by account_id
    union all
    select account_id, count(*), max(decided_at)
    from decisions
    where state = 'denied' and decided_at >= $5 and decided_at < $2
    group by account_id
) c
group by account_id
order by 2 desc, account_id
limit $3

-- name: forget_counted
-- After decisions were replaced, of whatever accounts $1: all is counted anew.
with hours as (delete from denials_hourly where $1::text[] is not null),
days as (delete from denials_daily)
update denials_counted set until = '2000-01-01T00:00:00Z'
