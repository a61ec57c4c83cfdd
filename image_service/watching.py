"""Operations that run in this process, and how far they are: for the status resource and its events."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from contracts.limits import Decision

#: What somebody who comes back may still have missed; older states say nothing that newer ones do not.
STATES_KEPT_MAX: Final = 100
#: Smaller steps of a fraction, faster than this, are not worth an event.
_STEP_MIN: Final = 0.01
_STEP_SECONDS_MIN: Final = 0.2
#: Operations that are over, which are remembered for people who look how it went.
REMEMBERED_MAX: Final = 200


@dataclass(frozen=True)
class State:
    """One step on the way; ``number`` counts from 1. ``fraction`` from 0 to 1, where it is known."""

    number: int
    state: str
    fraction: float | None
    at: datetime


@dataclass
class Watch:
    """One operation that runs. Belongs to the event loop."""

    operation_id: UUID
    account_id: str
    operation: str
    states: list[State] = field(default_factory=list)
    #: Its hold is placed and its intent recorded: it may be spoken of.
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: What admitted it, and what is held for it.
    decision: Decision | None = None
    #: Somebody was told where its outcome will be.
    wanted: bool = False
    #: It ends, and what it came to is not kept: whoever waits for it has to go on waiting.
    unkept: bool = False
    over: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _told: float = 0.0

    def progress(self, fraction: float | None, state: str) -> None:
        last = self.states[-1] if self.states else None
        now = time.monotonic()
        if last is not None and last.state == state:
            step = abs((fraction or 0.0) - (last.fraction or 0.0))
            if step < _STEP_MIN or (now - self._told < _STEP_SECONDS_MIN and fraction != 1.0):
                return
        self._told = now
        number = last.number + 1 if last is not None else 1
        self.states.append(State(number, state, fraction, datetime.now(UTC)))
        del self.states[:-STATES_KEPT_MAX]
        self._wake()

    def end(self) -> None:
        """Its outcome, if it is kept, can be had now."""
        self.over = True
        self.begun.set()
        self._wake()

    async def after(self, number: int, heartbeat_seconds: float) -> AsyncIterator[State | None]:
        """The states after this one as they come, until the operation is over; None where none came for a while."""
        while True:
            changed = self._changed
            for state in self.states:
                if state.number > number:
                    number = state.number
                    yield state
            if self.over:
                return
            if changed is not self._changed:
                continue
            try:
                await asyncio.wait_for(changed.wait(), heartbeat_seconds)
            except TimeoutError:
                yield None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Watches:
    """All that run here, by operation id."""

    def __init__(self) -> None:
        self._running: dict[UUID, Watch] = {}
        self._over: OrderedDict[UUID, Watch] = OrderedDict()

    def open(self, operation_id: UUID, account_id: str, operation: str) -> Watch:
        watch = self._running.get(operation_id)
        if watch is None:
            watch = self._running[operation_id] = Watch(operation_id, account_id, operation)
        return watch

    def find(self, operation_id: UUID) -> Watch | None:
        return self._running.get(operation_id)

    def rename(self, watch: Watch, operation_id: UUID) -> Watch:
        """It turned out to be an operation that was begun before, under this id."""
        self._running.pop(watch.operation_id, None)
        watch.operation_id = operation_id
        self._running[operation_id] = watch
        return watch

    def close(self, watch: Watch) -> None:
        was_admitted = watch.begun.is_set()
        watch.end()
        self._running.pop(watch.operation_id, None)
        if was_admitted:
            self._over[watch.operation_id] = watch
            if len(self._over) > REMEMBERED_MAX:
                self._over.popitem(last=False)

    def recall(self, operation_id: UUID) -> Watch | None:
        """One that runs, or one of the last that did."""
        return self._running.get(operation_id) or self._over.get(operation_id)

    def latest(self, account_id: str, most: int) -> list[Watch]:
        """An account's operations that run here, or were among the last that did; newest first."""
        known = [*self._over.values(), *(one for one in self._running.values() if one.begun.is_set())]
        own = [one for one in known if one.account_id == account_id]
        return sorted(own, key=lambda one: one.began_at, reverse=True)[:most]
