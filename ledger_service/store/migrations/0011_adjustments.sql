-- Adjustments: correcting events. Each is a row of the usage log with outcome adjustment and signed amounts.

alter table usage_log alter column user_id drop not null;
alter table usage_log add column adjusted_calls bigint;
alter table usage_log add column adjusted_failures bigint;
alter table usage_log add column corrects uuid;
alter table usage_log add column adjustment json;

comment on table usage_log is 'One row per finished operation, and one per adjustment, whose operation_id is its own id.';
comment on column usage_log.user_id is 'Null where an adjustment is about no user.';
comment on column usage_log.quantity is 'Units; of an adjustment those that it adds, or takes back.';
comment on column usage_log.adjusted_calls is 'What an adjustment adds to the calls; null where it is none.';
comment on column usage_log.adjusted_failures is 'What an adjustment adds to the failures; null where it is none.';
comment on column usage_log.corrects is
    'The operation that an adjustment is about, or the first adjustment of a chain that is about none.';
comment on column usage_log.adjustment is 'Of an adjustment: kind, reference, author, reason; see contracts/adjustments.py.';

-- What an operation comes to now is its row and these. Rows of operations are not in it.
create index usage_log_corrects on usage_log (account_id, corrects) where corrects is not null;

-- What a row of the usage log counts: the one rule, plain SQL so that the planner inlines it.
create function counted_calls(outcome text, adjusted_calls bigint) returns bigint
    language sql immutable parallel safe
return coalesce(adjusted_calls, (outcome = 'completed')::int::bigint);

create function counted_units(outcome text, quantity bigint) returns bigint
    language sql immutable parallel safe
return case when outcome = 'failed' then 0 else quantity end;

create function counted_failures(outcome text, adjusted_failures bigint) returns bigint
    language sql immutable parallel safe
return coalesce(adjusted_failures, (outcome = 'failed')::int::bigint);

-- What a rebuild reads of an adjustment's body.
alter type fact_data add attribute calls bigint;
alter type fact_data add attribute units bigint;
alter type fact_data add attribute failures bigint;
alter type fact_data add attribute counted_at timestamptz;
alter type fact_data add attribute adjustment json;
