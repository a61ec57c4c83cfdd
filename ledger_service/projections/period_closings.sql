-- name: rebuild
select account_id, d.period, event_id, d.author, d.reason, occurred_at as closed_at
from administration
cross join lateral json_to_record(data) as d (period date, author text, reason text)
where type = 'ledger.period.closed.v1'
