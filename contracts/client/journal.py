"""The journal: intent before a provider call, outcome before the reply, events until the ledger confirms them.

SQLite in WAL mode, synchronous=FULL: what a call here returned from survives kill -9 and power failure.
"""

import asyncio
import functools
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import structlog

from contracts.client.disk_reserve import DiskReserve
from contracts.client.group_commit import GroupCommit, JournalUnavailableError
from contracts.client.journal_contents import read_intent, read_lease
from contracts.client.journal_depth import Depth, read_depth
from contracts.client.journal_file import SQL, connect, lock, prepare
from contracts.events import OperationCompleted, OperationFailed, OperationRequested, event_to_json
from contracts.leases import LeaseRequest
from contracts.subjects import subject_of

_log = structlog.stdlib.get_logger(__name__)

__all__ = [
    "AlreadyBegunError",
    "BegunOperation",
    "Claim",
    "Journal",
    "JournalUnavailableError",
    "KeptOperation",
    "OutboxRow",
    "Unfinished",
]

T = TypeVar("T")
ProducedEvent = OperationRequested | OperationCompleted | OperationFailed

#: Of one write: it keeps the event loop for a millisecond or two.
CONFIRM_ROWS_MAX: Final = 500
SWEEP_ROWS_MAX: Final = 200


class AlreadyBegunError(RuntimeError):
    """The operation has an intent, and no outcome yet."""


@dataclass(frozen=True)
class Claim:
    """An account's idempotency key, the request that it stands for, and the operation id that this request gets."""

    account_id: str
    key: str
    request_hash: str
    operation_id: UUID


@dataclass(frozen=True)
class KeptOperation:
    """What the journal knows under an idempotency key. ``problem`` is the JSON of a finished failure."""

    operation_id: UUID
    state: str
    request_hash: str
    problem: str | None
    age_seconds: float


@dataclass(frozen=True)
class Unfinished:
    """An operation that has an intent and no outcome. ``note``: what finds its call again, the provider's job id."""

    requested: OperationRequested
    note: str | None


@dataclass(frozen=True)
class BegunOperation:
    """The same for people, also where its intent cannot be read. ``is_left_over``: an earlier process began it."""

    operation_id: UUID
    account_id: str
    provider: str | None
    model: str | None
    provider_job_id: str | None
    begun_at: datetime
    is_left_over: bool


@dataclass(frozen=True)
class OutboxRow:
    sequence: int
    event_id: str
    subject: str
    body: bytes


class Journal:
    """All methods are safe to call at any time from the event loop; writes are grouped into common commits."""

    def __init__(self, path: Path, bytes_max: int, service: str = "ledger-client", reserve_bytes: int = 0) -> None:
        """Open, or make, the journal of ``service`` at ``path``. Raises JournalUnavailableError.

        ``reserve_bytes`` of the disk are kept for outcomes: where they are gone, no operation begins.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock(path.with_suffix(".lock"))
        except OSError as error:  # no such disk, none of ours, full
            raise JournalUnavailableError(f"{path}: {error}") from error
        try:
            writing = connect(path)
            self.source = prepare(writing, service)
            self._bytes_max = bytes_max
            self._pages_max = bytes_max // int(writing.execute("pragma page_size").fetchone()[0])
            self._reading = connect(path)
            self._looking = connect(path)
        except sqlite3.Error as error:
            self._lock.close()
            raise JournalUnavailableError(f"{path}: {error}") from error
        self._opened_at = time.time()
        self._reserve = DiskReserve(path.with_suffix(".reserve"), reserve_bytes)
        self._writing = writing
        self._writer = GroupCommit(writing)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")
        #: Set whenever the outbox got a row; the relay clears it.
        self.outbox_grew = asyncio.Event()
        #: Set whenever rows were confirmed; whoever waits for that clears it.
        self.outbox_shrank = asyncio.Event()

    async def claim(self, claim: Claim) -> KeptOperation | None:
        """Take a key. None: it is now this request's. Otherwise what was there before, unchanged."""

        def work(connection: sqlite3.Connection) -> KeptOperation | None:
            values = {
                "operation_id": str(claim.operation_id),
                "account_id": claim.account_id,
                "idempotency_key": claim.key,
                "request_hash": claim.request_hash,
                "now": time.time(),
            }
            if connection.execute(SQL["claim"], values).fetchone():
                return None
            row = connection.execute(SQL["by_key"], (claim.account_id, claim.key)).fetchone()
            return KeptOperation(UUID(row[0]), row[1], row[2], row[3], time.time() - row[4])

        return await self._writer.write(work)

    async def forget(self, operation_id: UUID) -> None:
        """Give a claimed key back; does nothing once the operation has begun. Idempotent."""
        await self._writer.write(lambda connection: connection.execute(SQL["forget"], (str(operation_id),)))

    async def begin(self, requested: OperationRequested) -> None:
        """Record the intent and its event, together.

        Raises JournalUnavailableError and AlreadyBegunError: then nothing may be started.
        """

        def work(connection: sqlite3.Connection) -> None:
            self._refuse_when_full(connection)
            body = _add_to_outbox(connection, requested)
            values = {
                "operation_id": str(requested.data.operation_id),
                "account_id": requested.data.account_id,
                "provider": requested.data.provider,
                "model": requested.data.model,
                "requested_event": body,
                "now": time.time(),
            }
            if not connection.execute(SQL["begin"], values).fetchone():
                raise AlreadyBegunError(f"operation {requested.data.operation_id} has begun before")

        await self._see_to_reserve()
        await self._writer.write(work)
        self.outbox_grew.set()

    async def note(self, operation_id: UUID, note: str) -> None:
        """Keep with the intent what finds the provider's call again, in place of any earlier note. Idempotent."""
        values = (note, str(operation_id))
        await self._writer.write(lambda connection: connection.execute(SQL["note"], values))

    async def finish(self, outcome: OperationCompleted | OperationFailed, *, problem: str | None = None) -> bool:
        """Record the outcome and its event, together. False: there was an outcome already, nothing was changed.

        An operation with an idempotency key is kept for its repeats, with the ``problem`` that they are told. On a full
        disk it takes the room that is kept for it. Raises JournalUnavailableError; safe to repeat.
        """

        def work(connection: sqlite3.Connection) -> bool:
            operation_id = str(outcome.data.operation_id)
            done = connection.execute(SQL["finish_kept"], (problem, time.time(), operation_id))
            if not done.rowcount:
                done = connection.execute(SQL["finish_unkept"], (operation_id,))
            if not done.rowcount:
                return False
            _add_to_outbox(connection, outcome)
            return True

        try:
            finished = await self._writer.write(work)
        except JournalUnavailableError as error:
            if not await asyncio.to_thread(self._reserve.give_up):
                raise
            _log.error("disk_reserve_given_up", reason=str(error))
            finished = await self._writer.write(work)
        self.outbox_grew.set()
        return finished

    async def unfinished(self) -> list[Unfinished]:
        """Operations with an intent and no outcome. Right after the start these are what a crash left behind."""

        def work() -> list[Unfinished]:
            found = []
            for note, body in self._reading.execute(SQL["unfinished"]).fetchall():
                requested = read_intent(body)
                if requested is not None:
                    found.append(Unfinished(requested, note))
            return found

        return await self._read(work)

    async def begun(self, at_most: int) -> tuple[list[BegunOperation], int]:
        """Operations with an intent and no outcome, oldest first, whoever began them; and how many there are."""

        def work() -> tuple[list[BegunOperation], int]:
            rows = self._reading.execute(SQL["begun"], (at_most,)).fetchall()
            total = int(self._reading.execute(SQL["begun_count"]).fetchone()[0])
            return [
                BegunOperation(UUID(name), account, provider, model, job, _moment(changed), changed < self._opened_at)
                for name, account, provider, model, job, changed in rows
            ], total

        return await self._read(work)

    async def outbox_size(self) -> int:
        """How many events the ledger has not confirmed."""
        return await self._read(lambda: int(self._reading.execute(SQL["outbox_size"]).fetchone()[0]))

    async def depth(self) -> Depth:
        """How much is in it; costs the same however much that is."""
        return await self._read(lambda: read_depth(self._reading, self._bytes_max))

    async def intent_of(self, operation_id: UUID) -> OperationRequested | None:
        """What was requested, where the operation runs here, or is being recovered."""
        rows = self._look("intent_of", str(operation_id))
        return read_intent(rows[0][0]) if rows else None

    async def outbox(self, first: int, last: int, rows_max: int) -> list[OutboxRow]:
        """Unconfirmed rows with ``first`` <= sequence <= ``last``, in order, at most ``rows_max``."""
        return [OutboxRow(*row) for row in self._look("outbox_range", first, last, rows_max)]

    async def outbox_ends(self) -> tuple[int, int]:
        """First and last unconfirmed sequence; (0, 0) where there is none."""
        [(first, last)] = self._look("outbox_ends")
        return first, last

    async def last_sequence(self) -> int:
        """The last sequence number that was ever given out; 0 before the first."""
        [(last,)] = self._look("read_meta", "last_sequence")
        return int(last)

    async def confirm(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Drop what the ledger has committed: inclusive ranges. Returns how many rows that were. Idempotent."""
        dropped = 0
        for first, last in ranges:
            while True:
                # In portions, so that no transaction holds up the operations that write meanwhile.
                rows = await self._writer.write(functools.partial(_confirm_some, first=first, last=last))
                dropped += rows
                if rows < CONFIRM_ROWS_MAX:
                    break
        self.outbox_shrank.set()
        return dropped

    async def keep_lease(self, request: LeaseRequest) -> None:
        """It is about to be asked for. Raises JournalUnavailableError: then it must not be."""
        values = (str(request.lease_id), request.model_dump_json(exclude_none=True).encode())
        await self._writer.write(lambda connection: connection.execute(SQL["keep_lease"], values))

    async def lease_placed(self, lease_id: UUID, token: str) -> None:
        await self._writer.write(lambda connection: connection.execute(SQL["lease_placed"], (token, str(lease_id))))

    async def forget_lease(self, lease_id: UUID) -> None:
        """The ledger holds nothing for it any more. Idempotent."""
        await self._writer.write(lambda connection: connection.execute(SQL["forget_lease"], (str(lease_id),)))

    async def kept_leases(self) -> list[tuple[LeaseRequest, str | None]]:
        """Leases that are not returned, with their tokens where those are known."""

        def work() -> list[tuple[LeaseRequest, str | None]]:
            rows = self._reading.execute(SQL["kept_leases"]).fetchall()
            read = [(read_lease(request), token) for request, token in rows]
            return [(request, token) for request, token in read if request is not None]

        return await self._read(work)

    async def mark_without(self, lease_id: UUID) -> int | None:
        """The last sequence, if every operation under the lease that was begun has its outcome here; else None.

        Once all rows up to it are confirmed, the ledger has those outcomes.
        """

        def work() -> int | None:
            row = self._reading.execute(SQL["mark_without"], (f'"leaseid":"{lease_id}"'.encode(),)).fetchone()
            return None if row is None else int(row[0])

        return await self._read(work)

    async def sweep(self, older_than_seconds: float) -> None:
        """Forget keys and outcomes whose retention is over. Operations that still run are never touched."""
        before = time.time() - older_than_seconds
        while (
            await self._writer.write(
                lambda connection: connection.execute(SQL["sweep"], (before, SWEEP_ROWS_MAX)).rowcount
            )
            == SWEEP_ROWS_MAX
        ):
            pass

    async def probe(self) -> None:
        """Write something, durably. Raises JournalUnavailableError where operations could not be recorded either."""

        def work(connection: sqlite3.Connection) -> None:
            self._refuse_when_full(connection)
            connection.execute(SQL["probe"], (time.time(),))

        await self._see_to_reserve()
        await self._writer.write(work)

    def close(self) -> None:
        """Writes what waits and closes. Blocks for as long as that takes."""
        self._writer.close()
        self._reader.shutdown(wait=True)
        self._reading.close()
        self._looking.close()
        self._writing.close()
        self._lock.close()

    def _look(self, query: str, *values: object) -> list[Any]:  # rows, as the query has them
        """For a few rows that an index finds: where they are asked for, at once. A thread would give up the
        interpreter's lock for every row, and wait for it behind a busy loop each time."""
        try:
            return self._looking.execute(SQL[query], values).fetchall()
        except sqlite3.Error as error:
            raise JournalUnavailableError(str(error)) from error

    async def _read(self, work: Callable[[], T]) -> T:
        """For what may take its time."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, work)
        except (sqlite3.Error, RuntimeError) as error:  # RuntimeError: the executor was shut down
            raise JournalUnavailableError(str(error)) from error

    async def _see_to_reserve(self) -> None:
        # Only new operations are refused, so that the outcomes of those that run still have room.
        if not self._reserve.is_kept() and not await asyncio.to_thread(self._reserve.make):
            raise JournalUnavailableError("the disk is full: there is no room for the outcome of another operation")

    def _refuse_when_full(self, connection: sqlite3.Connection) -> None:
        # As with the reserve, outcomes still have room.
        pages = int(connection.execute("pragma page_count").fetchone()[0])
        free = int(connection.execute("pragma freelist_count").fetchone()[0])
        if pages - free > self._pages_max:
            raise JournalUnavailableError("the journal is full of events that the ledger has not confirmed")


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _confirm_some(connection: sqlite3.Connection, first: int, last: int) -> int:
    return connection.execute(SQL["confirm"], (first, last, CONFIRM_ROWS_MAX)).rowcount


def _add_to_outbox(connection: sqlite3.Connection, event: ProducedEvent) -> bytes:
    """The event's JSON, as it is now in the outbox. Its sequence is part of this transaction: undone, it is free."""
    sequence = int(connection.execute(SQL["next_sequence"]).fetchone()[0])
    body = event_to_json(event.model_copy(update={"sourcesequence": sequence}))
    connection.execute(SQL["add_to_outbox"], (sequence, str(event.id), subject_of(event.type), body))
    return body
