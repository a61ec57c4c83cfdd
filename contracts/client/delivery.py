"""Events that go to the ledger at once: those of a client without a journal, and those that a caller hands over."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Final, Protocol

import nats.errors
import structlog

from contracts.client import jetstream
from contracts.client.errors import LedgerRefused, LedgerUnavailable
from contracts.client.http_transport import HttpTransport
from contracts.client.nats_link import NatsLink
from contracts.events import UsageEvent, event_to_json
from contracts.problems import INVALID_REQUEST, problem
from contracts.subjects import subject_of

PORTION_EVENTS_MAX: Final = 64
PAUSE_SECONDS_FIRST: Final = 0.1
PAUSE_SECONDS_MAX: Final = 2.0

_log = structlog.stdlib.get_logger(__name__)


class Way(Protocol):
    async def send(self, events: Sequence[UsageEvent]) -> None:
        """One attempt. Raises LedgerUnavailable; LedgerRefused where some, named in it, will never be taken."""
        ...


class OverHttp:
    """Returns once the ledger has committed them."""

    def __init__(self, http: HttpTransport) -> None:
        self._http = http

    async def send(self, events: Sequence[UsageEvent]) -> None:
        refused = await self._http.record_events([event_to_json(event) for event in events])
        if refused:
            rejected = [
                {"event_id": str(events[index].id), "problem": reason.model_dump()} for index, reason in refused.items()
            ]
            first = next(iter(refused.values())).detail
            raise LedgerRefused(
                problem(
                    INVALID_REQUEST, f"{len(refused)} of {len(events)} events are refused: {first}", rejected=rejected
                )
            )


class OverJetStream:
    """Returns once the broker has them; the ledger takes them from there."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link

    async def send(self, events: Sequence[UsageEvent]) -> None:
        client = await self._link.client()
        stream = client.jetstream()
        try:
            await asyncio.gather(
                *(
                    jetstream.publish(stream, subject_of(event.type), str(event.id), event_to_json(event))
                    for event in events
                )
            )
        except (OSError, TimeoutError, nats.errors.Error) as error:
            raise LedgerUnavailable(str(error) or type(error).__name__, outcome_unknown=True) from error


class EventDelivery:
    """Tries its ways in turn, the preferred one first, until the events are taken or the time is over."""

    def __init__(self, ways: Sequence[Way], timeout_seconds: float) -> None:
        self._ways = ways
        self._timeout_seconds = timeout_seconds

    async def deliver(self, events: Sequence[UsageEvent]) -> None:
        """Idempotent: the ledger takes each event once. The time is for each portion of events.

        Raises LedgerUnavailable (some may have arrived) and LedgerRefused (those that it does not name have arrived,
        up to the end of their portion).
        """
        for first in range(0, len(events), PORTION_EVENTS_MAX):
            await self._deliver_portion(events[first : first + PORTION_EVENTS_MAX])

    async def _deliver_portion(self, events: Sequence[UsageEvent]) -> None:
        reason = "no answer"
        pause = PAUSE_SECONDS_FIRST
        try:
            async with asyncio.timeout(self._timeout_seconds):
                for way in itertools.cycle(self._ways):
                    try:
                        # No way gets all of the time while there is another.
                        async with asyncio.timeout(self._timeout_seconds / (len(self._ways) + 1)):
                            return await way.send(events)
                    except (LedgerUnavailable, TimeoutError) as error:
                        reason = error.reason if isinstance(error, LedgerUnavailable) else "no answer"
                        _log.warning("events_not_taken", way=type(way).__name__, reason=reason)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, PAUSE_SECONDS_MAX)
        except TimeoutError:
            pass
        raise LedgerUnavailable(
            f"events were not taken within {self._timeout_seconds:g} s: {reason}", outcome_unknown=True
        )
