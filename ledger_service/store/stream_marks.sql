-- name: is_noted
select exists (
    select from stream_marks
    where stream = $1 and consumer_created_at = $2 and committed_through = $3 and incarnation = database_incarnation()
)

-- name: find
select committed_through, committed_through >= 0 and consumer_created_at = $2 as is_same_consumer,
       committed_through < 0 or incarnation = database_incarnation() as is_same_database
from stream_marks
where stream = $1
for update

-- name: begin
-- A database without a mark has nothing of the stream: no incarnation of it has noted any.
insert into stream_marks (stream, consumer_created_at, committed_through, incarnation)
values ($1, $2, 0, '')
on conflict (stream) do nothing

-- name: note
update stream_marks
set consumer_created_at = $2, committed_through = $3, incarnation = database_incarnation(),
    noted_at = clock_timestamp()
where stream = $1

-- name: lock
select pg_advisory_lock($1)

-- name: unlock
select pg_advisory_unlock($1)

-- name: log_end
select recorded_at from event_log order by transaction_id desc, position desc limit 1

-- name: without_decision
-- How many of these outcomes have no decision, by account.
select k.account_id, count(*) as outcomes
from unnest($1::text[], $2::uuid[]) as k (account_id, operation_id)
where not exists (
    select from decisions d where d.account_id = k.account_id and d.operation_id = k.operation_id
)
group by k.account_id
order by k.account_id

-- name: holes
-- Sequence numbers that were never recorded, nor given up, below the highest of their source.
select source, missing_numbers(s, 1) as missing, upper(recorded) - 1 as last_sequence
from sources s
where missing_numbers(s, 1) <> '{}'
order by source

-- name: add_gap
insert into stream_gaps (stream, first_sequence, last_sequence, log_ended_at, report) values ($1, $2, $3, $4, $5::json)

-- name: gaps
-- Newest first.
select first_sequence, last_sequence, log_ended_at, closed_at, report::text as report
from stream_gaps
where stream = $1
order by gap_id desc
limit $2
