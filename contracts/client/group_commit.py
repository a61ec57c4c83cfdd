"""Writes to one SQLite database from one event loop: what waits goes into one transaction, and so into one fsync."""

import asyncio
import os
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Bounds for how long the statements of one transaction keep the event loop, and how many writes share the fate of one
#: that cannot commit.
BATCH_WRITES_MAX: Final = 64
#: For another process to unlock the file.
LOCKED_SECONDS_MAX: Final = 10.0


class JournalUnavailableError(Exception):
    """The journal could not take the write: disk full, I/O error, or closed. Nothing of it is in."""


@dataclass
class _Write:
    """One caller's statements, and where the caller hears that they are on disk or are certainly not."""

    run: Callable[[sqlite3.Connection], object]
    answer: asyncio.Future[Any]  # of whatever type ``run`` returns
    result: object = None
    error: Exception | None = None

    def settle(self, failure: Exception | None) -> None:
        error = failure or self.error
        if self.answer.done():  # its caller is gone
            return
        if error is None:
            self.answer.set_result(self.result)
        else:
            self.answer.set_exception(error)


class GroupCommit:
    """Takes writes from one event loop and answers each when its transaction is committed.

    No timer: while one transaction is being committed, the next writes gather, and go together when it is done.
    A write that raises is undone alone; a transaction that cannot commit fails all of its writes.

    The statements run on the event loop, in memory and for some ten microseconds each; the commit, which writes and
    waits for the disk, runs on a thread. On the thread, each statement would give up the interpreter's lock and then
    wait for it behind a busy loop: for milliseconds, where the commit itself takes a fifth of one. It waits for
    another process that has the file locked, too, and then does all of it.
    """

    def __init__(self, connection: sqlite3.Connection, batch_writes_max: int = BATCH_WRITES_MAX) -> None:
        self._connection = connection
        self._batch_writes_max = batch_writes_max
        self._waiting: deque[_Write] = deque()
        #: A transaction is open, or the loop is about to begin one.
        self._busy = False
        self._closed = False
        #: Held by whoever looks whether it is closed, and begins something if it is not.
        self._closing = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process_id = os.getpid()
        #: For the thread: a batch, and whether its statements have run.
        self._handed: queue.SimpleQueue[tuple[list[_Write], bool] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._commit_until_closed, name="journal-writer", daemon=True)
        connection.execute("pragma busy_timeout = 0")
        self._thread.start()

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work``, which must be short, in the next transaction; returns its result once that is on disk.

        Raises what ``work`` raised, or JournalUnavailableError. Cancelling the caller does not undo the write.
        """
        with self._closing:
            if self._closed:
                raise JournalUnavailableError("the journal is closed")
            self._refuse_strangers()
            self._loop = asyncio.get_running_loop()
            answer: asyncio.Future[T] = self._loop.create_future()
            self._waiting.append(_Write(work, answer))
            if not self._busy:
                self._busy = True
                self._loop.call_soon(self._begin)
        return await answer

    def _refuse_strangers(self) -> None:
        # They would wait for ever: of the one the thread is missing, of the other nobody wakes the loop.
        if os.getpid() != self._process_id:
            raise JournalUnavailableError("the journal was opened before this process was forked: open it afterwards")
        if self._busy and self._loop is not asyncio.get_running_loop():
            raise JournalUnavailableError("the journal is in use on another event loop")

    def close(self) -> None:
        """Writes what waits, then ends the thread. Blocks until that is done. Idempotent."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._handed.put(None)
        self._thread.join()
        # From here on nobody else uses the connection.
        while batch := self._take():
            self._commit(batch, executed=False)

    def _take(self) -> list[_Write]:
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._batch_writes_max))]

    def _begin(self) -> None:
        """On the loop: the statements of what waits."""
        with self._closing:
            if self._closed:
                return  # close() does it
            batch = self._take()
            try:
                self._connection.execute("begin immediate")
            except sqlite3.Error:
                # Locked, or in trouble: the thread sees to it.
                self._handed.put((batch, False))
                return
            try:
                self._execute(batch)
            except sqlite3.Error as error:
                failure = self._undone(error)
            else:
                self._handed.put((batch, True))
                return
        self._settled(batch, failure)

    def _commit_until_closed(self) -> None:
        while (handed := self._handed.get()) is not None:
            self._commit(*handed)

    def _commit(self, batch: list[_Write], executed: bool) -> None:
        """On the thread: what the loop has begun, or could not begin."""
        failure = None
        try:
            if not executed:
                self._begin_patiently()
                self._execute(batch)
            self._connection.execute("commit")
        except sqlite3.Error as error:
            failure = self._undone(error)
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more, and what is committed is committed
            self._loop.call_soon_threadsafe(self._settled, batch, failure)

    def _settled(self, batch: list[_Write], failure: Exception | None) -> None:
        """On the loop again."""
        _settle(batch, failure)
        self._busy = bool(self._waiting)
        if self._busy:
            self._begin()

    def _begin_patiently(self) -> None:
        self._connection.execute(f"pragma busy_timeout = {LOCKED_SECONDS_MAX * 1000:.0f}")
        try:
            self._connection.execute("begin immediate")
        finally:
            self._connection.execute("pragma busy_timeout = 0")

    def _execute(self, batch: list[_Write]) -> None:
        for write in batch:
            self._run(write)

    def _run(self, write: _Write) -> None:
        """One write in a savepoint of its own. An error of the database itself ends the whole transaction."""
        self._connection.execute("savepoint one")
        try:
            write.result = write.run(self._connection)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                raise
            write.error = error
            self._connection.execute("rollback to one")
        self._connection.execute("release one")

    def _undone(self, error: sqlite3.Error) -> JournalUnavailableError:
        # SQLite undoes the transaction by itself after some errors (disk full for one), and then has none to undo.
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # the next begin will say what is wrong
                self._connection.execute("rollback")
        return JournalUnavailableError(str(error))


def _settle(batch: list[_Write], failure: Exception | None) -> None:
    for write in batch:
        write.settle(failure)
