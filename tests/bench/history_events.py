"""A year and a half of one ledger's usage: realistic, the same for the same seed, in the order in which it arrives.

Few accounts have most of the operations, few users most of an account's; days and weeks have their rhythm, and use
grows. Prices are the list prices; one operation in 25 fails, a quarter of those is billed; one in 200 arrives late,
some of them in a later month.
"""

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Final, NamedTuple

import orjson

from contracts.events import COMPLETED_V1, FAILED_V1, REQUESTED_V1
from contracts.money import format_nanos
from contracts.operations import OPERATION_TYPES
from contracts.subjects import subject_of
from ledger_service.price_files import read_shipped

END: Final = datetime(2026, 11, 1, tzinfo=UTC)
BEGIN: Final = datetime(2025, 5, 1, tzinfo=UTC)
ACCOUNTS: Final = 10_000
#: Accounts are dealt out to so many streams, each a producer of its own, that are written side by side.
STREAMS: Final = 2

_FEW_REQUESTED_ONLY, _FEW_FINISHED_ONLY = 0.004, 0.010
_EVENTS_PER_OPERATION: Final = 2 - _FEW_REQUESTED_ONLY - _FEW_FINISHED_ONLY
_FAILED, _FAILED_BILLED = 0.04, 0.25
_LATE, _VERY_LATE = 0.005, 0.0005
_HOUR: Final = 3600.0
_HOURS: Final = int((END - BEGIN).total_seconds() / _HOUR)
#: Of a type's operations; what has no list price is not done.
_POPULARITY: Final = {
    "generate": 60, "edit": 18, "upscale": 8, "image_to_video": 5, "control": 3, "character": 2, "face_swap": 2,
    "image_to_3d": 2,
}  # fmt: skip
#: Seconds: the median, and the deviation of the logarithm.
_DURATIONS: Final = {"image_to_video": (55.0, 0.5), "image_to_3d": (30.0, 0.5), "upscale": (6.0, 0.4)}
_DURATION: Final = (4.5, 0.6)
_ERRORS: Final = (
    ("provider_error", "the provider answered 500", 500),
    ("timeout", "no answer within the time", None),
    ("content_filtered", "the provider's filter withheld the result", 422),
    ("rate_limited", "the provider answered 429", 429),
)
_TEAMS: Final = ("growth", "brand", "catalogue", "social", "research")
_ENVIRONMENTS: Final = ("production", "production", "production", "staging")


class _Offer(NamedTuple):
    """What can be bought."""

    provider: str
    model: str
    price_nanos: int
    is_metered: bool


@dataclass(frozen=True)
class _Catalogue:
    offers: Sequence[_Offer]
    weights: Sequence[float]


class _Operation(NamedTuple):
    """All that its events are made of; times are seconds from BEGIN."""

    rank: int
    user: int
    project: int | None
    key: int
    type: str
    offer: _Offer
    fallback: str
    at: float
    seconds: float
    quantity: int
    price_nanos: int
    failure: tuple[str, str, int | None] | None
    is_billed: bool
    retries: int
    response_bytes: int
    noise: int


class Arrival(NamedTuple):
    """An event on its way: when it arrives, in seconds from BEGIN, and what it is made of."""

    at: float
    number: int
    is_outcome: bool
    operation: _Operation


def account_name(rank: int) -> str:
    """Of the account with so many larger ones; names are in no order of size."""
    return f"customer-{rank * 7919 % ACCOUNTS:05d}"


def source_name(seed: int, events: int, stream: int) -> str:
    """The producer of a stream. Another seed or number of events is another history."""
    return f"history-{seed}-{events}-{stream}"


def arrivals(seed: int, events: int, stream: int) -> Iterator[Arrival]:
    """The events of one stream without end, in the order in which they arrive; about 1/STREAMS of ``events`` are before
    END. Drawing one does not make its body, so that those that are written already are skipped in little time."""
    chance = random.Random(f"{seed} {events} {stream}")
    catalogue = _catalogue()
    types = [name for name in OPERATION_TYPES if name in catalogue]
    type_weights = list(accumulate(_POPULARITY.get(name, 1) for name in types))
    ranks = range(stream, ACCOUNTS, STREAMS)
    rank_weights = list(accumulate(1 / (rank + 6) for rank in ranks))
    per_weight = events / STREAMS / _EVENTS_PER_OPERATION / sum(_weight(hour) for hour in range(_HOURS))
    waiting: list[Arrival] = []
    number, hour = 0, 0
    while True:
        count = _count(chance, per_weight * _weight(hour))
        of_ranks = chance.choices(ranks, cum_weights=rank_weights, k=count)
        of_types = chance.choices(types, cum_weights=type_weights, k=count)
        for rank, operation_type in zip(of_ranks, of_types, strict=True):
            begin = _HOUR * (hour + chance.random())
            operation = _operation(chance, rank, operation_type, catalogue[operation_type], begin)
            which, delay = chance.random(), 0.1 + _lateness(chance)
            if which >= _FEW_FINISHED_ONLY:
                heapq.heappush(waiting, Arrival(begin + delay, number, False, operation))
                number += 1
            if which < 1 - _FEW_REQUESTED_ONLY:
                heapq.heappush(waiting, Arrival(begin + operation.seconds + delay, number, True, operation))
                number += 1
        hour += 1
        while waiting and waiting[0].at < hour * _HOUR:
            yield heapq.heappop(waiting)


def event_of(arrival: Arrival, source: str, sequence: int) -> tuple[str, bytes]:
    """Subject and body of the event: the ``sequence``-th of its source."""
    one = arrival.operation
    moment = one.at + one.seconds if arrival.is_outcome else one.at
    failed = arrival.is_outcome and one.failure is not None
    event_type = FAILED_V1 if failed else COMPLETED_V1 if arrival.is_outcome else REQUESTED_V1
    account = account_name(one.rank)
    data: dict[str, object] = {
        "operation_id": _uuid7(one.at, one.noise), "account_id": account, "user_id": f"user-{one.user}",
        "api_key_id": f"key-{one.key}", "operation": one.type, "provider": one.offer.provider,
        "model": one.offer.model, "quantity": one.quantity, "request_bytes": 300 + one.noise % 1500,
        "endpoint": f"/v1/images/{one.type}",
    }  # fmt: skip
    if one.project is not None:
        data["project_id"] = f"project-{one.project}"
    if one.noise % 3 == 0:
        data["metadata"] = {
            "team": _TEAMS[one.noise // 3 % 5], "environment": _ENVIRONMENTS[one.noise // 15 % 4],
            "campaign": f"c-{one.noise // 60 % 40}",
        }  # fmt: skip
    if not arrival.is_outcome:
        data["estimated_cost"] = format_nanos(one.price_nanos * one.quantity)
    else:
        data |= {
            "cost": format_nanos(one.price_nanos * one.quantity if one.is_billed else 0),
            "requested_at": _text(one.at), "duration_ms": int(one.seconds * 1000), "actual_provider": one.fallback,
            "retry_count": one.retries,
        }  # fmt: skip
        status = 200 if one.failure is None else one.failure[2]
        if status is not None:
            data["status_code"] = status
        if one.failure is None:
            data["response_bytes"] = one.response_bytes
        else:
            data["error"] = {"code": one.failure[0], "message": one.failure[1]}
    event = {
        "specversion": "1.0", "id": _uuid7(moment, one.noise ^ sequence << 8), "type": event_type, "source": source,
        "subject": account, "time": _text(moment), "sourcesequence": sequence, "data": data,
    }  # fmt: skip
    return subject_of(event_type), orjson.dumps(event)


def moment_of(seconds: float) -> datetime:
    """So many seconds after BEGIN."""
    return BEGIN + timedelta(seconds=seconds)


def _operation(
    chance: random.Random, rank: int, operation_type: str, catalogue: _Catalogue, begin: float
) -> _Operation:
    [offer] = chance.choices(catalogue.offers, cum_weights=catalogue.weights)
    median, deviation = _DURATIONS.get(operation_type, _DURATION)
    users = 1 + int(120 / (rank + 1) ** 0.4)
    failure = chance.choice(_ERRORS) if chance.random() < _FAILED else None
    quantity = 1 if chance.random() < 0.8 else chance.randrange(2, 5)
    if offer.is_metered:
        quantity = chance.randrange(4, 11)
    return _Operation(
        rank=rank,
        user=int(users * chance.random() ** 2),
        project=int((1 + users // 10) * chance.random() ** 2) if chance.random() < 0.8 else None,
        key=int((1 + users // 15) * chance.random()),
        type=operation_type,
        offer=offer,
        fallback=chance.choice(catalogue.offers).provider if chance.random() < 0.01 else offer.provider,
        at=begin,
        seconds=median * chance.lognormvariate(0, deviation),
        quantity=quantity,
        # One account in ten has a contract: a tenth less.
        price_nanos=offer.price_nanos * 9 // 10 if rank % 10 == 3 else offer.price_nanos,
        failure=failure,
        is_billed=failure is None or chance.random() < _FAILED_BILLED,
        retries=0 if chance.random() < 0.95 else chance.randrange(1, 4),
        response_bytes=int(400_000 * chance.lognormvariate(0, 0.8)),
        noise=chance.getrandbits(74),
    )


def _count(chance: random.Random, expected: float) -> int:
    """Of a Poisson distribution; where many are expected, of the normal one that is near it."""
    if expected >= 10:
        return max(0, int(chance.gauss(expected, math.sqrt(expected)) + chance.random()))
    count, product, enough = 0, chance.random(), math.exp(-expected)
    while product > enough:
        count, product = count + 1, product * chance.random()
    return count


def _lateness(chance: random.Random) -> float:
    """Seconds: a producer was cut off for hours, or for weeks."""
    drawn = chance.random()
    if drawn >= _LATE:
        return 0
    return chance.uniform(7, 45) * 86400 if drawn < _VERY_LATE else chance.expovariate(1 / (18 * _HOUR))


def _weight(hour: int) -> float:
    """How much is done in this hour from BEGIN, beside others."""
    moment = BEGIN + timedelta(hours=hour)
    of_day = 1 + 0.8 * math.cos((moment.hour - 14.5) / 24 * 2 * math.pi)
    of_week = 0.45 if moment.weekday() >= 5 else 1.0
    return of_day * of_week * (0.6 + 0.8 * hour / _HOURS)


def _catalogue() -> dict[str, _Catalogue]:
    """By operation type what the list prices have; the further down, the less it is bought."""
    offers: dict[str, list[_Offer]] = {}
    for put in read_shipped().puts:
        provider, operation_type, model = put.key
        is_metered = put.price.unit == "second"
        offers.setdefault(operation_type, []).extend(
            _Offer(provider, model, variant.price, is_metered) for variant in put.price.variants
        )
    chosen = {}
    for name, found in offers.items():
        random.Random(name).shuffle(found)
        chosen[name] = _Catalogue(found, list(accumulate(1 / (place + 3) for place in range(len(found)))))
    return chosen


def _text(seconds: float) -> str:
    return moment_of(round(seconds, 3)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _uuid7(seconds: float, bits: int) -> str:
    """RFC 9562 §5.7, of given bits: 74 of them count."""
    milliseconds = int((BEGIN.timestamp() + seconds) * 1000)
    rest = bits & (1 << 62) - 1 | 1 << 63
    text = f"{milliseconds:012x}7{bits >> 62 & 0xFFF:03x}{rest:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
