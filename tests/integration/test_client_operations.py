"""Operations through the client, against the real ledger: what each of them comes to, on every way it can take."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from contracts.client import (
    InDoubt,
    JournalUnavailableError,
    LedgerClient,
    LedgerRefused,
    Operation,
    OperationDenied,
    RecoveredFailure,
    Recovery,
)
from contracts.events import OperationFailed, OperationRequested
from contracts.identifiers import uuid7
from contracts.limits import Decision, LimitCheck
from contracts.problems import Problem, ProblemError
from tests.builders import Body, limit
from tests.integration.client_harness import an_operation, journal_in, settings_of
from tests.servers import Ledger, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
SPEND = limit("spend", meter="cost", maximum="10")


@pytest.fixture
def ledger(lent_ledger: Ledger) -> Ledger:
    return lent_ledger


@pytest.fixture(params=["http", "nats"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["journal", "no journal"])
def journalled(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@asynccontextmanager
async def opened(
    ledger: Ledger, nats_server_url: str, folder: Path, transport: str, *, journalled: bool, **changes: Any
) -> AsyncIterator[LedgerClient]:
    """A client that knows no more than its transport: HTTP alone, or NATS alone."""
    settings = settings_of(
        ledger.url if transport == "http" else None,
        nats_server_url if transport == "nats" else None,
        check_transport=transport,
        journal_path=journal_in(folder, wanted=journalled),
        **changes,
    )
    async with LedgerClient.open(settings) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def client(
    ledger: Ledger, nats_server_url: str, tmp_path: Path, transport: str, journalled: bool
) -> AsyncIterator[LedgerClient]:
    await ledger.set_up(limit("images", maximum=25), SPEND)
    async with opened(ledger, nats_server_url, tmp_path, transport, journalled=journalled) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def over_http(ledger: Ledger, nats_server_url: str, tmp_path: Path) -> AsyncIterator[LedgerClient]:
    """HTTP alone, with a journal."""
    await ledger.set_up(limit("images", maximum=25), SPEND)
    async with opened(ledger, nats_server_url, tmp_path, "http", journalled=True) as running:
        yield running


async def the_row(ledger: Ledger) -> Body:
    """The one row of the usage log, once it is there."""

    async def rows() -> list[Body]:
        found: list[Body] = (await ledger.usage_log())["items"]
        return found

    await eventually(rows, "the outcome is in the usage log")
    [row] = await rows()
    return row


async def amounts(ledger: Ledger, limit_id: str) -> tuple[object, object]:
    """Settled and held."""
    state = await ledger.limit(limit_id)
    return state["settled"], state["held"]


async def test_completed_settles_what_was_held(client: LedgerClient, ledger: Ledger) -> None:
    async with client.operation(**an_operation(quantity=2, project_id="site", request_bytes=7)) as operation:
        assert operation.decision.allowed
        assert await amounts(ledger, "images") == (0, 1)
        assert await amounts(ledger, "spend") == ("0.000000000", "0.040000000")
        operation.completed(cost="0.03", status_code=200, response_bytes=99, retry_count=1)
    row = await the_row(ledger)
    assert row["operation_id"] == str(operation.operation_id)
    assert (row["outcome"], row["quantity"], row["cost"]) == ("completed", 2, "0.030000000")
    assert row["project_id"] == "site"
    assert await amounts(ledger, "images") == (1, 0)
    assert await amounts(ledger, "spend") == ("0.030000000", "0.000000000")
    assert operation.outcome is not None
    assert operation.outcome.data.request_bytes == 7


async def test_failed_costs_what_was_billed(client: LedgerClient, ledger: Ledger) -> None:
    async with client.operation(**an_operation()) as operation:
        operation.failed("no_credit", "the provider is out of credit", cost="0.01", status_code=402)
    row = await the_row(ledger)
    assert (row["outcome"], row["cost"]) == ("failed", "0.010000000")
    assert await amounts(ledger, "images") == (0, 0)
    assert await amounts(ledger, "spend") == ("0.010000000", "0.000000000")


async def test_denied_calls_nobody_and_records_nothing(client: LedgerClient, ledger: Ledger) -> None:
    await ledger.put_plan(limit("images", maximum=0))
    with pytest.raises(OperationDenied) as denied:
        async with client.operation(**an_operation()):
            raise AssertionError("the body must not run")
    assert denied.value.decision.denial is not None
    assert denied.value.decision.denial.limit_id == "images"
    problem = denied.value.problem.model_dump()
    assert (problem["status"], problem["code"], problem["decision"]["allowed"]) == (429, "limit_exceeded", False)
    assert (await ledger.usage_log())["items"] == []


class TestHowABodyEnds:
    """What is recorded where the body does not say how its call ended."""

    async def outcome(self, client: LedgerClient, error: BaseException, **more: Any) -> OperationFailed:
        operation = None
        with pytest.raises(type(error)):
            async with client.operation(**an_operation(**more)) as operation:
                raise error
        assert operation is not None
        assert isinstance(operation.outcome, OperationFailed)
        return operation.outcome

    async def test_an_exception_is_the_callers_error_and_costs_nothing(
        self, over_http: LedgerClient, ledger: Ledger
    ) -> None:
        failed = await self.outcome(over_http, KeyError("a fox, the prompt said"))
        assert (failed.data.error.code, failed.data.cost) == ("caller_error", 0)
        assert failed.data.error.message == "the caller's code raised KeyError"
        assert (await the_row(ledger))["cost"] == "0.000000000"

    async def test_what_may_have_been_billed_is_recorded_at_the_estimate(
        self, over_http: LedgerClient, ledger: Ledger
    ) -> None:
        for error, more in (
            (TimeoutError(), {}),
            (asyncio.CancelledError(), {}),
            (ConnectionResetError(), {"doubtful": (OSError,)}),
        ):
            failed = await self.outcome(over_http, error, **more)
            assert (failed.data.error.code, failed.data.cost) == ("outcome_unknown", 40_000_000)
        await eventually(lambda: settled(ledger, "spend", "0.120000000"), "all three are in the ledger")
        assert await amounts(ledger, "images") == (0, 0)

    async def test_billed_is_what_an_exception_costs(self, over_http: LedgerClient) -> None:
        operation = None
        with pytest.raises(KeyError):  # noqa: PT012  what the body says is what this is about
            async with over_http.operation(**an_operation()) as operation:
                operation.billed("0.02")
                raise KeyError
        assert operation is not None
        assert isinstance(operation.outcome, OperationFailed)
        assert (operation.outcome.data.error.code, operation.outcome.data.cost) == ("caller_error", 20_000_000)

    @pytest.mark.parametrize("cost", ["-0.01", "1000000.000000001"])
    async def test_what_no_event_may_say_was_billed_is_named_and_leaves_doubt(
        self, over_http: LedgerClient, ledger: Ledger, cost: str
    ) -> None:
        with pytest.raises(ProblemError) as refused:
            async with over_http.operation(**an_operation()) as operation:
                operation.billed(cost)
        assert [error.field for error in refused.value.problem.errors] == ["cost"]
        row = await the_row(ledger)
        assert (row["error"]["code"], row["cost"]) == ("outcome_unknown", "0.040000000")

    async def test_after_its_end_nothing_more_is_said_of_it(self, over_http: LedgerClient, ledger: Ledger) -> None:
        with pytest.raises(RuntimeError, match="without an outcome"):
            async with over_http.operation(**an_operation()) as operation:
                pass
        for say in (
            lambda: operation.completed(cost="0.01"),
            lambda: operation.failed("x", "y"),
            lambda: operation.in_doubt("z"),
            lambda: operation.billed("0.01"),
        ):
            with pytest.raises(RuntimeError, match="has ended"):
                say()
        assert (await the_row(ledger))["cost"] == "0.040000000"

    async def test_completed_stays_completed_whatever_comes_after(self, over_http: LedgerClient) -> None:
        operation = None
        with pytest.raises(KeyError):  # noqa: PT012  what the body says is what this is about
            async with over_http.operation(**an_operation()) as operation:
                operation.completed(cost="0.02")
                raise KeyError
        assert operation is not None
        assert operation.outcome is not None
        assert operation.outcome.outcome == "completed"

    async def test_nothing_said_is_doubt_and_an_error(self, over_http: LedgerClient, ledger: Ledger) -> None:
        with pytest.raises(RuntimeError, match="without an outcome"):
            async with over_http.operation(**an_operation()):
                pass
        assert (await the_row(ledger))["cost"] == "0.040000000"

    async def test_said_twice_is_an_error_and_the_first_holds(self, over_http: LedgerClient, ledger: Ledger) -> None:
        async with over_http.operation(**an_operation()) as operation:
            operation.completed(cost="0.01")
            with pytest.raises(RuntimeError, match="an outcome already"):
                operation.failed("x", "y")
        assert (await the_row(ledger))["outcome"] == "completed"

    @pytest.mark.parametrize(
        ("said", "field"),
        [
            ({"cost": 0.03}, "cost"),
            ({"cost": "-1"}, "cost"),
            ({"cost": "0.0000000001"}, "cost"),
            ({"cost": "0.03", "quantity": 0}, "quantity"),
            ({"cost": "0.03", "status_code": "ok"}, "status_code"),
            ({"cost": "0.03", "response_bytes": -1}, "response_bytes"),
        ],
    )
    async def test_an_outcome_that_breaks_a_rule_is_named_and_leaves_doubt(
        self, over_http: LedgerClient, said: dict[str, Any], field: str
    ) -> None:
        operation = None
        with pytest.raises(ProblemError) as refused:
            async with over_http.operation(**an_operation()) as operation:
                operation.completed(**said)
        assert [error.field for error in refused.value.problem.errors] == [field]
        assert operation is not None
        assert isinstance(operation.outcome, OperationFailed)
        assert (operation.outcome.data.error.code, operation.outcome.data.cost) == ("outcome_unknown", 40_000_000)


async def test_a_task_that_is_cancelled_twice_still_leaves_its_outcome(client: LedgerClient, ledger: Ledger) -> None:
    inside = asyncio.Event()

    async def call() -> None:
        async with client.operation(**an_operation()):
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(call())
    await inside.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert (await the_row(ledger))["cost"] == "0.040000000"


async def settled(ledger: Ledger, limit_id: str, amount: object) -> bool:
    return (await amounts(ledger, limit_id))[0] == amount


async def test_a_provider_that_can_be_asked_settles_doubt(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.set_up(SPEND)
    asked: list[str] = []

    async def recover(requested: OperationRequested, job_id: str | None) -> Recovery:
        asked.append(requested.data.model)
        if len(asked) > 1:
            raise ConnectionError("the provider does not answer")
        return RecoveredFailure("interrupted", "half done", cost_nanos=5_000_000)

    settings = settings_of(ledger.url, None, journal_path=journal_in(tmp_path))
    async with LedgerClient.open(settings, recover) as client:
        outcomes = []
        for _ in range(2):
            async with client.operation(**an_operation()) as operation:
                operation.in_doubt("no answer")
            assert isinstance(operation.outcome, OperationFailed)
            outcomes.append((operation.outcome.data.error.code, operation.outcome.data.cost))
    assert outcomes == [("interrupted", 5_000_000), ("outcome_unknown", 40_000_000)]
    assert asked == ["render-1"] * 2
    assert InDoubt("x").message == "x"


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"account_id": "a b"}, "account_id"),
            ({"quantity": 0}, "quantity"),
            ({"quantity": "2"}, "quantity"),
            ({"estimated_cost": 0.04}, "estimated_cost"),
            ({"estimated_cost": "-1"}, "estimated_cost"),
            ({"ttl_seconds": 0}, "ttl_seconds"),
            ({"ttl_seconds": 86_401}, "ttl_seconds"),
            ({"operation_id": "7"}, "operation_id"),
            ({"model": "a\r\nb"}, "model"),
            ({"endpoint": "x" * 2000}, "endpoint"),
            ({"request_bytes": -1}, "request_bytes"),
            ({"metadata": {"a": "x" * 5000}}, "metadata"),
        ],
    )
    async def test_is_named_before_anything_is_asked(
        self, over_http: LedgerClient, ledger: Ledger, change: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(ProblemError) as refused:
            over_http.operation(**an_operation(**change))
        assert (refused.value.problem.code, refused.value.problem.errors[0].field) == ("invalid_request", field)
        assert await amounts(ledger, "images") == (0, 0)

    async def test_too_many_checks(self, over_http: LedgerClient) -> None:
        checks = [check_of() for _ in range(1001)]
        with pytest.raises(ProblemError, match="checks: at most 1000"):
            await over_http.check_many(checks)

    async def test_a_hold_for_longer_than_there_is(self, over_http: LedgerClient) -> None:
        with pytest.raises(ProblemError, match="ttl_seconds"):
            await over_http.extend(uuid7(), 86_401)

    async def test_a_journal_belongs_to_one_client(self, over_http: LedgerClient, tmp_path: Path) -> None:
        settings = settings_of("http://127.0.0.1:1", None, journal_path=journal_in(tmp_path))
        with pytest.raises(JournalUnavailableError, match="in use by another process"):
            async with LedgerClient.open(settings):
                pass

    async def test_an_outcome_that_is_kept_as_a_dead_letter_is_said(
        self, ledger: Ledger, nats_server_url: str, tmp_path: Path, journalled: bool
    ) -> None:
        await ledger.set_up(limit("images", maximum=25), SPEND)
        operation_id = uuid7()
        with capture_logs() as logs:
            for cost in ("0.04", "0.05"):  # two processes: each asks its provider, and only one outcome counts
                folder = tmp_path / cost
                folder.mkdir()
                async with (
                    opened(ledger, nats_server_url, folder, "http", journalled=journalled) as client,
                    client.operation(**an_operation(), operation_id=operation_id) as operation,
                ):
                    operation.completed(cost=cost)
                assert ("events_dead_lettered" in [one["event"] for one in logs]) is (cost == "0.05")
        said = next(one for one in logs if one["event"] == "events_dead_lettered")
        assert (said["log_level"], said["events"]) == ("warning", 1)
        assert str(operation_id) in said["first"]
        assert (await the_row(ledger))["cost"] == "0.040000000"


def check_of(**fields: Any) -> LimitCheck:
    return LimitCheck.model_validate({"operation_id": uuid7(), **an_operation(**fields)})


class TestPlainCalls:
    async def test_check_is_the_same_when_it_is_repeated(self, client: LedgerClient, ledger: Ledger) -> None:
        asked = check_of()
        first, again = await client.check(asked), await client.check(asked)
        assert first.allowed
        assert first == again
        assert await amounts(ledger, "images") == (0, 1)
        with pytest.raises(LedgerRefused) as refused:
            await client.check(asked.model_copy(update={"quantity": 2}))
        assert (refused.value.problem.status, refused.value.problem.code) == (409, "conflict")

    async def test_check_many_answers_in_order_each_on_its_own(self, client: LedgerClient, ledger: Ledger) -> None:
        known = check_of()
        await client.check(known)
        asked = [check_of() for _ in range(250)]
        asked[120] = known.model_copy(update={"quantity": 3})
        answers = await client.check_many(asked)
        conflict = answers.pop(120)
        assert isinstance(conflict, Problem)
        assert conflict.code == "conflict"
        decisions = [answer for answer in answers if isinstance(answer, Decision)]
        assert [one.operation_id for one in decisions] == [one.operation_id for one in asked if one is not asked[120]]
        assert sum(one.allowed for one in decisions) == 24
        assert await amounts(ledger, "images") == (0, 25)
        assert await client.check_many([]) == []

    async def test_release_and_extend(self, client: LedgerClient, ledger: Ledger) -> None:
        asked = check_of()
        assert not await client.release(asked.operation_id, asked.account_id)
        with pytest.raises(LedgerRefused) as unknown:
            await client.extend(asked.operation_id, 60, asked.account_id)
        assert unknown.value.problem.status == 404
        await client.check(asked)
        ends = await client.extend(asked.operation_id, 3600, asked.account_id)
        assert abs(ends - datetime.now(UTC) - timedelta(hours=1)) < timedelta(seconds=30)
        assert await client.release(asked.operation_id)
        assert await client.release(asked.operation_id, asked.account_id)
        assert await amounts(ledger, "images") == (0, 0)
        with pytest.raises(LedgerRefused) as closed:
            await client.extend(asked.operation_id, 60)
        assert (closed.value.problem.status, closed.value.problem.code) == (409, "reservation_closed")

    async def test_an_operation_extends_its_own_hold(self, client: LedgerClient) -> None:
        async with client.operation(**an_operation(ttl_seconds=5)) as operation:
            assert await operation.extend(600) > datetime.now(UTC) + timedelta(seconds=500)
            operation.completed(cost="0.01")

    async def test_is_ready(self, client: LedgerClient) -> None:
        assert await client.is_ready()


async def test_two_clients_share_one_limit_exactly(ledger: Ledger, nats_server_url: str, tmp_path: Path) -> None:
    await ledger.set_up(limit("images", maximum=25), SPEND)
    denials = 0

    async def call(client: LedgerClient, number: int) -> None:
        nonlocal denials
        try:
            async with client.operation(**an_operation()) as operation:
                await asyncio.sleep(0.05)
                if number % 5 == 0:
                    operation.in_doubt("who knows")
                else:
                    operation.completed(cost="0.03")
        except OperationDenied:
            denials += 1

    async with (
        opened(ledger, nats_server_url, tmp_path / "one", "http", journalled=True) as one,
        opened(ledger, nats_server_url, tmp_path / "two", "nats", journalled=True) as two,
    ):
        await asyncio.gather(*(call((one, two)[number % 2], number) for number in range(100)))
    assert denials == 75
    usage = (await ledger.usage())["totals"]
    assert usage["calls"] + usage["failures"] == 25
    assert (await ledger.limit("images"))["held"] == 0


async def test_closing_waits_until_the_ledger_has_everything(
    ledger: Ledger, nats_server_url: str, tmp_path: Path, transport: str
) -> None:
    await ledger.set_up()
    async with opened(ledger, nats_server_url, tmp_path, transport, journalled=True) as client:
        for _ in range(20):
            async with client.operation(**an_operation()) as operation:
                operation.completed(cost="0.01")
    assert (await ledger.usage())["totals"]["calls"] == 20
    path = journal_in(tmp_path)
    assert path is not None
    with sqlite3.connect(path) as journal:
        assert journal.execute("select count(*) from outbox").fetchall() == [(0,)]
        assert journal.execute("select count(*) from operations").fetchall() == [(0,)]


async def test_an_operation_that_was_moved_is_recorded_as_what_it_was_held_for_last(
    ledger: Ledger, client: LedgerClient
) -> None:
    await ledger.set_up(SPEND)
    context = client.operation(**an_operation(estimated_cost="0.04"))
    with pytest.raises(TimeoutError):
        await _moved_and_lost(context)

    async def recorded() -> list[Body]:
        return list((await ledger.usage_log())["items"])

    await eventually(recorded, "the outcome is recorded")
    [row] = await recorded()
    assert (row["error"]["code"], row["cost"]) == ("outcome_unknown", "0.090000000")
    assert (row["requested_provider"], row["provider"], row["model"], row["quantity"]) == ("far", "far", "b", 2)
    assert (await ledger.limit("spend"))["held"] == "0.000000000"


async def _moved_and_lost(context: AbstractAsyncContextManager[Operation]) -> None:
    async with context as operation:
        first = operation.requested
        moved = await operation.move(provider="far", model="b", quantity=2, estimated_cost="0.07", billed="0.02")
        assert (moved.allowed, operation.decision, operation.requested) == (True, moved, first)
        raise TimeoutError
