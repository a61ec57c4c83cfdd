-- The schema finance: what people who close books and watch cost read with SQL. Its views are a promise, the tables behind
-- them are not: see deploy/decisions/0023. A later migration may add views, and columns at the end of a view (`create or
-- replace view` allows nothing else); it does not drop, rename, or change what is here.

-- What customers are charged ----------------------------------------------------------------------------------------------

create table resale_prices (
    account_id       text        not null,
    operation        text        not null,
    model            text        not null,
    valid_from       timestamptz not null,
    version          integer     not null,
    unit_price_nanos bigint      not null,
    reason           text        not null,
    recorded_at      timestamptz not null default now(),
    primary key (account_id, operation, model, valid_from)
);
comment on table resale_prices is
    'What customers are charged for a unit, from when on; account_id is empty where that is for all without one of their '
    'own. Earlier forms of a row are events in the log.';

-- Corrections by when they were recorded: rows of operations are not in it.
create index usage_log_adjustments on usage_log (account_id, recorded_at) where outcome = 'adjustment';

-- The schema --------------------------------------------------------------------------------------------------------------

do $$
begin
    -- Where somebody else made it, for the owner of the tables, no right to make schemas is needed.
    if to_regnamespace('finance') is null then
        create schema finance;
    end if;
end
$$;

-- Dollars are numeric(38, 9), cast where they stand: out of a function they would come without the nine decimals.

-- Reference: accounts, terms, prices --------------------------------------------------------------------------------------

create view finance.accounts as
select a.account_id, a.plan_id, p.body ->> 'name' as plan_name, a.time_zone, a.billing_anchor,
       a.version > 0 as is_registered
from accounts a
left join plans p on p.plan_id = a.plan_id;

create view finance.plans as
select plan_id, body ->> 'name' as name, version, recorded_at
from plans;

create view finance.plan_limits as
select p.plan_id, p.version as plan_version, l.value ->> 'limit_id' as limit_id, l.value ->> 'meter' as meter,
       coalesce(l.value ->> 'scope', 'account') as scope, l.value ->> 'window' as "window",
       (l.value ->> 'maximum')::numeric as maximum, coalesce(l.value ->> 'mode', 'hard') as mode,
       array(select json_array_elements_text(l.value -> 'selector' -> 'operation')) as operations,
       array(select json_array_elements_text(l.value -> 'selector' -> 'provider')) as providers,
       array(select json_array_elements_text(l.value -> 'selector' -> 'model')) as models,
       coalesce((l.value ->> 'credit')::boolean, false) as is_credit
from plans p
cross join lateral json_array_elements(p.body -> 'limits') as l;

create view finance.limit_overrides as
select account_id, limit_id, nullif(scope_id, '') as scope_id,
       case when valid_from > '1970-01-01 00:00+00' then valid_from end as valid_from,
       case when valid_until < '9999-01-01 00:00+00' then valid_until end as valid_until,
       "limit" ->> 'meter' as meter, "limit" ->> 'scope' as scope, "limit" ->> 'window' as "window",
       ("limit" ->> 'maximum')::numeric as maximum, "limit" ->> 'mode' as mode, reason, version, recorded_at
from limit_overrides;

create view finance.credit_grants as
select account_id, grant_id, body ->> 'limit_id' as limit_id, body ->> 'meter' as meter,
       (body ->> 'amount')::numeric as amount, (body ->> 'priority')::integer as priority,
       (body ->> 'valid_from')::timestamptz as valid_from, (body ->> 'expires_at')::timestamptz as expires_at,
       body ->> 'renews' as renews, (body ->> 'rollover_maximum')::numeric as rollover_maximum,
       (body ->> 'ended_at')::timestamptz as ended_at, body ->> 'reason' as reason, version, recorded_at
from credit_grants;

create view finance.prices as
select p.provider, p.operation, p.model, p.valid_from, nullif(p.valid_until, '9999-01-01 00:00+00') as valid_until,
       p.body ->> 'unit' as unit, v.lowest as unit_price_lowest, v.highest as unit_price_highest,
       v.variants, p.version, p.shipped as is_shipped, p.body ->> 'source' as source,
       (p.body ->> 'as_of')::date as source_as_of, p.recorded_at
from (
    select provider, operation, model, valid_from, version, shipped, body, recorded_at,
           least(valid_until, lead(valid_from) over (partition by provider, operation, model order by valid_from))
               as valid_until
    from prices
) p
cross join lateral (
    select min((one ->> 'price')::numeric)::numeric(38, 9) as lowest,
           max((one ->> 'price')::numeric)::numeric(38, 9) as highest, count(*)::integer as variants
    from json_array_elements(p.body -> 'variants') as one
) v;

create view finance.resale_prices as
select nullif(account_id, '') as account_id, operation, model, valid_from,
       lead(valid_from) over (partition by account_id, operation, model order by valid_from) as valid_until,
       (unit_price_nanos * 0.000000001)::numeric(38, 9) as unit_price, reason, version, recorded_at
from resale_prices;

create view finance.period_closings as
select nullif(account_id, '') as account_id, period, closed_at, author, reason, event_id
from period_closings;

-- Usage -------------------------------------------------------------------------------------------------------------------

create view finance.usage_log as
select u.account_id, u.operation_id, u.outcome, u.outcome = 'adjustment' as is_correction,
       u.outcome <> 'adjustment' and u.booked_period is not null as is_late,
       u.user_id, u.project_id, u.api_key_id, u.operation, u.provider, u.requested_provider, u.model,
       counted_calls(u.outcome, u.adjusted_calls) as calls, counted_units(u.outcome, u.quantity) as units,
       counted_failures(u.outcome, u.adjusted_failures) as failures,
       (u.cost_nanos * 0.000000001)::numeric(38, 9) as cost, u.occurred_at, coalesce(u.booked_period, own_period(u.occurred_at)) as booked_month,
       own_period(u.occurred_at) as month_utc, (u.occurred_at at time zone 'UTC')::date as day_utc,
       date_trunc('month', u.occurred_at at time zone coalesce(a.time_zone, 'UTC'))::date as month_local,
       (u.occurred_at at time zone coalesce(a.time_zone, 'UTC'))::date as day_local,
       u.counted_at as admitted_at, u.recorded_at, (u.held_cost_nanos * 0.000000001)::numeric(38, 9) as held_cost,
       u.quantity, u.duration_ms, u.status_code, u.retry_count, u.endpoint, u.error_code, u.metadata, u.lease_id,
       u.corrects as corrects_operation_id, u.adjustment ->> 'kind' as correction_kind,
       u.adjustment ->> 'author' as correction_author, u.adjustment ->> 'reason' as correction_reason, u.event_id
from usage_log u
left join accounts a on a.account_id = u.account_id;

create view finance.usage_summary as
select s.account_id, s.period as booked_month, s.operation, s.provider, s.model, s.calls, s.units, s.failures,
       (s.cost_nanos * 0.000000001)::numeric(38, 9) as cost,
       exists (select from period_closings c where c.account_id = s.account_id and c.period >= s.period)
           or exists (select from period_closings c where c.account_id = '' and c.period >= s.period) as is_closed
from usage_summary s;

create view finance.corrections as
select account_id, operation_id as adjustment_id, adjustment ->> 'kind' as kind, adjustment ->> 'author' as author,
       adjustment ->> 'reason' as reason, corrects as corrects_operation_id,
       (adjustment -> 'reference' ->> 'adjustment_id')::uuid as reference_adjustment_id, user_id, project_id, api_key_id,
       operation, provider, model, counted_calls(outcome, adjusted_calls) as calls,
       counted_units(outcome, quantity) as units, counted_failures(outcome, adjusted_failures) as failures,
       (cost_nanos * 0.000000001)::numeric(38, 9) as cost, (adjustment ->> 'cost_before')::numeric(38, 9) as cost_before,
       (adjustment ->> 'cost_after')::numeric(38, 9) as cost_after, occurred_at, own_period(occurred_at) as month_utc,
       coalesce(booked_period, own_period(occurred_at)) as booked_month, recorded_at,
       (adjustment ->> 'repricing_id')::uuid as repricing_id
from usage_log
where outcome = 'adjustment';

-- What customers were charged beside what it cost. Prices are few: joins with ranges are faster than a search a row.
create view finance.margin as
select account_id, operation_id, outcome, outcome = 'adjustment' as is_correction, user_id, project_id, operation, provider,
       model, units, (cost_nanos * 0.000000001)::numeric(38, 9) as cost,
       (unit_nanos * 0.000000001)::numeric(38, 9) as unit_price, is_own_price,
       revenue_nanos is not null as is_priced, (revenue_nanos * 0.000000001)::numeric(38, 9) as revenue,
       ((revenue_nanos - cost_nanos) * 0.000000001)::numeric(38, 9) as margin, occurred_at,
       coalesce(booked_period, own_period(occurred_at)) as booked_month, own_period(occurred_at) as month_utc
from (
    select u.*, coalesce(own.nanos, general.nanos) as unit_nanos, own.nanos is not null as is_own_price,
           case when u.units = 0 then 0 else u.units * coalesce(own.nanos, general.nanos)::numeric end as revenue_nanos
    from (select *, counted_units(outcome, quantity) as units from usage_log) u
    left join (
        select account_id, operation, model, valid_from, unit_price_nanos as nanos,
               lead(valid_from, 1, 'infinity') over (partition by account_id, operation, model order by valid_from)
                   as valid_until
        from resale_prices
    ) own on own.account_id = u.account_id and own.operation = u.operation and own.model = u.model
        and own.valid_from <= u.occurred_at and own.valid_until > u.occurred_at
    left join (
        select operation, model, valid_from, unit_price_nanos as nanos,
               lead(valid_from, 1, 'infinity') over (partition by operation, model order by valid_from) as valid_until
        from resale_prices
        where account_id = ''
    ) general on general.operation = u.operation and general.model = u.model
        and general.valid_from <= u.occurred_at and general.valid_until > u.occurred_at
) u;

-- Limit checks ------------------------------------------------------------------------------------------------------------

create view finance.decisions as
select d.account_id, d.operation_id, d.state, d.state <> 'denied' as is_allowed, d.is_lease, d.user_id, d.project_id,
       d.api_key_id, d.operation, d.provider, d.model, d.calls, d.quantity,
       (d.estimated_cost_nanos * 0.000000001)::numeric(38, 9) as estimated_cost, d.decided_at, d.expires_at, d.closed_at,
       case when d.state = 'denied' then e.body -> 'data' -> 'decision' -> 'denial' ->> 'code' end as denial_code,
       case when d.state = 'denied' then e.body -> 'data' -> 'decision' -> 'denial' ->> 'limit_id' end
           as denial_limit_id
from decisions d
left join event_log e on e.account_id = d.account_id and e.event_id = d.event_id;

-- What limit checks held beside what it then cost: outcomes with what was held for them, and holds without an outcome.
create view finance.holds as
select account_id, operation_id, case when outcome = 'failed' and cost_nanos = 0 then 'released' else 'settled' end as state,
       outcome, user_id, project_id, api_key_id, operation, requested_provider as provider, model, quantity,
       (held_cost_nanos * 0.000000001)::numeric(38, 9) as held_cost,
       (cost_nanos * 0.000000001)::numeric(38, 9) as actual_cost,
       ((cost_nanos - held_cost_nanos) * 0.000000001)::numeric(38, 9) as difference, counted_at as admitted_at,
       occurred_at as ended_at
from usage_log
where held_cost_nanos is not null
union all
select d.account_id, d.operation_id, d.state, null, d.user_id, d.project_id, d.api_key_id, d.operation, d.provider,
       d.model, d.quantity, (d.estimated_cost_nanos * 0.000000001)::numeric(38, 9), null::numeric(38, 9),
       null::numeric(38, 9), d.decided_at, d.closed_at
from decisions d
where d.state <> 'denied' and not d.is_lease
  and not exists (
      select from event_log e where e.account_id = d.account_id and e.operation_id = d.operation_id and e.terminal
  );

-- What everything is ------------------------------------------------------------------------------------------------------

comment on schema finance is
    'Views for finance and BI: money in dollars (numeric, exact), times with their zone, every account. Stable: views and '
    'columns are added, never renamed, dropped or given another meaning. See deploy/guides/finance-sql.md.';

comment on view finance.accounts is 'Who pays: one row an account, with its plan and calendar as they are now.';
comment on view finance.plans is 'Plans as they are now; earlier versions are in the log (GET /v1/changes).';
comment on view finance.plan_limits is 'The limits of each plan: one row a limit, as they are now.';
comment on view finance.limit_overrides is 'Limits of single accounts, users, projects or keys that add to or replace those of the plan.';
comment on view finance.credit_grants is 'Prepaid amounts, each of which fills up a credit limit of its account.';
comment on view finance.prices is 'What a unit of a model costs us: one row a version of a price, as the catalogue has it now.';
comment on view finance.resale_prices is 'What customers are charged for a unit, from when on: for all, or for one account, which goes before.';
comment on view finance.period_closings is 'Months that are closed, and with each all months before it.';
comment on view finance.usage_log is
    'One row per finished operation, and one per correction of what was recorded: sums over both are the truth of today; '
    'where not is_correction, what was recorded first. Index: account_id with occurred_at.';
comment on view finance.usage_summary is
    'Totals per account and month by operation, provider and model, as they are booked: the figures of statements. Index: '
    'account_id with booked_month.';
comment on view finance.corrections is 'The corrections in usage_log alone, with what they are about, by whom and why.';
comment on view finance.margin is
    'What customers are charged for what is in usage_log (units times the resale price of the time), beside what it cost. One '
    'row per operation and correction. Without a price, revenue and margin are null, and is_priced is false.';
comment on view finance.decisions is
    'One row per limit check and lease, allowed or denied. Index: account_id; with decided_at where state is denied.';
comment on view finance.holds is
    'What limit checks held, and what it then cost: outcomes of checked operations, and holds that have no outcome (open, '
    'released, expired). Operations under a lease, or that nobody checked, are not in it.';

-- Every column has a comment, or this fails: those that say the same in every view stand once, for view null.
do $$
declare
    one record;
begin
    create temp table said (view text, "column" text, meaning text);
    insert into said values
    (null, 'account_id', 'The account: who pays.'),
    (null, 'operation_id', 'The operation; of a correction in usage_log and margin its own id.'),
    (null, 'user_id', 'Who in the account; null where a correction is about no user.'),
    (null, 'project_id', 'The project, where the caller named one.'),
    (null, 'api_key_id', 'The API key, where the caller named one.'),
    (null, 'operation', 'Operation type: generate, edit …; adjustment where a correction is about none.'),
    (null, 'provider', 'The provider that did the work.'),
    (null, 'model', 'The model, as the caller named it.'),
    (null, 'outcome', 'completed, failed, or adjustment (a correction).'),
    (null, 'is_correction', 'Whether the row corrects another; its amounts are signed.'),
    (null, 'calls', 'Completed operations: 1 or 0; of corrections, and in totals, the sum.'),
    (null, 'units', 'What was made and counts: images, seconds, megapixels. 0 where it failed.'),
    (null, 'failures', 'Failed operations: 1 or 0; of corrections, and in totals, the sum.'),
    (null, 'cost', 'Dollars that the provider bills; of a correction what it adds or takes off.'),
    (null, 'quantity', 'Units that were asked for, whatever came of it; of a correction as in units.'),
    (null, 'occurred_at', 'When it happened; of a correction, when what it corrects did.'),
    (null, 'recorded_at', 'When it came into the ledger.'),
    (null, 'admitted_at', 'When its limit check admitted it, else as occurred_at: it chooses the windows of limits.'),
    (null, 'month_utc', 'Its own month: of occurred_at in UTC, the first day.'),
    (null, 'booked_month', 'The month (UTC, first day) in whose totals it is: its own, or the first open one where that was closed already.'),
    (null, 'plan_id', 'The plan.'),
    (null, 'limit_id', 'The limit, by its name in the plan or override.'),
    (null, 'meter', 'What is counted: calls, units, or cost.'),
    (null, 'scope', 'On whom: account, or each user, project or api_key.'),
    (null, 'window', 'Over which time: minute, hour, day, month, billing_period, lifetime.'),
    (null, 'maximum', 'How much; dollars where the meter is cost. 0 = not allowed.'),
    (null, 'mode', 'hard denies, soft warns.'),
    (null, 'reason', 'Why, as given by whoever did it.'),
    (null, 'author', 'Who did it.'),
    (null, 'version', 'Counts changes of the row.'),
    (null, 'valid_from', 'Holds from then on.'),
    (null, 'valid_until', 'Holds until then; null = open.'),
    (null, 'closed_at', 'When it was closed.'),
    (null, 'event_id', 'The event in the log that says so.'),
    (null, 'corrects_operation_id', 'What a correction is about: an operation, or the first correction of a chain without one.'),
    (null, 'time_zone', 'IANA time zone: where its days and months begin for limits, and month_local and day_local.'),
    ('accounts', 'plan_id', 'Its plan; null = the default plan, or none.'),
    ('accounts', 'plan_name', 'The name of the plan for people.'),
    ('accounts', 'billing_anchor', 'A day on which a billing period began; the others begin on the same day of each month.'),
    ('accounts', 'is_registered', 'False where it was only seen in checks or events, and never put.'),
    ('plans', 'name', 'Its name for people.'),
    ('plan_limits', 'plan_version', 'The version of the plan that this is from.'),
    ('plan_limits', 'operations', 'Operation types that it counts; empty = all.'),
    ('plan_limits', 'providers', 'Providers that it counts; empty = all.'),
    ('plan_limits', 'models', 'Models that it counts; empty = all.'),
    ('plan_limits', 'is_credit', 'Whether credit grants fill it up.'),
    ('limit_overrides', 'scope_id', 'The one user, project or key that it is for; null = all of the scope.'),
    ('limit_overrides', 'valid_from', 'Holds from then on; null = always.'),
    ('credit_grants', 'grant_id', 'The grant, by its name in the account.'),
    ('credit_grants', 'amount', 'What is granted, with each renewal; dollars where the meter is cost.'),
    ('credit_grants', 'priority', 'Lower ones are used up first.'),
    ('credit_grants', 'expires_at', 'What is left then is lost; null = never.'),
    ('credit_grants', 'renews', 'Comes anew each month or billing_period; null = once.'),
    ('credit_grants', 'rollover_maximum', 'What of a rest is kept at a renewal; null = nothing.'),
    ('credit_grants', 'ended_at', 'When it was ended before its time.'),
    ('prices', 'provider', 'The provider whose price it is.'),
    ('prices', 'valid_until', 'In force until then: its own end, or the next version; null = open.'),
    ('prices', 'unit', 'What a unit is: image, second, megapixel …'),
    ('prices', 'unit_price_lowest', 'Dollars a unit, of the cheapest variant (size, quality …).'),
    ('prices', 'unit_price_highest', 'The same of the dearest.'),
    ('prices', 'variants', 'How many variants it has; equal lowest and highest: they do not differ.'),
    ('prices', 'is_shipped', 'As the shipped list has it; false once somebody put another.'),
    ('prices', 'source', 'Where the price stands.'),
    ('prices', 'source_as_of', 'Of when what stands there is.'),
    ('resale_prices', 'account_id', 'The account that it is for; null = all without one of their own.'),
    ('resale_prices', 'unit_price', 'Dollars that a customer is charged for a unit.'),
    ('resale_prices', 'valid_until', 'Until then: where the next one begins; null = open.'),
    ('period_closings', 'account_id', 'The account; null = all of them.'),
    ('period_closings', 'period', 'The month (UTC, first day) that is closed, and all before it.'),
    ('usage_log', 'is_late', 'Came when its own month was closed already, so that it is booked in a later one.'),
    ('usage_log', 'requested_provider', 'The provider that was asked for.'),
    ('usage_log', 'day_utc', 'The day of occurred_at in UTC.'),
    ('usage_log', 'month_local', 'The month of occurred_at (first day) in the account''s time zone as it is now.'),
    ('usage_log', 'day_local', 'The day of occurred_at in the account''s time zone as it is now.'),
    ('usage_log', 'held_cost', 'Dollars that its limit check held; null where there was none, or a lease.'),
    ('usage_log', 'duration_ms', 'How long it took, in milliseconds.'),
    ('usage_log', 'status_code', 'The HTTP status of the provider''s answer, where there was one.'),
    ('usage_log', 'retry_count', 'How many times it was tried again.'),
    ('usage_log', 'endpoint', 'The endpoint that was called, where the caller named it.'),
    ('usage_log', 'error_code', 'Why it failed, as a code.'),
    ('usage_log', 'metadata', 'What the caller attached: a JSON object.'),
    ('usage_log', 'lease_id', 'The lease under which it ran, where it named one.'),
    ('usage_log', 'correction_kind', 'Of corrections: void, rerate, or adjustment (free amounts).'),
    ('usage_log', 'correction_author', 'Of corrections: who did it.'),
    ('usage_log', 'correction_reason', 'Of corrections: why.'),
    ('usage_summary', 'is_closed', 'Whether the month is closed: then its figures no longer change.'),
    ('corrections', 'adjustment_id', 'The correction.'),
    ('corrections', 'kind', 'void, rerate, or adjustment (free amounts).'),
    ('corrections', 'reference_adjustment_id', 'The correction that it is about, where it is about one.'),
    ('corrections', 'cost_before', 'Dollars that the operation came to before it; null where it is about none.'),
    ('corrections', 'cost_after', 'Dollars that the operation comes to since.'),
    ('corrections', 'repricing_id', 'The repricing that it belongs to, where it does.'),
    ('margin', 'unit_price', 'Dollars that the customer is charged for a unit; null: nobody has said.'),
    ('margin', 'is_own_price', 'Whether that price is for this account alone.'),
    ('margin', 'is_priced', 'Whether revenue is known: there is a price, or no units.'),
    ('margin', 'revenue', 'Dollars: units times unit_price; null where that is not known.'),
    ('margin', 'margin', 'Dollars: revenue less cost; null where revenue is not known.'),
    ('decisions', 'operation_id', 'The operation that asked; of a lease the lease''s id.'),
    ('decisions', 'state', 'denied, held (open), settled, released, or expired.'),
    ('decisions', 'is_allowed', 'Whether the operation was admitted.'),
    ('decisions', 'is_lease', 'A lease: one check for several calls.'),
    ('decisions', 'provider', 'The provider that was asked for.'),
    ('decisions', 'calls', 'Operations that it is for; of an open lease those that are left.'),
    ('decisions', 'quantity', 'Units that it is for; of an open lease those that are left.'),
    ('decisions', 'estimated_cost', 'Dollars that are or were held; of an open lease what is left.'),
    ('decisions', 'decided_at', 'When it was decided.'),
    ('decisions', 'expires_at', 'When the hold ends by itself.'),
    ('decisions', 'closed_at', 'When the hold ended: settled, released or expired.'),
    ('decisions', 'denial_code', 'Why it was denied, as a code: limit_exceeded …'),
    ('decisions', 'denial_limit_id', 'The limit that denied it, where one did.'),
    ('holds', 'state', 'settled; released (or failed and not billed); expired without an outcome; held: still open.'),
    ('holds', 'outcome', 'completed or failed; null where there is no outcome.'),
    ('holds', 'provider', 'The provider that was asked for.'),
    ('holds', 'held_cost', 'Dollars that its limit check held.'),
    ('holds', 'actual_cost', 'Dollars that it cost when it was recorded, before corrections; null where there is no outcome.'),
    ('holds', 'difference', 'Dollars: actual_cost less held_cost; positive: held too little.'),
    ('holds', 'ended_at', 'When it occurred, was released or expired; null while it is open.');
    for one in
        select c.relname, a.attname, (
            select meaning from said where (view is null or view = c.relname) and "column" = a.attname
            order by view nulls last limit 1) as meaning
        from pg_attribute a
        join pg_class c on c.oid = a.attrelid
        where c.relnamespace = 'finance'::regnamespace and c.relkind = 'v' and a.attnum > 0
    loop
        execute format('comment on column finance.%I.%I is %L', one.relname, one.attname, one.meaning);
    end loop;
    drop table said;
end
$$;

-- Who reads it ------------------------------------------------------------------------------------------------------------

-- Finance reads the views and nothing else: a table that it could read would be built upon, and then could not change.
create or replace function let_report(reader name) returns void
    language plpgsql
as $$
begin
    execute format('revoke all on all tables in schema %I, finance from %I', current_schema(), reader);
    execute format('revoke all on schema %I, finance from %I', current_schema(), reader);
    execute format('grant usage on schema finance to %I', reader);
    execute format('grant select on all tables in schema finance to %I', reader);
end
$$;

-- An auditor reads what finance reads, too.
create or replace function let_audit(reader name) returns void
    language plpgsql
as $$
begin
    execute format('revoke all on all tables in schema %I, finance from %I', current_schema(), reader);
    execute format('grant usage on schema %I, finance to %I', current_schema(), reader);
    execute format('grant select on all tables in schema %I, finance to %I', current_schema(), reader);
    execute format('revoke all on signing_keys, service_tokens from %I', reader);
end
$$;
