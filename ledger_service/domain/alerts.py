"""Thresholds of limits: what to watch a counter for, and which alerts an amount raises."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import orjson

from contracts.limits import Limit, Meter
from contracts.money import format_nanos
from ledger_service.domain.counters import CounterKey

#: The most that a counter holds (int8). Ten times the largest cost maximum, a threshold of 1000 %, is more.
_AMOUNT_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Threshold:
    """So many percent of a limit's maximum, and the least amount that reaches them."""

    limit_id: str
    percent: int
    maximum: int
    amount: int


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold that is reached in a window. Raised once for each."""

    key: CounterKey
    meter: Meter
    threshold: Threshold
    used: int

    def data(self) -> dict[str, object]:
        """What its event says; money as decimal strings."""
        key, threshold = self.key, self.threshold

        def shown(amount: int) -> object:
            return format_nanos(amount) if self.meter is Meter.COST else amount

        return {
            "account_id": key.account_id,
            "limit_id": threshold.limit_id,
            "scope_key": key.scope_key,
            "meter": self.meter,
            "period_start": key.period_start,
            "period_end": key.period_end,
            "threshold_percent": threshold.percent,
            "maximum": shown(threshold.maximum),
            "used": shown(self.used),
        }


def thresholds_of(limit: Limit, maximum: int) -> list[Threshold]:
    """The thresholds of a limit. Amounts are rounded up, and never nothing: an unused limit warns of nothing."""
    return [
        Threshold(limit.limit_id, percent, maximum, max(1, -(-maximum * percent // 100)))
        for percent in limit.thresholds
    ]


def reached(thresholds: Iterable[Threshold], key: CounterKey, meter: Meter, used: int) -> list[Alert]:
    """The alerts that this use (settled and held) is reason for, whether raised before or not."""
    return [Alert(key, meter, threshold, used) for threshold in thresholds if used >= threshold.amount]


def next_amount(thresholds: Iterable[Threshold], used: int) -> int | None:
    """From which amount on there is a new alert; None = from none that a counter can hold."""
    amounts = (threshold.amount for threshold in thresholds)
    return min((amount for amount in amounts if used < amount <= _AMOUNT_MAX), default=None)


def write_thresholds(thresholds: Sequence[Threshold]) -> str | None:
    """As a counter keeps them, for ingest, which knows no limits. The same thresholds give the same text."""
    return orjson.dumps([asdict(threshold) for threshold in thresholds]).decode() if thresholds else None


def read_thresholds(text: str | None) -> list[Threshold]:
    return [Threshold(**fields) for fields in orjson.loads(text)] if text else []
