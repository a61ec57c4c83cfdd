-- Seals: signed checkpoints over the whole log, in the order of (transaction_id, position).

-- New rows are found by it, in order. Beside ingest it costs less than can be measured: see deploy/decisions/0009.
create index event_log_commit_order on event_log (transaction_id, position);

create table seals (
    origin                 text        not null,
    size                   bigint      not null check (size > previous_size),
    previous_size          bigint      not null check (previous_size >= 0),
    root                   bytea       not null,
    through_transaction_id xid8        not null,
    through_position       bigint      not null,
    note                   text        not null,
    leaf_hashes            bytea       not null,
    leaf_identities        bytea       not null,
    sealed_at              timestamptz not null,
    primary key (origin, size),
    unique (origin, previous_size),
    unique (origin, through_transaction_id, through_position)
);
comment on table seals is
    'Checkpoints, each over the rows after the one before and up to (through_transaction_id, through_position). That no '
    'two follow the same one is a key: several ledgers make one chain. origin names the log that the chain is of.';
comment on column seals.note is 'The checkpoint as it was signed and is published; see domain/checkpoints.py.';
comment on column seals.leaf_hashes is 'Of the rows that it adds, 32 bytes each: a row that was changed no longer fits.';
comment on column seals.leaf_identities is 'What names those rows, also once they are gone; see domain/leaves.py.';

-- Neither can be compressed; and uncompressed, a few hashes are read without the others.
alter table seals alter column leaf_hashes set storage external;
alter table seals alter column leaf_identities set storage external;

create table seal_nodes (
    origin text     not null,
    level  smallint not null,
    index  bigint   not null,
    hash   bytea    not null,
    primary key (origin, level, index)
);
comment on table seal_nodes is
    'Every 8th level of the Merkle tree above the leaves: proofs read a few hundred hashes, however long the log is.';

-- Who may do what ----------------------------------------------------------------------------------------------------

-- The role that the services run under appends to the log and to the seals, and can do no more to them: neither change
-- nor remove a row, nor take the protection away, for it owns nothing. Migrations run under the owner.
create function let_serve(service name) returns void
    language plpgsql
as $$
begin
    execute format('grant usage on schema %I to %I', current_schema(), service);
    execute format('grant select, insert, update, delete on all tables in schema %I to %I', current_schema(), service);
    execute format('grant usage, select on all sequences in schema %I to %I', current_schema(), service);
    execute format('revoke all on event_log, outcome_effects, seals, seal_nodes, schema_migrations from %I', service);
    execute format('grant select, insert on event_log, outcome_effects, seals, seal_nodes to %I', service);
    execute format('grant select on schema_migrations to %I', service);
    -- Of what the owner makes later, a rebuilt projection for one.
    execute format('alter default privileges in schema %I grant select, insert, update, delete on tables to %I',
                   current_schema(), service);
    execute format('alter default privileges in schema %I grant usage, select on sequences to %I', current_schema(),
                   service);
end
$$;
revoke all on function let_serve from public;
comment on function let_serve is 'Gives a role what the services need, and no more; `ledger migrate` calls it. Safe to call again.';
