-- letter_sequence() of 0006 failed on what is no JSON, and with it verify and rebuild: what a declaration raises is not
-- caught by the exception block beneath it.
create or replace function letter_sequence(body bytea, out source text, out source_sequence bigint)
    language plpgsql immutable parallel safe
as $$
declare
    event json;
begin
    event := convert_from(body, 'UTF8')::json;
    if json_typeof(event) = 'object' and json_typeof(event -> 'source') = 'string'
        and json_typeof(event -> 'sourcesequence') = 'number' and event ->> 'sourcesequence' ~ '^[1-9][0-9]*$' then
        source := event ->> 'source';
        source_sequence := event ->> 'sourcesequence';
    end if;
exception when others then
    -- Whatever it is, it is no event.
    source := null;
    source_sequence := null;
end;
$$;
