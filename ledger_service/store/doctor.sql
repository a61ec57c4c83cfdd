-- name: server
-- Counts of sessions come from statistics that every role may read.
select current_setting('server_version_num')::integer as version, current_setting('server_version') as version_text,
       pg_is_in_recovery() as in_recovery, pg_encoding_to_char(d.encoding) as encoding,
       case d.datlocprovider when 'c' then d.datcollate
           else coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', d.datcollate) end as collation,
       (select coalesce(sum(numbackends), 0)::integer from pg_stat_database) as in_use,
       current_setting('superuser_reserved_connections')::integer
           + current_setting('reserved_connections', true)::integer as reserved,
       (select count(*)::integer from pg_stat_activity a
        where a.datname = current_database() and a.application_name in ('ledger-checks', 'ledger-ingest'))
           as ledger_connections
from pg_database d
where d.datname = current_database()

-- name: settings
select name, setting from pg_settings where name = any ($1::text[])

-- name: clock
select clock_timestamp()

-- name: sees_schema
-- A role that may use no schema sees no table, whatever is there.
select current_schema() is not null

-- name: role
-- The attributes of our own role, the roles that it is a member of, and what it owns in the schema.
select r.rolname as name, r.rolconnlimit as connections_max,
       array_remove(array[case when r.rolsuper then 'superuser' end, case when r.rolcreaterole then 'may make roles' end,
                          case when r.rolcreatedb then 'may make databases' end,
                          case when r.rolreplication then 'may replicate' end,
                          case when r.rolbypassrls then 'bypasses row security' end], null) as powers,
       array(select pg_get_userbyid(m.roleid)::text from pg_auth_members m where m.member = r.oid order by 1) as member_of,
       array(select c.relname::text from pg_class c
             where c.relowner = r.oid and c.relnamespace = to_regnamespace(current_schema()) and c.relkind in ('r', 'p')
             order by 1) as owns
from pg_roles r
where r.rolname = current_user

-- name: rights
-- Tables of the owner of the log, and what our role lacks on each: of $1, which only grow, and of $2, which only
-- migrations write, less than of all others.
with wanted as (
    select c.oid, c.relname as name,
           case when c.relname = any ($2::text[]) then array['select']
                when c.relname = any ($1::text[]) then array['select', 'insert']
                else array['select', 'insert', 'update', 'delete'] end as privileges
    from pg_class c
    where c.relnamespace = to_regnamespace(current_schema()) and c.relkind in ('r', 'p')
      and c.relowner = (select l.relowner from pg_class l where l.oid = to_regclass('event_log'))
)
select w.name, array_agg(p.privilege order by p.privilege) as lacking
from wanted w cross join lateral unnest(w.privileges) as p (privilege)
where not has_table_privilege(w.oid, p.privilege)
group by w.name
union all
select 'the database', array['temporary'] where not has_database_privilege(current_database(), 'temporary')
union all
select 'the schema', array['usage'] where current_schema() is null

-- name: readers
-- Of the roles $1: whether each reads anything, which of the tables it may not see it reads, and what it writes. $2 are
-- the roles that see no table at all, $3 the tables that nobody but the ledger sees.
select r.name,
       exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where n.nspname = 'finance' and c.relkind = 'v' and has_schema_privilege(r.name, n.oid, 'usage')
                 and has_table_privilege(r.name, c.oid, 'select')) as reads,
       array(select c.relname::text from pg_class c
             where c.relnamespace = to_regnamespace(current_schema()) and c.relkind in ('r', 'p', 'v', 'm')
               and (r.name = any ($2::text[]) or c.relname = any ($3::text[]))
               and has_table_privilege(r.name, c.oid, 'select') order by 1) as reads_too_much,
       array(select c.relname::text from pg_class c
             where c.relnamespace in (to_regnamespace(current_schema()), to_regnamespace('finance'))
               and c.relkind in ('r', 'p', 'v', 'm')
               and has_table_privilege(r.name, c.oid, 'insert, update, delete, truncate') order by 1) as writes
from unnest($1::text[]) as r (name)

-- name: anybody_may_connect
select has_database_privilege('public', current_database(), 'connect')

-- name: horizon
-- How long the first row of the log has waited that no reader may take yet, as a transaction before it is open.
select coalesce((
    select extract(epoch from greatest(clock_timestamp() - e.recorded_at, interval '0'))::float8
    from event_log e
    where e.transaction_id >= pg_snapshot_xmin(pg_current_snapshot())
      and e.transaction_id < pg_snapshot_xmax(pg_current_snapshot())
    order by e.transaction_id, e.position
    limit 1
), 0)

-- name: unborn
-- The highest transaction of the log that this server has not begun yet.
select transaction_id::text
from event_log
where transaction_id >= pg_snapshot_xmax(pg_current_snapshot())
order by event_log.transaction_id desc, position desc
limit 1

-- name: writers
-- Sessions whose transactions have written something, the oldest first. Of others' sessions an ordinary role is told
-- that there are such, and not since when.
select format('pid %s of %s (%s)', a.pid, coalesce(a.usename, '?'),
              concat_ws(', ', nullif(a.application_name, ''), a.state)) as session,
       extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds
from pg_stat_activity a
where a.backend_xid is not null and a.pid <> pg_backend_pid()
order by age(a.backend_xid) desc
limit 5

-- name: prepared
select gid as name, extract(epoch from clock_timestamp() - prepared)::float8 as seconds
from pg_prepared_xacts
order by prepared

-- name: slots
select slot_name::text as name, active, coalesce(wal_status, '') as wal_status,
       coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end,
                                restart_lsn), 0)::bigint as retained_bytes
from pg_replication_slots
order by slot_name

-- name: archiver
select extract(epoch from clock_timestamp() - last_archived_time)::float8 as archived_seconds_ago,
       extract(epoch from clock_timestamp() - last_failed_time)::float8 as failed_seconds_ago,
       coalesce(last_failed_wal, '') as failed_file
from pg_stat_archiver

-- name: tables
select relname::text as name, n_live_tup as rows, n_dead_tup as dead, n_mod_since_analyze as changed,
       coalesce(last_analyze, last_autoanalyze) is not null as analyzed
from pg_stat_user_tables
where schemaname = current_schema()
order by relname

-- name: frozen_age
select max(age(datfrozenxid)) from pg_database

-- name: sizes
select pg_database_size(current_database()) as database_bytes,
       coalesce(pg_total_relation_size(to_regclass('event_log')), 0) as log_bytes

-- name: wal_bytes
select coalesce(sum(size), 0)::bigint from pg_ls_waldir()

-- name: mark
select committed_through, committed_through < 0 or incarnation = database_incarnation() as is_same_database
from stream_marks
where stream = $1

-- name: plan_exists
select exists (select from plans where plan_id = $1)
