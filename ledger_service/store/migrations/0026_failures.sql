-- works with: 0018
-- What failed is looked for in logs of millions. Few rows, so that what completed costs the index nothing.
create index usage_log_failures on usage_log (account_id, occurred_at, operation_id) where outcome = 'failed';
