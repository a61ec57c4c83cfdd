-- How far the stream is certainly in this database, and what was read again because it was not. A restored database has
-- the mark that it had then, so it knows itself from where on it has to catch up.

create table stream_marks (
    stream              text primary key,
    consumer_created_at timestamptz not null,
    committed_through   bigint      not null,
    incarnation         text        not null,
    noted_at            timestamptz not null default clock_timestamp()
);
comment on table stream_marks is
    'Every message up to committed_through was acknowledged, and so committed here, before this row was written.';
comment on column stream_marks.incarnation is
    'Of the database when the row was written. Another one now: it may have been put back to an older state since.';

-- Another one after each start of the server, and of each copy of this database: backup, dump or template.
create function database_incarnation() returns text
    language sql stable
return concat_ws('/', extract(epoch from pg_postmaster_start_time()),
                 (select oid from pg_database where datname = current_database()), 'stream_marks'::regclass::oid);

create table stream_gaps (
    gap_id         bigint generated always as identity primary key,
    stream         text        not null,
    first_sequence bigint      not null,
    last_sequence  bigint      not null,
    log_ended_at   timestamptz,
    closed_at      timestamptz not null default clock_timestamp(),
    report         json        not null
);
comment on table stream_gaps is 'Messages that were acknowledged and that this database might have lost: read again, and what came of it.';
comment on column stream_gaps.log_ended_at is 'The newest recorded_at in the log before: the point to which it was restored.';

-- A log that was filled before there were marks is taken to have everything; a new one has nothing yet.
insert into stream_marks (stream, consumer_created_at, committed_through, incarnation)
select 'USAGE', '-infinity', -1, database_incarnation()
where exists (select from event_log);
