-- works with: 0018
-- Whose the numbers of a source are: a token that is bound to an account must not claim those of another's journal.

create table source_accounts (
    source     text primary key,
    account_id text not null
);
comment on table source_accounts is
    'The account whose bound tokens may send numbers of this source. Empty: none, a trusted producer writes them.';

-- Of what is there, the log knows whose events it numbered. The log is read once, and nobody waits for it: only numbers of a
-- source that is new to a ledger, or that changes hands, write here. Ledgers of the version before do not look at it.
insert into source_accounts (source, account_id)
select source, case when min(account_id) = max(account_id) then min(account_id) else '' end
from event_log
where source_sequence is not null
group by source
order by source;
