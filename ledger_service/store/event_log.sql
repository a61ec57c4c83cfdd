-- name: incoming_table
-- One batch of events on its way into the log, decoded. The projections read their new rows from here.
create temp table if not exists incoming (
    ordinal            integer,
    account_id         text,
    event_id           uuid,
    type               text,
    operation_id       uuid,
    outcome            text,
    source             text,
    source_sequence    bigint,
    occurred_at        timestamptz,
    body               json,
    user_id            text,
    project_id         text,
    api_key_id         text,
    operation          text,
    provider           text,
    requested_provider text,
    model              text,
    quantity           bigint,
    cost_nanos         bigint,
    requested_at       timestamptz,
    duration_ms        bigint,
    status_code        integer,
    retry_count        integer,
    request_bytes      bigint,
    response_bytes     bigint,
    endpoint           text,
    error_code         text,
    error_message      text,
    has_metadata       boolean,
    lease_id           uuid,
    counted_at         timestamptz,
    adjusted_calls     bigint,
    adjusted_failures  bigint,
    corrects           uuid,
    recorded_at        timestamptz default now()
) on commit delete rows

-- name: append
-- Sorted, so that two writers with the same events wait for each other instead of deadlocking. Answers null when all
-- $1 were appended, else those that were; the others, or another outcome of their operation, are in the log already.
-- From here on no period closes until this transaction ends: see store/periods.sql.
with appended as (
    insert into event_log
        (account_id, event_id, type, operation_id, terminal, source, source_sequence, occurred_at, body)
    select account_id, event_id, type, operation_id, outcome is not null, source, source_sequence, occurred_at, body
    from incoming
    order by account_id, event_id
    on conflict do nothing
    returning account_id, event_id
)
select case when count(*) = $1::integer then null else coalesce(array_agg(account_id), '{}') end as account_ids,
       case when count(*) = $1::integer then null else coalesce(array_agg(event_id), '{}') end as event_ids,
       pg_advisory_xact_lock_shared(7205759403792797) as gate
from appended

-- name: drop_incoming
delete from incoming where ordinal = any ($1::integer[])

-- name: clear_incoming
delete from incoming

-- name: find_events
select e.account_id, e.event_id, e.body::text as body
from unnest($1::text[], $2::uuid[]) as k (account_id, event_id)
cross join lateral (
    select * from event_log e where e.account_id = k.account_id and e.event_id = k.event_id offset 0
) e

-- name: find_finished
select e.account_id, e.operation_id
from unnest($1::text[], $2::uuid[]) as k (account_id, operation_id)
cross join lateral (
    select * from event_log e
    where e.account_id = k.account_id and e.operation_id = k.operation_id and e.terminal
    offset 0
) e

-- name: append_one
insert into event_log (account_id, event_id, type, operation_id, terminal, source, occurred_at, body)
values ($1, $2, $3, $4, false, 'ledger', $5, $6)
