-- The journal of one service. Forward only: a change of shape raises user_version and migrates what is there.

create table if not exists meta (
    name text primary key,
    value not null
) without rowid;

-- One row per operation that runs here, and per idempotency key that is kept. State:
--   claimed   the key is taken, nothing was started;
--   intent    admitted and about to reach the provider: after a crash, recovery owes it an outcome;
--   finished  its outcome event is in the outbox; kept for its key's retention only.
create table if not exists operations (
    operation_id text primary key,
    state text not null check (state in ('claimed', 'intent', 'finished')),
    account_id text not null,
    idempotency_key text,
    request_hash text,
    provider text,
    model text,
    provider_job_id text,
    requested_event blob,
    problem text,
    changed_at real not null
) without rowid;

create unique index if not exists operations_by_key on operations (account_id, idempotency_key)
    where idempotency_key is not null;
create index if not exists operations_by_change on operations (state, changed_at);

-- Events that the ledger has not confirmed yet. Sequences start at 1 and have no holes; the body carries its own.
create table if not exists outbox (
    sequence integer primary key,
    event_id text not null,
    subject text not null,
    body blob not null
);

-- Leases that the ledger may hold something for: in here before they are asked for, out once they are returned. An older
-- version does not look at them, and loses nothing.
create table if not exists leases (
    lease_id text primary key,
    request blob not null,
    token text
) without rowid;
