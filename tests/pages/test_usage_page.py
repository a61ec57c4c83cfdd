"""The page of usage: what it asks the API for, what it shows of the answer, and where it leads."""

from datetime import UTC, date, datetime
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest_asyncio
from playwright.async_api import Browser

from contracts.access.bearer import SESSION_COOKIE
from contracts.web.rendering import NOTHING
from ledger_service.domain.buckets import add_months
from ledger_service.pages.overview import to_date
from ledger_service.pages.series import change
from ledger_service.pages.usage_asked import UsageAsked, escaped, ranges
from tests.browser import NARROW, Visitor, visiting
from tests.builders import ACCOUNT, completed, failed
from tests.pages.test_pages import made
from tests.servers import Ledger
from tests.tokens import TOKEN

JULY = "from=2026-07-01&until=2026-07-31"


async def july(ledger: Ledger) -> None:
    """Two accounts in July, one of them in June as well."""
    events = [
        completed(time="2026-06-30T12:00:00Z", operation="generate", cost="4"),
        completed(time="2026-07-01T00:00:00Z", operation="generate", cost="3", project_id="web", duration_ms=1000),
        completed(time="2026-07-31T23:59:59Z", operation="edit", cost="1", endpoint="<b>new</b>", duration_ms=3000),
        failed(time="2026-07-03T01:00:00Z", operation="edit", cost="0.5", duration_ms=500),
        completed(time="2026-07-03T01:00:00Z", operation="edit", cost="2", account_id="globex"),
        completed(time="2026-08-01T00:00:00Z", operation="edit", cost="100"),
    ]
    assert (await ledger.send(*events))["rejected"] == []


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def used(ledger: Ledger) -> Ledger:
    """The ledger of this file, with all that its tests let it record."""
    await july(ledger)
    return ledger


async def test_usage_is_shown_by_time_and_group_beside_the_period_before(visitor: Visitor, fresh: Ledger) -> None:
    await visitor.open("/usage")
    assert "Nothing was used in this time" in await visitor.main()
    await july(fresh)
    await visitor.open(f"/usage?{JULY}")
    rows = await visitor.page.locator("section, .scroll").last.locator("tr").all_inner_texts()
    assert [row.split("\t") for row in rows] == [
        ["Operation", "Cost", "Share", "Before", "Change", "Completed", "Units", "Failed", "Rows"],
        ["edit", "$3.50", "53.8 %", "$0.00", "new", "2", "2", "1", NOTHING],
        ["generate", "$3.00", "46.2 %", "$4.00", "-25.0 %", "1", "1", "0", NOTHING],
        ["All", "$6.50", "", "$4.00", "+62.5 %", "3", "3", "1", ""],
    ]
    assert "Before: 2026-06-01 to 2026-06-30" in await visitor.main()
    chart = "Chart.getChart(document.querySelector('canvas')).data"
    assert await visitor.page.evaluate(f"[{chart}.labels.length, {chart}.labels[0], {chart}.labels[30]]") == [
        31, "07-01", "07-31",
    ]  # fmt: skip
    assert await visitor.page.evaluate(f"{chart}.datasets.map(s => [s.label, s.data.reduce((a, b) => a + b)])") == [
        ["edit", 3.5],
        ["generate", 3],
    ]
    # By htmx: only the main part is new, and the address is that of what is shown.
    await visitor.page.evaluate("window.kept = true")
    await visitor.page.get_by_label("Account", exact=True).fill(ACCOUNT)
    await visitor.page.get_by_label("Grouped by").select_option("endpoint")
    await visitor.page.get_by_role("button", name="Show").click()
    await visitor.page.wait_for_url("**group_by=endpoint**")
    await visitor.page.get_by_role("link", name="<b>new</b>", exact=True).wait_for()
    assert await visitor.page.evaluate("window.kept && Chart.getChart(document.querySelector('canvas')) !== undefined")
    # A group leads to itself alone, and to its rows of the usage log.
    log = await visitor.page.get_by_role("link", name="Usage log of <b>new</b>").get_attribute("href")
    assert dict(parse_qsl(urlsplit(log or "").query)) == {
        "account_id": ACCOUNT, "from": "2026-07-01T00:00:00Z", "to": "2026-08-01T00:00:00Z", "endpoint": "<b>new</b>",
    }  # fmt: skip
    await visitor.page.get_by_role("link", name="<b>new</b>", exact=True).click()
    await visitor.page.get_by_text("endpoint: <b>new</b>").wait_for()
    assert "$1.00" in await visitor.page.locator(".cards").inner_text()
    await visitor.page.get_by_label("Without endpoint <b>new</b>").click()
    await visitor.page.get_by_text("$4.50").first.wait_for()


async def test_durations_are_a_line_with_gaps(browser: Browser, used: Ledger) -> None:
    async with visiting(browser, used.url) as person:
        await person.sign_in()
        await person.open(f"/usage?{JULY}&measure=duration_p95&group_by=operation&compare=none&account_id={ACCOUNT}")
        said = await person.main()
        assert "3,000 ms" in said
        assert "the usage log, row by row, which takes longer: durations are in no rollup" in said
        assert "Before" not in await person.page.locator("table").last.inner_text()
        chart = "Chart.getChart(document.querySelector('canvas'))"
        assert await person.page.evaluate(f"{chart}.config.type") == "line"
        assert await person.page.evaluate(f"{chart}.data.datasets[0].data.filter(v => !Number.isNaN(v))") == [500, 3000]
        assert (person.errors, person.elsewhere) == ([], [])


async def test_a_file_has_what_the_page_shows(used: Ledger) -> None:
    async with httpx.AsyncClient(base_url=used.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        page = (await client.get(f"/usage?{JULY}&account_id={ACCOUNT}&filter=operation%3Agenerate")).text
        link = page.split('href="/v1/usage?')[1].split('"')[0].replace("&amp;", "&")
        file = await client.get(f"/v1/usage?{link}")
    assert file.headers["content-type"].startswith("text/csv")
    kind, *_, calls, units, cost, failures = file.text.splitlines()[-1].split(",")
    assert (kind, calls, units, cost, failures) == ("total", "1", "1", "3.000000000", "0")


async def test_a_number_of_groups_that_cannot_be_chosen_is_not_taken(ledger: Ledger) -> None:
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        for top in ("9" * 5000, "-1", "\N{SUPERSCRIPT TWO}"):
            assert (await client.get("/usage", params={"top": top})).status_code == 200


async def test_what_is_wrong_is_said_at_the_field(ledger: Ledger) -> None:
    cases = {
        "from=yesterday": "from",
        "from=2026-07-02&until=2026-06-01": "until",
        "group_by=metadata.team": "group_by",
        "filter_by=operation&filter_value=NO%20SUCH": "filter_by",
        "time_zone=Mars": "time_zone",
        "time_zone=account": "time_zone",
    }
    async with httpx.AsyncClient(base_url=ledger.url, cookies={SESSION_COOKIE: TOKEN}) as client:
        for query, field in cases.items():
            refused = await client.get(f"/usage?{query}")
            assert refused.status_code == 422
            [marked] = [tag for tag in refused.text.split("<") if 'aria-invalid="true"' in tag]
            assert f'name="{field}"' in marked, query
            assert 'role="alert"' in refused.text


async def test_a_token_of_one_account_sees_that_one_alone(browser: Browser, used: Ledger) -> None:
    token = await made(used, scopes=["usage:read"], account_id="globex")
    async with visiting(browser, used.url, viewport=NARROW, color_scheme="dark") as person:
        await person.sign_in(token)
        await person.open(f"/usage?{JULY}&account_id={ACCOUNT}")
        assert "$2.00" in await person.page.locator(".cards").inner_text()
        assert await person.page.get_by_label("Account").count() == 0
        assert await person.axe() == []
        assert await person.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await person.open(f"/usage?{JULY}&filter=account:{ACCOUNT}")
        assert "The token is for another account".lower() in (await person.main()).lower()
        assert person.errors == []


async def test_axe_finds_nothing_and_no_javascript_is_needed(browser: Browser, used: Ledger) -> None:
    async with visiting(browser, used.url) as person:
        await person.sign_in()
        for query in (f"{JULY}&filter=operation:edit", "from=nope"):
            await person.open(f"/usage?{query}")
            assert await person.axe() == []
        assert person.errors == []
    async with visiting(browser, used.url, java_script_enabled=False) as person:
        await person.sign_in()
        await person.open(f"/usage?{JULY}")
        await person.page.get_by_label("Grouped by").select_option("account")
        await person.page.get_by_role("button", name="Show").click()
        assert "globex" in await person.main()


def test_long_times_are_shown_by_longer_intervals() -> None:
    def shown(until: str, interval: str = "auto") -> str:
        return UsageAsked("2026-01-01", until, interval).shown_interval

    assert [shown(until) for until in ("2026-01-01", "2026-01-31", "2026-12-31", "2028-12-31")] == [
        "hour", "day", "week", "month",
    ]  # fmt: skip
    assert shown("2026-01-10", "hour") == "hour"
    assert shown("2026-12-31", "hour") == "day"
    assert shown("nonsense") == "hour"


def test_a_value_with_commas_is_one_value() -> None:
    asked = UsageAsked("2026-07-01", "2026-07-31", group_by="metadata.team", account_id="acme")
    assert dict(parse_qsl(urlsplit(asked.within("a,b\\c")).query))["filter"] == "metadata.team:a\\,b\\\\c"
    assert escaped("plain") == "plain"
    assert asked.log_link("red", "x", "y") is None, "the usage log has no filter by metadata"


def test_this_month_is_compared_with_the_same_part_of_the_last() -> None:
    def moments(text: str) -> list[str]:
        return [moment.isoformat()[:16] for moment in to_date(datetime.fromisoformat(text).replace(tzinfo=UTC))]

    assert moments("2026-11-23T08:30:00") == [
        "2026-11-01T00:00", "2026-11-23T09:00", "2026-10-01T00:00", "2026-10-23T09:00",
    ]  # fmt: skip
    # February has no 31st: all of it.
    assert moments("2026-03-31T12:00:00")[2:] == ["2026-02-01T00:00", "2026-03-01T00:00"]
    assert moments("2026-01-01T00:00:00")[2:] == ["2025-12-01T00:00", "2025-12-01T01:00"]
    assert [change(now, before) for now, before in (("150", "100"), ("1", "0"), ("-1", "-2"))] == [50, None, 50]


def test_handy_ranges_end_today_or_with_the_last_month() -> None:
    today = date(2026, 3, 31)
    assert ranges(today)["Last month"] == (date(2026, 2, 1), date(2026, 2, 28))
    assert ranges(today)["Last 12 months"] == (add_months(date(2026, 3, 1), -11), today)
