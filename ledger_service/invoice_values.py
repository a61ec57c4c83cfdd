"""What stands in a provider's columns, read exactly: amounts, times, quantities. Nothing is guessed."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from functools import lru_cache
from typing import Final, NamedTuple

from contracts.money import DECIMALS_MAX, MAXIMUM_NANOS_MAX
from ledger_service.invoice_mappings import InvoiceMapping

#: Of amounts that came before; invoices repeat a few prices.
_REMEMBERED_MAX: Final = 65_536
_SHOWN_MAX: Final = 40
_DIGITS_MAX: Final = 60

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_FIRST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)
_NUMBER: Final = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{0,30})?(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?)"
    r" ?(Z|UTC|[+-][0-9]{2}:?[0-9]{2})?)?",
    re.ASCII,
)
_UNIX: Final = re.compile(r"[0-9]{1,13}", re.ASCII)
_FROM_UNIX: Final = {"unix_seconds": 1_000_000, "unix_milliseconds": 1_000}


class ValueRuleError(Exception):
    """A value breaks a rule. The message repeats the value, shortened."""

    def __init__(self, rule: str, value: str, message: str) -> None:
        shown = value if len(value) <= _SHOWN_MAX else f"{value[:_SHOWN_MAX]}…"
        super().__init__(f"{shown!r}: {message}")
        self.rule = rule


class Amount(NamedTuple):
    """Nano-dollars; a charge is positive."""

    nanos: int
    rounded: bool


def amount_reader(mapping: InvoiceMapping) -> Callable[[str], Amount]:
    """Reads amounts as the mapping says that they are written. What it answers raises ValueRuleError."""
    thousands, decimal = mapping.thousands_separator, mapping.decimal_separator
    grouped = re.compile(
        rf"-?[0-9]{{1,3}}(?:{re.escape(thousands)}[0-9]{{3}})+(?:{re.escape(decimal)}[0-9]*)?", re.ASCII
    )
    turned = mapping.charges == "negative"

    @lru_cache(maxsize=_REMEMBERED_MAX)
    def read(text: str) -> Amount:
        number = text.strip()
        if thousands and thousands in number:
            if not grouped.fullmatch(number):
                raise ValueRuleError("thousands", text, f"{thousands!r} does not stand between thousands")
            number = number.replace(thousands, "")
        if decimal != ".":
            if "." in number:
                raise ValueRuleError(
                    "decimal_separator", text, f"the mapping has {decimal!r} between units and decimals"
                )
            number = number.replace(decimal, ".")
        if not number:
            raise ValueRuleError("empty", text, "a row has an amount, or the mapping skips it")
        if not _NUMBER.fullmatch(number):
            if "," in number:
                raise ValueRuleError("thousands", text, "the mapping says nothing of a comma in amounts")
            raise ValueRuleError("amount", text, "not a decimal number")
        nanos, rounded = _nanos(text, Decimal(number), round_it=mapping.round_to_nanos)
        return Amount(-nanos if turned else nanos, rounded)

    return read


def _nanos(text: str, value: Decimal, *, round_it: bool) -> tuple[int, bool]:
    with localcontext() as context:
        context.prec = _DIGITS_MAX + 60
        scaled = value.scaleb(DECIMALS_MAX)
        whole = scaled.to_integral_value(rounding=ROUND_HALF_EVEN)
        if abs(whole) > MAXIMUM_NANOS_MAX:
            raise ValueRuleError("amount", text, f"more than {MAXIMUM_NANOS_MAX // 10**DECIMALS_MAX} dollars")
        if whole != scaled and not round_it:
            raise ValueRuleError("money_decimals", text, "more than nine decimals; round_to_nanos takes it rounded")
        return int(whole), whole != scaled


def time_reader(mapping: InvoiceMapping) -> Callable[[str], int]:
    """Reads times as microseconds since 1970. Local times that come twice a year count as the first of the two. What it
    answers raises ValueRuleError."""
    zone = mapping.zone()

    def checked(text: str, moment: datetime) -> int:
        if moment.tzinfo is None:
            if zone is None:
                raise ValueRuleError("time_zone", text, "the time has no zone, and the mapping gives none (time_zone)")
            moment = moment.replace(tzinfo=zone)
        if not _FIRST <= moment < _LAST:
            raise ValueRuleError("time", text, "not between the years 2000 and 2200")
        since = moment - _EPOCH
        return since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds

    def unix(text: str) -> int:
        if not _UNIX.fullmatch(text.strip()):
            raise ValueRuleError("time", text, f"not {mapping.time_format.replace('_', ' ')}")
        microseconds = int(text) * _FROM_UNIX[mapping.time_format]
        if not _FIRST <= _EPOCH + min(microseconds // 1_000_000, 10**11) * _SECOND < _LAST:
            raise ValueRuleError("time", text, "not between the years 2000 and 2200")
        return microseconds

    def rfc3339(text: str) -> int:
        found = _TIME.fullmatch(text.strip())
        try:
            if found is None:
                raise ValueError
            day, time, offset = found.groups()
            moment = datetime.fromisoformat(f"{day}T{time or '00:00'}{'Z' if offset == 'UTC' else offset or ''}")
        except ValueError:
            raise ValueRuleError("time", text, "no time such as 2026-11-01T10:15:30Z") from None
        return checked(text, moment)

    def formatted(text: str) -> int:
        try:
            moment = datetime.strptime(text.strip(), mapping.time_format)  # noqa: DTZ007 - checked() asks for the zone
        except ValueError:
            raise ValueRuleError("time", text, f"not as {mapping.time_format}") from None
        return checked(text, moment)

    if mapping.time_format in _FROM_UNIX:
        return unix
    return rfc3339 if mapping.time_format == "rfc3339" else formatted


def bucket_reader(mapping: InvoiceMapping) -> Callable[[int], int]:
    """When the day, or the month, of a moment begins, both in microseconds, in the mapping's time zone (or UTC)."""
    zone = mapping.zone() or UTC

    @lru_cache(maxsize=_REMEMBERED_MAX)
    def of_hour(hour: int) -> int:
        # Zones are whole quarters of an hour off UTC; so are their days.
        local = (_EPOCH + timedelta(minutes=15 * hour)).astimezone(zone)
        first = datetime(local.year, local.month, 1 if mapping.rows == "month" else local.day, tzinfo=zone)
        return (first - _EPOCH) // timedelta(microseconds=1)

    return lambda at: of_hour(at // 900_000_000)


def read_quantity(text: str) -> str:
    """As it is written; it is a number. Raises ValueRuleError."""
    quantity = text.strip()
    if quantity and not _NUMBER.fullmatch(quantity):
        raise ValueRuleError("quantity", text, "not a decimal number")
    return quantity
