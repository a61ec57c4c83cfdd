-- name: find
select c.account_id, c.scope_key, c.period_end, c.counter_id, c.settled, c.held
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[]) as k (account_id, scope_key, period_end, counter_id)
join counters c on c.account_id = k.account_id and c.scope_key = k.scope_key and c.period_end = k.period_end
    and c.counter_id = k.counter_id

-- name: create_missing
insert into counters
    (account_id, scope_key, period_end, counter_id, period_start, meter, operations, providers, models, settled, held)
select account_id, scope_key, period_end, counter_id, period_start, meter, operations, providers, models, 0, 0
from json_to_recordset($1::json) as n (
    account_id text, scope_key text, period_end timestamptz, counter_id text, period_start timestamptz, meter text,
    operations text[], providers text[], models text[]
)
order by account_id, scope_key, period_end, counter_id
on conflict do nothing

-- name: recount
-- Sets counters to what the usage log and the open holds say. Under the accounts' locks, nobody else changes either.
update counters c
set settled = coalesce((
        select sum(meter_amount(c.meter, (u.outcome = 'completed')::int::bigint,
                                case when u.outcome = 'completed' then u.quantity else 0 end, u.cost_nanos))
        from usage_log u
        where u.account_id = c.account_id and u.counted_at >= c.period_start and u.counted_at < c.period_end
          and c.scope_key = any (scope_keys(u.user_id, u.project_id, u.api_key_id))
          and selected(c, u.operation, u.provider, u.model, u.counted_at)
    ), 0),
    held = coalesce((
        select sum(meter_amount(c.meter, 1, d.quantity, d.estimated_cost_nanos))
        from decisions d
        where d.account_id = c.account_id and d.state = 'held'
          and c.scope_key = any (scope_keys(d.user_id, d.project_id, d.api_key_id))
          and selected(c, d.operation, d.provider, d.model, d.decided_at)
    ), 0)
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[]) as k (account_id, scope_key, period_end, counter_id)
where c.account_id = k.account_id and c.scope_key = k.scope_key and c.period_end = k.period_end
  and c.counter_id = k.counter_id
returning c.account_id, c.scope_key, c.period_end, c.counter_id, c.settled, c.held
