-- name: callers
-- Of each of these counters' periods, the users, projects or keys of the account who used most of it.
select k.ordinal::integer as ordinal, c.scope_key, c.settled, c.held
from unnest($2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[])
    with ordinality as k (scope, period_end, period_start, counter_id, ordinal)
cross join lateral (
    select scope_key, settled, held
    from counters c
    where c.account_id = $1 and c.period_end = k.period_end and c.counter_id = k.counter_id
      and c.scope_key <> 'account' and c.period_start = k.period_start and starts_with(c.scope_key, k.scope || ':')
    order by settled + held desc, scope_key
    limit $6
) c
order by ordinal, c.settled + c.held desc

-- name: recent
-- What the account used since $2, an hour, by what limits select by.
select operation, provider, model, sum(calls)::bigint as calls, sum(units)::bigint as units,
       sum(cost_nanos)::bigint as cost_nanos
from usage_hourly
where account_id = $1 and hour >= $2
group by operation, provider, model

-- name: holds
-- Open holds, oldest first, after the cursor ($2, $3) where there is one.
select operation_id, user_id, project_id, api_key_id, operation, provider, model, calls, quantity,
       estimated_cost_nanos as estimated_cost, decided_at as placed_at, expires_at, is_lease
from decisions
where account_id = $1 and state = 'held'
  and ($2::timestamptz is null or (decided_at, operation_id) > ($2, $3::uuid))
order by decided_at, operation_id
limit $4

-- name: terms_in_use
-- Plans with calendars that accounts are on which have nothing of their own beside them.
select distinct coalesce(plan_id, $1) as plan_id, time_zone, billing_anchor
from accounts
where limits_version = 0 and coalesce(plan_id, $1) is not null

-- name: with_additions
-- Accounts that have, or had, overrides or credit.
select account_id from accounts where limits_version > 0 and account_id > $1 order by account_id limit $2

-- name: nearest
-- The fullest counters among those of these limits, each of a plan ($1) with a calendar ($2, $3).
select a.account_id, w.ordinal::integer as ordinal, c.settled, c.held
from unnest($1::text[], $2::text[], $3::date[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::bigint[])
    with ordinality as w (plan_id, time_zone, billing_anchor, period_end, period_start, counter_id, maximum, ordinal)
join accounts a on coalesce(a.plan_id, $8) = w.plan_id and a.time_zone = w.time_zone
    and a.billing_anchor = w.billing_anchor and a.limits_version = 0
join counters c on c.account_id = a.account_id and c.scope_key = 'account' and c.period_end = w.period_end
    and c.period_start = w.period_start and c.counter_id = w.counter_id
where c.settled + c.held > 0
order by (c.settled + c.held) / w.maximum::numeric desc, a.account_id, w.ordinal
limit $9
