-- works with: 0018
-- Of all accounts the months are asked for that tell the first of them. A row's month never changes: what is added to it
-- costs this index nothing.
create index usage_summary_period on usage_summary (period);
