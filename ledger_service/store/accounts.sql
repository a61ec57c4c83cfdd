-- name: lock_terms
-- As lock, and the accounts' terms. Who waited for a lock sees the account as it is now, but all else as it was before:
-- a plan that came meanwhile has no version here, see PlanCache.
select a.account_id, coalesce(a.plan_id, $2) as plan_id, a.time_zone, a.billing_anchor,
       (select p.version from plans p where p.plan_id = coalesce(a.plan_id, $2)) as plan_version
from accounts a
where a.account_id = any ($1::text[])
order by a.account_id
for no key update of a

-- name: lock
-- The lock that serialises an account, always taken in sorted order: whoever takes several cannot deadlock.
select count(*)
from (select 1 from accounts where account_id = any ($1::text[]) order by account_id for no key update) as locked

-- name: add_seen
insert into accounts (account_id)
select account_id from unnest($1::text[]) as account_id order by account_id
on conflict do nothing

-- name: put_account
insert into accounts (account_id, plan_id, time_zone, billing_anchor, version)
values ($1, $2, $3, $4, 1)
on conflict (account_id) do update
set plan_id = excluded.plan_id, time_zone = excluded.time_zone, billing_anchor = excluded.billing_anchor,
    version = accounts.version + 1
returning version

-- name: find_account
select account_id, plan_id, time_zone, billing_anchor, version from accounts where account_id = $1

-- name: put_plan
insert into plans (plan_id, version, body) values ($1, 1, $2)
on conflict (plan_id) do update set version = plans.version + 1, body = excluded.body, recorded_at = now()
returning version

-- name: find_plan
select plan_id, version, body::text as body from plans where plan_id = $1

-- name: terms
select k.account_id, coalesce(a.plan_id, $2) as plan_id, coalesce(a.time_zone, 'UTC') as time_zone,
       coalesce(a.billing_anchor, '2000-01-01') as billing_anchor, p.version as plan_version
from unnest($1::text[]) as k (account_id)
left join accounts a on a.account_id = k.account_id
left join plans p on p.plan_id = coalesce(a.plan_id, $2)
