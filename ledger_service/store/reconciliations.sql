-- name: charges
-- What the ledger has for a provider ($1), from $2 until before $3: operations that it did, or that it was called for
-- before another one did them, and free adjustments; each with all corrections of it. $4: by when they ended.
select u.account_id, u.operation_id, u.operation, u.provider, u.model, u.quantity, u.cost_nanos,
       coalesce(c.cost_nanos, 0) as corrected_nanos, coalesce(c.corrections, 0) as corrections,
       coalesce(c.is_voided, false) as is_voided, c.ids as correction_ids, c.costs as correction_costs, u.outcome = 'adjustment' as is_adjustment,
       u.error_code is not distinct from $5 as in_doubt,
       (extract(epoch from case when $4 then u.occurred_at else u.requested_at end) * 1000000)::bigint as at_microseconds,
       (without_nul(u.metadata) -> 'provider_calls')::text as provider_calls
from usage_log u
left join (
    select account_id, corrects, sum(cost_nanos)::bigint as cost_nanos, count(*) as corrections,
           bool_or(adjustment ->> 'kind' = 'void'
                   and coalesce(adjustment -> 'reference' ->> 'operation_id',
                                adjustment -> 'reference' ->> 'adjustment_id')::uuid = corrects) as is_voided,
           array_agg(operation_id order by position, operation_id) as ids,
           array_agg(cost_nanos order by position, operation_id) as costs
    from usage_log
    where corrects is not null
    group by account_id, corrects
) c on c.account_id = u.account_id and c.corrects = u.operation_id
where u.corrects is null
  and case when $4 then u.occurred_at else u.requested_at end >= $2
  and case when $4 then u.occurred_at else u.requested_at end < $3
  and (u.provider = $1 or (u.retry_count > 0 and without_nul(u.metadata) ->> 'provider_calls' is not null))
