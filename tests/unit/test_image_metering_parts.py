"""The pure parts around metering: recoveries, problems, log lines, Accept, admission."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.client import InDoubt
from contracts.client.usage_events import operation_requested
from contracts.identifiers import uuid7
from contracts.limits import Decision, LimitCheck
from contracts.problems import ProblemError
from image_service.admission import SLOW_SECONDS_MIN, Admission
from image_service.artifacts import Artifact
from image_service.calls import Call, Caller
from image_service.images import Bounds
from image_service.operation_log import Report, limit_moves, readable_block
from image_service.operations import OPERATIONS
from image_service.operations.base import Uploads
from image_service.operations.generate import GenerateParameters
from image_service.outcomes import Completed, Failed, OutcomeStore, failure_problem
from image_service.providers.base import Model, Quote
from image_service.providers.registry import Candidate, Providers, Selection
from image_service.recoveries import Recoveries
from image_service.replies import wants_bytes
from image_service.watching import Watches

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def call_of(quantity: int = 1, cost_nanos: int = 10_000_000) -> Call:
    operation = OPERATIONS["generate"]
    parameters = GenerateParameters(prompt="a fox", width=64, height=64, variations=quantity)
    candidate = Candidate("local", Model("local-render-1", "generate"), Quote(quantity, {}, cost_nanos))
    return Call(
        operation_id=uuid7(),
        caller=Caller(account_id="acme", user_id="ann", project_id="site"),
        operation=operation,
        request=operation.request(parameters, Uploads(), Bounds(1_000_000, 4096)),
        selection=Selection((candidate,)),
        request_bytes=99,
        has_key=False,
        keep=False,
    )


def decision(*, is_allowed: bool = True, **limit: object) -> Decision:
    state = {
        "limit_id": "images", "scope": "account", "meter": "calls", "window": "month", "period": "2026-11",
        "maximum": 25, "settled": 10, "held": 3, "available": 12, **limit,
    }  # fmt: skip
    return Decision.model_validate(
        {
            "operation_id": uuid7(),
            "allowed": is_allowed,
            "reservation": None,
            "denial": None,
            "limits": [state],
            "decided_at": NOW,
            "plan_id": "starter",
        }
    )


async def test_provider_that_is_gone_leaves_doubt(tmp_path: Path) -> None:
    check = LimitCheck(
        operation_id=uuid7(), account_id="acme", user_id="ann", operation="generate", provider="gone", model="m"
    )
    requested = operation_requested(check, estimated_cost_nanos=70, source="x", event_id=uuid7(), now=NOW)
    recoveries = Recoveries(Providers(()), OutcomeStore(tmp_path), Watches(), spool_folder=tmp_path, doubt_seconds=1)
    assert isinstance(await recoveries.recover(requested, None), InDoubt)


class TestLog:
    def report(self, status, made: Decision, cost_nanos: int = 10_000_000, **call) -> Report:
        return Report(call_of(**call), status, made, cost_nanos, 42, None if status == "completed" else "some_code")

    def test_calls_before_and_after(self) -> None:
        [move] = limit_moves(self.report("completed", decision()))
        assert (move.before, move.after, move.maximum) == (12, 13, 25)

    def test_units_move_by_the_quantity(self) -> None:
        [move] = limit_moves(self.report("completed", decision(meter="units"), quantity=3))
        assert (move.before, move.after) == (10, 13)

    def test_failure_gives_the_hold_back_but_for_what_was_billed(self) -> None:
        [calls] = limit_moves(self.report("failed", decision(), 0))
        assert (calls.before, calls.after) == (12, 12)
        made = decision(
            meter="cost", maximum="1.000000000", settled="0.100000000", held="0.010000000", available="0.89"
        )
        [billed] = limit_moves(self.report("failed", made, 4_000_000))
        assert (billed.before, billed.after) == ("0.100000000", "0.104000000")

    def test_denial_has_no_share_of_its_own(self) -> None:
        [move] = limit_moves(self.report("denied", decision(is_allowed=False, settled=25, held=0), 0))
        assert (move.before, move.after) == (25, 25)

    def test_block_shows_what_people_ask_for(self) -> None:
        block = readable_block(self.report("completed", decision()))
        for part in ("acme", "plan starter", "generate", "local-render-1", "12 → 13 / 25", "0.010000000", "completed"):
            assert part in block
        assert "denied: some_code" in readable_block(self.report("denied", decision(is_allowed=False), 0))


@pytest.mark.parametrize(
    ("accept", "image_alone"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("image/*", True),
        ("image/png", True),
        ("application/json, image/png", False),
        ("image/webp;q=0.9, */*;q=0.1", True),
        ("text/html", False),
        ("model/gltf-binary", True),
        ("video/*", True),
    ],
)
def test_accept(accept, image_alone) -> None:
    assert wants_bytes(accept) is image_alone


async def test_uploads_wait_for_room_in_turn() -> None:
    admission, order = Admission(operations_max=9, upload_bytes_max=100), []

    async def upload(name: str, size: int, seconds: float) -> None:
        async with admission.upload(size):
            order.append(name)
            await asyncio.sleep(seconds)

    uploads = [("first", 60, 0.05), ("second", 60, 0.05), ("small", 10, 0.0), ("huge", 1_000, 0.0)]
    await asyncio.wait_for(asyncio.gather(*(upload(*one) for one in uploads)), 5)
    assert order == ["first", "second", "small", "huge"]


def test_operations_beyond_the_bound_are_refused_and_places_are_given_back() -> None:
    admission = Admission(operations_max=1, upload_bytes_max=1)
    for _ in range(3):
        place = admission.enter()
        with pytest.raises(ProblemError, match="overloaded"):
            admission.enter()
        place.leave()


async def test_of_bodies_that_come_in_the_slowest_gives_way_to_a_new_one() -> None:
    clock, admission, ended = [100.0], Admission(operations_max=2, upload_bytes_max=1, clock=lambda: clock[0]), []

    async def body(name: str, received: int, go_on: asyncio.Event) -> None:
        try:
            async with admission.incoming(lambda: received):
                await go_on.wait()
            ended.append(name)
        except ProblemError as error:
            ended.append(f"{name}: {error.kind.code}")

    never, now = asyncio.Event(), asyncio.Event()
    now.set()
    tasks = [asyncio.create_task(body(name, size, never)) for name, size in (("quick", 9_000), ("slow", 10))]
    await asyncio.sleep(0)
    await body("too early", 0, now)
    assert ended == ["too early: overloaded"], "one that has only begun is not slow"
    clock[0] += SLOW_SECONDS_MIN
    await body("next", 0, now)
    await asyncio.wait({tasks[1]}, timeout=5)
    assert ended[1:] == ["next", "slow: request_timeout"]
    await body("the one after", 0, now)
    assert ended[3:] == ["the one after"], "there is room"
    tasks[0].cancel()


async def test_no_body_is_read_for_an_operation_that_would_have_no_place() -> None:
    admission = Admission(operations_max=1, upload_bytes_max=1)
    admission.enter()
    with pytest.raises(ProblemError, match="overloaded"):
        async with admission.incoming(lambda: 0):
            pass


def test_outcomes_are_whole_or_absent(tmp_path: Path) -> None:
    folder = tmp_path / "outcomes"
    store = OutcomeStore(folder)
    spooled = tmp_path / "spooled.part"
    spooled.write_bytes(b"a clip")
    artifacts = (
        Artifact.of(b"\n{}\x00", "image/png", width=1, height=2),
        Artifact.of(spooled, "video/mp4", duration_ms=900),
    )
    outcome = Completed(uuid7(), "acme", "generate", "local", "m", 5, artifacts, seed=None)
    assert store.load(outcome.operation_id) is None
    saved = store.save(outcome)
    loaded = store.load(outcome.operation_id)
    assert saved == loaded
    assert isinstance(loaded, Completed)
    assert [one.content.read() for one in loaded.artifacts] == [b"\n{}\x00", b"a clip"]
    assert (loaded.artifacts[1].duration_ms, loaded.cost_nanos, spooled.exists()) == (900, 5, False)
    assert not [file for file in folder.iterdir() if file.suffix == ".part"]
    assert store.sweep(older_than_seconds=60) == 0
    assert store.sweep(older_than_seconds=-1) == 3
    assert store.load(outcome.operation_id) is None


def test_a_failure_is_kept_with_what_its_caller_was_told(tmp_path: Path) -> None:
    store, operation_id = OutcomeStore(tmp_path), uuid7()
    problem = failure_problem(operation_id, "local", "m", "unreliable", "no").problem
    store.save(Failed(operation_id, "acme", "generate", problem))
    loaded = store.load(operation_id)
    assert isinstance(loaded, Failed)
    assert loaded.problem == problem


def test_an_outcome_with_a_result_that_is_gone_is_none(tmp_path: Path) -> None:
    store = OutcomeStore(tmp_path)
    outcome = Completed(uuid7(), "acme", "generate", "local", "m", 5, (Artifact.of(b"x", "image/png"),), seed=None)
    store.save(outcome)
    (tmp_path / f"{outcome.operation_id}.0").unlink()
    assert store.load(outcome.operation_id) is None
