-- name: of_accounts
select account_id, limit_id, scope_id, valid_from, valid_until, version, "limit"::text as "limit", reason
from limit_overrides
where account_id = any ($1::text[])
order by account_id, limit_id, scope_id, valid_from

-- name: find_overlapping
select account_id, limit_id, scope_id, valid_from, valid_until, version, "limit"::text as "limit", reason
from limit_overrides
where account_id = $1 and limit_id = $2 and scope_id = $3 and valid_from <> $4
  and valid_from < $5 and valid_until > $4
order by valid_from
limit 1

-- name: put
insert into limit_overrides as o (account_id, limit_id, scope_id, valid_from, valid_until, version, "limit", reason)
values ($1, $2, $3, $4, $5, 1, $6::text::json, $7)
on conflict (account_id, limit_id, scope_id, valid_from) do update
set valid_until = excluded.valid_until, version = o.version + 1, "limit" = excluded."limit", reason = excluded.reason,
    recorded_at = now()
returning account_id, limit_id, scope_id, valid_from, valid_until, version, "limit"::text as "limit", reason

-- name: delete
delete from limit_overrides
where account_id = $1 and limit_id = $2 and scope_id = $3
returning account_id, limit_id, scope_id, valid_from, valid_until, version, "limit"::text as "limit", reason
