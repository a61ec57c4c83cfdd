"""The pages of whoever keeps the ledger running: its state, dead letters, sources, seals, and what is in doubt."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from contracts.access.bearer import SESSION_COOKIE
from ledger_service.pages.sources import judged
from ledger_service.pages.status import BOUNDS, figures_of, overall
from ledger_service.store.in_doubt import SQL
from tests.browser import NARROW, visiting
from tests.builders import ACCOUNT, Body, adjustment, at, check, completed, failed, limit
from tests.conftest import StartLedger
from tests.forms import form_client
from tests.pages.test_pages import made
from tests.servers import Ledger, eventually
from tests.tokens import TOKEN

ALERTS = Path(__file__).parents[2] / "deploy/alerts/ledger.yaml"
QUIET: Body = {
    "nats_connected": True,
    "ingest_lag_events": 0,
    "ingest_lag_seconds": 0.9,
    "dead_letters_open": 0,
    "missing_events": 0,
    "holds_open": 3,
    "holds_overdue_seconds": 0.0,
    "transaction_horizon_age_seconds": 0.2,
    "is_sealed": True,
    "seals_diverged": False,
    "seals_lag_events": 4,
    "seals_lag_seconds": 1.5,
}


@asynccontextmanager
async def visited(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who is signed in with a token for everything, without a browser around them."""
    async with form_client(ledger.url) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def person(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    """At the ledger of this file, to whose letters and holds each test adds its own."""
    async with visited(ledger) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def newcomer(fresh: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    """At a ledger of the test's own."""
    async with visited(fresh) as client:
        yield client


async def conflicting(ledger: Ledger, **fields: Any) -> tuple[Body, int]:
    """An event that was recorded, and the number of the letter that another one with its id became."""
    event = completed(**fields)
    await ledger.send(event)
    await ledger.send({**event, "data": {**event["data"], "cost": "9.99"}})
    newest = (await ledger.http.get("/v1/dead-letters", params={"limit": 1})).json()["items"][0]
    return event, newest["dead_letter_id"]


# --- the state ---


def test_the_bounds_of_the_page_are_those_of_the_alerts() -> None:
    rules = dict(re.findall(r"alert: (\w+)\n +expr: max\(\w+\) > (\d+)", ALERTS.read_text()))
    assert {name: float(rules[name]) for name in BOUNDS} == {name: bound.bad for name, bound in BOUNDS.items()}


@pytest.mark.parametrize(
    ("change", "name", "tag"),
    [
        ({}, "", "good"),
        ({"nats_connected": False}, "NATS", "bad"),
        ({"dead_letters_open": 1}, "Dead letters open", "bad"),
        ({"ingest_lag_seconds": 30.0}, "Ingest lag", "warn"),
        ({"holds_overdue_seconds": None, "holds_open": None}, "Holds overdue", "bad"),
        ({"is_sealed": False}, "Seals", "warn"),
        ({"seals_diverged": True}, "Seals", "bad"),
        ({"seals_lag_seconds": 601.0}, "Seals", "bad"),
    ],
)
def test_what_is_wrong_is_seen_and_is_the_state_of_the_whole(change: Body, name: str, tag: str) -> None:
    figures = figures_of({**QUIET, **change})
    assert {figure.name: figure.tag for figure in figures if figure.tag != "good"} == ({name: tag} if name else {})
    assert overall(figures) == tag


async def test_the_state_is_that_of_the_metrics(newcomer: httpx.AsyncClient, fresh: Ledger) -> None:
    await conflicting(fresh)
    status = (await fresh.http.get("/v1/status")).json()
    assert (status["dead_letters_open"], status["dead_letters_open_by_code"]) == (1, {"conflict": 1})
    assert "ledger_dead_letters_open 1.0" in (await fresh.http.get("/metrics")).text
    page = await newcomer.get("/status")
    assert page.status_code == 200
    assert "Something needs somebody" in page.text
    assert "DeadLettersOpen.md" in page.text


# --- dead letters ---


async def test_no_letters_and_broken_filters_say_so(newcomer: httpx.AsyncClient) -> None:
    assert "No event waits for somebody" in (await newcomer.get("/dead-letters")).text
    wrong = await newcomer.get("/dead-letters", params={"from": "yesterday", "account_id": "acme"})
    assert wrong.status_code == 422
    assert re.search(r'id="from"[^>]*value="yesterday" aria-invalid="true"', wrong.text)
    assert (await newcomer.get("/dead-letters/no-number")).status_code == 422
    assert (await newcomer.get("/dead-letters/7")).status_code == 404


async def test_a_letter_is_looked_at_and_discarded_with_a_reason(person: httpx.AsyncClient, ledger: Ledger) -> None:
    _, number = await conflicting(ledger, account_id="discarding", metadata={"note": "<script>alert(1)</script>"})
    assert f'href="/dead-letters/{number}"' in (await person.get("/dead-letters?account_id=discarding")).text
    shown = (await person.get(f"/dead-letters/{number}")).text
    assert "&#34;cost&#34;: &#34;9.99&#34;" in shown
    assert "<script>alert" not in shown
    refused = await person.post(f"/dead-letters/{number}/discard", data={"author": "grace", "reason": ""})
    assert refused.status_code == 422
    assert re.search(r'id="reason-discard"[^>]*aria-invalid="true"', refused.text)
    assert 'value="grace"' in refused.text
    done = await person.post(f"/dead-letters/{number}/discard", data={"author": "grace", "reason": "came twice"})
    assert done.headers["location"].startswith(f"/dead-letters/{number}?said=Discarded")
    assert "came twice" in (await person.get(done.headers["location"])).text
    assert "No event waits" in (await person.get("/dead-letters?account_id=discarding")).text


async def test_a_redrive_that_is_refused_again_leaves_the_letter_and_says_why(
    person: httpx.AsyncClient, ledger: Ledger
) -> None:
    _, number = await conflicting(ledger)
    because = {"author": "grace", "reason": "try it"}
    again = await person.post(f"/dead-letters/{number}/redrive", data=because)
    assert again.status_code == 422
    assert "refused again" in again.text
    no_json = await person.post(f"/dead-letters/{number}/redrive", data={**because, "event": "{"})
    assert (no_json.status_code, "is not JSON" in no_json.text) == (422, True)
    other = await person.post(f"/dead-letters/{number}/redrive", data={**because, "event": '{"id": 1}'})
    assert (other.status_code, 'role="alert"' in other.text) == (422, True)
    letter = (await ledger.http.get(f"/v1/dead-letters/{number}")).json()
    assert (letter["state"], letter["redrive_count"]) == ("open", 1)


async def test_all_that_are_selected_are_dealt_with_and_no_others(newcomer: httpx.AsyncClient, fresh: Ledger) -> None:
    for account in (ACCOUNT, "globex", "globex"):
        await conflicting(fresh, account_id=account)
    asked = await newcomer.get("/dead-letters/selected", params={"account_id": "globex"})
    assert "<code>globex</code>: 2." in asked.text
    form = {"account_id": "globex", "act": "discard", "author": "grace", "reason": "known"}
    done = await newcomer.post("/dead-letters/selected", data=form)
    assert "2+discarded" in done.headers["location"]
    left = (await fresh.http.get("/v1/dead-letters")).json()["items"]
    assert [one["account_id"] for one in left] == [ACCOUNT]
    assert "there is nothing to do" in (await newcomer.get("/dead-letters/selected?account_id=globex")).text


# --- in doubt ---


async def test_what_is_in_doubt_is_listed_with_its_job_until_it_is_corrected(
    newcomer: httpx.AsyncClient, fresh: Ledger
) -> None:
    assert "Every outcome is known" in (await newcomer.get("/in-doubt")).text
    calls = [{"provider": "wavespeed", "model": "m", "job_ids": ["job-7"], "cost": "0.25"}]
    why = {"code": "outcome_unknown", "message": "the process ended"}
    doubtful = failed(cost="0.25", provider="wavespeed", error=why, metadata={"provider_calls": calls})
    await fresh.send(doubtful, failed(cost="0.04"), failed(account_id="globex", cost="9", error=why))
    asked = {"doubt": "outcome_unknown", "account_id": ACCOUNT}
    [one] = (await fresh.http.get("/v1/operations:in-doubt", params=asked)).json()["items"]
    assert (one["cost"], one["job_ids"], one["message"]) == ("0.250000000", ["job-7"], "the process ended")
    page = (await newcomer.get("/in-doubt")).text
    assert ("job-7" in page, "2, $9.25" in page) == (True, True)
    assert (await fresh.http.post("/v1/adjustments", json=adjustment("void", doubtful))).is_success
    assert (await fresh.http.get("/v1/operations:in-doubt", params=asked)).json()["items"] == []


async def test_open_and_expired_holds_are_listed_a_page_at_a_time(
    person: httpx.AsyncClient, ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit(), account_id="holding")
    checks = [check(account_id="holding", estimated_cost="0.04") for _ in range(3)]
    for one in checks:
        await ledger.check(one)
    assert "No hold has been open" in (await person.get("/in-doubt?account_id=holding")).text
    asked: dict[str, Any] = {"doubt": "open", "account_id": "holding", "older_than_seconds": 0, "limit": 2}
    first = (await ledger.http.get("/v1/operations:in-doubt", params=asked)).json()
    rest = (await ledger.http.get("/v1/operations:in-doubt", params={**asked, "cursor": first["next_cursor"]})).json()
    seen = [one["operation_id"] for one in (*first["items"], *rest["items"])]
    assert sorted(seen) == sorted(one["operation_id"] for one in checks)
    assert rest["next_cursor"] is None
    assert "3, $0.12" in (await person.get("/in-doubt?minutes=0&account_id=holding")).text
    await database.execute("update decisions set expires_at = now() - interval '1 s' where operation_id = $1", seen[0])

    async def expired() -> bool:
        found = await ledger.http.get("/v1/operations:in-doubt", params={"doubt": "expired", "account_id": "holding"})
        return [one["operation_id"] for one in found.json()["items"]] == [seen[0]]

    await eventually(expired, "the hold is expired")
    await ledger.send(completed(next(one for one in checks if one["operation_id"] == seen[0]), cost="0.04"))
    assert not await expired()


async def test_what_is_in_doubt_of_others_is_not_a_bound_tokens(ledger: Ledger) -> None:
    await ledger.send(failed(cost="0.25", user_id="theirs", error={"code": "outcome_unknown", "message": "?"}))
    token = await made(ledger, scopes=["usage:read"], account_id="globex")
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: token}) as client:
        page = await client.get(f"/in-doubt?account_id={ACCOUNT}")
        wrong = await client.get("/in-doubt?minutes=soon")
    assert (page.status_code, "theirs" in page.text) == (200, False)
    assert (wrong.status_code, 'value="soon" aria-invalid="true"' in wrong.text) == (422, True)


@pytest.mark.parametrize("doubt", ["outcome_unknown", "open", "expired"])
async def test_lists_of_doubt_come_from_an_index(doubt: str, database: "asyncpg.Connection[asyncpg.Record]") -> None:
    await database.execute("set enable_seqscan = off")
    await database.execute("set plan_cache_mode = force_generic_plan")
    types = "text, bigint, timestamptz, uuid" + (", float8" if doubt == "open" else "")
    await database.execute(f"prepare listed ({types}) as {SQL[doubt]}")
    plan = "\n".join(
        row[0]
        for row in await database.fetch(
            f"explain execute listed (null, 10, null, null{', 900' if doubt == 'open' else ''})"
        )
    )
    index = {"outcome_unknown": "usage_log_in_doubt", "open": "decisions_expiring", "expired": "decisions_expired"}
    assert index[doubt] in plan


# --- sources and seals ---


async def test_holes_of_a_source_are_shown_since_when_until_they_close(
    newcomer: httpx.AsyncClient, fresh: Ledger
) -> None:
    assert "No producer with a journal" in (await newcomer.get("/sources")).text
    events = {number: completed(source="journal-1", sourcesequence=number) for number in range(1, 9)}
    await fresh.send(*(events[number] for number in (1, 2, 4, 5, 8)), completed(source="journal-2", sourcesequence=1))
    first, second = (await fresh.http.get("/v1/sources")).json()["items"]
    assert (first["contiguous_until"], first["last_sequence"], first["missing"]) == (2, 8, 3)
    assert (first["holes"], first["more_holes"]) == ([[3, 3], [6, 7]], 0)
    assert (second["holes"], second["holes_since"]) == ([], None)
    shown = (await newcomer.get("/sources?holes=true")).text
    assert "on their way" in shown
    assert "journal-2" not in shown
    await fresh.send(events[3])
    again = (await fresh.http.get("/v1/sources", params={"holes": True, "limit": 1})).json()
    assert ([one["holes_since"] for one in again["items"]], again["next_cursor"]) == (
        [first["holes_since"]],
        "journal-1",
    )
    assert (await fresh.http.get("/v1/sources", params={"cursor": "journal-1", "holes": True})).json()["items"] == []
    await fresh.send(events[6], events[7])
    [closed, _] = (await fresh.http.get("/v1/sources")).json()["items"]
    assert (closed["missing"], closed["holes_since"], closed["contiguous_until"]) == (0, None, 8)
    assert "No source has holes" in (await newcomer.get("/sources?holes=true")).text


async def test_numbers_of_a_lost_journal_are_given_up_with_a_form(
    newcomer: httpx.AsyncClient, fresh: Ledger, fresh_database_url: str
) -> None:
    await fresh.send(*(completed(source="a&b", sourcesequence=number) for number in (1, 4, 7)))
    asked = {"source": "a&b", "first_sequence": "2", "last_sequence": "6"}
    assert "Give up" not in (await newcomer.get("/sources")).text, "they may be on their way"
    database = await asyncpg.connect(fresh_database_url)
    await database.execute("update sources set holes_since = now() - interval '16 minutes'")
    await database.close()
    assert escape(f"/sources/give-up?{urlencode(asked)}") in (await newcomer.get("/sources")).text
    form = (await newcomer.get("/sources/give-up", params=asked)).text
    assert ('value="a&amp;b"' in form, 'value="6"' in form) == (True, True)
    wrong = await newcomer.post("/sources/give-up", data={**asked, "last_sequence": "9", "reason": "lost"})
    assert (wrong.status_code, "may still come" in wrong.text, 'value="lost"' in wrong.text) == (422, True, True)
    for number in ("9" * 20, "9" * 5000, "٦"):
        odd = await newcomer.post("/sources/give-up", data={**asked, "last_sequence": number, "reason": "lost"})
        assert (odd.status_code, 'value="lost"' in odd.text) == (422, True)
    done = await newcomer.post("/sources/give-up", data={**asked, "reason": "lost"})
    assert (done.status_code, done.headers["location"]) == (303, "/sources?said=Given+up%3A+4+numbers+of+a%26b.")
    assert "No source has holes" in (await newcomer.get("/sources?holes=true")).text


def test_a_hole_that_stays_is_no_longer_on_its_way() -> None:
    source = {"missing": 2, "holes_since": "2026-11-01T12:00:00Z"}
    assert judged(source, at("2026-11-01 12:05"))[0] == "warn"
    assert judged(source, at("2026-11-01 12:16")) == ("bad", "missing")
    assert judged({"missing": 0, "holes_since": None}, at("2026-11-01 12:16"))[0] == "good"


async def test_a_ledger_that_seals_nothing_says_how_to_begin(person: httpx.AsyncClient) -> None:
    page = await person.get("/seals")
    assert (page.status_code, "deploy/guides/seals.md" in page.text) == (200, True)


async def test_checkpoints_are_listed_with_who_signed_them(start_ledger: StartLedger, tmp_path: Path) -> None:
    ledger = await start_ledger(seals_key_file=tmp_path / "key.pem", seals_interval_seconds=0.05)
    await ledger.send(completed())

    async def sealed() -> bool:
        return bool((await ledger.http.get("/v1/seals")).json()["items"])

    await eventually(sealed, "a seal")
    [newest, *_] = (await ledger.http.get("/v1/seals")).json()["items"]
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        page = (await client.get("/seals")).text
    assert escape(newest["root"]) in page
    assert escape(newest["key"]) in page


@pytest.mark.parametrize("path", ["/status", "/sources", "/dead-letters", "/dead-letters/1", "/dead-letters/selected"])
async def test_what_is_about_all_accounts_opens_to_no_bound_token(ledger: Ledger, path: str) -> None:
    token = await made(ledger, scopes=["admin", "usage:read-all"], account_id=ACCOUNT)
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: token}) as client:
        refused = await client.get(path)
    assert (refused.status_code, "bound to none" in refused.text) == (403, True)


# --- all of them ---

PATHS = ("/live", "/status", "/in-doubt", "/dead-letters", "/dead-letters/selected", "/sources", "/seals")


async def fill(ledger: Ledger) -> int:
    """Something of each kind; the number of a dead letter."""
    why = {"code": "outcome_unknown", "message": "the process ended"}
    await ledger.set_up(limit())
    await ledger.check(check(estimated_cost="0.04"))
    events = (completed(source="journal-1", sourcesequence=number) for number in (1, 3))
    await ledger.send(failed(cost="0.25", error=why), *events)
    return (await conflicting(ledger))[1]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def number(ledger: Ledger) -> int:
    """Of a dead letter, after something of each kind was put into the ledger of this file."""
    return await fill(ledger)


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark", "viewport": NARROW}], ids=["wide", "dark-narrow"])
async def test_axe_finds_nothing_and_nothing_is_cut_off(
    browser: Browser, ledger: Ledger, number: int, options: dict[str, Any]
) -> None:
    async with visiting(browser, ledger.url, **options) as person:
        await person.sign_in()
        for path in (*PATHS, f"/dead-letters/{number}"):
            assert await person.open(path) == 200
            assert await person.axe() == [], path
            assert await person.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert (person.errors, person.elsewhere) == ([], [])


async def test_without_the_database_each_page_says_so(
    fresh: Ledger, newcomer: httpx.AsyncClient, fresh_database_url: str
) -> None:
    assert (await newcomer.get("/live")).status_code == 200
    connection = await asyncpg.connect(fresh_database_url)
    name = await connection.fetchval("select current_database()")
    try:
        await connection.execute(f'alter database "{name}" connection limit 0')
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> "
            "pg_backend_pid()"
        )
        for path in ("/live", "/in-doubt", "/dead-letters", "/sources"):
            shown = await newcomer.get(path)
            assert (shown.status_code, "store_unavailable" in shown.text) == (503, True), path
        assert (await fresh.http.get("/v1/operations:stream")).status_code == 503
        # Somebody on call looks there first: it says what it knows.
        state = await newcomer.get("/status")
        assert (state.status_code, "is the database up?" in state.text) == (200, True)
    finally:
        await connection.execute(f'alter database "{name}" connection limit -1')
        await connection.close()
