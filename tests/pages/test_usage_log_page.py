"""The pages of the usage log and of one operation, and the read that the latter is made of."""

from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from contracts.access.bearer import SESSION_COOKIE
from contracts.explained_answers import LoggedEntry
from ledger_service.api import usage
from tests.browser import NARROW, Visitor, visiting
from tests.builders import ACCOUNT, Body, account, adjustment, check, completed, failed, limit, new_id, plan
from tests.pages.test_pages import made
from tests.servers import TLS, Ledger, as_service, eventually, serving
from tests.tokens import TOKEN


async def corrected(ledger: Ledger) -> Body:
    """An operation that was checked, done, and rated again; and one that failed."""
    limits = plan(
        limit("spend", meter="cost", maximum="1"), limit("edits", maximum=5, selector={"operation": ["edit"]})
    )
    assert (await ledger.http.put("/v1/plans/basic", json=limits)).is_success
    assert (await ledger.http.put(f"/v1/accounts/{ACCOUNT}", json=account())).is_success
    asked = check(estimated_cost="0.5")
    assert (await ledger.http.post("/v1/limit-checks", json=asked)).json()["allowed"]
    done = completed(asked, cost="0.4", metadata={"note": "<script>alert(1)</script>"})
    assert (await ledger.send(done, failed(operation="edit", user_id="grace")))["rejected"] == []
    rated = adjustment("rerate", done, cost="0.25", reason="a discount")
    assert (await ledger.http.post("/v1/adjustments", json=rated)).is_success
    return done


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ledger(database_url: str, nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ledger]:
    """One that seals."""
    key = tmp_path_factory.mktemp("seals") / "key.pem"
    wanted = {"database_url": as_service(database_url), "nats_url": nats_url, "seals_key_file": key}
    async with serving(**wanted, seals_interval_seconds=0.1) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def done(ledger: Ledger) -> Body:
    """The operation that `corrected` left in the ledger of this file."""
    return await corrected(ledger)


async def test_an_operation_is_shown_with_all_that_belongs_to_it(browser: Browser, ledger: Ledger, done: Body) -> None:
    operation_id = done["data"]["operation_id"]

    async def is_sealed() -> bool:
        return (await ledger.http.get(f"/v1/usage-log/{operation_id}/proof")).is_success

    await eventually(is_sealed, "the operation is sealed")
    async with visiting(browser, ledger.url) as person:
        await person.sign_in()
        await person.open(f"/usage-log?account_id={ACCOUNT}")
        assert await person.axe() == []
        await person.page.get_by_role("row").filter(has_text="completed").get_by_role("link").click()
        said = await person.main()
        assert operation_id in said
        assert "$0.25" in said
        assert "$0.40 as it was recorded" in said
        assert "a discount" in said
        assert "allowed" in said
        assert "sealed as it was recorded" in said
        assert "<script>alert(1)</script>" in said
        # Limits on what it counts in, by what is left of it after the correction.
        counted = await person.page.get_by_label("Limits in which it counts").locator("tbody tr").all_inner_texts()
        assert [row.split("\t")[:4] for row in counted] == [
            ["spend", "account, cost", counted[0].split("\t")[2], "$0.25"]
        ]
        types = await person.page.get_by_label("Events").locator("tbody td:nth-child(2)").all_inner_texts()
        assert types == [
            "ledger.reservation.placed.v1",
            "usage.operation.completed.v1",
            "ledger.adjustment.recorded.v1",
        ]
        await person.page.get_by_text(done["id"], exact=True).click()
        assert f'"operation_id": "{operation_id}"' in await person.main()
        link = person.page.get_by_role("link", name="why, with every limit as it was then")
        assert await link.get_attribute("href") == f"/decisions/{operation_id}?account_id={ACCOUNT}"
        assert await person.axe() == []
        # The correction has a page of its own, which leads back.
        await person.page.get_by_label("Corrections").get_by_role("link").click()
        assert "rerate" in await person.main()
        await person.page.get_by_role("link", name=operation_id).click()
        await person.page.get_by_role("heading", name=f"Operation {operation_id}").wait_for()
        assert person.errors == []


async def test_rows_are_added_page_by_page(visitor: Visitor, browser: Browser, fresh: Ledger) -> None:
    await visitor.open("/usage-log")
    assert "There is no account yet" in await visitor.main()
    await visitor.open(f"/usage-log?account_id={ACCOUNT}")
    assert "No operation of this account passes these filters" in await visitor.main()
    sent = [completed(time=f"2026-07-0{day}T12:00:00Z", cost=f"{day}") for day in range(1, 6)]
    await fresh.send(*sent)
    address = f"/usage-log?account_id={ACCOUNT}&from=2026-07-01&until=2026-07-05&limit=2"
    await visitor.open("/usage-log?from=2026-07-01&prefix=ac")
    await visitor.page.get_by_role("link", name=ACCOUNT, exact=True).click()
    assert visitor.page.url.endswith(f"/usage-log?from=2026-07-01T00%3A00%3A00Z&account_id={ACCOUNT}")
    await visitor.open(address)
    rows = visitor.page.locator("#rows tr")
    assert await rows.count() == 2
    # What comes meanwhile moves nothing: a page goes on where the one before ended.
    await fresh.send(completed(time="2026-07-05T13:00:00Z", cost="9"))
    await visitor.page.get_by_role("link", name="More rows").click()
    await visitor.page.get_by_text("These are all.").wait_for()
    assert [await rows.nth(place).locator("td").nth(1).inner_text() for place in range(5)] == [
        "$5.00", "$4.00", "$3.00", "$2.00", "$1.00",
    ]  # fmt: skip
    async with visiting(browser, fresh.url, viewport=NARROW, color_scheme="dark", java_script_enabled=False) as person:
        await person.sign_in()
        await person.open(address)
        assert await person.page.locator("#rows tr").count() == 2
        await person.page.get_by_role("link", name="More rows").click()
        assert "$3.00" in await person.main()
        assert "cursor=" in person.page.url
        await person.page.get_by_role("link", name="Back to the newest").click()
        assert "$9.00" in await person.main()


async def test_a_log_is_searched_part_by_part(
    visitor: Visitor, browser: Browser, fresh: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [completed(time=f"2026-07-0{day}T12:00:00Z") for day in range(2, 8)]
    await fresh.send(completed(time="2026-07-01T12:00:00Z", user_id="long-gone"), *sent)
    monkeypatch.setattr(usage, "WALKED_MAX", 2)
    address = f"/usage-log?account_id={ACCOUNT}&user_id=long-gone"
    # The next parts come by themselves, until the log's end.
    await visitor.open(address)
    await visitor.page.get_by_text("These are all.").wait_for()
    assert await visitor.page.locator("#rows tr").count() == 1
    assert visitor.errors == []
    async with visiting(browser, fresh.url, java_script_enabled=False) as person:
        await person.sign_in()
        await person.open(address)
        for last in ("2026-07-06 12:00", "2026-07-04 12:00", "2026-07-02 12:00"):
            assert f"Looked at what happened until {last}" in await person.main()
            assert "nothing there" in await person.main()
            await person.page.get_by_role("link", name="Look further").click()
        assert await person.page.locator("#rows tr").count() == 1
        assert "These are all." in await person.main()


async def test_filters_are_those_of_the_api_and_of_the_files(ledger: Ledger, done: Body) -> None:
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        failures = (await client.get(f"/usage-log?account_id={ACCOUNT}&outcome=failed&operation=edit,generate")).text
        assert failures.count('<th scope="row"') == 1
        assert "grace" in failures
        link = failures.split('<a href="/v1/exports/')[1].split('"')[0].replace("&amp;", "&")
        file = await client.get(f"/v1/exports/{link}")
        assert file.headers["content-disposition"].startswith("attachment")
        assert [line.split(",")[3] for line in file.text.splitlines()] == ["outcome", "failed"]
        # A range that is not of whole days is kept as it is.
        page = (await client.get(f"/usage-log?account_id={ACCOUNT}&from=2026-07-01T10:00:00%2B02:00")).text
        assert 'name="from" type="text" value="2026-07-01T10:00:00+02:00"' in page


async def test_what_is_wrong_is_said_at_the_field(ledger: Ledger) -> None:
    cases = {
        "from=x": ["from"], "until=x": ["to"], "outcome=good": ["outcome"], "recorded_to=x": ["recorded_to"],
        "operation=NO": ["operation"], "user_id=": [],
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        for query, fields in cases.items():
            shown = await client.get(f"/usage-log?account_id={ACCOUNT}&{query}")
            marked = [tag for tag in shown.text.split("<") if 'aria-invalid="true"' in tag]
            names = [tag.split('name="')[1].split('"')[0] for tag in marked]
            assert (shown.status_code, names) == (422 if fields else 200, fields), query


@pytest.mark.parametrize("when", ["0001-01-01", "9999-12-31", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
@pytest.mark.parametrize("field", ["from", "to", "until"])
async def test_times_that_no_calendar_reckons_with_are_refused(
    ledger: Ledger, done: Body, field: str, when: str
) -> None:
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: TOKEN}, verify=TLS) as visitor:
        log = await visitor.get("/usage-log", params={"account_id": ACCOUNT, field: when})
        assert (log.status_code, "The request breaks a rule" in log.text) == (422, True)
        usage = await visitor.get("/usage", params={"account_id": ACCOUNT, field: when})
        assert usage.status_code == 422  # also of `to`, which it does not have


async def test_what_is_of_another_account_is_not_there(ledger: Ledger, done: Body) -> None:
    path = f"/operations/{done['data']['operation_id']}"
    other = await made(ledger, scopes=["usage:read"], account_id="globex")
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: other}) as client:
        for address in (path, f"{path}?account_id={ACCOUNT}"):
            hidden = await client.get(address)
            assert hidden.status_code == 404
            assert "discount" not in hidden.text
        log = await client.get(f"/usage-log?account_id={ACCOUNT}")
        assert "No operation of this account" in log.text
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        unknown = await client.get(f"/operations/{new_id()}")
        assert (unknown.status_code, 'name="account_id"' in unknown.text) == (422, True)
        assert (await client.get("/operations/nothing")).status_code == 422


async def test_a_hold_without_an_outcome_is_shown_as_such(ledger: Ledger, done: Body) -> None:
    asked = check(estimated_cost="0.01")
    assert (await ledger.http.post("/v1/limit-checks", json=asked)).json()["allowed"]
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        page = await client.get(f"/operations/{asked['operation_id']}")
    assert page.status_code == 200
    assert "No outcome is recorded yet" in page.text
    assert "held, until" in page.text


async def test_an_entry_is_read_as_it_was(ledger: Ledger, done: Body) -> None:
    path = f"/v1/usage-log/{done['data']['operation_id']}"
    answer = await ledger.http.get(path)
    now = answer.json()
    assert now["comes_to"] == {"calls": 1, "units": 1, "failures": 0, "cost": "0.250000000"}
    assert [Decimal(one["cost"]) for one in (now["entry"], *now["corrections"])] == [Decimal("0.4"), Decimal("-0.15")]
    then = (await ledger.http.get(path, params={"as_of": now["entry"]["recorded_at"]})).json()
    assert (then["comes_to"]["cost"], then["corrections"]) == ("0.400000000", [])
    assert [one["counted"] for one in then["limits"]] == ["0.400000000"]
    assert len(then["events"]) == 2
    # A failure that nobody billed counts in no limit, though some cover it.
    [failure] = [row for row in (await ledger.usage_log())["items"] if row["outcome"] == "failed"]
    found = await ledger.http.get(f"/v1/usage-log/{failure['operation_id']}", params={"account_id": ACCOUNT})
    assert (found.json()["comes_to"]["failures"], found.json()["limits"]) == (1, [])
    for read in (answer, found):
        LoggedEntry.model_validate_json(read.content, extra="forbid")


async def test_without_the_database_each_page_of_spend_says_so(fresh: Ledger, fresh_database_url: str) -> None:
    done = await corrected(fresh)
    own = f"account_id={ACCOUNT}"
    paths = ("/", "/usage", f"/usage-log?{own}", f"/statements?{own}", f"/operations/{done['data']['operation_id']}")
    connection = await asyncpg.connect(fresh_database_url)
    async with httpx.AsyncClient(base_url=fresh.url, cookies={SESSION_COOKIE: TOKEN}, timeout=20) as client:
        assert [(await client.get(path)).status_code for path in paths] == [200] * len(paths)
        try:
            name = await connection.fetchval("select current_database()")
            await connection.execute(f'alter database "{name}" connection limit 0')
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> "
                "pg_backend_pid()"
            )
            for path in paths:
                shown = await client.get(path)
                assert (shown.status_code, "store_unavailable" in shown.text, "<h1>" in shown.text) == (
                    503,
                    True,
                    True,
                ), path
        finally:
            await connection.execute(f'alter database "{name}" connection limit -1')
            await connection.close()
