"""Named queries: what several share is written once."""

import pytest

from ledger_service.store.queries import every_query, parse

SHARING = """
-- part: rows
from t
where a = $1

-- name: all_of
-- Newest first.
select *
-- take: rows
order by b desc

-- name: count_of
select count(*)
    -- take: rows
"""


def test_a_part_stands_where_it_is_taken() -> None:
    assert parse(SHARING) == {
        "all_of": "-- Newest first.\nselect *\nfrom t\nwhere a = $1\norder by b desc",
        "count_of": "select count(*)\nfrom t\nwhere a = $1",
    }


def test_a_part_that_is_not_there_is_not_left_out_in_silence() -> None:
    with pytest.raises(KeyError, match="row s"):
        parse(SHARING.replace("-- take: rows", "-- take: row s"))


def test_no_query_has_a_part_left_to_take() -> None:
    assert [name for name, sql in every_query() if "-- take:" in sql or "-- part:" in sql] == []
