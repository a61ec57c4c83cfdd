-- works with: 0018
-- How many checks were denied on days (UTC) that are over: pages count months of them. A worker of the ledger counts each
-- day once, an hour after it ended, so that limit checks write and wait for nothing more.

create table denials_hourly (
    hour     timestamptz not null,
    code     text        not null,
    limit_id text        not null,
    denials  bigint      not null,
    primary key (hour, code, limit_id)
);
comment on table denials_hourly is 'Denials of all accounts by hour and reason, of days that are counted. Empty: none.';

create table denials_daily (
    account_id text        not null,
    day        timestamptz not null,
    denials    bigint      not null,
    latest_at  timestamptz not null,
    primary key (account_id, day)
);
comment on table denials_daily is 'Denials by account and day, of days that are counted.';
create index denials_daily_day on denials_daily (day, account_id) include (denials, latest_at);

create table denials_counted (
    is_only boolean     primary key default true check (is_only),
    until   timestamptz not null
);
comment on table denials_counted is 'One row: before which day all are counted. What is decided later is in decisions alone.';
insert into denials_counted (until) values ('2000-01-01T00:00:00Z');
