"""Readers of exports that are slow, stall, or go away: they hold nothing for long, and leave nothing behind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from contracts.exports import EXPORT_CURSOR
from ledger_service.store.connections import EXPORTS_MAX
from tests.builders import completed
from tests.servers import WAIT_SECONDS, LedgerProcess
from tests.tokens import AUTHORIZED

ROUTE = "/v1/exports/usage-log?format=jsonl"
ROWS = 2_000
#: With every row as large as it gets, as what is between the ledger and its reader takes some megabytes.
PAD = "x" * 3_900
STALL_SECONDS = 1.5
CONNECTIONS = "select count(*) from pg_stat_activity where application_name = 'ledger-exports' and state <> 'idle'"


@pytest.fixture
async def filled(
    ledger_process: Callable[..., LedgerProcess], database: Any, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[LedgerProcess, httpx.AsyncClient]]:
    """A ledger with more rows than fit between it and a reader."""
    process = ledger_process(slow_reader_seconds=getattr(request, "param", WAIT_SECONDS), export_page_rows=300)
    async with process.client() as client:
        await client.send(completed(metadata={"pad": PAD}))
        await database.execute(
            "insert into usage_log select (json_populate_record(u, json_build_object('operation_id', "
            f"gen_random_uuid()))).* from usage_log u, generate_series(2, {ROWS})"
        )
        yield process, client.http


async def begin(process: LedgerProcess, path: str = ROUTE) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A reader who has read the answer's first line, and takes no more than a little on."""
    place = urlsplit(process.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=4096)
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZED['Authorization']}\r\n\r\n"
    writer.write(head.encode())
    assert (await reader.readline()).split()[1] == b"200"
    return reader, writer


@pytest.mark.parametrize("filled", [STALL_SECONDS], indirect=True)
async def test_a_reader_who_stalls_holds_no_connection_and_is_cut_off(
    filled: tuple[LedgerProcess, httpx.AsyncClient], database: Any
) -> None:
    process, http = filled
    _, writer = await begin(process)
    await asyncio.sleep(STALL_SECONDS / 3)

    async def busy() -> int:
        return int(await database.fetchval(CONNECTIONS))

    assert await busy() == 0
    oldest = "select max(now() - xact_start) from pg_stat_activity where application_name = 'ledger-exports'"
    assert await database.fetchval(oldest) is None
    # Its place is free again once it is cut off: as many as there may be begin.
    await asyncio.sleep(STALL_SECONDS)
    async with AsyncExitStack() as stack:
        for _ in range(EXPORTS_MAX):
            answer = await stack.enter_async_context(http.stream("GET", ROUTE))
            assert answer.status_code == 200
    writer.close()


async def test_a_reader_who_goes_away_frees_its_place(filled: tuple[LedgerProcess, httpx.AsyncClient]) -> None:
    process, http = filled
    for _ in range(2):
        writers = [(await begin(process))[1] for _ in range(EXPORTS_MAX)]
        refused = await http.get(ROUTE)
        assert refused.status_code == 503
        assert refused.json()["code"] == "overloaded"
        assert "retry-after" in refused.headers
        for writer in writers:
            writer.transport.abort()
        async with asyncio.timeout(WAIT_SECONDS):
            while (await http.get(f"{ROUTE}&account_id=nobody")).status_code != 200:  # noqa: ASYNC110  as a client
                await asyncio.sleep(0.05)


async def test_a_reader_who_is_slow_gets_every_row(filled: tuple[LedgerProcess, httpx.AsyncClient]) -> None:
    process, _ = filled
    reader, writer = await begin(process)
    body = bytearray()
    while await reader.readline() != b"\r\n":  # the headers
        pass
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
        await asyncio.sleep(0.005)
    writer.close()
    assert body.count(b'{"account_id"') == ROWS


async def test_what_came_before_it_broke_off_and_the_rest_are_the_whole(
    filled: tuple[LedgerProcess, httpx.AsyncClient],
) -> None:
    """As a client does it: of what arrived, the last line may be half of one."""
    _, http = filled
    whole = (await http.get(ROUTE)).content.splitlines()
    arrived = b""
    async with http.stream("GET", ROUTE) as answer:
        cursor = answer.headers[EXPORT_CURSOR]
        async for part in answer.aiter_raw():
            arrived += part
            if len(arrived) > 3_000_000:
                break
    lines = arrived.splitlines()[:-1]
    row = orjson.loads(lines[-1])
    after = f"{row['account_id']},{row['occurred_at']},{row['operation_id']}"
    rest = await http.get("/v1/exports/usage-log", params={"format": "jsonl", "cursor": cursor, "after": after})
    assert lines + rest.content.splitlines() == whole


async def test_a_database_that_restarts_breaks_no_export(
    filled: tuple[LedgerProcess, httpx.AsyncClient], database: Any
) -> None:
    _, http = filled
    rows = 0
    async with http.stream("GET", ROUTE) as answer:
        async for line in answer.aiter_lines():
            if rows == 10:
                await database.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'ledger-exports'"
                )
            rows += bool(line)
    assert rows == ROWS
