-- name: rebuild
select distinct on (account_id, d.grant_id)
       account_id, d.grant_id, d.version, (data::jsonb - array ['account_id', 'grant_id', 'version'])::json as body,
       recorded_at
from administration
cross join lateral json_to_record(data) as d (grant_id text, version integer)
where type = 'ledger.credit_grant.changed.v1'
order by account_id, d.grant_id, position desc

-- name: replaced
-- Whoever keeps terms of these accounts reads them again.
update accounts set limits_version = limits_version + 1 where account_id = any ($1::text[])
