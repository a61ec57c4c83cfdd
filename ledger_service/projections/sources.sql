-- name: rebuild
-- What is in the log, and of what was confirmed without it, what is among the dead letters. Numbers are put together by
-- 64, each a bit: of ten million there are few blocks that are not full.
with blocks as (
    select source, source_sequence >> 6 as block, bit_or(1::bigint << (source_sequence & 63)::integer) as bits
    from events
    where source_sequence is not null
    group by source, source_sequence >> 6
),
logged as (
    select source, range_agg(span) as recorded
    from (
        select source, int8range(min(block) << 6, (max(block) + 1) << 6) as span
        from (
            select source, block, block - row_number() over (partition by source order by block) as island
            from blocks
            where bits = -1
        ) full_blocks
        group by source, island
        union all
        select b.source, int8range((b.block << 6) + n, (b.block << 6) + n + 1)
        from blocks b
        cross join generate_series(0, 63) as n
        where b.bits <> -1 and (b.bits >> n) & 1 = 1
    ) spans
    group by source
),
letters as (
    select l.source, range_agg(int8range(l.source_sequence, l.source_sequence, '[]')) as recorded
    from dead_letters
    cross join lateral letter_sequence(body) as l
    where l.source_sequence is not null
    group by l.source
),
given as (
    select data ->> 'source' as source,
           range_agg(int8range((part ->> 0)::bigint, (part ->> 1)::bigint, '[]')) as numbers
    from (
        select body -> 'data' as data
        from events
        where operation_id is null and type = 'ledger.source.numbers_given_up.v1'
    ) e
    cross join lateral json_array_elements(data -> 'numbers') as part
    group by 1
)
select source,
       -- Which ones are kept of a source that has most ranges is chance.
       case when has_most_ranges(s.recorded) then f.recorded * s.recorded
            when has_most_ranges(f.recorded)
            then f.recorded * (select int8multirange(int8range(null, upper(range)))
                               from unnest(f.recorded) as range offset 9999 limit 1)
            else f.recorded end as recorded,
       coalesce(v.numbers, '{}') as given_up
from logged g
full join letters l using (source)
left join live_sources s using (source)
left join given v using (source)
cross join lateral (
    select coalesce(g.recorded, '{}') + coalesce(l.recorded * s.recorded, l.recorded, '{}') as recorded
) f
where g.source is not null or s.source is null or not isempty(l.recorded * s.recorded)
