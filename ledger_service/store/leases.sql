-- name: find
select state, calls, quantity, estimated_cost_nanos from decisions
where account_id = $1 and operation_id = $2 and is_lease
