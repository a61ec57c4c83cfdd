"""One thread that writes to one SQLite database: whatever waits goes into one transaction, and so into one fsync."""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")

#: Bounds how long a transaction takes, and how many writes share the fate of one that cannot commit.
BATCH_WRITES_MAX: Final = 256


class JournalUnavailableError(Exception):
    """The journal could not take the write: disk full, I/O error, or closed. Nothing of it is in."""


@dataclass
class _Write:
    """One caller's statements, and what to tell the caller once they are on disk or are certainly not."""

    run: Callable[[sqlite3.Connection], None]
    resolve: Callable[[], None]
    fail: Callable[[Exception], None]
    error: Exception | None = None

    def settle(self, failure: Exception | None) -> None:
        error = failure or self.error
        if error is None:
            self.resolve()
        else:
            self.fail(error)


class GroupCommit:
    """Takes writes from one event loop and answers each when its transaction is committed.

    No timer: while one transaction is being written, the next writes gather, and go together when it is done.
    A write that raises is undone alone; a transaction that cannot commit fails all of its writes.
    """

    def __init__(self, connection: sqlite3.Connection, batch_writes_max: int = BATCH_WRITES_MAX) -> None:
        self._connection = connection
        self._batch_writes_max = batch_writes_max
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._write_until_closed, name="journal-writer", daemon=True)
        self._closed = False
        self._thread.start()

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in the next transaction; returns its result once that is on disk.

        Raises what ``work`` raised, or JournalUnavailableError. Cancelling the caller does not undo the write.
        """
        if self._closed:
            raise JournalUnavailableError("the journal is closed")
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = self._loop.create_future()
        results: list[T] = []

        def resolve() -> None:
            if not future.done():
                future.set_result(results[0])

        def fail(error: Exception) -> None:
            if not future.done():
                future.set_exception(error)

        self._queue.put(_Write(lambda connection: results.append(work(connection)), resolve, fail))
        return await future

    def close(self) -> None:
        """Writes what waits, then ends the thread. Blocks until that is done."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()

    def _write_until_closed(self) -> None:
        open_ = True
        while open_:
            batch: list[_Write] = []
            first = self._queue.get()
            open_ = first is not None
            if first is not None:
                batch.append(first)
            while open_ and len(batch) < self._batch_writes_max:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    open_ = False
                else:
                    batch.append(following)
            if batch:
                self._commit(batch)

    def _commit(self, batch: list[_Write]) -> None:
        failure: Exception | None = None
        try:
            self._connection.execute("begin immediate")
            for write in batch:
                self._run(write)
            self._connection.execute("commit")
        except sqlite3.Error as error:
            failure = JournalUnavailableError(str(error))
            self._roll_back()
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_settle, batch, failure)
        except RuntimeError:  # the loop is closed: nobody waits any more, and what is committed is committed
            return

    def _run(self, write: _Write) -> None:
        """One write in a savepoint of its own. An error of the database itself ends the whole transaction."""
        self._connection.execute("savepoint one")
        try:
            write.run(self._connection)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                raise
            write.error = error
            self._connection.execute("rollback to one")
        self._connection.execute("release one")

    def _roll_back(self) -> None:
        # SQLite undoes the transaction by itself after some errors (disk full for one), and then has none to undo.
        if self._connection.in_transaction:
            try:
                self._connection.execute("rollback")
            except sqlite3.Error:  # the next begin will say what is wrong
                return


def _settle(batch: list[_Write], failure: Exception | None) -> None:
    for write in batch:
        write.settle(failure)
