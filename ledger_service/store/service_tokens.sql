-- name: find
select token_id, name, scopes, account_id, created_at, expires_at, revoked_at
from service_tokens
where token_hash = $1 and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())

-- name: knows
select exists (select 1 from service_tokens where token_hash = $1)

-- name: add
insert into service_tokens (token_id, name, token_hash, scopes, account_id, expires_at)
values ($1, $2, $3, $4, $5, $6)
on conflict (name) where revoked_at is null do nothing
returning token_id, name, scopes, account_id, created_at, expires_at, revoked_at

-- name: list
select token_id, name, scopes, account_id, created_at, expires_at, revoked_at
from service_tokens
where $1 or (revoked_at is null and (expires_at is null or expires_at > clock_timestamp()))
order by created_at, token_id

-- name: revoke
update service_tokens set revoked_at = coalesce(revoked_at, clock_timestamp())
where token_id = $1
returning token_id, name, scopes, account_id, created_at, expires_at, revoked_at

-- name: find_by_name
select token_id from service_tokens where name = $1 and revoked_at is null

-- name: is_revoked
select revoked_at is not null from service_tokens where token_id = $1 for update
