-- Reading the past. No UUIDv7 of this moment or later is less.
create function least_event_id(moment timestamptz) returns uuid
    language sql stable parallel safe
return (lpad(to_hex((extract(epoch from moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
