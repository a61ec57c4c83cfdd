-- name: accounts
-- A page of accounts ($1 = the last of the page before), or the one account $2.
select account_id, time_zone, billing_anchor
from accounts
where account_id > $1 and ($2::text is null or account_id = $2)
order by account_id
limit $3

-- name: count
-- How many rows the operations of an account ($3), or of all, will be: account by account, each by its index.
select count(*)
from accounts a
cross join lateral (
    select 1 from usage_log u where u.account_id = a.account_id and u.counted_at >= $1 and u.counted_at < $2
        and u.outcome <> 'adjustment'
    offset 0
) u
where $3::text is null or a.account_id = $3

-- name: count_denied
select count(*)
from accounts a
cross join lateral (
    select 1 from decisions d
    where d.account_id = a.account_id and d.state = 'denied' and d.decided_at >= $1 and d.decided_at < $2
      and not d.is_lease
    offset 0
) d
where $3::text is null or a.account_id = $3

-- name: count_corrections
select count(*)
from usage_log u
where u.outcome = 'adjustment' and u.recorded_at < $2 and (u.recorded_at >= $1 or u.counted_at >= $1)
  and ($3::text is null or u.account_id = $3)

-- name: corrected
-- Of these accounts, those with corrections that the replay has to count.
select a.account_id
from unnest($1::text[]) as a (account_id)
where exists (
    select from usage_log u
    where u.account_id = a.account_id and u.outcome = 'adjustment' and u.recorded_at < $3
      and (u.recorded_at >= $2 or u.counted_at >= $2)
)

-- name: openings
-- What counters hold from the beginning of their period until $2. Each is for one scope and whomever is of it: its
-- scope_key says only which scope. The sums are those of the query that makes counters for live checks; corrections that
-- were recorded later are replayed.
select n.account_id, n.counter_id, u.scope_key, u.amount
from json_populate_recordset(null::counters, $1::json) as n
cross join lateral (
    select k.scope_key,
           sum(meter_amount(n.meter, counted_calls(u.outcome, u.adjusted_calls),
                            counted_units(u.outcome, u.quantity), u.cost_nanos))::bigint as amount
    from usage_log u
    cross join lateral unnest(scope_keys(u.user_id, u.project_id, u.api_key_id)) as k (scope_key)
    where u.account_id = n.account_id and u.counted_at >= n.period_start and u.counted_at < $2
      and (u.outcome <> 'adjustment' or u.recorded_at < $2)
      and split_part(k.scope_key, ':', 1) = n.scope_key
      and selected(n, u.operation, u.provider, u.model, u.counted_at)
    group by k.scope_key
    offset 0
) u

-- name: corrections
-- Of these accounts, in the order of when they were recorded: few, so that they are sorted. Beside the operations rather
-- than among them, as that would sort all of an account's.
select c.*
from unnest($1::text[]) as a (account_id)
cross join lateral (
    select u.account_id, u.corrects, u.user_id, u.project_id, u.api_key_id, u.operation, u.provider, u.model,
           u.adjusted_calls as calls, u.quantity as units, u.cost_nanos, u.counted_at,
           greatest(u.recorded_at, $2) as at
    from usage_log u
    where u.account_id = a.account_id and u.outcome = 'adjustment' and u.recorded_at < $3
      and (u.recorded_at >= $2 or u.counted_at >= $2)
    order by at, u.position
    offset 0
) c

-- name: operations
-- Operations as they were recorded; corrections come beside them.
-- Account by account, each in order of admission; whoever reads it checks that. An order by around it all would sort
-- everything before the first row comes.
select u.*
from unnest($1::text[]) as a (account_id)
cross join lateral (
    select u.account_id, u.operation_id, u.user_id, u.project_id, u.api_key_id, u.operation, u.requested_provider,
           u.provider, u.model, u.quantity, u.cost_nanos, u.held_cost_nanos, u.outcome, u.counted_at, u.occurred_at
    from usage_log u
    where u.account_id = a.account_id and u.counted_at >= $2 and u.counted_at < $3 and u.outcome <> 'adjustment'
    order by u.counted_at, u.operation_id
    offset 0
) u

-- name: operations_and_denied
-- The same, and the checks that were denied, unless their operation was done all the same. What would have held nothing is
-- told from what had no price by the decision itself.
select o.*
from unnest($1::text[]) as a (account_id)
cross join lateral (
    select u.account_id, u.operation_id, u.user_id, u.project_id, u.api_key_id, u.operation, u.requested_provider,
           u.provider, u.model, u.quantity, u.cost_nanos, u.held_cost_nanos, u.outcome, u.counted_at, u.occurred_at
    from usage_log u
    where u.account_id = a.account_id and u.counted_at >= $2 and u.counted_at < $3 and u.outcome <> 'adjustment'
    union all
    select d.account_id, d.operation_id, d.user_id, d.project_id, d.api_key_id, d.operation, d.provider, d.provider,
           d.model, d.quantity, d.estimated_cost_nanos,
           case when d.estimated_cost_nanos = 0 then (
               select 0
               from event_log e
               where e.account_id = d.account_id and e.event_id = d.event_id
                 and without_nul(e.body) -> 'data' -> 'decision' ->> 'estimated_cost' is not null
           ) end,
           d.state, d.decided_at, d.decided_at
    from decisions d
    where d.account_id = a.account_id and d.state = 'denied' and d.decided_at >= $2 and d.decided_at < $3
      and not d.is_lease
      and not exists (
          select 1 from event_log e
          where e.account_id = d.account_id and e.operation_id = d.operation_id and e.terminal
      )
    order by counted_at, operation_id
    offset 0
) o
