-- name: lock
-- No lock on a row, as there may be none yet.
select pg_advisory_xact_lock(7205759403792799)

-- name: of_account
select account_id, operation, model, valid_from, version, unit_price_nanos as unit_price, reason
from resale_prices
where account_id = $1
order by operation, model, valid_from
limit $2

-- name: put
insert into resale_prices (account_id, operation, model, valid_from, version, unit_price_nanos, reason)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (account_id, operation, model, valid_from) do update
set version = excluded.version, unit_price_nanos = excluded.unit_price_nanos, reason = excluded.reason,
    recorded_at = now()
