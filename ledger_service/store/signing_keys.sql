-- name: find
select secret from signing_keys where purpose = $1

-- name: make
insert into signing_keys (purpose, secret) values ($1, $2) on conflict do nothing
