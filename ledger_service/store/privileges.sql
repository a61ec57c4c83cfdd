-- name: let_serve
select let_serve($1::text::name)

-- name: let_report
select let_report($1::text::name)

-- name: let_audit
select let_audit($1::text::name)

-- name: readers
-- Of these, the roles that there are, in a database where deploy/postgres/roles.sql made them: elsewhere a role by such a
-- name is somebody else's.
select r.rolname
from pg_roles r
join pg_database d on d.datname = current_database() and pg_get_userbyid(d.datdba) = 'ledger_owner'
where r.rolname = any ($1::text[])
order by array_position($1::text[], r.rolname::text)

-- name: role_exists
select exists (select from pg_roles where rolname = $1)

-- name: create_role_statement
select format('create role %I login password %L', $1::text, $2::text)

-- name: password_statement
select format('alter role %I password %L', $1::text, $2::text)

-- name: may_rewrite
select coalesce(bool_or(has_table_privilege(to_regclass(t.name), p.privilege)), false)
from unnest($1::text[]) as t (name)
cross join unnest(array['update', 'delete', 'truncate']) as p (privilege)
