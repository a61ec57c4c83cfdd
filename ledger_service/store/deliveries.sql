-- name: queue
-- In the order given. What is there already is left alone.
insert into webhook_deliveries (account_id, endpoint_id, message_id, type, occurred_at, body)
select account_id, endpoint_id, message_id, type, occurred_at, body
from unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::bytea[]) with ordinality
    as k (account_id, endpoint_id, message_id, type, occurred_at, body, place)
order by place
on conflict do nothing

-- name: queue_again
-- Of an endpoint, in the order given: what was never queued, what failed, and where $7 what was delivered.
with given as (
    select *
    from unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::bytea[]) with ordinality
        as k (account_id, endpoint_id, message_id, type, occurred_at, body, place)
)
insert into webhook_deliveries as d (account_id, endpoint_id, message_id, type, occurred_at, body)
select account_id, endpoint_id, message_id, type, occurred_at, body
from given
order by place
on conflict (account_id, endpoint_id, message_id) do update
set state = 'pending', tries = 0, queued_at = now(), finished_at = null
where d.state = 'failed' or (d.state = 'delivered' and $7)
returning d.account_id, d.endpoint_id

-- name: wake
-- After what is to be sent was queued: whoever looks for more in a lane has it locked.
insert into webhook_lanes as l (account_id, endpoint_id, next_attempt_at)
select account_id, endpoint_id, clock_timestamp()
from unnest($1::text[], $2::uuid[]) as k (account_id, endpoint_id)
order by account_id, endpoint_id
on conflict (account_id, endpoint_id) do update
set next_attempt_at = case when $3 and l.claim is null then excluded.next_attempt_at
                           else coalesce(l.next_attempt_at, excluded.next_attempt_at) end

-- name: wake_endpoint
-- Everything that is to be sent to it, now.
with waiting as (
    select distinct account_id from webhook_deliveries where endpoint_id = $1 and state = 'pending'
)
insert into webhook_lanes as l (account_id, endpoint_id, next_attempt_at)
select account_id, $1, clock_timestamp()
from waiting
order by account_id
on conflict (account_id, endpoint_id) do update
set next_attempt_at = case when l.claim is null then excluded.next_attempt_at else l.next_attempt_at end

-- name: due
-- The longest first, without the endpoints $1 and those of the owners $2.
select l.account_id, l.endpoint_id, coalesce(w.account_id, '') as owner
from webhook_lanes l
left join webhooks w on w.endpoint_id = l.endpoint_id
where l.next_attempt_at <= clock_timestamp() and not l.endpoint_id = any ($1::uuid[])
  and not coalesce(w.account_id, '') = any ($2::text[])
order by l.next_attempt_at
limit $3

-- name: claim
-- For $3 seconds, under the name $4; those that nobody else has just taken.
with free as (
    select l.account_id, l.endpoint_id
    from unnest($1::text[], $2::uuid[]) as k (account_id, endpoint_id)
    join webhook_lanes l on l.account_id = k.account_id and l.endpoint_id = k.endpoint_id
    where l.next_attempt_at <= clock_timestamp()
    order by l.account_id, l.endpoint_id
    for update of l skip locked
)
update webhook_lanes l
set next_attempt_at = clock_timestamp() + make_interval(secs => $3), claim = $4
from free f
where l.account_id = f.account_id and l.endpoint_id = f.endpoint_id
returning l.account_id, l.endpoint_id

-- name: heads
-- What is next in each lane, and where it goes; nothing of lanes that are empty or whose endpoint is off.
select k.account_id, k.endpoint_id, d.message_id, d.type, d.body, d.attempts, d.tries, w.account_id as owner,
       w.webhook_id, w.url
from unnest($1::text[], $2::uuid[]) as k (account_id, endpoint_id)
cross join lateral (
    select w.account_id, w.webhook_id, w.url
    from webhooks w
    where w.endpoint_id = k.endpoint_id and w.disabled_at is null
) w
cross join lateral (
    select message_id, type, body, attempts, tries
    from webhook_deliveries d
    where d.account_id = k.account_id and d.endpoint_id = k.endpoint_id and d.state = 'pending'
    order by sequence
    limit 1
) d

-- name: rest
update webhook_lanes l set next_attempt_at = null, claim = null
from unnest($1::text[], $2::uuid[]) as k (account_id, endpoint_id)
where l.account_id = k.account_id and l.endpoint_id = k.endpoint_id

-- name: lock_lane
select claim from webhook_lanes where account_id = $1 and endpoint_id = $2 for update

-- name: free_lane
-- Its next try is in $3 seconds, or at once where that is null and there is more to be sent.
update webhook_lanes l
set claim = null,
    next_attempt_at = case
        when $4 then null
        when $3::float8 is not null then clock_timestamp() + make_interval(secs => $3)
        when exists (
            select from webhook_deliveries d
            where d.account_id = $1 and d.endpoint_id = $2 and d.state = 'pending'
        ) then clock_timestamp()
    end
where l.account_id = $1 and l.endpoint_id = $2

-- name: settle
-- Not what was queued again meanwhile, which another process may be sending.
update webhook_deliveries
set state = $4, attempts = attempts + 1, tries = tries + 1,
    finished_at = case when $4 = 'pending' then null else clock_timestamp() end
where account_id = $1 and endpoint_id = $2 and message_id = $3
returning attempts

-- name: count_attempt
update webhook_deliveries set attempts = attempts + 1
where account_id = $1 and endpoint_id = $2 and message_id = $3
returning attempts

-- name: add_attempt
insert into webhook_attempts (account_id, endpoint_id, message_id, attempt, started_at, duration_ms, status, error, answer)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)

-- name: page
-- Of the endpoint $1, newest first, before the sequence $2 where one is given.
select d.account_id, d.message_id, d.sequence, d.type, d.occurred_at, d.state, d.attempts, d.queued_at, d.finished_at,
       case when d.state = 'pending' and not exists (
           select from webhook_deliveries b
           where b.account_id = d.account_id and b.endpoint_id = d.endpoint_id and b.state = 'pending'
             and b.sequence < d.sequence
       ) then l.next_attempt_at end as next_attempt_at
from webhook_deliveries d
left join webhook_lanes l on l.account_id = d.account_id and l.endpoint_id = d.endpoint_id
where d.endpoint_id = $1
  and ($2::bigint is null or d.sequence < $2)
  and ($4::text[] is null or d.state = any ($4))
  and ($5::text is null or d.type = $5)
  and ($6::text is null or d.account_id = $6)
order by d.sequence desc
limit $3

-- name: one
select d.account_id, d.message_id, d.sequence, d.type, d.occurred_at, d.state, d.attempts, d.queued_at, d.finished_at,
       d.body, case when d.state = 'pending' and not exists (
           select from webhook_deliveries b
           where b.account_id = d.account_id and b.endpoint_id = d.endpoint_id and b.state = 'pending'
             and b.sequence < d.sequence
       ) then l.next_attempt_at end as next_attempt_at
from webhook_deliveries d
left join webhook_lanes l on l.account_id = d.account_id and l.endpoint_id = d.endpoint_id
where d.endpoint_id = $1 and d.message_id = $2

-- name: attempts
-- The newest first, so many.
select attempt, started_at, duration_ms, status, error, answer
from webhook_attempts
where account_id = $1 and endpoint_id = $2 and message_id = $3
order by attempt desc
limit $4

-- name: again
update webhook_deliveries
set state = 'pending', tries = 0, queued_at = now(), finished_at = null
where endpoint_id = $1 and message_id = $2
returning account_id

-- name: purge_finished
-- Finished longer ago than $1 seconds, the first $2 of them.
with old as (
    select account_id, endpoint_id, message_id
    from webhook_deliveries
    where finished_at < clock_timestamp() - make_interval(secs => $1)
    order by finished_at
    limit $2
    for update skip locked
), attempts as (
    delete from webhook_attempts a using old o
    where a.account_id = o.account_id and a.endpoint_id = o.endpoint_id and a.message_id = o.message_id
)
delete from webhook_deliveries d using old o
where d.account_id = o.account_id and d.endpoint_id = o.endpoint_id and d.message_id = o.message_id

-- name: purge_endpoints
-- Of endpoints that are gone, all; of those that are disabled, what waits longer than $1 seconds: the first $2.
with lanes as (
    select l.account_id, l.endpoint_id, w.endpoint_id is null as gone
    from webhook_lanes l
    left join webhooks w on w.endpoint_id = l.endpoint_id
    where w.endpoint_id is null or w.disabled_at < clock_timestamp() - make_interval(secs => $1)
), old as (
    select d.account_id, d.endpoint_id, d.message_id
    from lanes l
    join webhook_deliveries d on d.account_id = l.account_id and d.endpoint_id = l.endpoint_id
        and (l.gone or (d.state = 'pending' and d.queued_at < clock_timestamp() - make_interval(secs => $1)))
    limit $2
    for update of d skip locked
), attempts as (
    delete from webhook_attempts a using old o
    where a.account_id = o.account_id and a.endpoint_id = o.endpoint_id and a.message_id = o.message_id
)
delete from webhook_deliveries d using old o
where d.account_id = o.account_id and d.endpoint_id = o.endpoint_id and d.message_id = o.message_id

-- name: purge_lanes
delete from webhook_lanes l
where not exists (select from webhooks w where w.endpoint_id = l.endpoint_id)
  and not exists (
      select from webhook_deliveries d where d.account_id = l.account_id and d.endpoint_id = l.endpoint_id
  )
