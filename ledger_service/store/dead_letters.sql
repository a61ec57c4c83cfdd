-- name: add
insert into dead_letters as d (digest, origin, subject, code, detail, errors, body)
values (sha256(convert_to($1 || ' ' || $3 || ' ', 'UTF8') || $6), $1, $2, $3, $4, $5, $6)
on conflict (digest) do update set received_count = d.received_count + 1, last_received_at = now()
