-- name: of_accounts
select account_id, grant_id, version, body::text as body
from credit_grants
where account_id = any ($1::text[])
order by account_id, grant_id

-- name: put
insert into credit_grants (account_id, grant_id, version, body) values ($1, $2, $3, $4::text::json)
on conflict (account_id, grant_id) do update
set version = excluded.version, body = excluded.body, recorded_at = now()

-- name: drop_counters
-- Counters of stretches that are none any more, which every settlement would go on to change. What still needs one makes
-- it anew, exactly; the counter of all time may be that of a limit without credit.
delete from counters c
where c.account_id = $1 and c.scope_key = $2 and c.counter_id = $3
  and (c.period_start, c.period_end) not in (select * from unnest($4::timestamptz[], $5::timestamptz[]))
  and not (c.period_start = $6 and c.period_end = $7)
