"""Exports: pages of the usage log, read ahead a little, encoded beside the event loop.

No statement, transaction or connection outlasts a page, however slowly pages are taken.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

import structlog

from contracts.exports import (
    EXPORT_AS_OF,
    EXPORT_CURSOR,
    NEXT_CURSOR,
    ROWS_ESTIMATE,
    USAGE_LOG_COLUMNS,
    Column,
    ExportFormat,
)
from contracts.focus import FOCUS_COLUMNS, VERSION
from contracts.problems import OVERLOADED, ProblemError
from ledger_service.export_cursors import decode, digest_of, encode
from ledger_service.export_formats import Encoder, make_encoder
from ledger_service.store.archives import refuse_archived
from ledger_service.store.connections import EXPORTS_MAX, PAGES_AHEAD
from ledger_service.store.exports import (
    ALL,
    Key,
    Page,
    Projection,
    Selection,
    Span,
    estimate_rows,
    find_window_end,
    read_page,
    settled_moment,
)
from ledger_service.store.moments import FutureError, UnsettledError, unsettled_problem
from ledger_service.store.pool import TRANSIENT, Connection, Pool
from ledger_service.store.usage import UsageLogFilter

log = structlog.get_logger()

Result = TypeVar("Result")

PAGE_ROWS: Final = 9_000
ATTEMPTS_MAX: Final = 5
RETRY_SECONDS: Final = 0.5
#: Then its reader has to go on by the last row that came.
EXPORT_SECONDS_MAX: Final = 3600
CHUNK_BYTES: Final = 256 * 1024
#: One thread for all exports: they take one core at most from what else the process does, and the memory of one.
_ENCODING: Final = ThreadPoolExecutor(1, "exports")


@dataclass(frozen=True, slots=True)
class DataSet:
    """Something that is exported: its columns, and how rows are written for each format that it comes in."""

    name: str
    columns: tuple[Column, ...]
    projections: Mapping[ExportFormat, Projection]
    #: What its Parquet files say of themselves.
    about: Mapping[str, str] = field(default_factory=dict)
    #: A row takes the memory of so many of the usage log.
    row_width: int = 1

    def page_rows(self, rows: int) -> int:
        """Of this data set, where a page of the usage log has so many."""
        return max(1, rows // self.row_width)


USAGE_LOG: Final = DataSet(
    "usage-log",
    USAGE_LOG_COLUMNS,
    {
        ExportFormat.CSV: Projection("usage_log_csv", "csv"),
        ExportFormat.JSONL: Projection("usage_log_jsonl", "text"),
        ExportFormat.PARQUET: Projection("usage_log_typed", "csv"),
    },
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for an export. ``cursor``: goes on in the snapshot of an earlier one, after the row ``after`` where
    that is given. ``as_of``: the snapshot of a new one, by default now. ``rows_max``: a part, of so many rows at
    most. ``with_estimate``: not for whoever may see one account alone, as it is made of figures over all of them."""

    data_set: DataSet
    format: ExportFormat
    account_id: str | None
    filter: UsageLogFilter
    as_of: datetime | None = None
    cursor: str | None = None
    after: Key | None = None
    rows_max: int | None = None
    with_estimate: bool = True


#: Of formats, those that finance tools read.
FOCUS: Final = DataSet(
    f"focus-{VERSION}",
    FOCUS_COLUMNS,
    dict.fromkeys((ExportFormat.CSV, ExportFormat.PARQUET), Projection("focus", "csv")),
    {"focus_version": VERSION},
    row_width=3,
)


async def read_pages(
    pool: Pool, projection: Projection, selection: Selection, span: Span = ALL, rows: int = PAGE_ROWS
) -> AsyncGenerator[Page, None]:
    """The rows of the span, in their order. A page that the database fails is read again, a few times.

    Raises what asyncpg raises where that does not help, and at the end ProblemError (period_archived) where rows went
    into an archive meanwhile: each page is of its own moment.
    """
    ahead: deque[asyncio.Task[Page]] = deque()
    try:
        after, more = span.after, True
        while more or ahead:
            while more and len(ahead) < PAGES_AHEAD:
                end = await _window_end(pool, selection, Span(after, span.until), rows)
                if end is None:
                    end, more = span.until, False
                ahead.append(asyncio.create_task(_page(pool, projection, selection, Span(after, end))))
                after = end
            yield await ahead.popleft()
        await _retrying(pool, lambda connection: refuse_archived(connection, selection.filter.start, "the export"))
    finally:
        for task in ahead:
            task.cancel()
        await asyncio.gather(*ahead, return_exceptions=True)


async def encoded(pages: AsyncGenerator[Page, None], encoder: Encoder) -> AsyncGenerator[tuple[bytes, int], None]:
    """The file, piece by piece, each with the rows that it holds."""
    loop = asyncio.get_running_loop()
    yield encoder.begin(), 0
    async with aclosing(pages):
        async for page in pages:
            yield await loop.run_in_executor(_ENCODING, encoder.page, page.data), page.rows
    yield await loop.run_in_executor(_ENCODING, encoder.end), 0


class Exports:
    """Those that run in this process, each to its own reader."""

    def __init__(self, pool: Pool, page_rows: int = PAGE_ROWS) -> None:
        self._pool = pool
        self._page_rows = page_rows
        self._running = 0

    async def start(self, wanted: Wanted) -> "Export":
        """An export whose first rows have been read; whoever starts it must close() it.

        Raises ProblemError where it cannot begin (overloaded, a cursor of something else), and what asyncpg raises
        where the database is away.
        """
        if self._running >= EXPORTS_MAX:
            raise ProblemError(OVERLOADED, f"{EXPORTS_MAX} exports are running in this process already")
        self._running += 1
        try:
            export = await self._begin(wanted)
        except BaseException:
            self._running -= 1
            raise
        return export

    async def _begin(self, wanted: Wanted) -> "Export":
        digest = digest_of(wanted.data_set.name, wanted.account_id, wanted.filter)
        cursor = decode(wanted.cursor, digest) if wanted.cursor else None
        async with self._pool.acquire() as connection:
            as_of = cursor.as_of if cursor else await _settled(connection, wanted.as_of)
            await refuse_archived(connection, wanted.filter.start, "the export")
            selection = Selection(as_of, wanted.account_id, wanted.filter)
            span = Span(wanted.after or (cursor.after if cursor else None))
            if wanted.rows_max is not None:
                span = Span(span.after, await find_window_end(connection, selection, span, wanted.rows_max))
            estimate = await estimate_rows(connection, selection, span) if wanted.with_estimate else None
        headers = {
            EXPORT_AS_OF: as_of.isoformat().replace("+00:00", "Z"),
            EXPORT_CURSOR: encode(digest, selection, span.after),
        }
        if estimate is not None:
            headers[ROWS_ESTIMATE] = str(estimate)
        if span.until is not None:
            headers[NEXT_CURSOR] = encode(digest, selection, span.until)
        data_set = wanted.data_set
        rows = data_set.page_rows(self._page_rows)
        pages = read_pages(self._pool, data_set.projections[wanted.format], selection, span, rows)
        first = await anext(pages)
        about = {"export": data_set.name, "as_of": headers[EXPORT_AS_OF], **data_set.about}
        encoder = make_encoder(wanted.format, data_set.columns, about, header=wanted.after is None)
        return Export(headers, encoded(_again(first, pages), encoder), self._ended)

    def _ended(self) -> None:
        self._running -= 1


async def _settled(connection: Connection, as_of: datetime | None) -> datetime:
    try:
        return await settled_moment(connection, as_of)
    except (FutureError, UnsettledError) as error:
        raise unsettled_problem(error) from None


class Export:
    """``headers`` say what it is; ``chunks()`` are its file."""

    def __init__(
        self, headers: dict[str, str], pieces: AsyncGenerator[tuple[bytes, int], None], ended: Callable[[], None]
    ) -> None:
        self.headers = headers
        self._pieces = pieces
        self._ended: Callable[[], None] | None = ended

    async def chunks(self) -> AsyncIterator[bytes]:
        """Small enough that a reader who takes none of one for long is one who stalls."""
        async with asyncio.timeout(EXPORT_SECONDS_MAX):
            async for piece, _ in self._pieces:
                for begin in range(0, len(piece), CHUNK_BYTES):
                    yield piece[begin : begin + CHUNK_BYTES]

    async def close(self) -> None:
        """Ends what is being read for it. Does nothing to one that was closed."""
        if self._ended is not None:
            self._ended()
            self._ended = None
            await self._pieces.aclose()


async def _again(first: Page, others: AsyncGenerator[Page, None]) -> AsyncGenerator[Page, None]:
    async with aclosing(others):
        yield first
        async for page in others:
            yield page


async def _window_end(pool: Pool, selection: Selection, span: Span, rows: int) -> Key | None:
    async def find(connection: Connection) -> Key | None:
        return await find_window_end(connection, selection, span, rows)

    return await _retrying(pool, find)


async def _page(pool: Pool, projection: Projection, selection: Selection, span: Span) -> Page:
    async def read(connection: Connection) -> Page:
        return await read_page(connection, projection, selection, span)

    return await _retrying(pool, read)


async def _retrying(pool: Pool, work: Callable[[Connection], Awaitable[Result]]) -> Result:
    for attempt in range(1, ATTEMPTS_MAX):
        try:
            async with pool.acquire() as connection:
                return await work(connection)
        except TRANSIENT as error:
            log.warning("export_waits", attempt=attempt, error=str(error) or type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)
    async with pool.acquire() as connection:
        return await work(connection)
