-- name: lock
-- The lock that serialises an account (see accounts.sql), its terms, the time once it was locked, and, the same in each
-- row, what is known of some operations ($3, $4): an earlier decision, or an outcome. Who waited for a lock sees the
-- account as it is now, but all else as it was before: a plan that came meanwhile has no version here, and a decision
-- that came meanwhile is not known, so that writing another one fails.
select locked.*, clock_timestamp() as locked_at,
       (
           select json_agg(known)::text
           from (
               select k.account_id, k.operation_id, encode(d.request_digest, 'hex') as request_digest, d.state,
                      (e.body -> 'data' -> 'decision')::text as decision
               from unnest($3::text[], $4::uuid[]) as k (account_id, operation_id)
               left join lateral (
                   select * from decisions d
                   where d.account_id = k.account_id and d.operation_id = k.operation_id
                   offset 0
               ) d on true
               left join lateral (
                   select * from event_log e where e.account_id = d.account_id and e.event_id = d.event_id offset 0
               ) e on true
               left join lateral (
                   select * from event_log o
                   where o.account_id = k.account_id and o.operation_id = k.operation_id and o.terminal
                   offset 0
               ) o on true
               where d.operation_id is not null or o.event_id is not null
           ) as known
       ) as known
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
