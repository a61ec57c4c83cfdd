"""Operations as they happen: the stream, its one tail of the log, and the page."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from playwright.async_api import Browser

from contracts.access.bearer import SESSION_COOKIE
from ledger_service import live as live_module
from ledger_service.live import PARTS_MAX, TYPES, Live, Watched
from ledger_service.store.live import BEGINNING, SQL, Place, newest_place
from ledger_service.store.pool import Connection, Pool
from tests.browser import NARROW, visiting
from tests.builders import ACCOUNT, Body, check, completed, failed, limit, requested
from tests.pages.test_pages import made
from tests.servers import WAIT_SECONDS, Ledger, LedgerProcess, eventually
from tests.tokens import AUTHORIZED, TOKEN

STREAM = "/v1/operations:stream"


@asynccontextmanager
async def streaming(
    http: httpx.AsyncClient, headers: dict[str, str] | None = None, **asked: Any
) -> AsyncIterator[AsyncIterator[tuple[str, str, Body]]]:
    """A stream, as an iterator over its events: ``(event, id, data)``."""
    async with http.stream("GET", STREAM, params=asked, headers=headers or {}, timeout=10) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield _events(answer)


async def _events(answer: httpx.Response) -> AsyncIterator[tuple[str, str, Body]]:
    said: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if not line and "data" in said:
            yield said["event"], said["id"], orjson.loads(said["data"])
        if not line:
            said = {}
            continue
        name, _, value = line.partition(": ")
        said[name or "comment"] = value


async def take(events: AsyncIterator[tuple[str, str, Body]], number: int) -> list[tuple[str, str, Body]]:
    async with asyncio.timeout(WAIT_SECONDS):
        return [await anext(events) for _ in range(number)]


async def test_what_happens_is_told_once_and_in_order_to_whom_it_concerns(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1))
    await ledger.send(completed(user_id="before"))
    token = await made(ledger, scopes=["usage:read"], account_id="globex")
    bound = httpx.AsyncClient(base_url=ledger.url, headers={"Authorization": f"Bearer {token}"})
    async with bound, streaming(ledger.http) as everything, streaming(bound) as own:
        async with streaming(ledger.http, what=["denied", "failed"], operation="generate") as bad:
            asked = check(estimated_cost="0.04")
            await ledger.send(requested(asked), failed(asked, cost="0.04"))
            await ledger.check(check(user_id="too-many", estimated_cost="0.01"))
            await ledger.send(completed(account_id="globex", operation="edit", cost="1.5"))
            told = [data for _, _, data in await take(everything, 4)]
            assert sorted((one["what"], one["account_id"], one["cost"]) for one in told) == [
                ("completed", "globex", "1.500000000"),
                ("denied", ACCOUNT, "0.010000000"),
                ("failed", ACCOUNT, "0.040000000"),
                ("requested", ACCOUNT, "0.040000000"),
            ]
            assert [data["what"] for _, _, data in await take(bad, 2)] == ["failed", "denied"]
        [(name, _, mine)] = await take(own, 1)
        assert (name, mine["account_id"], mine["operation"]) == ("operation", "globex", "edit")
    refused = await httpx.AsyncClient(base_url=ledger.url, headers=bound.headers).get(f"{STREAM}?account_id={ACCOUNT}")
    assert refused.status_code == 403


async def test_who_comes_back_gets_what_came_meanwhile_and_is_told_where_it_was_too_much(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [completed(user_id=f"u{number}") for number in range(4)]
    await ledger.send(events[0])
    last = (await ledger.http.get("/v1/operations:recent")).json()["last_id"]
    for event in events[1:]:
        await ledger.send(event)
    async with streaming(ledger.http, after=last) as stream:
        seen = await take(stream, 3)
        assert [data["user_id"] for _, _, data in seen] == ["u1", "u2", "u3"]
        assert [id_ for _, id_, _ in seen] == [data["id"] for _, _, data in seen]
    # A browser's header counts more than the address that it was first asked with.
    async with streaming(ledger.http, {"Last-Event-ID": seen[1][1]}, after=last) as stream:
        assert [data["user_id"] for _, _, data in await take(stream, 1)] == ["u3"]
    monkeypatch.setattr(live_module, "MISSED_ROWS_MAX", 1)
    async with streaming(ledger.http, after=last) as stream:
        assert [(name, data["reason"]) for name, _, data in await take(stream, 1)] == [("skipped", "away too long")]
        await ledger.send(completed(user_id="now"))
        assert [data["user_id"] for _, _, data in await take(stream, 1)] == ["now"]


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ({"after": "yesterday"}, {}, "query.after"),
        ({"after": "9223372036854775808-1"}, {}, "query.after"),
        ({}, {"Last-Event-ID": "1-2-3"}, "header.last-event-id"),
        ({"what": "exploded"}, {}, "query.what[0]"),
        ({"seconds": "1e9"}, {}, "query.seconds"),
    ],
)
async def test_what_is_no_place_or_filter_is_refused(
    ledger: Ledger, query: dict[str, str], headers: dict[str, str], field: str
) -> None:
    answer = await ledger.http.get(STREAM, params=query, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


async def test_while_nothing_happens_comments_are_sent_and_the_stream_ends_in_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "HEARTBEAT_SECONDS", 0.02)
    answer = await ledger.http.get(STREAM, params={"seconds": 0.2})
    assert 3 <= answer.text.count(": still here\n\n") <= 12
    assert answer.headers["cache-control"] == "no-store"


async def test_a_browser_that_goes_away_leaves_its_place_to_the_next(
    fresh: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "LISTENERS_MAX", 1)
    async with streaming(fresh.http) as stream:
        await fresh.send(completed())
        await take(stream, 1)
        full = await fresh.http.get(STREAM)
        assert (full.status_code, full.json()["code"]) == (503, "overloaded")
    # It went in the middle of the stream.

    async def there_is_room() -> bool:
        return (await fresh.http.get(STREAM, params={"seconds": 0.01})).status_code == 200

    await eventually(there_is_room, "the place is free", 5)
    assert (await fresh.http.get("/readyz")).status_code == 200


async def test_one_account_or_token_leaves_room_for_the_streams_of_others(
    fresh: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "LISTENERS_MAX", 6)
    monkeypatch.setattr(live_module, "OF_HOLDER_MAX", 3)
    tokens = [await made(fresh, scopes=["usage:read"], account_id=name) for name in ("globex", "globex", "acme")]
    one, its_other, another = ({"Authorization": f"Bearer {token}"} for token in tokens)

    async def asked(headers: dict[str, str]) -> tuple[int, str | None]:
        answer = await fresh.http.get(STREAM, params={"seconds": 0.01}, headers=headers)
        code = None if answer.is_success else answer.json()["code"]
        return answer.status_code, code

    # All at once: each looks for room before any of them has its place.
    many = await asyncio.gather(*(
        fresh.http.get(STREAM, params={"seconds": 1.5}, headers=(one, its_other)[number % 2]) for number in range(8)
    ))  # fmt: skip
    assert sorted(answer.status_code for answer in many) == [200] * 3 + [429] * 5
    async with AsyncExitStack() as streams:
        for _ in range(3):
            await streams.enter_async_context(streaming(fresh.http, one))
        for headers in (one, its_other):
            assert await asked(headers) == (429, "rate_limited")
        assert await asked(another) == (200, None)
        assert await asked({}) == (200, None)  # the tests' own token, which is bound to no account

    async def there_is_room() -> bool:
        return await asked(one) == (200, None)

    await eventually(there_is_room, "the places are free", 5)


async def test_two_hundred_listeners_cost_one_read_and_who_is_slow_is_let_go(
    ledger: Ledger, writing_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "POLL_SECONDS", 0.05)
    tail = Live(writing_pool)
    task = asyncio.create_task(tail.run())
    listeners = [await tail.join(Watched(), None) for _ in range(200)]
    slow = await tail.join(Watched(ACCOUNT), None)
    began, told = time.monotonic(), 0
    while slow.parts.qsize() < PARTS_MAX and tail.listeners == 201:
        await ledger.send(completed())
        parts = await asyncio.gather(*(listener.parts.get() for listener in listeners))
        assert len(set(parts)) == 1
        assert parts[0] is not None
        told += parts[0].count(b"event: operation\n")
    await ledger.send(completed())
    await asyncio.gather(*(listener.parts.get() for listener in listeners))
    assert tail.polls <= (time.monotonic() - began) / 0.05 + 3
    assert told == PARTS_MAX
    # Let go, and told so: it comes again with the last id that it saw.
    assert tail.listeners == 200
    assert [slow.parts.get_nowait(), slow.parts.qsize()] == [None, 0]
    for listener in listeners:
        tail.leave(listener)
    polls = tail.polls
    await asyncio.sleep(0.2)
    assert tail.polls <= polls + 1  # nobody listens: nothing is read
    task.cancel()


async def test_more_than_anybody_reads_is_left_out_and_said(
    ledger: Ledger, writing_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "ROWS_MAX", 2)
    monkeypatch.setattr(live_module, "READS_MAX", 2)
    tail = Live(writing_pool)
    listener = await tail.join(Watched(), None)
    await ledger.send(*(completed() for _ in range(7)))
    await tail._poll()
    parts = b"".join(filter(None, (listener.parts.get_nowait() for _ in range(listener.parts.qsize()))))
    assert (parts.count(b"event: operation\n"), parts.count(b"event: skipped\n")) == (4, 1)
    await ledger.send(completed(user_id="later"))
    await tail._poll()
    assert b'"later"' in (listener.parts.get_nowait() or b"")


async def test_who_comes_while_the_rest_is_left_out_begins_where_they_came(
    ledger: Ledger, writing_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, may_go_on = asyncio.Event(), asyncio.Event()

    async def newest_place_slowly(connection: Connection) -> Place:
        found = await newest_place(connection)
        looked.set()
        await may_go_on.wait()
        return found

    monkeypatch.setattr(live_module, "ROWS_MAX", 1)
    monkeypatch.setattr(live_module, "READS_MAX", 1)
    tail = Live(writing_pool)
    first = await tail.join(Watched(), None)
    await ledger.send(completed(), completed())
    monkeypatch.setattr(live_module, "newest_place", newest_place_slowly)
    polling = asyncio.create_task(tail._poll())
    await looked.wait()
    tail.leave(first)
    await ledger.send(completed(user_id="before"))
    monkeypatch.setattr(live_module, "newest_place", newest_place)
    second = await tail.join(Watched(), None)
    may_go_on.set()
    await polling
    await ledger.send(completed(user_id="after"))
    monkeypatch.setattr(live_module, "ROWS_MAX", 10)
    await tail._poll()
    parts = b"".join(filter(None, (second.parts.get_nowait() for _ in range(second.parts.qsize()))))
    assert b'"after"' in parts
    assert b'"before"' not in parts
    assert b"event: skipped" not in parts


async def test_what_commits_late_is_neither_passed_over_nor_told_early(
    ledger: Ledger, writing_pool: Pool, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Positions are drawn before their transaction commits: what stands behind an open one waits for it."""
    tail = Live(writing_pool)
    listener = await tail.join(Watched(), None)
    transaction = database.transaction()
    await transaction.start()
    await database.execute("select pg_current_xact_id()")
    await ledger.send(completed(user_id="behind"))
    await tail._poll()
    assert listener.parts.empty()
    await transaction.commit()
    await tail._poll()
    assert b'"behind"' in (listener.parts.get_nowait() or b"")


@pytest.mark.parametrize("name", ["newest", "after"])
async def test_the_tail_follows_the_index_and_sorts_nothing(
    name: str, ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await ledger.send(*(completed() for _ in range(20)))
    await database.execute("set enable_seqscan = off")
    arguments = () if name == "newest" else ("1", 1, 10, list(TYPES), None, None)
    plan = "\n".join(row[0] for row in await database.fetch(f"explain {SQL[name]}", *arguments))
    assert "event_log_commit_order" in plan
    assert "Sort" not in plan


def test_places_are_in_the_order_of_numbers_not_of_their_text() -> None:
    assert BEGINNING < Place(999, 5) < Place(1000, 1) < Place(1000, 10)


async def test_a_ledger_that_stops_ends_its_streams_at_once(ledger_process: Callable[..., LedgerProcess]) -> None:
    process = ledger_process()
    http = httpx.AsyncClient(base_url=process.url, headers=AUTHORIZED)
    async with http, streaming(http) as stream:
        began = time.monotonic()
        ending = asyncio.to_thread(process.end, signal.SIGTERM)
        code, rest = await asyncio.gather(ending, _all(stream))
    # uvicorn ends by the signal that it was sent, once all is closed.
    assert (code, rest) == (-signal.SIGTERM, [])
    assert time.monotonic() - began < 5


async def _all(stream: AsyncIterator[tuple[str, str, Body]]) -> list[tuple[str, str, Body]]:
    return [one async for one in stream]


# --- the page ---


async def test_what_happens_appears_on_the_page_by_itself_unless_it_is_paused(browser: Browser, fresh: Ledger) -> None:
    await fresh.send(completed(user_id="earlier", cost="1234.5"))
    async with visiting(browser, fresh.url) as person:
        await person.sign_in()
        await person.open("/live")
        rows = person.page.locator("#live-rows tr")
        assert "$1,234.50" in await rows.first.inner_text()
        await person.page.locator("#live-state", has_text="live").wait_for()
        await fresh.send(failed(cost="0.5", error={"code": "bad", "message": "<b>"}))
        await rows.nth(1).wait_for()
        said = await rows.first.inner_text()
        assert "failed" in said
        assert "$0.50" in said
        assert "bad <b>" in said
        await person.page.get_by_role("button", name="Pause").click()
        await fresh.send(completed(user_id="meanwhile"))
        await person.page.get_by_role("button", name="Go on (1 wait)").click()
        await person.page.get_by_text("meanwhile").wait_for()
        assert await person.axe() == []
        # Another filter, over htmx: the old stream ends, a new one begins.
        await person.page.get_by_label("What").select_option("failed")
        await person.page.wait_for_url("**/live?*what=failed*")
        await person.page.locator("#live-state", has_text="live").wait_for()
        await fresh.send(completed(user_id="not-this"), failed(user_id="but-this"))
        await person.page.get_by_text("but-this").wait_for()
        assert "not-this" not in await person.main()
        assert person.errors == []
        assert person.elsewhere == []
    async with visiting(browser, fresh.url, java_script_enabled=False, viewport=NARROW, color_scheme="dark") as without:
        await without.sign_in()
        await without.open("/live")
        assert "meanwhile" in await without.main()
        assert not await without.page.get_by_role("button", name="Pause").is_visible()


async def test_an_empty_ledger_a_bound_token_and_a_broken_filter(fresh: Ledger) -> None:
    token = await made(fresh, scopes=["usage:read"], account_id="globex")
    async with httpx.AsyncClient(base_url=fresh.url, cookies={SESSION_COOKIE: token}) as client:
        assert "Nothing yet" in (await client.get("/live")).text
        await fresh.send(completed(user_id="theirs"), completed(account_id="globex", user_id="ours"))
        page = (await client.get("/live")).text
        assert ("ours" in page, "theirs" in page) == (True, False)
        assert "account_id=globex" in page
        assert 'name="account_id"' not in page
    async with httpx.AsyncClient(base_url=fresh.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        broken = await client.get("/live?provider=a%20b")
        assert broken.status_code == 422
        assert re.search(r'id="provider"[^>]*value="a b" aria-invalid="true"', broken.text)
