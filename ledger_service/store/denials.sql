-- name: page
-- Newest first, $1 ≤ decided_at < $2, for these reasons, before the cursor ($7, $8, $9).
select d.account_id, d.operation_id, d.decided_at, d.denial_code as code, d.denial_limit_id as limit_id, d.user_id,
       d.project_id, d.api_key_id, d.operation, d.provider, d.model, d.calls, d.quantity,
       d.estimated_cost_nanos as estimated_cost, d.is_lease,
       without_nul(e.body) -> 'data' -> 'decision' -> 'denial' ->> 'message' as message
from (
    select * from decisions
    where state = 'denied' and decided_at >= $1 and decided_at < $2
      and ($3::text[] is null or denial_code = any ($3)) and ($4::text is null or denial_limit_id = $4)
      and ($5::text is null or user_id = $5) and ($6::text is null or operation = $6)
      and ($7::timestamptz is null or (decided_at, account_id, operation_id) < ($7, $8::text, $9::uuid))
    order by decided_at desc, account_id desc, operation_id desc
    limit $10
) d
join event_log e on e.account_id = d.account_id and e.event_id = d.event_id
order by d.decided_at desc, d.account_id desc, d.operation_id desc

-- name: page_of_account
-- The same of one account: a statement of its own, as another index has it.
select d.account_id, d.operation_id, d.decided_at, d.denial_code as code, d.denial_limit_id as limit_id, d.user_id,
       d.project_id, d.api_key_id, d.operation, d.provider, d.model, d.calls, d.quantity,
       d.estimated_cost_nanos as estimated_cost, d.is_lease,
       without_nul(e.body) -> 'data' -> 'decision' -> 'denial' ->> 'message' as message
from (
    select * from decisions
    where state = 'denied' and account_id = $11 and decided_at >= $1 and decided_at < $2
      and ($3::text[] is null or denial_code = any ($3)) and ($4::text is null or denial_limit_id = $4)
      and ($5::text is null or user_id = $5) and ($6::text is null or operation = $6)
      and ($7::timestamptz is null or (decided_at, account_id, operation_id) < ($7, $8::text, $9::uuid))
    order by decided_at desc, account_id desc, operation_id desc
    limit $10
) d
join event_log e on e.account_id = d.account_id and e.event_id = d.event_id
order by d.decided_at desc, d.account_id desc, d.operation_id desc

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
