-- name: lock
-- Whoever changes prices waits here for others who do: versions and overlaps are decided on what stands. No lock on a
-- row, as that would give the transaction its number before it waits, and the log is read in the order of those.
select pg_advisory_xact_lock(7205759403792795)

-- name: versions
-- Of some prices, all versions, oldest first.
select p.provider, p.operation, p.model, p.version, p.shipped, p.recorded_at, p.body
from unnest($1::text[], $2::text[], $3::text[]) as k (provider, operation, model)
cross join lateral (
    select p.provider, p.operation, p.model, p.valid_from, p.version, p.shipped, p.recorded_at, p.body::text as body
    from prices p
    where p.provider = k.provider and p.operation = k.operation and p.model = k.model
    offset 0
) p
order by p.provider, p.operation, p.model, p.valid_from

-- name: write
-- New forms of versions, each an event of the type $1 in the log, and one new version of the catalogue.
with written as (
    select *
    from unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::integer[], $8::boolean[],
                $9::text[], $10::timestamptz[], $11::uuid[], $12::text[])
        as t (provider, operation, model, valid_from, valid_until, version, shipped, body, recorded_at, event_id, event)
),
logged as (
    insert into event_log (account_id, event_id, type, terminal, source, occurred_at, body)
    select '', event_id, $1, false, 'ledger', recorded_at, event::json from written
),
counted as (
    update price_catalogue set version = version + 1 returning version
)
insert into prices
    (provider, operation, model, valid_from, valid_until, version, shipped, body, changed_in, recorded_at)
select w.provider, w.operation, w.model, w.valid_from, w.valid_until, w.version, w.shipped, w.body::json, c.version,
       w.recorded_at
from written w cross join counted c
on conflict (provider, operation, model, valid_from) do update
set valid_until = excluded.valid_until, version = excluded.version, shipped = excluded.shipped, body = excluded.body,
    changed_in = excluded.changed_in, recorded_at = excluded.recorded_at

-- name: shipped_digest
select shipped_digest from price_catalogue

-- name: keep_shipped_digest
update price_catalogue set shipped_digest = $1

-- name: catalogue_version
select version from price_catalogue

-- name: changed_since
select provider, operation, model, version, body::text as body from prices where changed_in > $1

-- name: page
-- Those of a provider ($1) and operation ($2), in force at $3, after the cursor ($4 …): null selects all.
select provider, operation, model, version, shipped, recorded_at, in_force_until, body
from (
    select provider, operation, model, valid_from, version, shipped, recorded_at, body::text as body,
           least(valid_until, lead(valid_from) over (partition by provider, operation, model order by valid_from))
               as in_force_until
    from prices
    where ($1::text is null or provider = $1) and ($2::text is null or operation = $2)
) p
where ($3::timestamptz is null or (valid_from <= $3 and in_force_until > $3))
  and ($4::text is null or (provider, operation, model, valid_from) > ($4, $5::text, $6::text, $7::timestamptz))
order by provider, operation, model, valid_from
limit $8

-- name: changes
-- Every form that a price's versions ever had, newest first, from the log's events of the type $1.
select (body -> 'data')::text as body
from event_log
where account_id = '' and type = $1 and body #>> '{data,provider}' = $2 and body #>> '{data,operation}' = $3
  and body #>> '{data,model}' = $4
order by occurred_at desc, event_id desc
limit $5
