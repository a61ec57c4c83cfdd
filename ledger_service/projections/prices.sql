-- name: rebuild
select distinct on (d.provider, d.operation, d.model, d.valid_from)
       d.provider, d.operation, d.model, d.valid_from,
       coalesce(d.valid_until, '9999-01-01 00:00+00') as valid_until, d.version, d.shipped,
       (b.data::jsonb - array ['provider', 'operation', 'model', 'version', 'shipped', 'recorded_at'])::json as body,
       d.recorded_at
from events e
cross join lateral json_to_record(e.body) as b (data json)
cross join lateral json_to_record(b.data) as d (
    provider text, operation text, model text, valid_from timestamptz, valid_until timestamptz, version integer,
    shipped boolean, recorded_at timestamptz)
where e.account_id = '' and e.type = 'ledger.price.changed.v1' and e.operation_id is null
order by d.provider, d.operation, d.model, d.valid_from, e.position desc

-- name: replaced
-- Whoever keeps prices reads all of them again.
with next as (
    update price_catalogue set version = version + 1 returning version
)
update prices p set changed_in = next.version from next
