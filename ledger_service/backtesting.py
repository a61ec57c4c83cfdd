"""A backtest from start to end: snapshot → replay → report, a little at a time, so that others have their turn."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import perf_counter
from typing import Final

from pydantic_core import PydanticCustomError

from contracts.backtests import Backtest, BacktestProgress, BacktestResult, refuse_credit
from contracts.problems import NOT_FOUND, FieldError, ProblemError, broken_rule
from ledger_service.domain.backtest import AccountReplay, Correction, Operation, Proposal, openings_of
from ledger_service.domain.backtest_report import Report
from ledger_service.store.accounts import find_account, find_plan
from ledger_service.store.archives import refuse_archived
from ledger_service.store.backtests import (
    count_operations,
    find_accounts,
    find_corrected,
    open_snapshot,
    read_openings,
    read_operations,
)
from ledger_service.store.pool import Connection

ACCOUNTS_PER_ROUND: Final = 500
#: Operations that are replayed before anything else of the process may go on: about half a millisecond.
SLICE_MAX: Final = 50
_REST_SECONDS_MIN: Final = 0.001


async def run_backtest(
    database_url: str, wanted: Backtest, share: float = 1.0
) -> AsyncGenerator[BacktestProgress | BacktestResult, None]:
    """Progress, first before anything is read, at the end the result. Changes nothing. ``share``: of one core.

    Raises ProblemError for a plan or account that does not exist, and what asyncpg raises.
    """
    async with open_snapshot(database_url) as connection:
        proposal = await _find_proposal(connection, wanted)
        await refuse_archived(connection, wanted.start, "the backtest")
        yield BacktestProgress(done=0, of=None, account_id=None)
        start, end, with_denied = wanted.start, wanted.end, wanted.include_denied
        of = await count_operations(connection, start, end, wanted.account_id, with_denied)
        report, pace, done = Report(), _Pace(share), 0
        async with aclosing(_replays(connection, wanted, proposal)) as slices:
            async for replay, operations in slices:
                with pace:
                    for one in operations:
                        if isinstance(one, Operation):
                            report.add(one, replay.decide(one))
                        else:
                            replay.correct(one)
                done += len(operations)
                yield BacktestProgress(done=done, of=of, account_id=operations[-1].account_id)
                await pace.rest()
        yield report.result(start, end, proposal.plan_id, proposal.plan_version, with_denied)


async def _find_proposal(connection: Connection, wanted: Backtest) -> Proposal:
    if wanted.account_id is not None and await find_account(connection, wanted.account_id) is None:
        raise _not_found("account_id", "unknown_account", f"nothing is known of account {wanted.account_id}")
    if wanted.own_plan is not None:
        return Proposal(wanted.own_plan)
    assert wanted.plan_id is not None
    plan = await find_plan(connection, wanted.plan_id)
    if plan is None:
        raise _not_found("plan_id", "unknown_plan", f"there is no plan {wanted.plan_id}")
    try:
        for limit in plan.limits:
            refuse_credit(limit)
    except PydanticCustomError as error:
        raise broken_rule("plan_id", error.type, error.message()) from None
    return Proposal(plan, plan.plan_id, plan.version)


def _not_found(field: str, rule: str, message: str) -> ProblemError:
    return ProblemError(NOT_FOUND, message, [FieldError(field=field, rule=rule, message=message)])


async def _replays(
    connection: Connection, wanted: Backtest, proposal: Proposal
) -> AsyncGenerator[tuple[AccountReplay, list[Operation | Correction]], None]:
    """The operations and corrections in order, in slices of one account each, with that account's replay."""
    after = ""
    while accounts := await find_accounts(connection, after, wanted.account_id, ACCOUNTS_PER_ROUND):
        after = accounts[-1].account_id
        calendars = dict(accounts)
        openings = await read_openings(
            connection,
            (
                (account_id, opening)
                for account_id, calendar in accounts
                for opening in openings_of(proposal, calendar, wanted.start)
            ),
            wanted.start,
        )
        corrected = await find_corrected(connection, list(calendars), wanted.start, wanted.end)
        replay: AccountReplay | None = None
        current: str | None = None
        fetched = read_operations(
            connection, list(calendars), wanted.start, wanted.end, wanted.include_denied, corrected
        )
        async with aclosing(fetched):
            async for operations in fetched:
                for account_id, some in _slices(operations):
                    if replay is None or account_id != current:
                        used = openings.pop(account_id, {})
                        calendar = calendars.pop(account_id)  # a second turn of an account would be a wrong order
                        replay = AccountReplay(
                            account_id, proposal, calendar, wanted.start, used, has_corrections=account_id in corrected
                        )
                        current = account_id
                    yield replay, some


def _slices(operations: list[Operation | Correction]) -> list[tuple[str, list[Operation | Correction]]]:
    """Runs of one account, at most SLICE_MAX long."""
    slices: list[tuple[str, list[Operation | Correction]]] = []
    for operation in operations:
        if slices and slices[-1][0] == operation.account_id and len(slices[-1][1]) < SLICE_MAX:
            slices[-1][1].append(operation)
        else:
            slices.append((operation.account_id, [operation]))
    return slices


class _Pace:
    """Works for a share of the time, and rests for what is left of it."""

    def __init__(self, share: float) -> None:
        self._rest_per_work = 1 / share - 1
        self._since = 0.0
        self._owed = 0.0

    def __enter__(self) -> None:
        self._since = perf_counter()

    def __exit__(self, *_: object) -> None:
        self._owed += (perf_counter() - self._since) * self._rest_per_work

    async def rest(self) -> None:
        if self._owed >= _REST_SECONDS_MIN:
            since = perf_counter()
            await asyncio.sleep(self._owed)
            self._owed -= perf_counter() - since
