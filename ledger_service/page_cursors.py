"""Where a page of a list ended, as callers carry it to the next request: opaque to them, and never to be trusted."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from contracts.problems import broken_rule

Place = TypeVar("Place")


def encode_cursor(moment: datetime, *names: object) -> str:
    """Of the last row: when it was, and what else orders the list; names without ``|``."""
    text = "|".join((moment.isoformat(), *map(str, names)))
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, place_of: Callable[..., Place]) -> Place:
    """What ``place_of`` makes of the moment, in UTC, and of the names, which are texts. Raises ProblemError where that
    fails, or the text is no cursor at all."""
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        if "\0" in text:  # PostgreSQL has no text with it
            raise ValueError(text)
        moment, *names = text.split("|")
        return place_of(datetime.fromisoformat(moment).astimezone(UTC), *names)
    except (ValueError, TypeError, OverflowError):
        raise broken_rule("query.cursor", "cursor", "not a cursor of an earlier page") from None


def decode_row_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Of lists that are ordered by a moment and an operation."""
    return decode_cursor(cursor, lambda moment, operation_id: (moment, UUID(operation_id)))
