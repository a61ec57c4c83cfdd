"""A budget that a hundred callers rush at, over one transport or the other, through one ledger or several."""

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Protocol

import asyncpg
import httpx
import nats
import nats.errors
import pytest
from nats.aio.client import Client as Nats

from contracts.subjects import LIMITS_CHECK
from tests import builders
from tests.builders import Body, limit
from tests.servers import Client, LedgerProcess
from tests.soak.verifier import Findings, verify_account

BUDGET: Final = "1.00"
PRICE: Final = "0.052"
#: 19 times 0.052 is 0.988; the twentieth would make it 1.04.
FITS: Final = 19
CALLERS: Final = 100
ATTEMPTS_MAX: Final = 60
PAUSE_SECONDS: Final = 0.02
SPEND: Final = limit("spend", meter="cost", maximum=BUDGET)

Database = asyncpg.Connection
StartProcess = Callable[..., LedgerProcess]


class NotAnsweredError(Exception):
    """Nobody answered this time: the caller may ask again, elsewhere."""


class Door(Protocol):
    """A way to the ledgers. Answers the decision's bytes."""

    async def ask(self, check: Body) -> bytes:
        """One attempt. Raises NotAnsweredError; AssertionError where the check is refused."""


class HttpDoor:
    """Over HTTP, round-robin over the ledgers."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._next = itertools.cycle(clients)

    async def ask(self, check: Body) -> bytes:
        try:
            answer = await next(self._next).http.post("/v1/limit-checks", json=check)
        except httpx.TransportError as error:
            raise NotAnsweredError from error
        if answer.status_code == 503:
            raise NotAnsweredError
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        return answer.content


class NatsDoor:
    """Over NATS, which gives each request to one of the ledgers."""

    def __init__(self, connection: Nats, timeout_seconds: float = 10) -> None:
        self._connection, self._timeout_seconds = connection, timeout_seconds

    async def ask(self, check: Body) -> bytes:
        try:
            answer = await self._connection.request(
                LIMITS_CHECK, builders.to_bytes(check), timeout=self._timeout_seconds
            )
        except (nats.errors.TimeoutError, nats.errors.NoRespondersError) as error:
            raise NotAnsweredError from error
        code = (answer.headers or {}).get("Nats-Service-Error-Code")
        if code == "503":
            raise NotAnsweredError
        assert code is None, answer.data
        return answer.data


class Answers:
    """What callers were told, by operation. Two different answers to one operation are an error at once."""

    def __init__(self) -> None:
        self._told: dict[str, bytes] = {}
        self.asked_again = 0

    async def ask(self, door: Door, check: Body) -> Body:
        """The decision; the same check is sent again until somebody answers."""
        for _ in range(ATTEMPTS_MAX):
            try:
                told = await door.ask(check)
            except NotAnsweredError:
                self.asked_again += 1
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            first = self._told.setdefault(check["operation_id"], told)
            assert told == first, f"operation {check['operation_id']} got two answers: {first!r} and {told!r}"
            return dict(json.loads(told))
        raise AssertionError("nobody answered")

    async def rush(self, door: Door, checks: Sequence[Body]) -> list[Body]:
        """All at once; the decisions in the order of the checks."""
        return list(await asyncio.gather(*(self.ask(door, check) for check in checks)))

    @property
    def allowed(self) -> list[str]:
        """The operations that somebody was told may proceed."""
        return [operation_id for operation_id, told in self._told.items() if json.loads(told)["allowed"]]


def checks(count: int = CALLERS, **fields: object) -> list[Body]:
    return [builders.check(**{"estimated_cost": PRICE, **fields}) for _ in range(count)]


@asynccontextmanager
async def clients_of(ledgers: Sequence[LedgerProcess]) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ledger.client()) for ledger in ledgers]


async def spend(client: Client, account_id: str, limit_id: str = "spend") -> tuple[str, str, str]:
    """Settled, held and available of a limit on the account."""
    [state] = [one for one in (await client.usage(account_id))["limits"] if one["limit_id"] == limit_id]
    return state["settled"], state["held"], state["available"]


def door_of(transport: str, clients: Sequence[Client], connection: Nats) -> Door:
    return HttpDoor(clients) if transport == "http" else NatsDoor(connection)


async def states(database: "Database[asyncpg.Record]", account_id: str) -> dict[str, list[str]]:
    """The operations of an account, by the state of their decision."""
    found = defaultdict(list)
    rows = await database.fetch("select state, operation_id::text from decisions where account_id = $1", account_id)
    for state, operation_id in rows:
        found[state].append(operation_id)
    return dict(found)


async def assert_log_is_right(
    database: "Database[asyncpg.Record]", account_id: str, *limits: Body, strict: bool = True
) -> None:
    """Replays the account's log in commit order: see tests.soak.verifier. ``limits`` are those of its one plan."""
    if await database.fetchval("show track_commit_timestamp") != "on":
        pytest.skip("this server does not keep commit times, so its log cannot be put in order")
    plain = {"scope": "account", "mode": "hard", "selector": {}}
    findings = Findings()
    plans = {builders.PLAN: [{**plain, **one} for one in limits]}
    await verify_account(database, account_id, plans, findings, strict=strict)
    assert findings.seen["allowed"], "nothing was replayed"
    assert not findings.broken, findings.shown
