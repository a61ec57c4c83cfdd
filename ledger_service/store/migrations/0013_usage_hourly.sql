-- Rollups of the usage log by hours in UTC, for analytics: what is asked for a month reads hours, not operations.

-- Whoever writes the usage log waits until the rollups have what is in it.
lock table usage_log in share row exclusive mode;

create table usage_hourly (
    account_id text        not null,
    hour       timestamptz not null,
    operation  text        not null,
    provider   text        not null,
    model      text        not null,
    outcome    text        not null,
    calls      bigint      not null,
    units      bigint      not null,
    cost_nanos bigint      not null,
    failures   bigint      not null,
    primary key (account_id, hour, operation, provider, model, outcome)
) with (fillfactor = 80);
comment on table usage_hourly is
    'Totals per account and hour (UTC, of occurred_at) by operation, provider, model and outcome of the usage log.';

create table usage_hourly_all (
    shard      integer     not null,
    hour       timestamptz not null,
    operation  text        not null,
    provider   text        not null,
    model      text        not null,
    outcome    text        not null,
    calls      bigint      not null,
    units      bigint      not null,
    cost_nanos bigint      not null,
    failures   bigint      not null,
    primary key (hour, operation, provider, model, outcome, shard)
) with (fillfactor = 70);
comment on table usage_hourly_all is 'The same of all accounts together.';
comment on column usage_hourly_all.shard is
    'account_shard(): so that transactions about few accounts do not wait for each other''s row. Readers add them up.';

create function account_shard(account_id text) returns integer
    language sql immutable parallel safe
return hashtext(account_id) & 3;

insert into usage_hourly (account_id, hour, operation, provider, model, outcome, calls, units, cost_nanos, failures)
select account_id, date_trunc('hour', occurred_at, 'UTC'), operation, provider, model, outcome,
       sum(counted_calls(outcome, adjusted_calls)), sum(counted_units(outcome, quantity)), sum(cost_nanos),
       sum(counted_failures(outcome, adjusted_failures))
from usage_log
group by 1, 2, 3, 4, 5, 6
order by 2, 1;

insert into usage_hourly_all (shard, hour, operation, provider, model, outcome, calls, units, cost_nanos, failures)
select account_shard(account_id), hour, operation, provider, model, outcome, sum(calls), sum(units), sum(cost_nanos),
       sum(failures)
from usage_hourly
group by 1, 2, 3, 4, 5, 6
order by 2;

-- Of all accounts a time is asked for; rows come nearly in its order, so that a few bytes a hundred pages do.
create index usage_hourly_hour on usage_hourly using brin (hour) with (pages_per_range = 32, autosummarize = on);
create index usage_log_occurred_at on usage_log using brin (occurred_at)
    with (pages_per_range = 32, autosummarize = on);
