-- name: rebuild
-- A hold ends with what came first: its release, its expiry, or the outcome. What operations under a lease used is
-- taken out of it as long as it is open, and never more than there is.
with last_extensions as (
    select distinct on (account_id, operation_id) account_id, operation_id, expires_at, position
    from facts
    where type = 'ledger.reservation.extended.v1'
    order by account_id, operation_id, position desc
),
drawn as (
    select l.account_id, l.lease_id, count(*) as calls, sum(l.quantity) as quantity, sum(l.cost_nanos) as cost_nanos
    from leased l
    left join ends e on e.account_id = l.account_id and e.operation_id = l.lease_id
    where e.position is null or l.effect_position < e.position
    group by l.account_id, l.lease_id
)
select d.account_id, d.operation_id, d.event_id, d.request_digest,
       case
           when not d.allowed then 'denied'
           when o.outcome = 'failed' and o.cost_nanos = 0 then 'released'
           when o.outcome is not null then 'settled'
           else coalesce(e.state, 'held')
       end as state,
       d.user_id, d.project_id, d.api_key_id, d.operation, d.provider, d.model,
       greatest(d.quantity - coalesce(u.quantity, 0), 0)::bigint as quantity,
       greatest(d.cost_nanos - coalesce(u.cost_nanos, 0), 0)::bigint as estimated_cost_nanos, d.decided_at,
       coalesce(x.expires_at, d.expires_at) as expires_at,
       greatest(d.calls - coalesce(u.calls, 0), 0) as calls, d.is_lease,
       case when d.allowed then
           case when e.position > o.effect_position then o.took_effect_at
                else coalesce(e.ended_at, o.took_effect_at) end
       end as closed_at,
       d.denial_code, d.denial_limit_id, d.moved_from
from checks d
left join ends e on e.account_id = d.account_id and e.operation_id = d.operation_id
left join last_extensions x on x.account_id = d.account_id and x.operation_id = d.operation_id
    and x.position > d.position
left join outcomes o on o.account_id = d.account_id and o.operation_id = d.operation_id and not d.is_lease
left join drawn u on u.account_id = d.account_id and u.lease_id = d.operation_id and d.is_lease
