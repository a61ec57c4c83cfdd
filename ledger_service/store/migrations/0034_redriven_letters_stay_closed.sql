-- works with: 0018
-- What was redriven is in the log: the same bytes once more are a repeat of it.

comment on column dead_letters.state is
    'open until somebody redrives it with success, or discards it. The same bytes open a discarded one again; what was redriven stays so.';
