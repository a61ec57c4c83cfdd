-- name: add
-- $4: null where a token that is bound to an account sent them, see `claim`; else the only account of the events, or ''.
-- A source that others write is nobody's; one that is an account's stays so, while trusted producers send events of that
-- account alone. Of one with most ranges, a number that would be one more is not kept: see has_most_ranges.
-- Answers what is recorded of each source; of one with more than $5 ranges, those of these numbers, and the last.
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
),
added as (
    insert into sources as s (source, recorded, holes_since)
    select source, recorded, case when range_merge(recorded)::int8multirange <> recorded then now() end
    from k
    order by source
    on conflict (source) do update set
        recorded = case when has_most_ranges(s.recorded)
                         and (select count(*) from unnest(s.recorded + excluded.recorded))
                             > (select count(*) from unnest(s.recorded))
                        then s.recorded else s.recorded + excluded.recorded end,
        updated_at = now(),
        holes_since = case when range_merge(s.recorded + excluded.recorded)::int8multirange - s.given_up
                                <> s.recorded + excluded.recorded - s.given_up
                           then coalesce(s.holes_since, now()) end
    returning source, recorded, upper(recorded) as after_last
)
select source,
       case when (select count(*) from unnest(a.recorded)) <= $5 then a.recorded
            else k.recorded + (select range_agg(range) from unnest(a.recorded) as range
                               where range && k.recorded or upper(range) = a.after_last) end as recorded
from added a
join k using (source)

-- name: active
select source, recorded from sources where updated_at > now() - make_interval(secs => $1) order by source

-- name: page
-- After the source $1 where one is given; $2: only those with holes. Of each the first $4 holes.
select source, lower(recorded) as first, upper(recorded) - 1 as last, updated_at, holes_since,
       array (select hole from unnest(m.missing) as hole limit $4) as holes,
       (select count(*) from unnest(m.missing)) as holes_count,
       (select coalesce(sum(upper(hole) - lower(hole)), 0) from unnest(m.missing) as hole) as missing,
       (select coalesce(sum(upper(range) - lower(range)), 0) from unnest(given_up - recorded) as range) as given_up,
       a.account_id
from sources s
cross join lateral missing_numbers(s, lower(recorded)) m (missing)
left join source_accounts a using (source)
where not isempty(recorded) and ($1::text is null or source > $1) and (not $2::boolean or holes_since is not null)
order by source
limit $3

-- name: give_up
-- Of the numbers $2 … $3 of the source $1 those that are missing; none of them where the last that came is before $3, or
-- there are more than $4 ranges. Locks the source's row.
with wanted as (
    select source, upper(recorded) - 1 as last, missing_numbers(s, 1) * int8multirange(int8range($2, $3, '[]')) as numbers,
           missing_numbers(s, lower(recorded)) - int8multirange(int8range($2, $3, '[]')) as left_over
    from sources s
    where source = $1 and not isempty(recorded)
    for update
),
given as (
    update sources s
    set given_up = s.given_up + w.numbers, holes_since = case when w.left_over <> '{}' then s.holes_since end
    from wanted w
    where s.source = w.source and $3 <= w.last and (select count(*) from unnest(w.numbers)) <= $4
)
select last, array (select range from unnest(numbers) as range limit $4 + 1) as ranges from wanted

-- name: accounts
select source, account_id from source_accounts where source = any ($1::text[])

-- name: claim
-- Each source's account is the one that was first; answers whose it is.
insert into source_accounts as a (source, account_id)
select source, account_id from unnest($1::text[], $2::text[]) as k (source, account_id) order by source
on conflict (source) do update set account_id = a.account_id
returning source, account_id
