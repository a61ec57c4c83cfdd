"""When a published event that the ledger has not confirmed is published again. Pure: time comes in as an argument."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

#: Spans kept apart; beyond that they become one, so that memory does not grow with what is unconfirmed.
SPANS_MAX: Final = 4096
#: While the ledger is away its events wait in the stream, and publishing them again and again would only fill it.
INTERVAL_SECONDS_MAX: Final = 600.0


@dataclass(frozen=True, order=True)
class Span:
    """Sequences ``first`` to ``last``, published ``attempt`` times, to be looked at again at ``due``."""

    due: float
    first: int
    last: int
    attempt: int


class RepublishSchedule:
    """Spans of published sequences by the time at which they are due; each time the wait doubles, up to a bound."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._spans: list[Span] = []

    def published(self, first: int, last: int, now: float, attempt: int = 1) -> None:
        """These were published just now, for the ``attempt``-th time."""
        longest = max(self._interval_seconds, INTERVAL_SECONDS_MAX)
        wait = min(self._interval_seconds * 2 ** min(attempt - 1, 32), longest)
        self._add(Span(now + wait, first, last, attempt))

    def postpone(self, first: int, last: int, attempt: int, now: float) -> None:
        """These are due, and could not be looked at yet."""
        self._add(Span(now, first, last, attempt))

    def pop_due(self, now: float) -> Span | None:
        return heapq.heappop(self._spans) if self._spans and self._spans[0].due <= now else None

    def seconds_to_next(self, now: float) -> float | None:
        return max(0.0, self._spans[0].due - now) if self._spans else None

    def _add(self, span: Span) -> None:
        heapq.heappush(self._spans, span)
        if len(self._spans) > SPANS_MAX:
            self._spans = [
                Span(
                    due=max(span.due for span in self._spans),
                    first=min(span.first for span in self._spans),
                    last=max(span.last for span in self._spans),
                    attempt=max(span.attempt for span in self._spans),
                )
            ]


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Inclusive ranges in order, touching and overlapping ones made one; inverted ones dropped."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if first > last:
            continue
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def common_ranges(some: Iterable[tuple[int, int]], others: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is in both; each in order, as `merge_ranges` has them, and so is the answer."""
    found: list[tuple[int, int]] = []
    place = 0
    for first, last in some:
        while place < len(others) and others[place][1] < first:
            place += 1
        for index in range(place, len(others)):
            if others[index][0] > last:
                break
            found.append((max(first, others[index][0]), min(last, others[index][1])))
    return found
