-- name: rebuild
-- The last word on each, unless that took it back.
select account_id, webhook_id, endpoint_id, url, types, description, version, since, disabled_at, disabled_reason,
       recorded_at
from (
    select distinct on (account_id, d.webhook_id)
           account_id, type, d.webhook_id, d.endpoint_id, d.url,
           array(select json_array_elements_text(d.types)) as types, d.description, d.version, d.since, d.disabled_at,
           d.disabled_reason, recorded_at
    from administration
    cross join lateral json_to_record(data) as d (
        webhook_id text, endpoint_id uuid, url text, types json, description text, version integer, since timestamptz,
        disabled_at timestamptz, disabled_reason text)
    where type in ('ledger.webhook.changed.v1', 'ledger.webhook.disabled.v1', 'ledger.webhook.removed.v1')
    order by account_id, d.webhook_id, position desc
) as last
where type <> 'ledger.webhook.removed.v1'
