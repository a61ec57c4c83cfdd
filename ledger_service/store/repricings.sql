-- name: accounts
select account_id from accounts
where account_id > $1 and ($2::text is null or account_id = $2)
order by account_id
limit $3

-- name: count
select count(*)
from usage_log
where account_id = $1 and counted_at >= $2 and counted_at < $3 and outcome = 'completed'
  and ($4::text is null or operation = $4) and ($5::text is null or provider = $5)
  and ($6::text is null or model = $6)

-- name: completed
-- After ($6, $7), at most $8. The attributes are those that its limit check named.
select u.operation_id, u.operation, u.provider, u.model, u.quantity, u.counted_at,
       u.cost_nanos + coalesce(c.cost_nanos, 0) as cost_nanos,
       coalesce(c.is_voided, false) as is_voided, k.attributes, u.cost_nanos as recorded_nanos,
       (without_nul(u.metadata) -> 'provider_calls')::text as provider_calls
from (
    select *
    from usage_log
    where account_id = $1 and (counted_at, operation_id) > ($6, $7) and counted_at >= $6 and counted_at < $2
      and outcome = 'completed' and ($3::text is null or operation = $3)
      and ($4::text is null or provider = $4) and ($5::text is null or model = $5)
    order by counted_at, operation_id
    limit $8
) u
left join lateral (
    select sum(c.cost_nanos)::bigint as cost_nanos,
           bool_or(c.adjustment ->> 'kind' = 'void' and c.adjustment -> 'reference' ->> 'operation_id' is not null)
               as is_voided
    from usage_log c
    where c.account_id = u.account_id and c.corrects = u.operation_id
) c on true
left join lateral (
    select (e.body -> 'data' -> 'check' -> 'attributes')::text as attributes
    from decisions d
    join event_log e on e.account_id = d.account_id and e.event_id = d.event_id
    where d.account_id = u.account_id and d.operation_id = u.operation_id
    offset 0
) k on true
order by u.counted_at, u.operation_id
