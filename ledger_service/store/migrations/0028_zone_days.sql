-- works with: 0018
-- Days of zones are put together of days and hours of UTC; corrections are not, and looked for by hours: few rows.
create index usage_hourly_all_adjustments on usage_hourly_all (hour) where outcome = 'adjustment';
