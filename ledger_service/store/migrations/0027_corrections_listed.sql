-- works with: 0018
-- Corrections of all accounts are listed, newest first.

-- Few rows: only corrections are in it, so operations cost it nothing.
create index usage_log_corrections on usage_log (recorded_at, account_id, operation_id) where outcome = 'adjustment';
