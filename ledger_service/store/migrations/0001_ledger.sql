-- The ledger's first schema. account_id leads every key of a table about accounts: it is the shard key.

-- Small reference tables ---------------------------------------------------------------------------------------------

create table plans (
    plan_id     text primary key,
    version     integer     not null,
    body        json        not null,
    recorded_at timestamptz not null default now()
);
comment on table plans is 'A named, versioned set of limits; earlier versions are events in the log.';

create table sources (
    source     text primary key,
    recorded   int8multirange not null,
    updated_at timestamptz    not null default now()
);
comment on table sources is 'Per producer with a journal: the sequence numbers that are committed here. A gap is a missing event.';

create table dead_letters (
    digest            bytea primary key,
    dead_letter_id    bigint generated always as identity,
    origin            text        not null,
    subject           text,
    code              text        not null,
    detail            text        not null,
    errors            json        not null,
    body              bytea       not null,
    received_count    integer     not null default 1,
    first_received_at timestamptz not null default now(),
    last_received_at  timestamptz not null default now()
);
comment on table dead_letters is 'What could not enter the log, with the reason and the bytes. digest makes a redelivery the same row.';

-- Accounts -----------------------------------------------------------------------------------------------------------

create table accounts (
    account_id     text primary key,
    plan_id        text,
    time_zone      text    not null default 'UTC',
    billing_anchor date    not null default '2000-01-01',
    version        integer not null default 0
) with (fillfactor = 50);
comment on table accounts is
    'Who pays. This row''s lock serialises everything that changes the account''s counters and decisions. version 0 = '
    'seen in a check or an event, never registered.';

-- The log ------------------------------------------------------------------------------------------------------------

create table event_log (
    account_id      text        not null,
    event_id        uuid        not null,
    type            text        not null,
    operation_id    uuid,
    terminal        boolean     not null,
    source          text        not null,
    source_sequence bigint,
    occurred_at     timestamptz not null,
    recorded_at     timestamptz not null default now(),
    transaction_id  xid8        not null default pg_current_xact_id(),
    position        bigint      not null generated always as identity,
    body            json        not null,
    primary key (account_id, event_id)
);
comment on table event_log is
    'Every event, append-only. Both unique keys together are what makes usage exactly-once: no event twice, no second '
    'outcome for an operation. account_id is empty for events that are about no account (plans).';
comment on column event_log.position is 'Order within a transaction; commit order is (transaction_id, position).';
comment on column event_log.body is 'The event as it was received.';

create unique index event_log_one_outcome on event_log (account_id, operation_id) where terminal;

-- Projections of the log ---------------------------------------------------------------------------------------------

create table usage_log (
    account_id         text        not null,
    operation_id       uuid        not null,
    event_id           uuid        not null,
    outcome            text        not null,
    user_id            text        not null,
    project_id         text,
    api_key_id         text,
    operation          text        not null,
    provider           text        not null,
    requested_provider text        not null,
    model              text        not null,
    quantity           bigint      not null,
    cost_nanos         bigint      not null,
    requested_at       timestamptz not null,
    occurred_at        timestamptz not null,
    counted_at         timestamptz not null,
    recorded_at        timestamptz not null,
    duration_ms        bigint      not null,
    status_code        integer,
    retry_count        integer     not null,
    request_bytes      bigint      not null,
    response_bytes     bigint,
    endpoint           text,
    error_code         text,
    error_message      text,
    metadata           json,
    primary key (account_id, occurred_at, operation_id)
);
comment on table usage_log is 'One row per finished operation.';
comment on column usage_log.provider is 'The provider that did the work; requested_provider is the one that was asked for.';
comment on column usage_log.counted_at is
    'The moment that chooses the windows in which limits count it: when it was admitted, else when it occurred.';

create index usage_log_counted_at on usage_log (account_id, counted_at);

create table usage_summary (
    account_id text   not null,
    period     date   not null,
    operation  text   not null,
    provider   text   not null,
    model      text   not null,
    calls      bigint not null,
    units      bigint not null,
    cost_nanos bigint not null,
    failures   bigint not null,
    primary key (account_id, period, operation, provider, model)
) with (fillfactor = 70);
comment on table usage_summary is 'Totals per account and month (UTC, its first day) by operation, provider and model.';

create table decisions (
    account_id           text        not null,
    operation_id         uuid        not null,
    event_id             uuid        not null,
    request_digest       bytea       not null,
    state                text        not null,
    user_id              text        not null,
    project_id           text,
    api_key_id           text,
    operation            text        not null,
    provider             text        not null,
    model                text        not null,
    quantity             bigint      not null,
    estimated_cost_nanos bigint      not null,
    decided_at           timestamptz not null,
    expires_at           timestamptz,
    primary key (account_id, operation_id)
) with (fillfactor = 80);
comment on table decisions is 'One row per limit check. state: denied, held, settled, released, expired.';

create index decisions_operation on decisions (operation_id);
create index decisions_held on decisions (account_id) where state = 'held';
create index decisions_expiring on decisions (expires_at) where state = 'held';

create table counters (
    account_id   text        not null,
    scope_key    text        not null,
    period_end   timestamptz not null,
    counter_id   text        not null,
    period_start timestamptz not null,
    meter        text        not null,
    operations   text[],
    providers    text[],
    models       text[],
    settled      bigint      not null,
    held         bigint      not null,
    primary key (account_id, scope_key, period_end, period_start, counter_id)
) with (fillfactor = 50);
comment on table counters is
    'What limits compare with: what is counted (meter, selector), for whom (scope_key), in which period. A row is made '
    'when first needed, from the usage log and the open holds, and kept exact from then on. A limit is a maximum over a '
    'counter, so changing a maximum or a plan never loses a count.';

-- The one rule of which counters an operation touches. Both are plain SQL so that the planner inlines them.

create function scope_keys(user_id text, project_id text, api_key_id text) returns text[]
    language sql immutable parallel safe
return array ['account', 'user:' || user_id, 'project:' || project_id, 'api_key:' || api_key_id];

create function meter_amount(meter text, calls bigint, units bigint, cost_nanos bigint) returns bigint
    language sql immutable parallel safe
return case meter when 'calls' then calls when 'units' then units else cost_nanos end;

create function selected(counter counters, operation text, provider text, model text, counted_at timestamptz)
    returns boolean
    language sql immutable parallel safe
return (counter).period_start <= counted_at and (counter).period_end > counted_at
    and ((counter).operations is null or operation = any ((counter).operations))
    and ((counter).providers is null or provider = any ((counter).providers))
    and ((counter).models is null or model = any ((counter).models));
