-- name: page
-- Events of these types about an account ('' = none), newest first, before a position. Each type's newest come from the
-- index on what is administrative, however much usage the account has.
select e.event_id, e.type, e.account_id, e.occurred_at, e.recorded_at, e.position, e.body
from unnest($2::text[]) as wanted (type)
cross join lateral (
    select event_id, type, account_id, occurred_at, recorded_at, position, body::text as body
    from event_log
    where account_id = $1 and type = wanted.type and operation_id is null and ($3::bigint is null or position < $3)
    order by position desc
    limit $4
) e
order by e.position desc
limit $4

-- name: database_role
select session_user::text
