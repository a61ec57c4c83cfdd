"""Pages of the usage log that look at a part of it: together they show what a look at all of it does."""

import re
from collections.abc import AsyncIterator
from random import Random
from typing import Final

import asyncpg
import pytest
import pytest_asyncio

from ledger_service.api import usage
from ledger_service.store.usage import SQL
from tests.builders import Body, adjustment, at, check, completed, failed, limit
from tests.servers import Ledger

pytestmark = pytest.mark.asyncio(loop_scope="module")
WALKED_MAX: Final = 7
ROWS: Final = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def history(shared_ledger: Ledger) -> AsyncIterator[Ledger]:
    """An account with operations of all kinds, several at the same moment, some admitted by checks, some corrected."""
    random, sent = Random(26), list[Body]()
    await shared_ledger.set_up(limit(maximum=1000))
    for number in range(ROWS):
        facts: Body = {
            "operation": random.choice(["generate", "edit", "upscale"]),
            "provider": random.choice(["far", "local"]),
            "model": random.choice(["a", "b"]),
            "user_id": f"user-{random.randrange(5)}",
            "project_id": random.choice(["p2", "p1"]),
            "time": at(f"2026-07-{1 + number // 3:02}T{random.choice([0, 12]):02}:00"),
        }
        make = random.choice([completed, completed, failed])
        sent.append(make(endpoint=random.choice(["/v1/a", "/v1/b"]), **facts))
    await shared_ledger.send(*sent)
    for _ in range(5):
        asked = check(operation="edit")
        await shared_ledger.check(asked)
        sent.append(completed(asked, time=at("2026-07-09")))
    await shared_ledger.send(*sent[ROWS:])
    for event in sent[:4]:
        await shared_ledger.http.post("/v1/adjustments", json=adjustment("void", of=event))
    yield shared_ledger


CHOSEN: Final[list[dict[str, str]]] = [
    {},
    {"outcome": "failed"},
    {"outcome": "failed", "user_id": "user-3"},
    {"outcome": "failed", "endpoint": "nothing"},
    {"outcome": "completed"},
    {"outcome": "adjustment"},
    {"user_id": "user-1"},
    {"user_id": "nobody"},
    {"operation": "edit", "provider": "far", "project_id": "p1"},
    {"endpoint": "/v1/b", "from": "2026-07-03T00:00:00Z", "to": "2026-07-15T12:00:00Z"},
    {"model": "a", "to": "2026-07-09T00:00:00.000001Z"},
    {"counted_from": "2026-07-04T00:00:00Z", "counted_to": "2026-07-06T00:00:00Z"},
    {"counted_from": "2026-07-04T00:00:00Z", "user_id": "user-2"},
    {"counted_to": "2026-07-05T00:00:00Z", "outcome": "failed"},
    {"counted_from": "2026-07-21T00:00:00Z", "operation": "edit"},
    {"recorded_from": "2026-07-01T00:00:00Z", "recorded_to": "2026-07-02T00:00:00Z"},
]


@pytest.mark.parametrize("rows_max", [2, 100])
@pytest.mark.parametrize("chosen", CHOSEN, ids=lambda chosen: "&".join(f"{k}={v}" for k, v in chosen.items()) or "all")
async def test_parts_together_are_the_whole(
    history: Ledger, chosen: dict[str, str], rows_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await history.usage_log(limit=1000, **chosen)
    assert whole["next_cursor"] is None
    assert "searched_until" not in whole

    monkeypatch.setattr(usage, "WALKED_MAX", WALKED_MAX)
    found, cursor = list[Body](), dict[str, str]()
    for _ in range(2 * ROWS):
        page = await history.usage_log(limit=rows_max, **chosen, **cursor)
        found += page["items"]
        assert len(page["items"]) <= rows_max
        # A part that ends early says how far it got; a full one, or the last, does not.
        is_part = page["next_cursor"] is not None and len(page["items"]) < rows_max
        assert ("searched_until" in page) == is_part
        if is_part and page["items"]:
            assert page["searched_until"] <= page["items"][-1]["occurred_at"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == whole["items"]


async def test_a_search_without_a_hit_ends_after_its_part(history: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "WALKED_MAX", WALKED_MAX)
    newest = (await history.usage_log(limit=WALKED_MAX))["items"]
    page = await history.usage_log(user_id="nobody")
    assert page["items"] == []
    assert page["searched_until"] == newest[-1]["occurred_at"]
    # As of a moment there are no parts: what was known then is put together of all that there is.
    then = {"as_of": newest[0]["recorded_at"]}
    assert (await history.usage_log(user_id="nobody", **then))["next_cursor"] is None


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("log_page", "usage_log_pkey"),
        ("walked_until", "usage_log_pkey"),
        ("log_page_of_failures", "usage_log_failures"),
        ("walked_until_of_failures", "usage_log_failures"),
        ("log_page_of_counted", "usage_log_counted_at"),
        ("counted_up_to", "usage_log_counted_at"),
    ],
)
async def test_a_part_is_read_from_an_index_in_its_order(shared_database_url: str, name: str, index: str) -> None:
    """With the plan that any arguments have: the one that is kept."""
    connection = await asyncpg.connect(shared_database_url)
    try:
        await connection.execute("set enable_seqscan = off; set enable_bitmapscan = off")
        await connection.execute("set plan_cache_mode = force_generic_plan")
        sql = SQL[name]
        await connection.execute(f"prepare asked as {sql}")
        parameters = max(map(int, re.findall(r"\$(\d+)", sql)))
        arguments = ", ".join(["null"] * parameters)
        plan = "\n".join(row[0] for row in await connection.fetch(f"explain execute asked ({arguments})"))
    finally:
        await connection.close()
    assert index in plan
    assert ("Sort" in plan) == (name == "log_page_of_counted")
