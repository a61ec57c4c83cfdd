-- Periods that close: months in UTC. What comes later for one that is closed is booked in the first that is not.

create table period_closings (
    account_id text        not null,
    period     date        not null,
    event_id   uuid        not null,
    author     text        not null,
    reason     text        not null,
    closed_at  timestamptz not null,
    primary key (account_id, period)
);
create index period_closings_period on period_closings (period);
comment on table period_closings is
    'Months (UTC, their first day) that are closed, with all before them. account_id is empty where that is for all.';

alter table usage_log add column booked_period date;
create index usage_log_booked on usage_log (account_id, booked_period) where booked_period is not null;
comment on column usage_log.booked_period is
    'The month in which it is in the totals, where its own was closed already; null = the month of occurred_at.';
comment on table usage_summary is
    'Totals per account and month (UTC, its first day) by operation, provider and model: of what is booked in the month.';

create function own_period(occurred_at timestamptz) returns date
    language sql immutable parallel safe
return date_trunc('month', occurred_at at time zone 'UTC')::date;

-- The month in which something of a month is booked now. Whoever books by it holds the gate, shared: see event_log.sql.
create function booked_period(of_account text, month date) returns date
    language sql stable parallel safe
return greatest(month, ((select max(period) from period_closings where account_id in (of_account, ''))
                        + interval '1 month')::date);
