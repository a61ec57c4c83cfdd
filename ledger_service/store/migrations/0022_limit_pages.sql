-- works with: 0018
-- What is read of limits and denials for people: of one account's callers, and of all accounts' denials.

-- Callers of an account in a period that is not over; counters are made once and updated without their key, so that it
-- costs an entry for each new one alone.
create index counters_callers on counters (account_id, period_end, counter_id) where scope_key <> 'account';

-- Denials by their reason: that stands in the log, and to read it there for each of many takes too long.
alter table decisions add column denial_code text;
alter table decisions add column denial_limit_id text;
comment on column decisions.denial_code is 'Why it was denied; null where it was not.';
comment on column decisions.denial_limit_id is 'The limit that denied it, where one did.';

update decisions d
set denial_code = n.denial ->> 'code', denial_limit_id = n.denial ->> 'limit_id'
from event_log e
cross join lateral (select without_nul(e.body) -> 'data' -> 'decision' -> 'denial' as denial) n
where d.state = 'denied' and e.account_id = d.account_id and e.event_id = d.event_id;

-- Ledgers of 0.1.0 write none of it: the database does, whoever writes. (After the statement, which is the one that writes
-- the event, too.)
create function fill_denial() returns trigger language plpgsql as $$
begin
    update decisions d
    set denial_code = n.denial ->> 'code', denial_limit_id = n.denial ->> 'limit_id'
    from event_log e
    cross join lateral (select without_nul(e.body) -> 'data' -> 'decision' -> 'denial' as denial) n
    where d.account_id = new.account_id and d.operation_id = new.operation_id
      and e.account_id = new.account_id and e.event_id = new.event_id;
    return null;
end
$$;
create trigger fill_denial after insert on decisions for each row
    when (new.state = 'denied' and new.denial_code is null) execute function fill_denial();

-- An account's denials, and those of all, newest first; counting them by reason reads the index alone.
drop index decisions_denied;
create index decisions_denied on decisions (account_id, decided_at, operation_id) include (denial_code, denial_limit_id)
    where state = 'denied';
create index decisions_denied_of_all on decisions (decided_at, account_id, operation_id)
    include (denial_code, denial_limit_id) where state = 'denied';

-- What rebuilding reads of a decision.
create type fact_denial as (code text, limit_id text);
alter type fact_decision add attribute denial fact_denial;
