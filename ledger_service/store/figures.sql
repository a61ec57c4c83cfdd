-- name: standing
-- Counts end at $1: a gauge is asked for every few seconds, and must not cost more the worse things are.
select pg_snapshot_xmin(s)::text as horizon, pg_snapshot_xmax(s)::text as next_transaction,
       (select count(*) from (select from decisions where state = 'held' limit $1) d) as holds_open,
       (select coalesce(extract(epoch from greatest(clock_timestamp() - min(expires_at), interval '0')), 0)::float8
        from decisions where state = 'held') as holds_overdue_seconds,
       (select coalesce(sum(upper(hole) - lower(hole)), 0)::bigint
        from sources r cross join lateral unnest(missing_numbers(r, lower(r.recorded))) as hole) as missing_events
from pg_current_snapshot() s

-- name: unsealed
-- Rows after the last seal of the chain $1, the first $2 of them.
select count(*) as events,
       coalesce(extract(epoch from greatest(clock_timestamp() - min(e.recorded_at), interval '0')), 0)::float8 as seconds
from (
    select recorded_at
    from event_log
    where (transaction_id, position) > (
              coalesce((select s.through_transaction_id from seals s where s.origin = $1 order by s.size desc limit 1),
                       '0'::xid8),
              coalesce((select s.through_position from seals s where s.origin = $1 order by s.size desc limit 1), 0)
          )
    order by transaction_id, position
    limit $2
) e
