-- name: add
insert into sources as s (source, recorded, holes_since)
select source, recorded, case when range_merge(recorded)::int8multirange <> recorded then now() end
from (
    select k.source, range_agg(int8range(k.first, k.last, '[]')) as recorded
    from unnest($1::text[], $2::bigint[], $3::bigint[]) as k (source, first, last)
    group by k.source
) k
order by source
on conflict (source) do update set
    recorded = s.recorded + excluded.recorded, updated_at = now(),
    holes_since = case when range_merge(s.recorded + excluded.recorded)::int8multirange <> s.recorded + excluded.recorded
                       then coalesce(s.holes_since, now()) end
returning source, recorded

-- name: active
select source, recorded from sources where updated_at > now() - make_interval(secs => $1) order by source

-- name: page
-- After the source $1 where one is given; $2: only those with holes. Of each the first $4 ranges of its numbers.
select source, lower(recorded) as first, upper(recorded) - 1 as last, updated_at, holes_since,
       array (select range from unnest(recorded) as range limit $4) as ranges,
       (select count(*) from unnest(recorded)) - 1 as holes,
       upper(recorded) - lower(recorded) - (select sum(upper(range) - lower(range)) from unnest(recorded) as range)
           as missing
from sources
where not isempty(recorded) and ($1::text is null or source > $1) and (not $2::boolean or holes_since is not null)
order by source
limit $3
