"""Retry-After: what others may write there, and what it is taken for."""

from datetime import UTC, datetime

import pytest

from contracts.retry_after import SECONDS_MAX, retry_after_seconds

NOW = datetime(2026, 11, 5, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        ("0", 0.0),
        (" 1.5 ", 1.5),
        ("-1", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e400", None),
        ("1_0", None),
        ("1, 2", None),
        ("\N{ARABIC-INDIC DIGIT FIVE}", None),
        ("Thu, 05 Nov 2026 12:01:00 GMT", 60.0),
        ("Thu, 05 Nov 2026 12:01:00 -0000", 60.0),
        ("Thu, 05 Nov 2026 13:01:00 +0100", 60.0),
        ("Thu, 05 Nov 2020 12:01:00 GMT", 0.0),
        ("9" * 400, SECONDS_MAX),
        ("Thu, 05 Nov 99999999999999999999 12:01:00 GMT", None),
        ("Thu, 05 Nov 2026 12:01:00 +99999999999999999999", None),
    ],
)
def test_it_is_seconds_or_a_date(given: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(given, NOW) == seconds
