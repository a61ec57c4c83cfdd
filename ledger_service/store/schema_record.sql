-- name: make_schema
-- Apart from the tables that the services write: what is granted on those is not granted here.
-- Where somebody else made it, for the owner of the tables, no right to make schemas is needed.
do $$
begin
    if to_regnamespace('ledger_schema') is null then
        create schema ledger_schema;
    end if;
end
$$

-- name: make_additions
create table if not exists ledger_schema.additions (
    name       text primary key,
    digest     text        not null,
    works_with text        not null,
    version    text        not null,
    applied_at timestamptz not null default clock_timestamp()
)

-- name: let_everybody_read
grant usage on schema ledger_schema to public

-- name: let_everybody_read_additions
grant select on ledger_schema.additions to public

-- name: has_record
select to_regclass('schema_migrations') is not null

-- name: has_additions
select to_regclass('ledger_schema.additions') is not null

-- name: applied
select name, digest, null::text as works_with, null::text as version from schema_migrations

-- name: additions
select name, digest, works_with, version from ledger_schema.additions

-- name: add
insert into ledger_schema.additions (name, digest, works_with, version) values ($1, $2, $3, $4)

-- name: add_for_every_version
insert into schema_migrations (name, digest) values ($1, $2)

-- name: make_fence
-- "Cannot connect now": to a ledger of any version, the database is away. It answers 503, keeps what it has, and tries again.
create or replace function ledger_schema.fence() returns trigger
    language plpgsql
as $$
begin
    if coalesce(current_setting('ledger.schema', true), '') < tg_argv[0] then
        raise exception 'this ledger is older than the schema, which has what it would not keep up: start a newer version'
            using errcode = 'cannot_connect_now',
                  hint = format('writers have to know migration %s', tg_argv[0]);
    end if;
    return null;
end
$$

-- name: fence_statement
select format('create or replace trigger ledger_fence before insert on event_log for each statement '
              'execute function ledger_schema.fence(%L)', $1::text)
