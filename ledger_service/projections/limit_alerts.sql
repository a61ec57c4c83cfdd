-- name: rebuild
select account_id, d.limit_id, d.scope_key, d.period_start, d.period_end, d.threshold_percent as threshold,
       (case d.meter when 'cost' then d.maximum::numeric * 1000000000 else d.maximum::numeric end)::bigint as maximum,
       event_id,
       (case d.meter when 'cost' then d.used::numeric * 1000000000 else d.used::numeric end)::bigint as used,
       occurred_at as raised_at
from administration
cross join lateral json_to_record(data) as d (
    limit_id text, scope_key text, meter text, period_start timestamptz, period_end timestamptz,
    threshold_percent integer, maximum text, used text)
where type = 'ledger.limit.threshold_reached.v1'
