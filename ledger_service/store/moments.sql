-- name: snapshot
-- What the transaction sees, from its first statement on. The lock, which waits for nobody, tells others that this
-- transaction only reads: see `unsettled`.
select pg_snapshot_xmin(s)::text as xmin, clock_timestamp() as read_at,
       $1::text is null or pg_visible_in_snapshot($1::text::xid8, s) as is_reached,
       coalesce($1::text::xid8 >= pg_snapshot_xmax(s), false) as is_beyond,
       pg_advisory_xact_lock_shared(7205759403792801)
from pg_current_snapshot() s

-- name: is_running
select exists (
    select from pg_locks
    where locktype = 'transactionid' and granted and mode = 'ExclusiveLock' and transactionid = ($1::text::xid8)::xid
)

-- name: unsettled
-- Transactions that began at $1 or before and may still write to the log. Of other roles, to whom xact_start is not
-- shown, those that have written. Who has written nothing for $2 seconds only reads: ours write within their first
-- statements, which end sooner.
select clock_timestamp() as now, count(a.pid) as transactions
from (values (1)) one (row)
left join pg_stat_activity a
    on a.datid = (select oid from pg_database where datname = current_database()) and a.pid <> pg_backend_pid()
   and case when a.xact_start is null then a.backend_xid is not null
            else a.xact_start <= $1
                and (a.backend_xid is not null or a.xact_start > clock_timestamp() - make_interval(secs => $2))
       end
   and not exists (
       select from pg_locks l
       where l.pid = coalesce(a.leader_pid, a.pid) and l.locktype = 'advisory' and l.objsubid = 1
         and l.mode = 'ShareLock' and (l.classid::bigint << 32 | l.objid::bigint) = 7205759403792801
   )

-- name: committing
-- As what this transaction commits. One that changed nothing answers what was there, which had committed by then.
select coalesce(pg_current_xact_id_if_assigned()::text,
                (pg_snapshot_xmax(pg_current_snapshot())::text::numeric - 1)::text) as position

-- name: now
select now()
