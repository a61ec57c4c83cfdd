"""Single values of ALwrity's tables: SQLite keeps any type in any column, and a float where money belongs."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from functools import lru_cache
from math import isfinite
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

import orjson

from contracts.events import AHEAD_MAX, INT8_MAX
from contracts.identifiers import hashed_uuid7
from contracts.money import COST_NANOS_MAX, DECIMALS_MAX, NANOS_PER_DOLLAR

#: A row by its columns; those that the file does not have are not in it.
Row: TypeAlias = Mapping[str, object]

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_EXACT: Final = Context(prec=400, rounding=ROUND_HALF_EVEN)
_MONEY: Final = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_PLAIN: Final = re.compile(r"([0-9]{1,6})\.([0-9]{1,9})", re.ASCII)
_MONTH: Final = re.compile(r"20[0-9]{2}-(0[1-9]|1[0-2])", re.ASCII)
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._:@+-]+")
_NOT_IN_MODELS: Final = re.compile(r"[^A-Za-z0-9._:@/+-]+")
_LEADING: Final = re.compile(r"^[^A-Za-z0-9]+")


class BadValueError(ValueError):
    """A value that cannot be taken: in which column, which rule it breaks, and in words."""

    def __init__(self, column: str, rule: str, message: str) -> None:
        super().__init__(f"{column}: {message}")
        self.column, self.rule, self.message = column, rule, message


class Money(NamedTuple):
    """Nano-dollars, and whether the float had more decimals than nine, which were rounded half to even."""

    nanos: int
    is_rounded: bool


_NOTHING: Final = Money(0, is_rounded=False)


def money(row: Row, column: str, *, nanos_max: int = COST_NANOS_MAX) -> Money:
    """A float becomes the decimal that its shortest text is, never its binary value: 0.1 is ten cents. Null is 0."""
    value = row.get(column)
    if value is None:
        return _NOTHING
    if type(value) is float:
        plain = _PLAIN.fullmatch(repr(value))
        if plain:  # how almost all come: far below any bound, and exact
            return Money(int(plain[1] + plain[2].ljust(DECIMALS_MAX, "0")), is_rounded=False)
    if isinstance(value, float) and not isfinite(value):
        raise BadValueError(column, "not_finite", f"{value} is no amount of money")
    text = repr(value) if isinstance(value, int | float) else value
    if not isinstance(text, str) or not _MONEY.fullmatch(text.strip()):
        raise BadValueError(column, "not_a_number", f"{_shown(value)} is no amount of money")
    amount = Decimal(text.strip())
    if amount < 0:
        raise BadValueError(column, "negative", f"{text} is less than nothing")
    if amount > nanos_max // NANOS_PER_DOLLAR:
        raise BadValueError(column, "too_large", f"{text} is more than {nanos_max // NANOS_PER_DOLLAR} dollars")
    try:
        exact = amount.scaleb(DECIMALS_MAX, _EXACT)
    except InvalidOperation:
        raise BadValueError(column, "not_a_number", f"{_shown(value)} is no amount of money") from None
    nanos = exact.to_integral_value(ROUND_HALF_EVEN)
    return Money(int(nanos), is_rounded=nanos != exact)


def moment(row: Row, column: str, now: datetime) -> datetime:
    """ALwrity writes ``datetime.utcnow()``: a time without a zone is UTC. Raises BadValueError where there is none."""
    found = maybe_moment(row, column)
    if found is None:
        raise BadValueError(column, "missing", "there is no time")
    if found < EARLIEST:
        raise BadValueError(column, "too_early", f"{found.isoformat()} is before {EARLIEST.year}")
    if found > now + AHEAD_MAX:
        raise BadValueError(column, "in_future", f"{found.isoformat()} is not yet")
    return found


def maybe_moment(row: Row, column: str) -> datetime | None:
    """The same where it may be missing, and may be any time."""
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        if not isinstance(value, str):
            raise ValueError
        found = datetime.fromisoformat(value.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadValueError(column, "not_a_time", f"{_shown(value)} is no time such as 2026-11-01 09:30:00") from None


def month(row: Row, column: str) -> str:
    """A billing period: ``2026-11``."""
    value = row.get(column)
    if not isinstance(value, str) or not _MONTH.fullmatch(value):
        raise BadValueError(column, "not_a_month", f"{_shown(value)} is no month such as 2026-11")
    return value


def count(row: Row, column: str, at_most: int = INT8_MAX) -> int:
    """A whole number from 0; null is 0, and 3.0 is 3."""
    value = row.get(column)
    if type(value) is int and 0 <= value <= at_most:
        return value
    if value is None:
        return 0
    if isinstance(value, float) and isfinite(value) and value == int(value):
        value = int(value)
    if not isinstance(value, int):
        raise BadValueError(column, "not_a_count", f"{_shown(value)} is no whole number")
    if not 0 <= value <= at_most:
        raise BadValueError(column, "out_of_range", f"{value} is not between 0 and {at_most}")
    return value


def milliseconds(row: Row, column: str) -> int:
    """Seconds as a float → whole milliseconds; null is 0."""
    value = row.get(column)
    if value is None:
        return 0
    if not isinstance(value, int | float) or not isfinite(value):
        raise BadValueError(column, "not_a_number", f"{_shown(value)} is no number of seconds")
    if not 0 <= value <= 10**9:
        raise BadValueError(column, "out_of_range", f"{value} seconds are not between 0 and 10^9")
    return round(value * 1000)


def enum_value(row: Row, column: str) -> str | None:
    """An enum in any of its spellings: its value ``stability``, its name ``STABILITY``, ``APIProvider.STABILITY``."""
    value = row.get(column)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadValueError(column, "not_a_name", f"{_shown(value)} is no name")
    return _spelled(value)


@lru_cache(maxsize=1024)
def _spelled(value: str) -> str:
    return value.rpartition(".")[2].strip().lower()


def text(row: Row, column: str, length_max: int) -> str | None:
    """Without NUL, which PostgreSQL does not hold, and cut."""
    value = row.get(column)
    return None if value is None or value == "" else str(value).replace("\x00", "")[:length_max]


@lru_cache(maxsize=1024)
def name_of(value: str) -> str:
    """As a provider's name may be: what may not stand in it becomes a hyphen."""
    return _LEADING.sub("", _NOT_IN_NAMES.sub("-", value))[:128] or "unknown"


@lru_cache(maxsize=1024)
def model_of(value: str) -> str:
    """The same of a model."""
    return _LEADING.sub("", _NOT_IN_MODELS.sub("-", value))[:128] or "unknown"


def derived_id(at: datetime, *parts: object) -> UUID:
    """A UUIDv7 of this time that follows from the parts: the same parts, the same id, wherever they were read."""
    return hashed_uuid7((at - _EPOCH) // _MILLISECOND, orjson.dumps(parts))


def _shown(value: object) -> str:
    shown = "a blob" if isinstance(value, bytes) else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
