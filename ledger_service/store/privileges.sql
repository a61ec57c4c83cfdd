-- name: let_serve
select let_serve($1::text::name)

-- name: let_report
select let_report($1::text::name)

-- name: let_audit
select let_audit($1::text::name)

-- name: role_exists
select exists (select from pg_roles where rolname = $1)

-- name: create_role_statement
select format('create role %I login password %L', $1::text, $2::text)

-- name: password_statement
select format('alter role %I password %L', $1::text, $2::text)

-- name: may_rewrite
select bool_or(has_table_privilege(t.name, p.privilege))
from unnest(array['event_log', 'outcome_effects', 'seals', 'seal_nodes']) as t (name)
cross join unnest(array['update', 'delete', 'truncate']) as p (privilege)
