-- name: add
insert into sources as s (source, recorded)
select k.source, range_agg(int8range(k.first, k.last, '[]'))
from unnest($1::text[], $2::bigint[], $3::bigint[]) as k (source, first, last)
group by k.source
order by k.source
on conflict (source) do update set recorded = s.recorded + excluded.recorded, updated_at = now()
returning source, recorded

-- name: active
select source, recorded from sources where updated_at > now() - make_interval(secs => $1) order by source
