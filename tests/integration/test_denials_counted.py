"""Denials of days that are over are counted once; what is answered is what counting all of them would say."""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from ledger_service.store.denials import count_by_account, count_days, count_denials, counted_until
from tests.builders import check, limit
from tests.rebuilds import rebuilt
from tests.servers import Ledger

Database = asyncpg.Connection
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
NEVER = datetime(2000, 1, 1, tzinfo=UTC)
DENY = """
insert into decisions (account_id, operation_id, event_id, request_digest, state, user_id, operation, provider, model,
                       quantity, estimated_cost_nanos, decided_at, denial_code, denial_limit_id)
values ($1, $2, $2, '', 'denied', 'ada', 'generate', 'local', 'm', 1, 1, $3, $4, $5)
"""


async def test_counted_days_answer_as_their_decisions_do(database: "Database[asyncpg.Record]") -> None:
    chance = random.Random(35)
    reasons = [("limit_exceeded", "images"), ("limit_exceeded", "spend"), ("unknown_account", None)]

    async def deny(times: int, first: datetime, last: datetime) -> None:
        rows = [
            (chance.choice("abc"), UUID(int=chance.getrandbits(128)),
             first + chance.random() * (last - first), *chance.choice(reasons))
            for _ in range(times)
        ]  # fmt: skip
        await database.executemany(DENY, rows)

    await deny(300, TODAY - timedelta(days=12), TODAY)
    on_the_edge = [TODAY - timedelta(days=2), TODAY - timedelta(days=3, hours=5), TODAY - timedelta(microseconds=1)]
    for number, moment in enumerate(on_the_edge):
        await database.execute(DENY, "a", UUID(int=number), moment, *reasons[0])
    assert await counted_until(database) == NEVER
    # Yesterday is not counted before it has been over for an hour.
    assert await count_days(database, TODAY + timedelta(minutes=59)) == TODAY - timedelta(days=5)
    assert await count_days(database, TODAY + timedelta(minutes=59)) == TODAY - timedelta(days=1)
    assert await count_days(database, TODAY + timedelta(minutes=59)) is None
    await deny(60, TODAY - timedelta(days=1), TODAY + timedelta(days=1))
    for counting in range(2):
        for _ in range(25):
            start = TODAY - timedelta(hours=chance.randrange(1, 14 * 24))
            end = start + timedelta(seconds=chance.randrange(1, 15 * 86_400))
            end = chance.choice([end, end.replace(minute=0, second=0), TODAY, TODAY + timedelta(hours=5)])
            if end <= start:
                continue
            counted, seconds = await counted_until(database), chance.choice([3_600, 86_400])
            for which in (None, "b"):
                plain = await count_denials(database, which, start, end, seconds, 20_000)
                assert await count_denials(database, which, start, end, seconds, 20_000, counted) == plain
            ranked = await count_by_account(database, start, end, 2)
            assert await count_by_account(database, start, end, 2, counted) == ranked
        if not counting:
            assert await count_days(database, TODAY + timedelta(hours=1)) == TODAY


async def test_pages_and_programs_read_what_is_counted_and_a_rebuild_has_it_counted_anew(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    await ledger.set_up(limit(maximum=0))
    for _ in range(3):
        assert not (await ledger.check(check()))["allowed"]
    before = (await ledger.http.get("/v1/denials:counts")).json()
    assert sum(row["denials"] for row in before["rows"]) == 3
    yesterday = datetime.now(UTC) - timedelta(days=1)
    await database.execute("update decisions set decided_at = $1", yesterday - timedelta(days=1))
    await database.execute("update denials_counted set until = $1", NEVER)
    assert await count_days(database) is not None
    # Read from what was counted: of the decisions themselves one is gone.
    await database.execute("delete from decisions where ctid in (select ctid from decisions limit 1)")
    week = {"from": (yesterday - timedelta(days=6)).isoformat(), "interval": "day"}
    counts = (await ledger.http.get("/v1/denials:counts", params=week)).json()
    assert [row["denials"] for row in counts["rows"]] == [3]
    assert [row["denials"] for row in counts["accounts"]] == [3]

    await rebuilt(database_url)
    assert await counted_until(database) == NEVER
    assert await database.fetchval("select count(*) from denials_hourly") == 0
    after = (await ledger.http.get("/v1/denials:counts")).json()
    assert (after["rows"], after["accounts"][0]["denials"]) == (before["rows"], 3)
