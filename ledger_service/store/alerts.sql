-- name: raise
with raised as (
    select *
    from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::integer[], $7::bigint[],
                $8::uuid[], $9::bigint[], $10::timestamptz[], $11::text[])
        as t (account_id, limit_id, scope_key, period_start, period_end, threshold, maximum, event_id, used, raised_at,
              body)
),
kept as (
    insert into limit_alerts
        (account_id, limit_id, scope_key, period_start, period_end, threshold, maximum, event_id, used, raised_at)
    select account_id, limit_id, scope_key, period_start, period_end, threshold, maximum, event_id, used, raised_at
    from raised
    order by account_id, limit_id, scope_key, period_end, period_start, threshold, maximum
    on conflict do nothing
    returning account_id, event_id
)
insert into event_log (account_id, event_id, type, terminal, source, occurred_at, body)
select r.account_id, r.event_id, 'ledger.limit.threshold_reached.v1', false, 'ledger', r.raised_at, r.body::json
from kept k
join raised r on r.account_id = k.account_id and r.event_id = k.event_id

-- name: list
select e.body::text as body
from limit_alerts a
join event_log e on e.account_id = a.account_id and e.event_id = a.event_id
where a.account_id = $1 and a.raised_at >= $2 and a.raised_at < $3
order by a.raised_at desc, a.limit_id, a.threshold desc
limit $4
