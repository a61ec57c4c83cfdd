-- works with: 0018
-- A hold may be moved to another provider: its decision is the one that it was moved by, and says which came before.
alter table decisions add column moved_from uuid;
comment on column decisions.moved_from is
    'The event of the decision whose hold was moved here; null where it was never moved. The row is as of the last move.';
-- Few rows: what was held before them is asked of the past alone.
create index decisions_moved on decisions (account_id, decided_at) where moved_from is not null;

-- What rebuilding reads of such an event.
alter type fact_data add attribute moved_from uuid;

-- The decisions that placed a hold, from the one of this event back to the first: each stood until the position at which
-- the next one was written.
create function placements(of_account text, of_event uuid)
    returns table (event_id uuid, moved_from uuid, request_digest bytea, provider text, model text, quantity bigint,
                   estimated_cost_nanos bigint, decided_at timestamptz, expires_at timestamptz, "position" bigint,
                   until_position bigint)
    language sql stable parallel safe
begin atomic
    with recursive walked as (
        select e.event_id, e.occurred_at, e.position, null::bigint as until_position, b.data,
               (b.data ->> 'moved_from')::uuid as moved_from
        from event_log e
        cross join lateral (select without_nul(e.body) -> 'data' as data) b
        where e.account_id = of_account and e.event_id = of_event
        union all
        select e.event_id, e.occurred_at, e.position, w.position, b.data, (b.data ->> 'moved_from')::uuid
        from walked w
        join event_log e on e.account_id = of_account and e.event_id = w.moved_from
        cross join lateral (select without_nul(e.body) -> 'data' as data) b
    )
    select w.event_id, w.moved_from, substring(sha256(convert_to((w.data -> 'check')::text, 'UTF8')) for 16),
           w.data -> 'check' ->> 'provider', w.data -> 'check' ->> 'model', (w.data -> 'check' ->> 'quantity')::bigint,
           coalesce(((w.data -> 'decision' ->> 'estimated_cost')::numeric * 1000000000)::bigint, 0), w.occurred_at,
           (w.data -> 'decision' -> 'reservation' ->> 'expires_at')::timestamptz, w.position, w.until_position
    from walked w;
end;
