-- name: rebuild
select distinct on (d.plan_id)
       d.plan_id, d.version, (b.data::jsonb - array ['plan_id', 'version'])::json as body, e.recorded_at
from events e
cross join lateral json_to_record(e.body) as b (data json)
cross join lateral json_to_record(b.data) as d (plan_id text, version integer)
where e.account_id = '' and e.type = 'ledger.plan.changed.v1' and e.operation_id is null
order by d.plan_id, e.position desc
