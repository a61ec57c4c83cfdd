-- name: gaps
-- Numbers that did not come though later ones did, that nobody gave up, and that were not found before; the first $1 of them.
select s.source, lower(g.gap) as first, upper(g.gap) - 1 as last
from sources s
cross join lateral unnest(
    missing_numbers(s, lower(s.recorded))
    - coalesce((select range_agg(int8range(h.first_sequence, h.last_sequence, '[]'))
                from source_holes h where h.source = s.source), '{}')
) as g (gap)
order by s.source, lower(g.gap)
limit $1

-- name: add
insert into source_holes (source, first_sequence, last_sequence, missing_since)
select * from unnest($1::text[], $2::bigint[], $3::bigint[], $4::timestamptz[]) as k (source, first, last, missing_since)
order by source, first
on conflict do nothing
returning source
