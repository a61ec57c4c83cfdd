-- Who may do what in the ledger's database: a role for each job. Run it IN that database, as a superuser or whoever may
-- create roles, before `ledger migrate`; safe to run again. Production, usage-stack and the tests all run this file:
--
--   psql "postgresql://postgres@HOST/ledger" -v ON_ERROR_STOP=1 -f roles.sql     then, in psql: \password ledger_owner …
--
--   ledger_owner    owns database and tables: `ledger migrate` alone (LEDGER_OWNER_DATABASE_URL)
--   ledger_service  the ledger (LEDGER_DATABASE_URL): appends to the log, keeps projections
--   finance         reads the views of the schema finance: usage, summaries, margins, accounts, plans and prices
--   auditor         reads the log, the seals and what follows from them: `ledger verify --seals`
--
-- What each may do with which table is granted by functions of the schema that `ledger migrate` calls each time:
-- let_serve, let_report, let_audit. Passwords are set apart, so that none stands in a file or a log.

do $$
declare
    wanted record;
    found  pg_roles;
begin
    for wanted in
        -- Of 100 connections, none can take all: the ledger opens at most some 20 a process.
        select * from (values ('ledger_owner', 10), ('ledger_service', 80), ('finance', 10), ('auditor', 10))
            as w (name, connections)
    loop
        if not exists (select from pg_roles where rolname = wanted.name) then
            begin
                execute format('create role %I login noinherit connection limit %s', wanted.name, wanted.connections);
            exception when duplicate_object or unique_violation then
                null; -- somebody else made it just now
            end;
        end if;
        select * into strict found from pg_roles where rolname = wanted.name;
        if found.rolsuper or found.rolcreaterole or found.rolcreatedb or found.rolreplication or found.rolbypassrls then
            raise exception 'the role % has powers that none of ours needs: take them away', wanted.name;
        end if;
        if exists (select from pg_auth_members where member = found.oid) then
            raise exception 'the role % is a member of another, and so may do what that one may: revoke it', wanted.name;
        end if;
    end loop;
end
$$;

-- Readers begin read-only, and what finance forgot to end, ends. (An auditor's verification takes as long as the log.) Each can set these for itself: what holds are the
-- privileges. They are there so that one heavy report does not slow down everybody.
do $$
declare
    statement text;
    current   text[];
begin
    foreach statement in array array [
        'finance default_transaction_read_only=on', 'finance statement_timeout=60s', 'finance lock_timeout=5s',
        'finance idle_in_transaction_session_timeout=60s', 'finance idle_session_timeout=30min',
        'finance search_path=finance', 'finance TimeZone=UTC',
        'auditor default_transaction_read_only=on', 'auditor lock_timeout=5s'
    ] loop
        select coalesce(setconfig, '{}') into current
        from pg_roles r left join pg_db_role_setting s on s.setrole = r.oid and s.setdatabase = 0
        where r.rolname = split_part(statement, ' ', 1);
        if not split_part(statement, ' ', 2) = any (current) then
            execute format('alter role %I set %I = %L', split_part(statement, ' ', 1),
                           split_part(split_part(statement, ' ', 2), '=', 1),
                           split_part(split_part(statement, ' ', 2), '=', 2));
        end if;
    end loop;
end
$$;

-- The owner's is this database, and everything that migrations under another role made in it.
do $$
declare
    superuser boolean := (select rolsuper from pg_roles where rolname = current_user);
    statement text;
begin
    if not superuser then
        execute format('grant ledger_owner to %I', current_user);
    end if;
    if (select pg_get_userbyid(datdba) from pg_database where datname = current_database()) <> 'ledger_owner' then
        execute format('alter database %I owner to ledger_owner', current_database());
    end if;
    for statement in
        with members as (select classid, objid from pg_depend where deptype in ('e', 'i', 'a') and refobjsubid >= 0)
        select 'alter schema finance owner to ledger_owner'
        from pg_namespace
        where nspname = 'finance' and nspowner <> 'ledger_owner'::regrole
        union all
        select format('alter %s %s owner to ledger_owner',
                      case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                          when 'c' then 'type' else 'table' end, c.oid::regclass)
        from pg_class c
        where c.relnamespace in ('public'::regnamespace, to_regnamespace('finance'))
          and c.relkind in ('r', 'p', 'v', 'm', 'S', 'c') and c.relowner <> 'ledger_owner'::regrole
          and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                                                    and (d.deptype = 'e' or (c.relkind = 'S' and d.deptype in ('i', 'a'))))
        union all
        select format('alter routine %s owner to ledger_owner', p.oid::regprocedure)
        from pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.proowner <> 'ledger_owner'::regrole
          and not exists (select from members m where m.classid = 'pg_proc'::regclass and m.objid = p.oid)
    loop
        execute statement;
    end loop;
end
$$;

-- Nobody gets in, or makes anything, for being somebody.
do $$
declare
    statement text;
begin
    execute format('revoke all on database %I from public', current_database());
    execute format('grant connect on database %I to ledger_service, finance, auditor', current_database());
    execute format('grant temporary on database %I to ledger_service', current_database()); -- ingest stages in a table
    revoke all on schema public from public;
    if (select rolsuper from pg_roles where rolname = current_user) then
        -- A reader could hold the locks that migrations, the sealer and rebuilds wait for, or fill the disk with large
        -- objects: both are anybody's by default, and need no table.
        for statement in
            select format('revoke execute on routine %s from public', oid::regprocedure)
            from pg_proc
            where pronamespace = 'pg_catalog'::regnamespace
              and (proname like 'pg\_advisory\_%' or proname like 'pg\_try\_advisory\_%'
                   or proname in ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_put', 'lowrite'))
        loop
            execute statement;
        end loop;
        for statement in
            select format('grant execute on routine %s to ledger_owner, ledger_service, auditor', oid::regprocedure)
            from pg_proc
            where pronamespace = 'pg_catalog'::regnamespace
              and (proname like 'pg\_advisory\_%' or proname like 'pg\_try\_advisory\_%')
        loop
            execute statement;
        end loop;
    else
        raise notice 'not a superuser: advisory locks and large objects stay open to all roles';
    end if;
end
$$;
