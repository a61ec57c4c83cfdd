-- name: rebuild
select distinct on (account_id, d.operation, d.model, d.valid_from)
       account_id, d.operation, d.model, d.valid_from, d.version,
       (d.unit_price * 1000000000)::bigint as unit_price_nanos, d.reason, recorded_at
from administration
cross join lateral json_to_record(data) as d (
    operation text, model text, valid_from timestamptz, version integer, unit_price numeric, reason text)
where type = 'ledger.resale_price.changed.v1'
order by account_id, d.operation, d.model, d.valid_from, position desc
