-- name: lock
-- Changes are few, and come one after the other.
select pg_advisory_xact_lock(7205759403792811)

-- name: now
select now()

-- name: find
select account_id, webhook_id, endpoint_id, url, types, description, version, since, disabled_at, disabled_reason
from webhooks
where account_id = $1 and webhook_id = $2

-- name: find_endpoint
select account_id, webhook_id, endpoint_id, url, types, description, version, since, disabled_at, disabled_reason
from webhooks
where endpoint_id = $1
for update

-- name: of_account
select account_id, webhook_id, endpoint_id, url, types, description, version, since, disabled_at, disabled_reason
from webhooks
where account_id = $1
order by webhook_id

-- name: subscriptions
-- Those that are paused, too: what happens meanwhile is queued.
select endpoint_id, account_id, types, since from webhooks where disabled_at is null or disabled_reason = 'paused'

-- name: put
insert into webhooks (account_id, webhook_id, endpoint_id, url, types, description, version, since, disabled_at,
                      disabled_reason)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict (account_id, webhook_id) do update
set url = excluded.url, types = excluded.types, description = excluded.description, version = excluded.version,
    since = excluded.since, disabled_at = excluded.disabled_at, disabled_reason = excluded.disabled_reason,
    recorded_at = now()

-- name: remove
delete from webhooks where account_id = $1 and webhook_id = $2

-- name: remove_secrets
delete from webhook_secrets where account_id = $1 and endpoint_id = $2

-- name: remove_state
delete from webhook_states where account_id = $1 and endpoint_id = $2

-- name: add_secret
insert into webhook_secrets (account_id, endpoint_id, secret_id, secret) values ($1, $2, $3, $4)

-- name: expire_secrets
-- The current one until $3, and at most $4 in all.
with current_ones as (
    select secret_id, row_number() over (order by secret_id desc) as place
    from webhook_secrets
    where account_id = $1 and endpoint_id = $2
), dropped as (
    delete from webhook_secrets s
    using current_ones c
    where s.account_id = $1 and s.endpoint_id = $2 and s.secret_id = c.secret_id
      and (c.place >= $4::integer or s.expires_at <= now())
)
update webhook_secrets s set expires_at = least(s.expires_at, $3)
from current_ones c
where s.account_id = $1 and s.endpoint_id = $2 and s.secret_id = c.secret_id and c.place < $4::integer

-- name: secrets
-- Those that are valid, the newest first.
select secret
from webhook_secrets
where account_id = $1 and endpoint_id = $2 and (expires_at is null or expires_at > clock_timestamp())
order by secret_id desc

-- name: states
select w.endpoint_id, s.failing_since, s.last_delivered_at, s.last_failed_at, s.last_error,
       (select count(*) from (
           select from webhook_deliveries d where d.endpoint_id = w.endpoint_id and d.state = 'pending' limit $2
       ) p) as pending
from webhooks w
left join webhook_states s on s.account_id = w.account_id and s.endpoint_id = w.endpoint_id
where w.account_id = $1

-- name: add_state
insert into webhook_states (account_id, endpoint_id) values ($1, $2)

-- name: lock_state
-- Before the endpoint's row, its lanes and its deliveries, by whoever changes several of them. The time is by the clock
-- that failing_since goes by, whichever process failed first.
select failing_since, clock_timestamp() as now from webhook_states where account_id = $1 and endpoint_id = $2 for update

-- name: note_delivered
update webhook_states set failing_since = null, last_delivered_at = $3 where account_id = $1 and endpoint_id = $2

-- name: note_failed
update webhook_states set failing_since = coalesce(failing_since, $3), last_failed_at = $3, last_error = $4
where account_id = $1 and endpoint_id = $2

-- name: forget_failures
update webhook_states set failing_since = null where account_id = $1 and endpoint_id = $2

-- name: figures
-- Those for all accounts beside those of accounts. Of endpoints that are neither disabled nor paused: how long ago the
-- oldest of what is to be sent was queued, and since when the oldest try is due.
select o.is_account,
       count(*) filter (where w.disabled_reason <> 'paused') as disabled,
       count(*) filter (where w.disabled_reason = 'paused') as paused,
       coalesce(extract(epoch from greatest(clock_timestamp() - min(d.queued_at), interval '0')), 0)::float8
           as lag_seconds,
       coalesce(extract(epoch from greatest(clock_timestamp() - min(l.due_at), interval '0')), 0)::float8
           as overdue_seconds
from (values (false), (true)) as o (is_account)
left join webhooks w on (w.account_id <> '') = o.is_account
left join lateral (
    select min(queued_at) as queued_at from webhook_deliveries d
    where d.endpoint_id = w.endpoint_id and d.state = 'pending' and w.disabled_at is null
) d on true
left join lateral (
    select min(next_attempt_at) as due_at from webhook_lanes l
    where l.endpoint_id = w.endpoint_id and l.next_attempt_at <= clock_timestamp() and w.disabled_at is null
) l on true
group by o.is_account
order by o.is_account
