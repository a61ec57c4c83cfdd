-- How far the stream is certainly in this database, and what was read again because it was not. A restored database has
-- the mark that it had then, so it knows itself from where on it has to catch up.

create table stream_marks (
    stream              text primary key,
    consumer_created_at timestamptz not null,
    committed_through   bigint      not null,
    database_started_at timestamptz not null default pg_postmaster_start_time(),
    noted_at            timestamptz not null default clock_timestamp()
);
comment on table stream_marks is
    'Every message up to committed_through was acknowledged, and so committed here, before this row was written.';
comment on column stream_marks.database_started_at is
    'Of the server that the row was written on. Another one: it may have been put back to an older state since.';

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
insert into stream_marks (stream, consumer_created_at, committed_through)
select 'USAGE', '-infinity', -1
where exists (select from event_log);
