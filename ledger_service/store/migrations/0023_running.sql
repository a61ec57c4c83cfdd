-- works with: 0018
-- What whoever keeps the ledger running looks at: what is in doubt, and holes of producers' journals since when.

-- Few rows: only those are in them, so the others cost them nothing.
create index usage_log_in_doubt on usage_log (occurred_at, operation_id) where error_code = 'outcome_unknown';
create index decisions_expired on decisions (expires_at, operation_id) where state = 'expired';

alter table sources add column holes_since timestamptz;
comment on column sources.holes_since is
    'Since when numbers have been missing before later ones, without a pause; null: none are.';
update sources set holes_since = updated_at where range_merge(recorded)::int8multirange <> recorded;
