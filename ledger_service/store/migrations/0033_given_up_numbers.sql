-- works with: 0018
-- Numbers of sources that never will arrive, as somebody said: they are missing no more.

alter table sources add column given_up int8multirange not null default '{}';
comment on column sources.given_up is
    'Numbers that were missing when somebody gave them up. One of them that arrives after all is recorded as any other.';

create function missing_numbers(source sources, beginning bigint) returns int8multirange
    language sql immutable parallel safe
return case when isempty(source.recorded) then '{}'::int8multirange
            else int8multirange(int8range(beginning, upper(source.recorded))) - source.recorded - source.given_up end;
comment on function missing_numbers is
    'Those from the beginning on that have not come though later ones have, and that nobody has given up.';
