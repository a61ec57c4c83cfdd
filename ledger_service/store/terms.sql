-- name: lock
-- The lock that serialises an account (see accounts.sql), its terms, and the time once it was locked.
select * from lock_for_checks($1::text[], $2, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')

-- name: lock_for_checks
select *
from lock_for_checks($1::text::text[], $2, $3::text::text[], $4::text::uuid[], $5::text::text[], $6::text::text[],
                     $7::text::text[], $8::text::text[], $9::text::text[], $10::text::text[], $11::text::text[])

-- name: read
select k.account_id, coalesce(a.plan_id, $2) as plan_id, coalesce(a.time_zone, 'UTC') as time_zone,
       coalesce(a.billing_anchor, '2000-01-01') as billing_anchor, coalesce(a.limits_version, 0) as limits_version,
       p.version as plan_version
from unnest($1::text[]) as k (account_id)
left join accounts a on a.account_id = k.account_id
left join plans p on p.plan_id = coalesce(a.plan_id, $2)
