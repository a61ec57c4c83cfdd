-- works with: 0018
-- The rollup of all accounts once more by days: a month has a fifteenth of the rows, and pages read several months.

-- Whoever writes the rollup by hours waits until that by days has what is in it.
lock table usage_hourly_all in share row exclusive mode;

-- What all accounts share has room for whatever they add up to: else one that is large enough keeps others' events out.
alter table usage_hourly_all alter column units type numeric, alter column cost_nanos type numeric;

create table usage_daily_all (
    day        timestamptz not null,
    operation  text        not null,
    provider   text        not null,
    model      text        not null,
    outcome    text        not null,
    calls      bigint      not null,
    units      numeric     not null,
    cost_nanos numeric     not null,
    failures   bigint      not null,
    primary key (day, operation, provider, model, outcome)
) with (fillfactor = 70);
comment on table usage_daily_all is 'Totals of all accounts by days of UTC, as usage_hourly_all by hours.';
comment on column usage_daily_all.day is 'When it begins.';

insert into usage_daily_all (day, operation, provider, model, outcome, calls, units, cost_nanos, failures)
select date_trunc('day', hour, 'UTC'), operation, provider, model, outcome, sum(calls), sum(units), sum(cost_nanos),
       sum(failures)
from usage_hourly_all
group by 1, 2, 3, 4, 5
order by 1;

-- Ledgers that know this table write it together with that by hours. Of those that do not, triggers do: a ledger of the
-- version before may be at work beside newer ones.
create function usage_daily_all_follow() returns trigger
    language plpgsql set search_path from current
as $$
begin
    if tg_op = 'INSERT' then
        insert into usage_daily_all as d
            (day, operation, provider, model, outcome, calls, units, cost_nanos, failures)
        select date_trunc('day', hour, 'UTC'), operation, provider, model, outcome, sum(calls), sum(units),
               sum(cost_nanos), sum(failures)
        from now_there
        group by 1, 2, 3, 4, 5
        order by 1, 2, 3, 4, 5
        on conflict (day, operation, provider, model, outcome) do update
        set calls = d.calls + excluded.calls, units = d.units + excluded.units,
            cost_nanos = d.cost_nanos + excluded.cost_nanos, failures = d.failures + excluded.failures;
    else
        insert into usage_daily_all as d
            (day, operation, provider, model, outcome, calls, units, cost_nanos, failures)
        select date_trunc('day', hour, 'UTC'), operation, provider, model, outcome, sum(sign * calls),
               sum(sign * units), sum(sign * cost_nanos), sum(sign * failures)
        from (select 1 as sign, * from now_there union all select -1, * from there_before) changed
        group by 1, 2, 3, 4, 5
        order by 1, 2, 3, 4, 5
        on conflict (day, operation, provider, model, outcome) do update
        set calls = d.calls + excluded.calls, units = d.units + excluded.units,
            cost_nanos = d.cost_nanos + excluded.cost_nanos, failures = d.failures + excluded.failures;
    end if;
    return null;
end
$$;

create trigger usage_daily_all_insert after insert on usage_hourly_all
    referencing new table as now_there for each statement
    when (coalesce(current_setting('ledger.schema', true), '') < '0024')
    execute function usage_daily_all_follow();
create trigger usage_daily_all_update after update on usage_hourly_all
    referencing old table as there_before new table as now_there for each statement
    when (coalesce(current_setting('ledger.schema', true), '') < '0024')
    execute function usage_daily_all_follow();
