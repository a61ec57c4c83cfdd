-- name: read
-- Of this server: another one where a standby has taken over, or a backup was put in its place. Null: it is a standby.
select case when not pg_is_in_recovery()
            then concat_ws('/', (select system_identifier from pg_control_system()),
                           left(pg_walfile_name(pg_current_wal_lsn()), 8),
                           (select oid from pg_database where datname = current_database())) end
