-- works with: 0018
-- Webhooks: where the ledger tells what happened, what is still to be delivered there, and what came of it.

-- What is told, in the order in which it was committed ----------------------------------------------------------------

-- Few rows of the log: what is about no operation, and denials. Its followers ask for just those, in these words.
create index event_log_news on event_log (transaction_id, position)
    where operation_id is null or type = 'ledger.check.denied.v1';

alter table dead_letters add column opened_in xid8 not null default pg_current_xact_id();
alter table dead_letters add column opened_at timestamptz not null default now();
create index dead_letters_opened on dead_letters (opened_in, dead_letter_id);
comment on column dead_letters.opened_in is
    'The transaction that made it open, the first time or again; with dead_letter_id, its place among those that are told.';

create table source_holes (
    source         text        not null,
    first_sequence bigint      not null,
    last_sequence  bigint      not null,
    hole_id        bigint      not null generated always as identity,
    missing_since  timestamptz not null,
    found_at       timestamptz not null default now(),
    found_in       xid8        not null default pg_current_xact_id(),
    primary key (source, first_sequence)
);
comment on table source_holes is
    'Numbers of a source (inclusive) that were missing for a while though later ones had come: each is found, and told, once.';
create index source_holes_found on source_holes (found_in, hole_id);

create table notification_cursors (
    follower       text   not null,
    feed           text   not null,
    transaction_id xid8   not null,
    position       bigint not null,
    primary key (follower, feed)
);
comment on table notification_cursors is
    'How far each follower (webhooks, nats) has taken what is told, per feed (log, letters, holes).';
-- What happened until now is not told by itself; it can be asked for.
insert into notification_cursors
select follower, feed, pg_current_xact_id(), 9223372036854775807
from unnest(array['webhooks', 'nats']) as follower, unnest(array['log', 'letters', 'holes']) as feed;

-- Endpoints -----------------------------------------------------------------------------------------------------------

create table webhooks (
    account_id      text        not null,
    webhook_id      text        not null,
    endpoint_id     uuid        not null,
    url             text        not null,
    types           text[]      not null,
    description     text        not null,
    version         integer     not null,
    since           timestamptz not null,
    disabled_at     timestamptz,
    disabled_reason text,
    recorded_at     timestamptz not null default now(),
    primary key (account_id, webhook_id)
);
create index webhooks_endpoint on webhooks (endpoint_id);
comment on table webhooks is 'Endpoints that notifications go to. account_id is empty where they are about all accounts.';
comment on column webhooks.endpoint_id is 'What deliveries belong to: an endpoint that is removed and put again is another one.';
comment on column webhooks.since is 'What was recorded before is not sent by itself: when it was put, or enabled again.';

create table webhook_secrets (
    account_id  text        not null,
    endpoint_id uuid        not null,
    secret_id   uuid        not null,
    secret      bytea       not null,
    expires_at  timestamptz,
    primary key (account_id, endpoint_id, secret_id)
);
comment on table webhook_secrets is 'What deliveries are signed with: the newest, and until they expire those before it.';

create table webhook_states (
    account_id        text        not null,
    endpoint_id       uuid        not null,
    failing_since     timestamptz,
    last_delivered_at timestamptz,
    last_failed_at    timestamptz,
    last_error        text,
    primary key (account_id, endpoint_id)
);
comment on table webhook_states is 'How deliveries to an endpoint go. failing_since: nothing was delivered since; null = it works.';

-- Deliveries ----------------------------------------------------------------------------------------------------------

create table webhook_lanes (
    account_id      text not null,
    endpoint_id     uuid not null,
    next_attempt_at timestamptz,
    claim           uuid,
    primary key (account_id, endpoint_id)
);
comment on table webhook_lanes is
    'What is about one account goes to an endpoint in order, one at a time. next_attempt_at null: nothing is to be sent; '
    'with a claim: a process sends, and has until then.';
create index webhook_lanes_due on webhook_lanes (next_attempt_at) where next_attempt_at is not null;
create index webhook_lanes_endpoint on webhook_lanes (endpoint_id);

create table webhook_deliveries (
    account_id  text        not null,
    endpoint_id uuid        not null,
    message_id  uuid        not null,
    sequence    bigint      not null generated always as identity,
    type        text        not null,
    occurred_at timestamptz not null,
    body        bytea       not null,
    state       text        not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    attempts    integer     not null default 0,
    tries       integer     not null default 0,
    queued_at   timestamptz not null default now(),
    finished_at timestamptz,
    primary key (account_id, endpoint_id, message_id)
) with (fillfactor = 80);
comment on table webhook_deliveries is
    'What is to be sent, or was, to an endpoint. account_id is the one that it is about, empty where that is none.';
comment on column webhook_deliveries.message_id is 'The header webhook-id: the same however often it is sent.';
comment on column webhook_deliveries.sequence is 'The order in which it is sent, among those of its account at its endpoint.';
comment on column webhook_deliveries.attempts is 'Requests in all; tries: since it was queued, or queued again.';
create index webhook_deliveries_listed on webhook_deliveries (endpoint_id, sequence);
create index webhook_deliveries_next on webhook_deliveries (account_id, endpoint_id, sequence) where state = 'pending';
create index webhook_deliveries_oldest on webhook_deliveries (endpoint_id, queued_at) where state = 'pending';
create index webhook_deliveries_finished on webhook_deliveries (finished_at) where finished_at is not null;

create table webhook_attempts (
    account_id  text        not null,
    endpoint_id uuid        not null,
    message_id  uuid        not null,
    attempt     integer     not null,
    started_at  timestamptz not null,
    duration_ms bigint      not null,
    status      integer,
    error       text,
    answer      bytea       not null,
    primary key (account_id, endpoint_id, message_id, attempt)
);
comment on table webhook_attempts is 'Each request: when, for how long, what was answered (its first bytes), or why nothing was.';

-- An auditor reads no secrets of endpoints either.
create or replace function let_audit(reader name) returns void
    language plpgsql
as $$
begin
    execute format('revoke all on all tables in schema %I, finance from %I', current_schema(), reader);
    execute format('grant usage on schema %I, finance to %I', current_schema(), reader);
    execute format('grant select on all tables in schema %I, finance to %I', current_schema(), reader);
    execute format('revoke all on signing_keys, service_tokens, webhook_secrets from %I', reader);
end
$$;
