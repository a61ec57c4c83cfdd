-- Months of the usage log that lie in files: what they count stays in every total, and their events stay in the log.

create table usage_archives (
    month       date primary key,
    state       text        not null check (state in ('removing', 'archived', 'restoring', 'recovering')),
    file        text        not null,
    digest      bytea       not null,
    bytes       bigint      not null,
    rows        bigint      not null,
    calls       bigint      not null,
    units       bigint      not null,
    cost_nanos  bigint      not null,
    failures    bigint      not null,
    written_at  timestamptz not null default clock_timestamp(),
    archived_at timestamptz
);
comment on table usage_archives is
    'Months (UTC, their first day) whose rows of the usage log, as they are booked, are in a Parquet file and not in the table.';
comment on column usage_archives.state is
    'removing: the file is whole, its rows are being taken out of the table; archived: all are; restoring: on their way back; '
    'recovering: the file is gone, a rebuild puts them back from the log.';
comment on column usage_archives.file is 'Its name, in the folder of archives.';
comment on column usage_archives.digest is 'SHA-256 of the file.';

-- From which moment on the usage log has everything; null = always. Before it, only what came late is there.
create function usage_log_begins() returns timestamptz
    language sql stable
return (select max(month) + interval '1 month' from usage_archives) at time zone 'UTC';

-- What an account's rows in archives count, read from the log: each outcome of which the usage log has no row.
create function archived_usage(of_account text)
    returns table (user_id text, project_id text, api_key_id text, operation text, provider text, model text,
                   occurred_at timestamptz, calls bigint, units bigint, cost_nanos bigint)
    language sql stable
begin atomic
    select d.user_id, d.project_id, d.api_key_id, d.operation, coalesce(d.actual_provider, d.provider), d.model,
           e.occurred_at, counted_calls(e.outcome, d.calls), counted_units(e.outcome, coalesce(d.quantity, d.units)),
           (d.cost::numeric * 1000000000)::bigint
    from (
        select o.occurred_at, split_part(o.type, '.', 3) as outcome,
               json_populate_record(null::fact_body, without_nul(o.body)) as b
        from event_log o
        where o.account_id = of_account and o.terminal and o.occurred_at < usage_log_begins()
          and not exists (
              select from usage_log u
              where u.account_id = o.account_id and u.occurred_at = o.occurred_at and u.operation_id = o.operation_id
          )
        offset 0
    ) e
    cross join lateral (select ((e.b).data).*) d;
end;
