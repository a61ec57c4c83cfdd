"""Whose numbers are whose: a token that is bound to an account cannot confirm what another producer's journal holds."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from nats.aio.client import Client

from contracts.client import LedgerClient
from contracts.events import BATCH_CONTENT_TYPE
from ledger_service.store.migrations import migrations
from ledger_service.store.sources import claim_sources
from tests.builders import ACCOUNT, Body, completed, limit
from tests.integration.client_harness import OPERATION, journal_in, settings_of
from tests.integration.test_access_routes import make_token
from tests.integration.test_ledger_ingest import Confirmations, publish
from tests.servers import Ledger, eventually

Database = asyncpg.Connection
FAR_AHEAD = 10**9


class Bound:
    """Sends events with a token that is bound to the account."""

    def __init__(self, account_id: str, http: httpx.AsyncClient) -> None:
        self.account_id, self._http = account_id, http

    def event(self, source: str, number: int | None = None, **fields: Any) -> Body:
        if number is not None:
            fields["sourcesequence"] = number
        return completed(account_id=self.account_id, source=source, **fields)

    async def send(self, *events: Body) -> Body:
        headers = {"Content-Type": BATCH_CONTENT_TYPE}
        answer = await self._http.post("/v1/events", content=json.dumps(events), headers=headers)
        assert answer.status_code == 200, answer.text
        taken: Body = answer.json()
        return taken

    async def send_one(self, event: Body) -> httpx.Response:
        return await self._http.post("/v1/events", json=event)

    async def may(self, source: str, number: int) -> bool:
        answer = await self.send_one(self.event(source, number))
        assert answer.status_code in (200, 403), answer.text
        return answer.status_code == 200


@pytest.fixture
async def tokens(ledger: Ledger) -> AsyncIterator[tuple[Bound, Bound]]:
    async with AsyncExitStack() as stack:
        both = []
        for account_id in ("acme", "mallory"):
            token = await make_token(ledger, "events:write", account_id=account_id)
            client = httpx.AsyncClient(base_url=ledger.url, headers=token, timeout=30)
            both.append(Bound(account_id, await stack.enter_async_context(client)))
        acme, mallory = both
        yield acme, mallory


async def numbers(ledger: Ledger, source: str) -> tuple[int, int, str | None]:
    """Complete until, last number, and whose it is."""
    items = (await ledger.http.get("/v1/sources")).json()["items"]
    [found] = [item for item in items if item["source"] == source]
    return found["contiguous_until"], found["last_sequence"], found["account_id"]


async def test_numbers_of_a_producer_over_nats_are_nobody_elses(
    ledger: Ledger, tokens: tuple[Bound, Bound], nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    confirmations = await Confirmations.of(nats_client)
    # All that it has of now is of the account that tries.
    await publish(nats_client, completed(account_id="mallory", source="image/1", sourcesequence=1))
    await confirmations.say("image/1", [[1, 1]])
    _, mallory = tokens
    for number in (1, 2, FAR_AHEAD):
        answer = await mallory.send_one(mallory.event("image/1", number))
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (403, "forbidden")
        assert [(error["field"], error["rule"]) for error in problem["errors"]] == [("source", "foreign_source")]
    assert await numbers(ledger, "image/1") == (1, 1, None)
    assert await database.fetchval("select count(*) from event_log where account_id = 'mallory'") == 1
    assert await database.fetchval("select count(*) from dead_letters") == 0
    # Its producer goes on, also with an unbound token.
    await publish(nats_client, completed(source="image/1", sourcesequence=2))
    await confirmations.say("image/1", [[1, 2]])
    await ledger.send(completed(source="image/1", sourcesequence=3))
    await confirmations.say("image/1", [[1, 3]])


async def test_numbers_of_an_account_are_no_other_accounts(ledger: Ledger, tokens: tuple[Bound, Bound]) -> None:
    acme, mallory = tokens
    assert await acme.may("app/1", 1)
    own, foreign, unnumbered = mallory.event("app/2", 1), mallory.event("app/1", 2), mallory.event("app/1")
    taken = await mallory.send(own, foreign, unnumbered)
    assert (taken["accepted"], [one["index"] for one in taken["rejected"]]) == (2, [1])
    assert taken["rejected"][0]["problem"]["errors"][0]["field"] == "source"
    # The same again: what was recorded is a duplicate, what was not is not.
    again = await mallory.send(own, foreign, unnumbered)
    assert (again["accepted"], again["duplicates"], [one["index"] for one in again["rejected"]]) == (0, 2, [1])
    assert await numbers(ledger, "app/1") == (1, 1, "acme")
    assert await numbers(ledger, "app/2") == (1, 1, "mallory")
    assert await acme.may("app/1", 2)


async def test_one_of_two_who_begin_at_once_gets_a_source(ledger: Ledger, tokens: tuple[Bound, Bound]) -> None:
    acme, mallory = tokens
    for attempt in range(10):
        source = f"raced/{attempt}"
        may = await asyncio.gather(acme.may(source, 1), mallory.may(source, 2))
        assert sorted(may) == [False, True]
        number = 1 if may[0] else 2
        assert await numbers(ledger, source) == (number, number, "acme" if may[0] else "mallory")


async def test_of_two_ledgers_the_first_to_commit_gives_a_source_its_account(
    database: "Database[asyncpg.Record]", database_url: str
) -> None:
    other = await asyncpg.connect(database_url)
    try:
        async with database.transaction():
            assert await claim_sources(database, {"app/1": "acme"}) == {"app/1": "acme"}
            second = asyncio.create_task(claim_sources(other, {"app/1": "mallory", "app/2": "mallory"}))
            waits = "select cardinality(pg_blocking_pids($1)) > 0"
            await eventually(lambda: database.fetchval(waits, other.get_server_pid()), "the second waits for the first")
        assert await second == {"app/1": "acme", "app/2": "mallory"}
    finally:
        await other.close()


async def test_a_source_with_events_of_others_is_no_longer_an_accounts(
    ledger: Ledger, tokens: tuple[Bound, Bound], nats_client: Client
) -> None:
    confirmations = await Confirmations.of(nats_client)
    acme, mallory = tokens
    assert await acme.may("both/1", 1)
    # The same producer over NATS beside HTTP.
    await publish(nats_client, acme.event("both/1", 2))
    await confirmations.say("both/1", [[1, 2]])
    assert await acme.may("both/1", 3)
    # Mallory would have had the name first, had she guessed it: not for long.
    assert await mallory.may("image/1", 1)
    await publish(nats_client, acme.event("image/1", 1), mallory.event("image/1", 2))
    await confirmations.say("image/1", [[1, 2]])
    assert not await mallory.may("image/1", 3)


async def test_the_upgrade_locks_out_no_account_of_a_source_that_is_its_own(
    ledger: Ledger, tokens: tuple[Bound, Bound], database: "Database[asyncpg.Record]"
) -> None:
    acme, mallory = tokens
    old = acme.event("app/old", 1)
    await ledger.send(old, acme.event("shared/old", 1), mallory.event("shared/old", 2), acme.event("unnumbered"))
    await database.execute("drop table source_accounts")
    [migration] = [one for one in migrations() if one.number == "0029"]
    await database.execute(migration.sql)
    await database.execute("grant select, insert, update, delete on source_accounts to ledger_service")
    found = await database.fetch("select source, account_id from source_accounts order by source")
    assert [tuple(row) for row in found] == [("app/old", "acme"), ("shared/old", "")]
    assert not await mallory.may("app/old", 2)
    assert (await acme.send(old, acme.event("app/old", 2))) == {"accepted": 1, "duplicates": 1, "rejected": []}
    assert not await acme.may("shared/old", 3)
    assert not await mallory.may("shared/old", 3)
    # What a ledger of the version before saw first has no row.
    await database.execute("insert into sources (source, recorded) values ('app/beside', '{[1,2]}')")
    assert await acme.may("app/beside", 3)
    assert not await mallory.may("app/beside", 4)


async def emptied(client: LedgerClient) -> bool:
    assert client.journal is not None
    return await client.journal.outbox_ends() == (0, 0)


async def test_a_client_with_a_bound_token_empties_its_journal_whatever_others_claim(
    ledger: Ledger, tokens: tuple[Bound, Bound], tmp_path: Path
) -> None:
    await ledger.set_up(limit())
    bound = await make_token(ledger, "limits:check", "events:write", account_id=ACCOUNT)
    token, journal = bound["Authorization"].removeprefix("Bearer "), journal_in(tmp_path)
    _, mallory = tokens
    async with LedgerClient.open(settings_of(ledger.url, None, journal_path=journal, token=token)) as client:
        for done in range(1, 4):
            async with client.operation(**OPERATION) as operation:
                operation.completed(cost="0.03", status_code=200)
            await eventually(lambda: emptied(client), "the ledger has it")
            [found] = (await ledger.http.get("/v1/sources")).json()["items"]
            assert (found["account_id"], found["contiguous_until"], found["missing"]) == (ACCOUNT, 2 * done, 0)
            assert not await mallory.may(found["source"], 2 * done + 1)
