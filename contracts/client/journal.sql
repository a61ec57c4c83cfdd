-- name: read_meta
select value from meta where name = ?;

-- name: init_meta
insert into meta (name, value) values (?, ?) on conflict (name) do nothing;

-- name: next_sequence
update meta set value = value + 1 where name = 'last_sequence' returning value;

-- name: probe
insert into meta (name, value) values ('probe', ?) on conflict (name) do update set value = excluded.value;

-- name: add_to_outbox
insert into outbox (sequence, event_id, subject, body) values (?, ?, ?, ?);

-- name: claim
insert into operations (operation_id, state, account_id, idempotency_key, request_hash, changed_at)
values (:operation_id, 'claimed', :account_id, :idempotency_key, :request_hash, :now)
on conflict (account_id, idempotency_key) where idempotency_key is not null do nothing
returning operation_id;

-- name: by_key
select operation_id, state, request_hash, problem, changed_at
from operations
where account_id = ? and idempotency_key = ?;

-- name: forget
delete from operations where operation_id = ? and state = 'claimed';

-- name: begin
insert into operations (operation_id, state, account_id, provider, model, requested_event, changed_at)
values (:operation_id, 'intent', :account_id, :provider, :model, :requested_event, :now)
on conflict (operation_id) do update
set state = 'intent',
    provider = excluded.provider,
    model = excluded.model,
    requested_event = excluded.requested_event,
    changed_at = excluded.changed_at
where operations.state = 'claimed'
returning operation_id;

-- name: note
update operations set provider_job_id = ? where operation_id = ? and state = 'intent';

-- name: intent_of
select requested_event from operations where operation_id = ? and state = 'intent';

-- name: finish_kept
update operations
set state = 'finished', problem = ?, requested_event = null, changed_at = ?
where operation_id = ? and state = 'intent' and idempotency_key is not null;

-- name: finish_unkept
delete from operations where operation_id = ? and state = 'intent';

-- name: unfinished
select provider_job_id, requested_event
from operations
where state = 'intent'
order by operation_id;

-- name: begun
select operation_id, account_id, provider, model, provider_job_id, changed_at
from operations
where state = 'intent'
order by changed_at, operation_id
limit ?;

-- name: begun_count
select count(*) from operations where state = 'intent';

-- name: outbox_size
select count(*) from outbox;

-- name: depth
select (select min(sequence) from outbox), (select max(sequence) from outbox),
       (select event_id from outbox order by sequence limit 1),
       (select count(*) from operations where state = 'intent');

-- name: outbox_range
select sequence, event_id, subject, body
from outbox
where sequence between ? and ?
order by sequence
limit ?;

-- name: confirm
delete from outbox
where sequence in (select sequence from outbox where sequence between ? and ? order by sequence limit ?);

-- name: outbox_ends
select coalesce(min(sequence), 0), coalesce(max(sequence), 0) from outbox;

-- name: sweep
delete from operations
where operation_id in (
    select operation_id from operations
    where state in ('claimed', 'finished') and changed_at < ?
    limit ?
);

-- name: keep_lease
insert into leases (lease_id, request) values (?, ?);

-- name: lease_placed
update leases set token = ? where lease_id = ?;

-- name: forget_lease
delete from leases where lease_id = ?;

-- name: kept_leases
select request, token from leases order by lease_id;

-- name: mark_without
-- The last sequence; null while an operation whose intent has these bytes in it has no outcome.
select (select value from meta where name = 'last_sequence')
where not exists (select 1 from operations where state = 'intent' and instr(requested_event, ?) > 0);
