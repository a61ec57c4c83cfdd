"""What people write in the address of an analytics query → the question. What is wrong is named before any query."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter, ValidationError

from contracts.identifiers import ModelName, Name, OperationType
from contracts.limits import is_time_zone
from contracts.moments import Moment
from contracts.problems import ERRORS_MAX, INVALID_REQUEST, FieldError, ProblemError, describe
from ledger_service.domain.buckets import Interval, following, midnight
from ledger_service.domain.usage_queries import (
    DURATIONS,
    FILTERS_MAX,
    GROUPS_MAX,
    METADATA,
    SUMS,
    VALUE_LENGTH_MAX,
    VALUES_MAX,
    Dimension,
    Measure,
    UsageQuery,
)

ACCOUNTS_OWN: Final = "account"
#: All four of them.
_DURATION: Final = "duration"
_MOMENT: Final[TypeAdapter[datetime]] = TypeAdapter(Moment)
_DATE: Final = re.compile(r"2[01][0-9]{2}-[0-9]{2}-[0-9]{2}", re.ASCII)
_OUTCOMES: Final = ("completed", "failed", "adjustment")
_SHAPES: Final[dict[str, TypeAdapter[str]]] = {
    Dimension.ACCOUNT: TypeAdapter(Name),
    Dimension.USER: TypeAdapter(Name),
    Dimension.PROJECT: TypeAdapter(Name),
    Dimension.API_KEY: TypeAdapter(Name),
    Dimension.OPERATION: TypeAdapter(OperationType),
    Dimension.PROVIDER: TypeAdapter(Name),
    Dimension.MODEL: TypeAdapter(ModelName),
}
#: What every operation has: there is nothing without it.
_ALWAYS: Final = {Dimension.ACCOUNT, Dimension.OPERATION, Dimension.PROVIDER, Dimension.MODEL, Dimension.OUTCOME}

One = TypeVar("One")


@dataclass(frozen=True, slots=True)
class Asked:
    """The parameters as they came; ``filters`` each as DIMENSION:VALUE,VALUE."""

    start: str
    end: str | None
    interval: Interval
    time_zone: str
    group_by: Collection[str]
    filters: Collection[str]
    measures: Collection[str]
    order_by: str | None
    top: int | None
    compare: bool
    groups: bool
    as_of: datetime | None


class _Errors:
    """Broken rules, all of them: people mend them at once."""

    def __init__(self) -> None:
        self._found: list[FieldError] = []

    def add(self, field: str, rule: str, message: str) -> None:
        self._found.append(FieldError(field=f"query.{field}", rule=rule, message=message))

    def raise_found(self) -> None:
        if self._found:
            raise ProblemError(INVALID_REQUEST, describe(self._found), self._found[:ERRORS_MAX])


def read_filters(asked: Asked, metadata_keys: Collection[str]) -> dict[str, frozenset[str]]:
    """The filters by dimension. Raises ProblemError."""
    errors, filters = _Errors(), dict[str, frozenset[str]]()
    if len(asked.filters) > FILTERS_MAX:
        errors.add("filter", "too_many", f"at most {FILTERS_MAX} filters")
        errors.raise_found()
    for number, text in enumerate(asked.filters):
        field = f"filter[{number}]"
        name, colon, listed = text.partition(":")
        if not colon:
            errors.add(field, "filter", "write DIMENSION:VALUE, or DIMENSION:VALUE,VALUE for any of several")
            continue
        if not _is_dimension(name, metadata_keys):
            errors.add(field, "dimension", _unknown("dimension", name, dimensions(metadata_keys)))
            continue
        values = split(listed)
        if len(values) > VALUES_MAX:
            errors.add(field, "too_many", f"at most {VALUES_MAX} values")
            continue
        for message in dict.fromkeys(filter(None, (_wrong_value(name, value) for value in values))):
            errors.add(field, "value", message)
        chosen = frozenset(values)
        filters[name] = filters[name] & chosen if name in filters else chosen
    errors.raise_found()
    return filters


def confined(filters: dict[str, frozenset[str]], account_id: str) -> dict[str, frozenset[str]]:
    """The same, of one account alone."""
    only = frozenset({account_id})
    return {**filters, Dimension.ACCOUNT.value: filters.get(Dimension.ACCOUNT, only) & only}


def read_question(
    asked: Asked, filters: dict[str, frozenset[str]], zone_name: str, metadata_keys: Collection[str], now: datetime
) -> UsageQuery:
    """The question; ``zone_name`` is known to be one. Raises ProblemError."""
    errors, zone = _Errors(), ZoneInfo(zone_name)
    start = _moment(asked.start, "from", zone, errors)
    end = _moment(asked.end, "to", zone, errors) if asked.end is not None else _end_of_now(now, asked.interval, zone)
    if start is not None and end is not None and start >= end:
        if asked.end is None:
            errors.add("from", "period", "that is yet to come: name its end (to) as well")
        else:
            errors.add("to", "period", "to is later than from")
    group_by = tuple(_listed(asked.group_by))
    _all_known(
        errors,
        "group_by",
        "dimension",
        group_by,
        lambda name: _is_dimension(name, metadata_keys),
        lambda: dimensions(metadata_keys),
    )
    if len(set(group_by)) < len(group_by):
        errors.add("group_by", "repeated", "each dimension once")
    if len(group_by) > GROUPS_MAX:
        errors.add("group_by", "too_many", f"at most {GROUPS_MAX} dimensions")
    measures = _measures(asked, errors)
    order_by = (
        measures[0] if asked.order_by is None else _one_of(Measure, "order_by", "measure", asked.order_by, errors)
    )
    if asked.order_by is None and Measure.COST in measures:
        order_by = Measure.COST
    if asked.top is not None and not group_by:
        errors.add("top", "group_by", "there are first ones among groups only: name group_by")
    errors.raise_found()
    assert start is not None
    assert end is not None
    assert order_by is not None
    return UsageQuery(
        start, end, asked.interval, zone, group_by, filters, measures, order_by, asked.top, asked.compare, asked.groups,
        asked.as_of, now,
    )  # fmt: skip


def read_zone(name: str, of_account: str | None) -> str:
    """The zone's name. ``of_account``: that of the account; None: there is no one account. Raises ProblemError."""
    errors = _Errors()
    if name == ACCOUNTS_OWN and of_account is None:
        errors.add("time_zone", "account", "name the one account whose zone is meant: account_id")
    elif name != ACCOUNTS_OWN and not is_time_zone(name):
        errors.add("time_zone", "time_zone", f"not an IANA time zone: {_shown(name)}; or account, for the account's")
    errors.raise_found()
    return name if name != ACCOUNTS_OWN else of_account or "UTC"


def split(listed: str) -> list[str]:
    """``a,b`` → a, b. A backslash takes a comma, or a backslash, as it is."""
    parts, part, escaped = list[str](), list[str](), False
    for character in listed:
        if escaped or character not in ",\\":
            part.append(character)
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            parts.append("".join(part))
            part = []
    return [*parts, "".join(part)]


def _measures(asked: Asked, errors: _Errors) -> tuple[Measure, ...]:
    wanted = _listed(asked.measures) or [measure.value for measure in SUMS]
    named = [one for name in wanted for one in ([m.value for m in DURATIONS] if name == _DURATION else [name])]
    known = {measure.value for measure in Measure}
    _all_known(errors, "measures", "measure", named, known.__contains__, lambda: [*known, _DURATION])
    return tuple(dict.fromkeys(Measure(name) for name in named if name in known)) or SUMS


def _one_of(kind: type[Measure], field: str, what: str, name: str, errors: _Errors) -> Measure | None:
    try:
        return kind(name)
    except ValueError:
        errors.add(field, what, _unknown(what, name, [one.value for one in kind]))
        return None


def _all_known(
    errors: _Errors,
    field: str,
    what: str,
    names: Iterable[str],
    is_known: Callable[[str], bool],
    known: Callable[[], Collection[str]],
) -> None:
    for name in dict.fromkeys(names):
        if not is_known(name):
            errors.add(field, what, _unknown(what, name, known()))


def _listed(texts: Iterable[str]) -> list[str]:
    return [name for text in texts for name in text.split(",") if text]


def _is_dimension(name: str, metadata_keys: Collection[str]) -> bool:
    if name.startswith(METADATA):
        return name.removeprefix(METADATA) in metadata_keys
    return name in set(Dimension)


def dimensions(metadata_keys: Collection[str]) -> list[str]:
    """All that usage may be grouped and filtered by."""
    return [*(one.value for one in Dimension), *(METADATA + key for key in sorted(metadata_keys))]


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    return f"no {what}: {_shown(name)}; there are {', '.join(sorted(known))}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


def _wrong_value(dimension: str, value: str) -> str | None:
    if not value:
        return f"every operation has one: {dimension}" if dimension in _ALWAYS else None
    if dimension == Dimension.OUTCOME:
        return None if value in _OUTCOMES else _unknown("outcome", value, _OUTCOMES)
    if shape := _SHAPES.get(dimension):
        try:
            shape.validate_python(value)
        except ValidationError:
            return f"no name of {dimension}: {_shown(value)}"
    if len(value) > VALUE_LENGTH_MAX or "\x00" in value:
        return f"at most {VALUE_LENGTH_MAX} characters, and none is NUL"
    return None


def _moment(text: str, field: str, zone: ZoneInfo, errors: _Errors) -> datetime | None:
    """A date is the beginning of that day in the zone."""
    try:
        if _DATE.fullmatch(text):
            return midnight(date.fromisoformat(text), zone)
        return _MOMENT.validate_python(text).astimezone(UTC)
    except ValueError:
        errors.add(field, "moment", f"neither a date (2026-11-01) nor an RFC 3339 time with an offset: {_shown(text)}")
        return None


def _end_of_now(now: datetime, interval: Interval, zone: ZoneInfo) -> datetime:
    return following(now, Interval.DAY if interval is Interval.NONE else interval, zone)
