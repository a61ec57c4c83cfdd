-- name: add
-- $4: null where a token that is bound to an account sent them, see `claim`; else the only account of the events, or ''.
-- A source that others write is nobody's; one that is an account's stays so, while trusted producers send events of that
-- account alone.
with k as (
    select k.source, range_agg(int8range(k.first, k.last, '[]')) as recorded, min(k.account_id) as account_id
    from unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) as k (source, first, last, account_id)
    group by k.source
),
trusted as (
    insert into source_accounts (source, account_id)
    select source, ''
    from k
    where account_id is not null and not exists (
        select from source_accounts a where a.source = k.source and a.account_id in ('', k.account_id)
    )
    order by source
    on conflict (source) do update set account_id = ''
)
insert into sources as s (source, recorded, holes_since)
select source, recorded, case when range_merge(recorded)::int8multirange <> recorded then now() end
from k
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
           as missing, a.account_id
from sources
left join source_accounts a using (source)
where not isempty(recorded) and ($1::text is null or source > $1) and (not $2::boolean or holes_since is not null)
order by source
limit $3

-- name: accounts
select source, account_id from source_accounts where source = any ($1::text[])

-- name: claim
-- Each source's account is the one that was first; answers whose it is.
insert into source_accounts as a (source, account_id)
select source, account_id from unnest($1::text[], $2::text[]) as k (source, account_id) order by source
on conflict (source) do update set account_id = a.account_id
returning source, account_id
