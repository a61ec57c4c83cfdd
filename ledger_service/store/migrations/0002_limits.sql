-- Overrides, credit grants, the price catalogue, alerts and leases.

-- What an account's terms add to its plan --------------------------------------------------------------------------

alter table accounts add column limits_version integer not null default 0;
comment on column accounts.limits_version is 'Grows whenever an override or credit grant of the account changes.';

create table limit_overrides (
    account_id  text        not null,
    limit_id    text        not null,
    scope_id    text        not null,
    valid_from  timestamptz not null,
    valid_until timestamptz not null,
    version     integer     not null,
    "limit"     json        not null,
    reason      text        not null,
    recorded_at timestamptz not null default now(),
    primary key (account_id, limit_id, scope_id, valid_from)
);
comment on table limit_overrides is
    'Limits of single accounts, users, projects or keys; scope_id is empty where all are meant. Validities of one limit '
    'and scope_id do not overlap.';

create table credit_grants (
    account_id  text        not null,
    grant_id    text        not null,
    version     integer     not null,
    body        json        not null,
    recorded_at timestamptz not null default now(),
    primary key (account_id, grant_id)
);
comment on table credit_grants is 'Prepaid amounts that fill up a limit with credit; see contracts/credits.py.';

-- Reference tables ---------------------------------------------------------------------------------------------------

create table prices (
    provider    text        not null,
    operation   text        not null,
    model       text        not null,
    valid_from  timestamptz not null,
    valid_until timestamptz not null,
    version     integer     not null,
    shipped     boolean     not null,
    body        json        not null,
    changed_in  bigint      not null,
    recorded_at timestamptz not null,
    primary key (provider, operation, model, valid_from)
);
create index prices_changed_in on prices (changed_in);
comment on table prices is 'What a unit of a model costs from when on; earlier forms of a row are events in the log.';
comment on column prices.shipped is 'As the shipped file has it; false once an administrator has put it.';
comment on column prices.changed_in is 'The version of price_catalogue that brought this form of the row.';

create table price_catalogue (
    id             boolean primary key default true check (id),
    version        bigint not null,
    shipped_digest text
);
insert into price_catalogue (version) values (0);
comment on table price_catalogue is 'One row: grows with every change of a price, so that whoever keeps prices knows.';
comment on column price_catalogue.shipped_digest is 'SHA-256 of the shipped file that prices last followed.';

create table signing_keys (
    purpose    text primary key,
    secret     bytea       not null,
    created_at timestamptz not null default now()
);
comment on table signing_keys is 'Made by the first ledger process that needs one; never leaves the ledger.';

-- Alerts -------------------------------------------------------------------------------------------------------------

create table limit_alerts (
    account_id   text        not null,
    limit_id     text        not null,
    scope_key    text        not null,
    period_start timestamptz not null,
    period_end   timestamptz not null,
    threshold    integer     not null,
    maximum      bigint      not null,
    event_id     uuid        not null,
    used         bigint      not null,
    raised_at    timestamptz not null,
    primary key (account_id, limit_id, scope_key, period_end, period_start, threshold, maximum)
);
comment on table limit_alerts is 'Thresholds that were reached: one row a limit, scope, window and threshold.';
create index limit_alerts_raised_at on limit_alerts (account_id, raised_at);

alter table counters add column watched json;
alter table counters add column warn_at bigint;
comment on column counters.watched is 'Thresholds of limits over this counter, as the last limit check knew them.';
comment on column counters.warn_at is 'Once settled + held reach it, one more of them is reached.';

-- Reservations: leases, and when a hold ended ------------------------------------------------------------------------

alter table decisions add column calls bigint not null default 1;
alter table decisions add column is_lease boolean not null default false;
alter table decisions add column closed_at timestamptz;
comment on column decisions.calls is 'Operations held: 1, of a lease those that are left. So are quantity and cost.';
comment on column decisions.closed_at is 'When its hold ended: settled, released or expired.';

drop index decisions_held;
create index decisions_held on decisions (account_id, decided_at) where state = 'held';
create index decisions_denied on decisions (account_id, decided_at) where state = 'denied';

alter table usage_log add column held_cost_nanos bigint;
alter table usage_log add column lease_id uuid;
comment on column usage_log.held_cost_nanos is 'What its limit check held as cost; null where there was none, or a lease.';

-- Administration in the log -----------------------------------------------------------------------------------------

-- What belongs to no operation is rare: a decision is explained by the plan, override and calendar of its time.
create index event_log_administration on event_log (account_id, type, position) where operation_id is null;

-- The order in which an account's log took effect -------------------------------------------------------------------

-- A transaction has its id from its first write on, and may then wait for an account that a younger one has locked. What
-- is written under an account's lock, though, draws its position under it.
alter table usage_log add column position bigint not null default nextval('event_log_position_seq');
comment on column event_log.position is
    'Drawn when the event is written. Decisions, releases and expiries are written under their account''s lock, so for one '
    'account it is the order in which they took effect; outcomes take effect at usage_log.position, of the same sequence.';
comment on column usage_log.position is 'The outcome took effect between the account''s log events with lower and higher positions.';
comment on column event_log.transaction_id is
    'Readers who must miss nothing read by (transaction_id, position) up to pg_snapshot_xmin: that finds every event, '
    'once, and not always in the order in which transactions committed.';

-- Every counter that a share of an operation touches. Plain SQL, so that the planner inlines it; "offset 0" keeps the
-- batch on the outside of the join, however small the table is when the plan is made.
create function touched_counters(of_account text, of_user text, of_project text, of_api_key text, operation text,
                                 provider text, model text, counted_at timestamptz)
    returns table (place tid, account_id text, scope_key text, period_end timestamptz, period_start timestamptz,
                   counter_id text, meter text, settled bigint, held bigint, watched json, warn_at bigint)
    language sql stable parallel safe
begin atomic
    select c.ctid, c.account_id, c.scope_key, c.period_end, c.period_start, c.counter_id, c.meter, c.settled, c.held,
           c.watched, c.warn_at
    from counters c
    where c.account_id = of_account and c.scope_key = any (scope_keys(of_user, of_project, of_api_key))
      and c.period_end > counted_at and selected(c, operation, provider, model, counted_at)
    offset 0;
end;
