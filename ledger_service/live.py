"""Operations as they happen: one tail of the log for all who watch at this process.

It reads the log by position, below the oldest transaction that still runs, so nothing is passed over and nothing comes
twice; and only while somebody watches. Who does not keep up is let go: with the last id it saw, it comes back and goes
on. Nobody can make it wait, or make it remember more than a bounded number of parts.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson
import structlog

from contracts.live import Happening, LiveOperation
from contracts.money import format_nanos, parse_nanos
from contracts.problems import OVERLOADED, RATE_LIMITED, ProblemError
from ledger_service.domain.ledger_events import CHECK_DENIED
from ledger_service.store.live import Place, newest_place, place_of, read_after
from ledger_service.store.pool import TRANSIENT, Pool

if TYPE_CHECKING:
    import asyncpg

log = structlog.get_logger()

POLL_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 2.0
#: Of one read; and so many at once before the tail leaves rows out: nobody reads more than that.
ROWS_MAX: Final = 500
READS_MAX: Final = 4
#: Somebody who comes back gets up to so many rows that they missed.
MISSED_ROWS_MAX: Final = 2_000
LISTENERS_MAX: Final = 500
#: Of one account that tokens are bound to, or of one caller who is bound to none.
OF_HOLDER_MAX: Final = 50
#: Parts, of one poll each, that a listener may have waiting.
PARTS_MAX: Final = 32
#: Clients and proxies give up connections on which nothing comes.
HEARTBEAT_SECONDS: Final = 15.0
#: Then the stream ends and the browser comes again by itself: with a token that is looked at anew.
STREAM_SECONDS_MAX: Final = 300.0
CLIENT_RETRY_MS: Final = 2_000
#: After which who has too many streams may look again.
AGAIN_SECONDS: Final = 5

HAPPENINGS: Final[dict[str, Happening]] = {
    "usage.operation.requested.v1": "requested",
    "usage.operation.completed.v1": "completed",
    "usage.operation.failed.v1": "failed",
    CHECK_DENIED: "denied",
}
TYPES: Final = tuple(HAPPENINGS)


@dataclass(frozen=True)
class Watched:
    """What a listener wants to see: empty is all."""

    account_id: str | None = None
    operations: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    what: frozenset[str] = frozenset()

    @property
    def narrows(self) -> bool:
        """Whether it leaves out anything of what an account does."""
        return bool(self.operations or self.providers or self.what)

    def takes(self, account_id: str, operation: str, provider: str, what: str) -> bool:
        return (
            self.account_id in (None, account_id)
            and (not self.operations or operation in self.operations)
            and (not self.providers or provider in self.providers)
            and (not self.what or what in self.what)
        )


EVERYTHING: Final = Watched()


@dataclass(eq=False)
class Listener:
    """Somebody who watches. ``parts``: bytes for their connection, None at the end."""

    watched: Watched
    #: Whose stream it is; None: nobody's in particular, of which there may be any number.
    holder: str | None = None
    #: What they missed, before what comes now.
    first: bytes = b""
    parts: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(PARTS_MAX))

    def take(self, part: bytes) -> bool:
        """False: they did not keep up, and their stream ends."""
        try:
            self.parts.put_nowait(part)
        except asyncio.QueueFull:
            self.end()
            return False
        return True

    def end(self) -> None:
        """The stream ends at once, without what waits: the next one begins there."""
        while not self.parts.empty():
            self.parts.get_nowait()
        self.parts.put_nowait(None)


class Live:
    """The tail, and who listens to it. Belongs to the event loop."""

    def __init__(self, reads: Pool) -> None:
        self._reads = reads
        self._listeners: set[Listener] = set()
        #: They, those who are about to, and those who did not keep up and whose connections are still there.
        self._places: set[Listener] = set()
        self._wanted = asyncio.Event()
        #: Everything up to here was told; None: nobody listens.
        self._place: Place | None = None
        self._turn = asyncio.Lock()
        self._stopped = False
        #: Reads of the tail, for tests: however many listen, it is one read a poll.
        self.polls = 0

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    async def join(self, watched: Watched, after: Place | None, holder: str | None = None) -> Listener:
        """From now on, or after a place in the log, as long as not too much came since. `leave` must follow.

        Raises ProblemError: rate_limited where the holder has too many streams, overloaded where too many listen, or
        the process stops; and errors of the store.
        """
        listener = Listener(watched, holder)
        # Before anything is awaited: of those that come at once each is to see the others.
        self._take_place(listener)
        try:
            async with self._turn:
                if self._place is None:
                    async with self._reads.acquire() as connection:
                        self._place = await newest_place(connection)
            # From here on nothing is awaited before it listens: what comes after this place, it is told.
            place = self._place
            self._listeners.add(listener)
            self._wanted.set()
            if after is not None and after < place:
                listener.first = await self._missed(watched, after, place)
        except BaseException:
            self.leave(listener)
            raise
        return listener

    def _take_place(self, listener: Listener) -> None:
        if self._stopped or len(self._places) >= LISTENERS_MAX:
            raise ProblemError(OVERLOADED, f"{len(self._places)} streams are open here; the recent ones can be read")
        holder = listener.holder
        if holder is not None and sum(one.holder == holder for one in self._places) >= OF_HOLDER_MAX:
            error = ProblemError(
                RATE_LIMITED, f"{OF_HOLDER_MAX} streams of this account or token are open here already"
            )
            error.headers = {"Retry-After": str(AGAIN_SECONDS)}
            raise error
        self._places.add(listener)

    def leave(self, listener: Listener) -> None:
        self._places.discard(listener)
        self._tell_no_more(listener)

    def _tell_no_more(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        if not self._listeners:
            self._wanted.clear()
            self._place = None

    def stop(self) -> None:
        """Ends all streams at once, for a process that stops; browsers come again, to another one or later."""
        self._stopped = True
        for listener in self._listeners:
            listener.end()

    async def stream(self, listener: Listener, seconds: float = STREAM_SECONDS_MAX) -> AsyncIterator[bytes]:
        """What goes over the connection, as
        https://html.spec.whatwg.org/multipage/server-sent-events.html has it."""
        ends_at = time.monotonic() + seconds
        yield f"retry: {CLIENT_RETRY_MS}\n\n".encode() + listener.first
        while (left := ends_at - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, HEARTBEAT_SECONDS)):
                    part = await listener.parts.get()
            except TimeoutError:
                part = b": still here\n\n"
            if part is None:
                return
            yield part

    async def run(self) -> None:
        """The tail; until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                await self._poll()
            except TRANSIENT as error:
                log.warning("live_waits", error=str(error) or type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(POLL_SECONDS)

    async def _poll(self) -> None:
        for _ in range(READS_MAX):
            place = self._place
            if place is None:
                return
            self.polls += 1
            async with self._reads.acquire() as connection:
                rows = await read_after(connection, place, TYPES, ROWS_MAX)
            if place is not self._place or not rows:
                return  # meanwhile all went, and others came
            self._place = place_of(rows[-1])
            self._tell([*live_operations(rows)])
            if len(rows) < ROWS_MAX:
                return
        place = self._place
        async with self._reads.acquire() as connection:
            newest = await newest_place(connection)
        if place is not None and place is self._place:  # else all went, and who came since begins further on
            self._place = newest
            self._tell_all(_event("skipped", newest, b'{"reason":"too much at once"}'))

    def _tell(self, happened: Sequence[LiveOperation]) -> None:
        written = [(one, _event("operation", one.id, one.model_dump_json().encode())) for one in happened]
        # Most watch the same: each part is made once.
        parts: dict[Watched, bytes] = {}
        for listener in [*self._listeners]:
            watched = listener.watched
            if watched not in parts:
                parts[watched] = b"".join(text for one, text in written if _takes(watched, one))
            if parts[watched] and not listener.take(parts[watched]):
                self._tell_no_more(listener)

    def _tell_all(self, part: bytes) -> None:
        for listener in [*self._listeners]:
            if not listener.take(part):
                self._tell_no_more(listener)

    async def _missed(self, watched: Watched, after: Place, until: Place) -> bytes:
        async with self._reads.acquire() as connection:
            rows = await read_after(connection, after, TYPES, MISSED_ROWS_MAX + 1, until)
        if len(rows) > MISSED_ROWS_MAX:
            return _event("skipped", until, b'{"reason":"away too long"}')
        operations = live_operations(rows, watched)
        return b"".join(_event("operation", one.id, one.model_dump_json().encode()) for one in operations)


def _takes(watched: Watched, one: LiveOperation) -> bool:
    return watched.takes(one.account_id, one.operation, one.provider, one.what)


def _event(name: str, place: Place | str, data: bytes) -> bytes:
    return f"event: {name}\nid: {place}\ndata: ".encode() + data + b"\n\n"


def live_operations(rows: "Iterable[asyncpg.Record]", chosen: Watched = EVERYTHING) -> Iterator[LiveOperation]:
    """What rows of the log say, one by one, as far as it is chosen; rows of other types are left out."""
    for row in rows:
        what = HAPPENINGS.get(row["type"])
        if what is None:
            continue
        data = orjson.loads(row["body"])["data"]
        asked, why = data, data.get("error")
        if what == "denied":
            asked, why = data["check"], data["decision"].get("denial")
        provider = asked.get("actual_provider") or asked["provider"]
        # Before anything is made of it: most of what is looked through is not chosen.
        if chosen.takes(row["account_id"], asked["operation"], provider, what):
            yield _operation(row, what, asked, why, provider)


def _operation(
    row: "asyncpg.Record",
    what: Happening,
    asked: dict[str, Any],  # Any: a JSON object of the log, which was checked when it came
    why: dict[str, str] | None,
    provider: str,
) -> LiveOperation:
    cost = asked.get("cost", asked.get("estimated_cost"))
    return LiveOperation(
        id=str(place_of(row)),
        what=what,
        account_id=row["account_id"],
        operation_id=UUID(bytes=row["operation_id"].bytes),
        user_id=asked["user_id"],
        operation=asked["operation"],
        provider=provider,
        model=asked["model"],
        quantity=asked.get("quantity", 1),
        cost=None if cost is None else format_nanos(parse_nanos(cost)),
        code=why["code"] if why else None,
        message=why["message"] if why else None,
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
    )
