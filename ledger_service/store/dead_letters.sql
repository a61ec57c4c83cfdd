-- name: add
-- What a redriven letter stands for is in the log, from a corrected copy where its bytes still fail: it stays closed.
-- Sorted, so that two writers with the same letters wait for each other instead of deadlocking.
insert into dead_letters as d (digest, origin, subject, account_id, code, detail, errors, body, received_count)
select k.digest, k.origin, k.subject, k.account_id, k.code, k.detail, k.errors::json, k.body, k.received_count
from unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[],
            $9::bigint[])
    as k (digest, origin, subject, account_id, code, detail, errors, body, received_count)
order by k.digest
on conflict (digest) do update set
    origin = excluded.origin, subject = excluded.subject, account_id = excluded.account_id, code = excluded.code,
    detail = excluded.detail, errors = excluded.errors, received_count = d.received_count + excluded.received_count,
    last_received_at = now(),
    state = case d.state when 'redriven' then d.state else 'open' end,
    closed_at = case d.state when 'redriven' then d.closed_at end,
    opened_in = case d.state when 'discarded' then pg_current_xact_id() else d.opened_in end,
    opened_at = case d.state when 'discarded' then now() else d.opened_at end

-- part: filters
  and ($3::text[] is null or state = any ($3))
  and ($4::text is null or code = $4)
  and ($5::text is null or origin = $5)
  and ($6::text is null or subject = $6)
  and ($7::text is null or account_id = $7)
  and ($8::timestamptz is null or last_received_at >= $8)
  and ($9::timestamptz is null or first_received_at < $9)

-- name: page
-- Newest first, before the letter $1 where one is given; with the bytes of those that have at most $10.
select dead_letter_id, digest, state, origin, subject, account_id, code, detail, octet_length(body) as body_bytes,
       case when octet_length(body) <= $10 then body end as small_body,
       received_count, first_received_at, last_received_at, redrive_count, last_redriven_at, closed_at,
       event_account_id, event_id
from dead_letters
where ($1::bigint is null or dead_letter_id < $1)
  -- take: filters
order by dead_letter_id desc
limit $2

-- name: ids
-- Oldest first, after the letter $1 where one is given: the order in which they are worked off.
select dead_letter_id
from dead_letters
where ($1::bigint is null or dead_letter_id > $1)
  -- take: filters
order by dead_letter_id
limit $2

-- name: count
select count(*)
from dead_letters
where ($1::text[] is null or state = any ($1))
  and ($2::text is null or code = $2)
  and ($3::text is null or origin = $3)
  and ($4::text is null or subject = $4)
  and ($5::text is null or account_id = $5)
  and ($6::timestamptz is null or last_received_at >= $6)
  and ($7::timestamptz is null or first_received_at < $7)

-- name: one
select dead_letter_id, digest, state, origin, subject, account_id, code, detail, octet_length(body) as body_bytes,
       received_count, first_received_at, last_received_at, redrive_count, last_redriven_at, closed_at,
       event_account_id, event_id, errors::text as errors, body,
       case when octet_length(body) <= $2 then body end as small_body
from dead_letters
where dead_letter_id = $1

-- name: actions
select e.body::text as body
from dead_letter_actions a
join event_log e on e.account_id = '' and e.event_id = a.event_id
where a.dead_letter_id = $1
order by a.event_id

-- name: bodies
select dead_letter_id, state, origin, subject, body, first_received_at
from dead_letters
where dead_letter_id = any ($1::bigint[])
order by dead_letter_id

-- name: lock
-- In the order in which ingest writes them.
select dead_letter_id, digest, state
from dead_letters
where dead_letter_id = any ($1::bigint[])
order by digest
for update

-- name: close_redriven
update dead_letters d
set state = 'redriven', closed_at = now(), last_redriven_at = now(), redrive_count = d.redrive_count + 1,
    event_account_id = k.account_id, event_id = k.event_id
from unnest($1::bigint[], $2::text[], $3::uuid[]) as k (dead_letter_id, account_id, event_id)
where d.dead_letter_id = k.dead_letter_id

-- name: keep_refused
update dead_letters d
set code = k.code, detail = k.detail, errors = k.errors::json, last_redriven_at = now(),
    redrive_count = d.redrive_count + 1
from unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) as k (dead_letter_id, code, detail, errors)
where d.dead_letter_id = k.dead_letter_id

-- name: discard
update dead_letters set state = 'discarded', closed_at = now() where dead_letter_id = any ($1::bigint[])

-- name: add_actions
insert into dead_letter_actions (dead_letter_id, event_id)
select * from unnest($1::bigint[], $2::uuid[])

-- name: open_by_code
select code, count(*) as letters from dead_letters where state = 'open' group by code order by code
