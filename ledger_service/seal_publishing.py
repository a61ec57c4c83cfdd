"""Where checkpoints go so that the database's operator alone cannot take them back: a stream, and a file."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import structlog
from nats.aio.client import Client
from nats.js.errors import APIError, NotFoundError

from contracts.subjects import MSG_ID_HEADER, SEALS, SEALS_STREAM
from ledger_service.domain.checkpoints import CheckpointError, SignedCheckpoint, notes_in, open_note
from ledger_service.seal_keys import sync_folder
from ledger_service.sealing import SealChain, SealsDivergedError
from ledger_service.store import seals as store
from ledger_service.store.pool import Connection

log = structlog.get_logger()

NOTES_READ_MAX: Final = 500
#: From a file's end; many times as much as a checkpoint has.
_TAIL_BYTES: Final = 65_536
#: The last messages of the stream, among which the longest checkpoint is looked for; `ledger seals verify` reads all.
LOOKED_BACK_MAX: Final = 100
_EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
_WRONG_LAST_SEQUENCE: Final = 10071


class CheckpointFile:
    """Checkpoints one after the other, as text. Several processes of one machine may append to the same one."""

    def __init__(self, path: Path, chain: SealChain) -> None:
        self._path = path
        self._chain = chain

    async def head(self) -> SignedCheckpoint | None:
        """The last checkpoint in it; None of an empty file. Raises SealsDivergedError where it holds foreign ones."""
        return await asyncio.to_thread(self._head)

    async def follow(self, connection: Connection, head: SignedCheckpoint | None) -> None:
        """Appends what the database has after it, and returns once that is on the disk."""
        async for notes in _unpublished(connection, self._chain, head):
            await asyncio.to_thread(self._append, notes)

    def _head(self) -> SignedCheckpoint | None:
        try:
            with self._path.open("rb") as file:
                return self._last_of(file)
        except FileNotFoundError:
            return None

    def _last_of(self, file: IO[bytes]) -> SignedCheckpoint | None:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _TAIL_BYTES))
        tail = file.read().decode(errors="replace")
        notes = list(notes_in(tail))
        ours_begins_here = not notes and end <= _TAIL_BYTES and self._is_our_beginning(tail)
        for note in reversed(notes):
            try:
                found = open_note(note, self._chain.believed)
            except CheckpointError:
                continue
            if found.checkpoint.origin == self._chain.origin:
                return found
            ours_begins_here = True  # after a chain whose key is trusted, and that was given up
        if ours_begins_here:
            return None
        if notes_in_it := tail.strip():
            raise SealsDivergedError(
                f"{self._path} ends without a checkpoint of this ledger's keys ({notes_in_it[-40:]!r}): name another "
                "file, or the old public key in LEDGER_SEALS_TRUSTED_KEYS"
            )
        return None

    def _append(self, notes: Sequence[SignedCheckpoint]) -> None:
        is_new = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            last = self._last_of(file)
            size = last.checkpoint.size if last else 0
            new = "".join(f"{one.note}\n" for one in notes if one.checkpoint.size > size)
            if new:
                # After what a crash cut off, a blank line lets readers find the next one's beginning.
                file.write((b"\n\n" if self._is_cut_off(file) else b"") + new.encode())
                file.flush()
                os.fsync(file.fileno())
        if is_new:
            sync_folder(self._path.parent)

    def _is_our_beginning(self, text: str) -> bool:
        """Whether it is what a crash may have left of the first checkpoint."""
        first_line = f"{self._chain.origin}\n"
        return first_line.startswith(text) or text.startswith(first_line)

    @staticmethod
    def _is_cut_off(file: IO[bytes]) -> bool:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 2))
        return end > 0 and file.read() != b"\n\n"


class CheckpointStream:
    """Checkpoints as messages of a JetStream stream, each once, in order, whoever of several processes sends them."""

    def __init__(self, connection: Client, chain: SealChain) -> None:
        self._jetstream = connection.jetstream()
        self._chain = chain
        self._sequence = 0
        #: Of its messages up to this one: the longest checkpoint, and whether there are such of a chain before.
        self._looked_until = 0
        self._longest: SignedCheckpoint | None = None
        self._begins_here = False

    async def head(self) -> SignedCheckpoint | None:
        """The longest checkpoint among its last ones, and those that were when it was asked before; None of an empty
        stream. The last may be one that was sent once more. Raises SealsDivergedError where all are foreign ones."""
        self._sequence = 0
        try:
            last = await self._jetstream.get_last_msg(SEALS_STREAM, SEALS)
        except NotFoundError:
            self._forget()
            return None
        self._sequence = end = last.seq or 0
        if end < self._looked_until:  # it was put back to an older state
            self._forget()
        first = max(self._looked_until + 1, end - LOOKED_BACK_MAX + 1)
        for sequence in range(end, first - 1, -1):
            with suppress(NotFoundError):  # some may be deleted
                message = last if sequence == end else await self._jetstream.get_msg(SEALS_STREAM, sequence)
                self._look(message.data or b"", sequence)
        self._looked_until = end
        if self._longest is None and not self._begins_here:
            raise SealsDivergedError(f"the stream {SEALS_STREAM} ends without a checkpoint of this ledger's keys")
        return self._longest

    def _forget(self) -> None:
        self._looked_until, self._longest, self._begins_here = 0, None, False

    def _look(self, data: bytes, sequence: int) -> None:
        try:
            found = open_note(data.decode(errors="replace"), self._chain.believed)
        except CheckpointError as error:
            log.warning("foreign_checkpoint", stream=SEALS_STREAM, sequence=sequence, error=str(error))
            return
        if found.checkpoint.origin != self._chain.origin:
            self._begins_here = True  # after a chain whose key is trusted, and that was given up
        elif self._longest is None or found.checkpoint.size > self._longest.checkpoint.size:
            self._longest = found

    async def follow(self, connection: Connection, head: SignedCheckpoint | None) -> None:
        """Publishes what the database has after it. Where another process is at it, that one goes on."""
        async for notes in _unpublished(connection, self._chain, head):
            for one in notes:
                if not await self._publish(one):
                    return

    async def _publish(self, one: SignedCheckpoint) -> bool:
        headers = {MSG_ID_HEADER: one.checkpoint.digest.hex(), _EXPECTED_SEQUENCE: str(self._sequence)}
        try:
            answer = await self._jetstream.publish(SEALS, one.note.encode(), stream=SEALS_STREAM, headers=headers)
        except APIError as error:
            if error.err_code == _WRONG_LAST_SEQUENCE:
                return False
            raise
        self._sequence = answer.seq
        return not answer.duplicate


async def _unpublished(
    connection: Connection, chain: SealChain, head: SignedCheckpoint | None
) -> AsyncIterator[list[SignedCheckpoint]]:
    """What the database has after a published checkpoint, a few at a time; each of them goes on from the one before."""
    last = head
    while notes := await store.notes_after(
        connection, chain.origin, last.checkpoint.size if last else 0, NOTES_READ_MAX
    ):
        page = []
        for size, note in notes:
            try:
                one = open_note(note, chain.believed)
            except CheckpointError as error:
                raise SealsDivergedError(f"the seal of {size} rows is not one of this ledger: {error}") from None
            if one.checkpoint.previous != (last.checkpoint.digest if last else None):
                raise SealsDivergedError(f"the seal of {size} rows does not follow the one before it")
            page.append(one)
            last = one
        yield page


async def read_stream(connection: Client) -> AsyncIterator[str]:
    """Every message of the stream, oldest first, as far as it goes now. Raises what nats-py raises, TimeoutError also
    where the stream stops in the middle: half of what was published is not what was published."""
    jetstream = connection.jetstream()
    state = (await jetstream.stream_info(SEALS_STREAM)).state
    if not state.messages:
        return
    subscription = await jetstream.subscribe(SEALS, stream=SEALS_STREAM, ordered_consumer=True)
    try:
        while True:
            message = await subscription.next_msg(timeout=5)
            yield message.data.decode(errors="replace")
            if message.metadata.sequence.stream >= state.last_seq:
                return
    finally:
        await subscription.unsubscribe()
