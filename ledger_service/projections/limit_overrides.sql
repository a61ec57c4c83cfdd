-- name: rebuild
-- The last word on each, unless that took it back.
select account_id, limit_id, scope_id, valid_from, valid_until, version, "limit", reason, recorded_at
from (
    select distinct on (account_id, d."limit" ->> 'limit_id', coalesce(d.scope_id, ''), d.valid_from)
           account_id, type, d."limit" ->> 'limit_id' as limit_id, coalesce(d.scope_id, '') as scope_id,
           coalesce(d.valid_from, '1970-01-01 00:00+00') as valid_from,
           coalesce(d.valid_until, '9999-01-01 00:00+00') as valid_until, d.version, d."limit", d.reason, recorded_at
    from administration
    cross join lateral json_to_record(data) as d (
        scope_id text, "limit" json, valid_from timestamptz, valid_until timestamptz, reason text, version integer)
    where type in ('ledger.limit_override.changed.v1', 'ledger.limit_override.removed.v1')
    order by account_id, d."limit" ->> 'limit_id', coalesce(d.scope_id, ''), d.valid_from, position desc
) as last
where type = 'ledger.limit_override.changed.v1'

-- name: replaced
-- Whoever keeps terms of these accounts reads them again.
update accounts set limits_version = limits_version + 1 where account_id = any ($1::text[])
