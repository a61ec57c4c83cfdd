-- works with: 0018
-- A source whose numbers are no journal's has a hole behind each of them (times for numbers, say, or one count for many
-- producers). All its ranges are one value: kept without a bound, each batch of its events would take longer than the
-- one before, and all other producers' with it.

create function has_most_ranges(recorded int8multirange) returns boolean
    language sql immutable parallel safe
return (select count(*) from unnest(recorded)) >= 10000;
comment on function has_most_ranges is
    'Whether a source has as many ranges as are kept: then a number that would be one more is recorded, and not kept.';

comment on table sources is
    'Per producer with a journal: the sequence numbers that are committed here. A gap is a missing event. See has_most_ranges.';
