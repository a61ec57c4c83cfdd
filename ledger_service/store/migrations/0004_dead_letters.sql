-- Dead letters: whose they are, what was done about them, and what was recorded in their place.

alter table dead_letters add column account_id text;
alter table dead_letters add column state text not null default 'open'
    constraint dead_letters_state check (state in ('open', 'redriven', 'discarded'));
alter table dead_letters add column redrive_count integer not null default 0;
alter table dead_letters add column last_redriven_at timestamptz;
alter table dead_letters add column closed_at timestamptz;
alter table dead_letters add column event_account_id text;
alter table dead_letters add column event_id uuid;
alter table dead_letters alter column received_count type bigint;

comment on column dead_letters.digest is
    'SHA-256 of the bytes, which alone name a letter: however they come, and whatever is wrong with them this time.';
comment on column dead_letters.account_id is 'The account that the bytes claim to be of, where that can be read.';
comment on column dead_letters.state is
    'open until somebody redrives it with success, or discards it; open again when the same bytes come and fail again.';
comment on column dead_letters.code is 'With detail and errors: why it failed when it came, or was redriven, last.';
comment on column dead_letters.event_id is 'With event_account_id: the event in the log that this letter became.';

-- The reason was part of the name until now; a letter that is redriven may fail for another one.
with named as (
    select digest, sha256(body) as name,
           row_number() over newest as place,
           sum(received_count) over same_bytes as received_count,
           min(first_received_at) over same_bytes as first_received_at
    from dead_letters
    window same_bytes as (partition by sha256(body)),
           newest as (partition by sha256(body) order by last_received_at desc, dead_letter_id desc)
), kept as (
    update dead_letters d
    set digest = n.name, received_count = n.received_count, first_received_at = n.first_received_at
    from named n
    where d.digest = n.digest and n.place = 1
)
delete from dead_letters d using named n where d.digest = n.digest and n.place > 1;

create unique index dead_letters_id on dead_letters (dead_letter_id);
create index dead_letters_open on dead_letters (code, dead_letter_id) where state = 'open';

create table dead_letter_actions (
    dead_letter_id bigint not null,
    event_id       uuid   not null,
    primary key (dead_letter_id, event_id)
);
comment on table dead_letter_actions is
    'Which events of the log (of no account) tell who redrove or discarded a letter, why, and with what outcome.';
