"""A corrected copy of a dead letter may differ from it only where the letter breaks a rule."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NoReturn, TypeAlias

from pydantic import JsonValue, ValidationError

from contracts.events import AHEAD_MAX, EVENT_MODELS, OutcomeData, UsageEvent, parse_event
from contracts.problems import field_path

Place: TypeAlias = tuple[str | int, ...]
#: Each round mends what the one before could not see: with an unknown type, no other rule is known.
ROUNDS_MAX: Final = 4
_ABSENT: Final = object()
#: In the place of a member that stands twice: it says nothing for certain.
_TWICE: Final = object()
_TAGS: Final = frozenset(EVENT_MODELS)
#: A rule about two members is broken at both.
_SUBJECT_ACCOUNT: Final[tuple[Place, ...]] = (("subject",), ("data", "account_id"))


def unfounded_changes(
    original: bytes, corrected: dict[str, JsonValue], received_at: datetime | None = None
) -> list[str]:
    """The places where the copy, a valid event, differs from the original though that was right there.

    So the ids of an event that can be read stay what they are, and with them what makes it count once. Bytes that are
    no JSON object say nothing that a copy could differ from. ``received_at``: when the original came; times that were
    too far ahead then are not right.
    """
    try:
        # Not orjson: it reads integers beyond 64 bits as floats.
        mended: JsonValue = json.loads(original, parse_constant=_refuse, object_pairs_hook=_members)
    except (ValueError, RecursionError):
        return []
    if not isinstance(mended, dict):
        return []
    mended = _mend(mended, _twice_places(mended), corrected)
    for _ in range(ROUNDS_MAX):
        mended = _mend(mended, _broken_places(mended, received_at), corrected)
    return sorted(field_path(place) for place in _differences(mended, corrected))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    read = dict(pairs)
    if len(read) < len(pairs):
        for name, times in Counter(name for name, _ in pairs).items():
            if times > 1:
                read[name] = _TWICE
    return read


def _twice_places(event: JsonValue) -> set[Place]:
    """Where members stood twice; within a list, where that is. Not recursive: what is no event may be nested deeply."""
    found: set[Place] = set()
    waiting: list[tuple[Place, bool, object]] = [((), False, event)]
    while waiting:
        place, in_list, value = waiting.pop()
        if value is _TWICE:
            found.add(place)
        elif isinstance(value, dict):
            waiting += [(place if in_list else (*place, name), in_list, one) for name, one in value.items()]
        elif isinstance(value, list):
            waiting += [(place, True, one) for one in value]
    return found


def _broken_places(event: JsonValue, received_at: datetime | None) -> list[Place]:
    try:
        read = parse_event(json.dumps(event).encode())
    except ValidationError as error:
        places: list[Place] = []
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            location = tuple(step for step in item["loc"] if step not in _TAGS)
            if item["type"] == "json_invalid":
                places.append(())
            elif item["type"].startswith("union_tag"):
                places.append(("type",))
            else:
                places += [location] if location else _SUBJECT_ACCOUNT
        return places
    return [] if received_at is None else _times_ahead(read, received_at + AHEAD_MAX)


def _times_ahead(event: UsageEvent, latest: datetime) -> list[Place]:
    times: dict[Place, datetime] = {("time",): event.time}
    if isinstance(event.data, OutcomeData):
        times["data", "requested_at"] = event.data.requested_at  # by the same clock
    return [place for place, moment in times.items() if moment > latest]


def _at(value: JsonValue, place: Place) -> object:
    found: object = value
    for step in place:
        if isinstance(found, dict) and step in found:
            found = found[step]
        else:
            return _ABSENT
    return found


def _mend(event: JsonValue, places: Iterable[Place], corrected: dict[str, JsonValue]) -> JsonValue:
    """The event with what the copy has, or has not, at those of the places that there are.

    In place, as there may be as many as the event has members. Parts of the copy that it has by then stay what they
    are: at each place, they get what they have there.
    """
    for place in places:
        replacement = _at(corrected, place)
        if not place:
            event = replacement  # type: ignore[assignment]  # what _at() found in a JSON value
            continue
        *path, name = place
        parent: object = event
        for step in path:
            parent = parent.get(step) if isinstance(parent, dict) else None
        if not isinstance(parent, dict) or not isinstance(name, str):
            continue
        if replacement is _ABSENT:
            parent.pop(name, None)
        else:
            parent[name] = replacement
    return event


def _differences(one: JsonValue, other: JsonValue, place: Place = ()) -> list[Place]:
    if isinstance(one, dict) and isinstance(other, dict):
        found: list[Place] = []
        for name in one.keys() | other.keys():
            if name in one and name in other:
                found += _differences(one[name], other[name], (*place, name))
            else:
                found.append((*place, name))
        return found
    # Compared as text: to Python, true and 1 are equal.
    return [] if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True) else [place]
