-- name: lock
-- The lock that serialises an account (see accounts.sql), its terms, and the time once it was locked. Who waited for a
-- lock sees the account as it is now, but all else as it was before: a plan that came meanwhile has no version here.
select locked.*, clock_timestamp() as locked_at
from (
    select a.account_id, coalesce(a.plan_id, $2) as plan_id, a.time_zone, a.billing_anchor, a.limits_version,
           (select p.version from plans p where p.plan_id = coalesce(a.plan_id, $2)) as plan_version
    from accounts a
    where a.account_id = any ($1::text[])
    order by a.account_id
    for no key update of a
) as locked

-- name: read
select k.account_id, coalesce(a.plan_id, $2) as plan_id, coalesce(a.time_zone, 'UTC') as time_zone,
       coalesce(a.billing_anchor, '2000-01-01') as billing_anchor, coalesce(a.limits_version, 0) as limits_version,
       p.version as plan_version
from unnest($1::text[]) as k (account_id)
left join accounts a on a.account_id = k.account_id
left join plans p on p.plan_id = coalesce(a.plan_id, $2)
