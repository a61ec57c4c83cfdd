-- name: columns
-- Of tables in their order: names as SQL writes them, types, and their place in the primary key, from 1.
select c.relname as "table", quote_ident(a.attname) as "column", format_type(a.atttypid, null) as type,
       coalesce(array_position(i.indkey::smallint[], a.attnum), -1) as key_place
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_index i on i.indrelid = c.oid and i.indisprimary
where c.oid = any (select to_regclass(name) from unnest($1::text[]) as name)
order by c.relname, a.attnum

-- name: size
-- Events in the log, as far as statistics know, and the last position in it.
select greatest((select reltuples from pg_class where oid = to_regclass('event_log')),
                (select n_live_tup from pg_stat_user_tables where relid = to_regclass('event_log')), 0)::bigint as events,
       coalesce(pg_sequence_last_value(to_regclass('event_log_position_seq')), 0) as last_position

-- name: is_copy
-- Whether this server follows another.
select pg_is_in_recovery()

-- name: knows_account
select exists (select from accounts where account_id = $1) or exists (select from event_log where account_id = $1)

-- name: disk
-- Bytes in tables.
select coalesce(sum(pg_table_size(to_regclass(name))), 0)::bigint from unnest($1::text[]) as name

-- name: lock_rebuild
-- Held until the connection ends, also where its process was killed.
select pg_try_advisory_lock(7205759403792796)

-- name: export_snapshot
select pg_export_snapshot()
