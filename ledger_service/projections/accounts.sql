-- name: rebuild
-- Registered, or seen: by the log, or else by a check that was a dry run. limits_version only grows: what is remembered
-- of an account under a number must not come back under it.
with registered as (
    select distinct on (account_id) account_id, d.plan_id, d.time_zone, d.billing_anchor, d.version
    from administration
    cross join lateral json_to_record(data) as d (
        plan_id text, time_zone text, billing_anchor date, version integer)
    where type = 'ledger.account.changed.v1'
    order by account_id, position desc
),
changes as (
    select account_id, count(distinct transaction_id)::integer as limits_version
    from administration
    where type in ('ledger.limit_override.changed.v1', 'ledger.limit_override.removed.v1',
                   'ledger.credit_grant.changed.v1')
    group by account_id
)
select s.account_id, r.plan_id, coalesce(r.time_zone, 'UTC') as time_zone,
       coalesce(r.billing_anchor, '2000-01-01') as billing_anchor, coalesce(r.version, 0) as version,
       greatest(c.limits_version, l.limits_version, 0) as limits_version
from (
    select account_id from facts
    union
    select account_id from administration where account_id <> ''
    union
    select account_id from live_accounts
) s
left join registered r on r.account_id = s.account_id
left join changes c on c.account_id = s.account_id
left join live_accounts l on l.account_id = s.account_id
