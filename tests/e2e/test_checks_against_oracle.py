"""Random checks through three ledgers, and an independent replay of their log. Longer: `python -m tests.soak`."""

from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import orjson
import pytest

from deploy.local.errors import MissingServerError
from tests.soak.facts import account_id, is_strict, make_plans
from tests.soak.run import Size, soak
from tests.soak.stack import Stack, stack_of
from tests.soak.verifier import AccountReplay, Findings, logged

SHORT = Size(checks=4_000, accounts=40, callers=128, seed=20)
#: Run by `make faults`.
LONG = Size(checks=20_000, accounts=100, callers=256, seed=20)
in_every_run_and_longer = pytest.mark.parametrize(
    "size", [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.faults)]
)
Row = tuple[str, str, str]


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    try:
        with stack_of(tmp_path_factory.mktemp("soak"), 3, durable=False) as made:
            yield made
    except MissingServerError as error:
        pytest.skip(str(error))


@in_every_run_and_longer
async def test_every_decision_is_right_and_the_verifier_would_say_if_not(stack: Stack, size: Size) -> None:
    outcome = await soak(stack, size)
    assert not outcome.findings.broken, outcome.findings.shown
    seen = outcome.findings.seen
    # A load under which nothing binds, expires or settles would prove nothing.
    for kind in (
        "denied",
        "allowed",
        "ledger.reservation.moved.v1",
        "ledger.reservation.released.v1",
        "ledger.reservation.expired.v1",
        "ledger.reservation.extended.v1",
        "usage.operation.completed.v1",
        "usage.operation.failed.v1",
    ):
        assert seen[kind] >= size.checks // 500, kind
    database = await asyncpg.connect(stack.database_url)
    try:
        for name, spoil in SPOILT.items():
            assert name in await spoilt(database, spoil, size), f"{spoil.__name__} was not noticed"
    finally:
        await database.close()


async def spoilt(
    database: "asyncpg.Connection[asyncpg.Record]", spoil: Callable[[list[Row]], list[Row]], size: Size
) -> set[str]:
    """What the verifier finds in the log of some accounts after it was spoilt."""
    plans = make_plans(size.seed, size.checks // size.accounts, size.checks)
    findings = Findings()
    for index in range(size.accounts // 10):
        account = account_id(index)
        replay = AccountReplay(account, plans, findings, is_strict(account))
        replay.replay(spoil(await logged(database, account)))
        replay.compare_counters(await database.fetch("select * from counters where account_id = $1", account))
    return set(findings.broken)


def a_denial_put_admitted(rows: list[Row]) -> list[Row]:
    """A denied check passes for an admitted one."""

    def admit(data: dict[str, Any]) -> None:
        data["decision"]["allowed"] = True
        data["decision"]["reservation"] = {"expires_at": "2200-01-01T00:00:00Z"}

    return _changed(rows, "ledger.check.denied.v1", "ledger.reservation.placed.v1", admit)


def an_admission_put_denied(rows: list[Row]) -> list[Row]:
    """The other way round, by the first limit that it names."""

    def deny(data: dict[str, Any]) -> None:
        data["decision"]["allowed"] = False
        data["decision"]["denial"] = {"code": "limit_exceeded", "limit_id": "none", "message": ""}

    return _changed(rows, "ledger.reservation.placed.v1", "ledger.check.denied.v1", deny)


def a_release_lost(rows: list[Row]) -> list[Row]:
    return _without(rows, "ledger.reservation.released.v1")


def an_outcome_lost(rows: list[Row]) -> list[Row]:
    return _without(rows, "usage.operation.completed.v1")


def an_outcome_twice(rows: list[Row]) -> list[Row]:
    return [row for row in rows for _ in range(2 if row[0] == "usage.operation.completed.v1" else 1)]


def a_decision_twice(rows: list[Row]) -> list[Row]:
    return [*rows, next(row for row in rows if row[0] == "ledger.check.denied.v1")]


SPOILT = {
    "admitted past a hard limit": a_denial_put_admitted,
    "denied while every limit had room": an_admission_put_denied,
    "a counter that is not the sum of its events": a_release_lost,
    "a limit shown otherwise": an_outcome_lost,
    "two outcomes": an_outcome_twice,
    "an operation decided twice": a_decision_twice,
}


def _changed(rows: list[Row], kind: str, other: str, change: Callable[[dict[str, Any]], None]) -> list[Row]:
    place = next(index for index, row in enumerate(rows) if row[0] == kind)
    body = orjson.loads(rows[place][2])
    change(body["data"])
    return [*rows[:place], (other, rows[place][1], orjson.dumps(body).decode()), *rows[place + 1 :]]


def _without(rows: list[Row], kind: str) -> list[Row]:
    place = next((index for index, row in enumerate(rows) if row[0] == kind), None)
    return rows if place is None else [*rows[:place], *rows[place + 1 :]]
