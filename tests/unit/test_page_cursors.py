"""Cursors of pages: what they carry comes back, and what others make of them is refused."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from uuid import UUID

import pytest

from contracts.problems import ProblemError
from ledger_service.page_cursors import decode_cursor, decode_row_cursor, encode_cursor
from tests.builders import at, new_id


def test_a_place_comes_back() -> None:
    operation_id = UUID(new_id())
    moment = datetime(2026, 11, 5, 12, 30, 15, 123456, tzinfo=UTC)
    assert decode_row_cursor(encode_cursor(moment, operation_id)) == (moment, operation_id)
    cursor = encode_cursor(moment, "team:eu", "stability-ai/sdxl")
    assert decode_cursor(cursor, lambda *place: place) == (moment, "team:eu", "stability-ai/sdxl")


def cursor_of(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


#: The same in every worker: it is in the names of tests.
ID = "01a2085c-6ead-7f3c-81e3-b4f86bc70607"


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "é",
        "A",
        "_w",
        cursor_of("2026-11-05T00:00:00+00:00"),
        cursor_of(f"2026-11-05T00:00:00+00:00|{ID}|more"),
        cursor_of("2026-11-05T00:00:00+00:00|no id"),
        cursor_of(f"9999-12-31T23:59:59-12:00|{ID}"),
        cursor_of(f"yesterday|{ID}"),
    ],
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ProblemError, match=r"query\.cursor"):
        decode_row_cursor(cursor)


def test_text_that_no_database_takes_is_refused() -> None:
    with pytest.raises(ProblemError, match=r"query\.cursor"):
        decode_cursor(encode_cursor(at("2026-11-05"), "a\0b"), lambda *place: place)
