-- Tokens of services and people. What they are is known to nobody but their holders.

create table service_tokens (
    token_id   uuid primary key,
    name       text not null,
    token_hash bytea not null unique,
    scopes     text[] not null check (cardinality(scopes) > 0),
    account_id text,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz
);
comment on table service_tokens is 'Bearer tokens of the HTTP services; revoked and expired ones stay, to say that they were.';
comment on column service_tokens.token_hash is 'HMAC-SHA256 of the token, with a key that is not in this table.';
comment on column service_tokens.account_id is 'The only account that it is for; null = all of them.';

-- A name has one token at a time. Few are made, so that revoked ones are looked over as well.
create unique index service_tokens_name on service_tokens (name) where revoked_at is null;
