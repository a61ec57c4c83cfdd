-- name: lock
-- Held until the transaction ends. false: another process seals now.
select pg_try_advisory_xact_lock($1)

-- name: last
select s.size, s.note, s.root, s.through_transaction_id::text as transaction_id, s.through_position as position
from seals s
where s.origin = $1
order by s.size desc
limit 1

-- name: next_transaction
select pg_snapshot_xmax(pg_current_snapshot())::text

-- name: last_transaction
select transaction_id::text from event_log order by event_log.transaction_id desc, position desc limit 1

-- name: unsealed
-- After ($1, $2), what is certain to have no more rows before it: every transaction up to here has ended.
select transaction_id, position, recorded_at, occurred_at, event_id, terminal, account_id, type, source, operation_id,
       source_sequence, body
from event_log
where (transaction_id, position) > ($1::text::xid8, $2::bigint)
  and transaction_id < pg_snapshot_xmin(pg_current_snapshot())
order by transaction_id, position
limit $3

-- name: rows_within
-- After ($1, $2) and up to ($3, $4).
select transaction_id, position, recorded_at, occurred_at, event_id, terminal, account_id, type, source, operation_id,
       source_sequence, body
from event_log
where (transaction_id, position) > ($1::text::xid8, $2::bigint)
  and (transaction_id, position) <= ($3::text::xid8, $4::bigint)
order by transaction_id, position

-- name: add
insert into seals (origin, size, previous_size, root, through_transaction_id, through_position, note, leaf_hashes,
                   leaf_identities, sealed_at)
values ($1, $2, $3, $4, $5::text::xid8, $6, $7, $8, $9, $10)

-- name: add_nodes
insert into seal_nodes (origin, level, index, hash)
select $1, n.level, n.index, n.hash from unnest($2::smallint[], $3::bigint[], $4::bytea[]) as n (level, index, hash)

-- name: notes_after
select size, note from seals where origin = $1 and size > $2 order by size limit $3

-- name: latest
select size, note from seals where origin = $1 and ($2::bigint is null or size < $2) order by size desc limit $3

-- name: at_size
select size, note, previous_size from seals where origin = $1 and size = $2

-- name: covering
-- The seal that added the row at ($2, $3): the first that reaches it.
select size, previous_size, leaf_identities from seals
where origin = $1 and (through_transaction_id, through_position) >= ($2::text::xid8, $3::bigint)
order by through_transaction_id, through_position
limit 1

-- name: leaf_hashes
-- Of the leaves from $2 until before $3, in parts of whatever seals they are in: of which each has one leaf at least.
select substring(s.leaf_hashes from (32 * (greatest($2::bigint, s.previous_size) - s.previous_size) + 1)::integer
                 for (32 * (least($3::bigint, s.size) - greatest($2::bigint, s.previous_size)))::integer) as hashes
from (
    select * from seals where origin = $1 and size > $2 order by size limit $3::bigint - $2::bigint
) s
where s.previous_size < $3
order by s.size

-- name: node_hashes
-- Of ranges of indexes, each within one level, from first until before last; in the order in which they are asked for.
select n.hash
from unnest($2::smallint[], $3::bigint[], $4::bigint[]) with ordinality as r (level, first, last, place)
cross join lateral (
    select index, hash from seal_nodes n
    where n.origin = $1 and n.level = r.level and n.index >= r.first and n.index < r.last
    offset 0
) n
order by r.place, n.index

-- name: between
-- Seals after the size $2 up to the size $3, the first $4 of them.
select size, previous_size, root, through_transaction_id::text as transaction_id, through_position as position, note,
       leaf_hashes
from seals
where origin = $1 and size > $2 and size <= $3
order by size
limit $4

-- name: identities_between
select size, previous_size, leaf_hashes, leaf_identities from seals
where origin = $1 and size > $2 and size <= $3
order by size

-- name: bounds
-- Of the last seal in every $2 rows, without what it holds.
select distinct on ((size - 1) / $2)
       size, through_transaction_id::text as transaction_id, through_position as position
from seals
where origin = $1
order by (size - 1) / $2, size desc

-- name: nodes
-- Above the first $2 leaves. Whoever seals meanwhile adds others.
select level, index, hash from seal_nodes where origin = $1 and (index + 1) << level <= $2

-- name: unsealed_count
-- Rows after ($1, $2) that are to be sealed; and those of transactions that nobody began, which nothing wrote in the usual
-- way: after ($1, $2), and before 3, the first that there can be. What stands at (0, -2^63) is after nothing.
select (select count(*) from event_log
        where (transaction_id, position) > ($1::text::xid8, $2::bigint)
          and transaction_id >= '3'::xid8 and transaction_id < pg_snapshot_xmax(pg_current_snapshot())) as rows,
       (select count(*) from event_log
        where (transaction_id, position) > ($1::text::xid8, $2::bigint)
          and transaction_id >= pg_snapshot_xmax(pg_current_snapshot()))
           + (select count(*) from event_log where transaction_id < '3'::xid8) as unborn

-- name: unborn
(select transaction_id::text as transaction_id, position, event_id, account_id
 from event_log
 where transaction_id < '3'::xid8
 order by event_log.transaction_id, event_log.position
 limit $3)
union all
(select transaction_id::text as transaction_id, position, event_id, account_id
 from event_log
 where (transaction_id, position) > ($1::text::xid8, $2::bigint)
   and transaction_id >= pg_snapshot_xmax(pg_current_snapshot())
 order by event_log.transaction_id, event_log.position
 limit $3)

-- name: find_rows
-- Where rows stand now that once stood elsewhere.
select k.account_id, k.event_id, e.transaction_id::text as transaction_id, e.position
from unnest($1::text[], $2::uuid[]) as k (account_id, event_id)
cross join lateral (
    select * from event_log e where e.account_id = k.account_id and e.event_id = k.event_id offset 0
) e

-- name: outcome
select transaction_id::text as transaction_id, position, recorded_at, occurred_at, event_id, terminal, account_id, type,
       source, operation_id, source_sequence, body::text as body
from event_log
where account_id = $1 and operation_id = $2 and terminal

-- name: accounts_of
select distinct account_id from decisions where operation_id = $1 order by account_id limit 2
