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

-- name: change_limits
-- To be called before overrides or grants of an account change: locks the account, and tells caches to read them again.
insert into accounts as a (account_id, limits_version) values ($1, 1)
on conflict (account_id) do update set limits_version = a.limits_version + 1
returning limits_version

-- name: page
-- Accounts whose name begins with $1, after the one called $2. The bounds are what the key is searched by: names are in
-- the order of their code points.
select account_id, plan_id, time_zone, billing_anchor, version
from accounts
where account_id >= $1 and account_id > $2 and account_id < $1 || chr(1114111) and starts_with(account_id, $1)
order by account_id
limit $3

-- name: plans_page
select p.plan_id, p.version, p.body::text as body, p.recorded_at, coalesce(a.accounts, 0) as accounts
from plans p
left join (select plan_id, count(*) as accounts from accounts group by plan_id) a on a.plan_id = p.plan_id
where p.plan_id > $1
order by p.plan_id
limit $2
