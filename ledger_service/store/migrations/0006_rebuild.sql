-- What projections are rebuilt with: the order in which outcomes took effect, and how bodies of the log are read in SQL.

-- The order of effect ------------------------------------------------------------------------------------------------

-- An outcome enters the log before its account is locked, so its own position does not say whether a lease's end came
-- first. Whoever counts outcomes says so here, once a transaction, under the accounts' locks.
create table outcome_effects (
    transaction_id xid8        not null default pg_current_xact_id(),
    position       bigint      not null default nextval('event_log_position_seq'),
    took_effect_at timestamptz not null default clock_timestamp(),
    primary key (transaction_id, position)
);
comment on table outcome_effects is
    'Part of the log, append-only: the outcomes that a transaction logged before this position took effect at it, between '
    'the log events of their accounts with lower and higher positions. Several rows a transaction: the first one after '
    'an event is its own.';

-- What was counted before had a position for each row, and the end of its hold a moment of its own.
insert into outcome_effects (transaction_id, position, took_effect_at)
select e.transaction_id, min(u.position), coalesce(min(d.closed_at), max(e.recorded_at))
from usage_log u
join event_log e on e.account_id = u.account_id and e.event_id = u.event_id
left join decisions d on d.account_id = u.account_id and d.operation_id = u.operation_id and not d.is_lease
    and d.closed_at >= e.recorded_at
group by e.transaction_id;
update usage_log u
set position = f.position
from event_log e, outcome_effects f
where e.account_id = u.account_id and e.event_id = u.event_id and f.transaction_id = e.transaction_id
  and u.position <> f.position;
update decisions d
set closed_at = f.took_effect_at
from event_log e, outcome_effects f
where e.account_id = d.account_id and e.operation_id = d.operation_id and e.terminal
  and f.transaction_id = e.transaction_id and not d.is_lease and d.state <> 'denied'
  and not exists (
      select from event_log c
      where c.account_id = d.account_id and c.operation_id = d.operation_id
        and c.type in ('ledger.reservation.released.v1', 'ledger.reservation.expired.v1')
  );
update decisions d
set closed_at = c.occurred_at
from event_log c
where c.account_id = d.account_id and c.operation_id = d.operation_id
  and c.type in ('ledger.reservation.released.v1', 'ledger.reservation.expired.v1');

comment on column usage_log.position is
    'The outcome took effect here, together with all that its transaction counted: see outcome_effects.';

-- Of rows that a rebuild brings back; it gives the whole catalogue a new version at once.
alter table prices alter column changed_in set default 0;

-- Reading bodies -----------------------------------------------------------------------------------------------------

-- PostgreSQL keeps \u0000 in json and refuses to read any part of such a text; metadata may have it. A noncharacter,
-- spelt as nobody spells it, takes its place while the text is read.
create function without_nul(body json) returns json
    language sql immutable parallel safe
return case when strpos(body::text, '\u0000') = 0 then body else replace(body::text, '\u0000', '\uFdD0')::json end;

create function with_nul(part json) returns json
    language sql immutable parallel safe
return case when strpos(part::text, '\uFdD0') = 0 then part else replace(part::text, '\uFdD0', '\u0000')::json end;

-- An RFC 3339 time as contracts.events reads it: digits beyond microseconds are cut off, and offsets go beyond those of
-- time zones.
create function event_moment(written text) returns timestamptz
    language sql stable parallel safe
return case
    when written ~ '^.{19}(\.\d{1,6})?([Zz]|[+-](0\d|1[0-4]):\d\d)$' then written::timestamptz
    else (left(written, 19)::timestamp + coalesce('0' || left(substring(written from '\.\d+'), 7), '0')::float8
          * interval '1 second') at time zone 'UTC' - coalesce(substring(written from '[+-]\d\d:\d\d$'), '0')::interval
end;

-- The place in its producer's journal of a message that could not enter the log, where it says one.
create function letter_sequence(body bytea, out source text, out source_sequence bigint)
    language plpgsql immutable parallel safe
as $$
declare
    event json := convert_from(body, 'UTF8')::json;
begin
    if json_typeof(event) = 'object' and json_typeof(event -> 'source') = 'string'
        and json_typeof(event -> 'sourcesequence') = 'number' and event ->> 'sourcesequence' ~ '^[1-9][0-9]*$' then
        source := event ->> 'source';
        source_sequence := event ->> 'sourcesequence';
    end if;
exception when others then
    -- Whatever it is, it is no event.
    source := null;
    source_sequence := null;
end;
$$;

-- Tells whoever runs a long statement how far it has come. Declared stable, so that it does not change how the statement
-- is planned.
create function report_progress(at_position bigint) returns boolean
    language plpgsql stable parallel safe
as $$
begin
    raise notice 'ledger.progress %', at_position;
    return true;
end;
$$;

-- What projections read of a body, in one pass: a record with records in it is read twice as fast as part by part.
create type fact_check as (
    user_id text, project_id text, api_key_id text, operation text, provider text, model text, quantity bigint,
    calls bigint
);
create type fact_reservation as (expires_at timestamptz);
create type fact_decision as (reservation fact_reservation, estimated_cost text);
create type fact_data as (
    user_id text, project_id text, api_key_id text, operation text, provider text, actual_provider text, model text,
    quantity bigint, cost text, requested_at text, duration_ms bigint, status_code integer, retry_count integer,
    request_bytes bigint, response_bytes bigint, endpoint text, error json, metadata json, "check" json,
    decision fact_decision, expires_at timestamptz
);
create type fact_body as (leaseid text, data fact_data);
