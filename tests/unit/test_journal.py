"""The journal: nothing that it took is ever lost, and sequences have no holes, whatever fails."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from contracts.client import http_delivery
from contracts.client.background import Background, stop
from contracts.client.group_commit import LOCKED_SECONDS_MAX, GroupCommit
from contracts.client.http_delivery import HttpDelivery
from contracts.client.http_transport import HttpTransport
from contracts.client.journal import Claim, Journal, JournalUnavailableError
from contracts.client.journal_file import SQL, connect, prepare
from contracts.client.recording import JournalRecorder, recover_left
from contracts.client.recovery import RecoveredCompletion, Recovery
from contracts.client.usage_events import (
    Completion,
    Failure,
    operation_completed,
    operation_failed,
    operation_requested,
)
from contracts.events import OperationCompleted, OperationFailed, OperationRequested, parse_event
from contracts.identifiers import uuid7
from contracts.leases import LeaseRequest
from contracts.limits import LimitCheck
from contracts.problems import INVALID_REQUEST, Problem, problem
from tests import builders

GIBIBYTE = 2**30


def requested_by(journal: Journal, operation_id: UUID | None = None, account: str = "acme") -> OperationRequested:
    check = LimitCheck(
        operation_id=operation_id or uuid7(),
        account_id=account,
        user_id="ann",
        operation="generate",
        provider="local",
        model="local-render-1",
    )
    return operation_requested(
        check, estimated_cost_nanos=10_000_000, source=journal.source, event_id=uuid7(), now=datetime.now(UTC)
    )


def completed(requested: OperationRequested) -> OperationCompleted:
    return operation_completed(
        requested, Completion(10_000_000), event_id=uuid7(), now=datetime.now(UTC), duration_ms=5
    )


def failed(requested: OperationRequested) -> OperationFailed:
    error = Failure("broken", "it broke")
    return operation_failed(requested, error, event_id=uuid7(), now=datetime.now(UTC), duration_ms=5)


def claim_for(key: str = "key", request_hash: str = "hash", account: str = "acme") -> Claim:
    return Claim(account, key, request_hash, uuid7())


async def sequences(journal: Journal) -> list[int]:
    return [row.sequence for row in await journal.outbox(1, 2**62, 100_000)]


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = Journal(tmp_path / "journal.db", GIBIBYTE)
    yield opened
    opened.close()


class TestRecovery:
    async def test_what_is_found_out_and_not_valid_is_doubt_and_keeps_no_other_from_its_outcome(
        self, journal: Journal
    ) -> None:
        """One whose outcome cannot be written would be found again after each restart, and end the others' recovery."""
        wrong: list[dict[str, Any]] = [
            {"quantity": 0}, {"cost_nanos": -1}, {"status_code": 99_999}, {"actual_model": "a b"}, {"cost_nanos": "1"},
        ]  # fmt: skip
        for _ in range(len(wrong) + 1):
            await journal.begin(requested_by(journal))
        found = iter(wrong)

        async def recover(requested: OperationRequested, note: str | None) -> Recovery:
            del requested, note
            return RecoveredCompletion(**{"cost_nanos": 7, **next(found, {})})

        recorder = JournalRecorder(journal, Background(), None)
        await recover_left(await journal.unfinished(), recover, recorder)

        assert await journal.unfinished() == []
        events = [parse_event(row.body) for row in await journal.outbox(1, 2**62, 100)]
        costs = [event.data.cost for event in events if not isinstance(event, OperationRequested)]
        assert sorted(costs) == [7] + [10_000_000] * len(wrong)

    async def test_what_a_services_code_raises_or_has_cancelled_keeps_no_operation_from_its_outcome(
        self, journal: Journal
    ) -> None:
        for _ in range(3):
            await journal.begin(requested_by(journal))
        raised = iter([asyncio.CancelledError(), KeyError("job")])

        async def recover(requested: OperationRequested, note: str | None) -> Recovery:
            del requested, note
            for error in raised:
                raise error
            return RecoveredCompletion(7)

        def problem_of(outcome: OperationFailed) -> Problem:
            raise KeyError(outcome.data.operation)

        recorder = JournalRecorder(journal, Background(), problem_of)
        await recover_left(await journal.unfinished(), recover, recorder)
        assert await journal.unfinished() == []
        events = [parse_event(row.body) for row in await journal.outbox(1, 2**62, 100)]
        costs = [event.data.cost for event in events if not isinstance(event, OperationRequested)]
        assert sorted(costs) == [7, 10_000_000, 10_000_000]

    async def test_a_recovery_that_is_to_end_ends_and_the_operation_is_found_again(self, journal: Journal) -> None:
        await journal.begin(requested_by(journal))
        asked = asyncio.Event()

        async def recover(requested: OperationRequested, note: str | None) -> Recovery:
            del requested, note
            asked.set()
            await asyncio.Event().wait()
            return RecoveredCompletion(7)

        recorder = JournalRecorder(journal, Background(), None)
        recovering = asyncio.create_task(recover_left(await journal.unfinished(), recover, recorder))
        await asked.wait()
        recovering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await recovering
        assert len(await journal.unfinished()) == 1

    async def test_an_idempotency_key_whose_problem_cannot_be_made_has_one_all_the_same(self, journal: Journal) -> None:
        claim = claim_for()
        await journal.claim(claim)
        requested = requested_by(journal, claim.operation_id)
        await journal.begin(requested)

        def problem_of(outcome: OperationFailed) -> Problem:
            raise KeyError(outcome.data.operation)

        await JournalRecorder(journal, Background(), problem_of).finish(failed(requested))
        kept = await journal.claim(claim)
        assert kept is not None
        assert kept.problem is not None
        told = Problem.model_validate_json(kept.problem)
        assert (told.status, told.detail) == (500, "the operation failed: broken")


class TestEvents:
    async def test_sequences_start_at_one_without_holes_and_bodies_carry_them(self, journal: Journal) -> None:
        await asyncio.gather(*(journal.begin(requested_by(journal)) for _ in range(300)))
        rows = await journal.outbox(1, 10_000, 10_000)
        assert [row.sequence for row in rows] == list(range(1, 301))
        events = [parse_event(row.body) for row in rows]
        assert [event.sourcesequence for event in events] == list(range(1, 301))
        assert {event.source for event in events} == {journal.source}
        assert [row.event_id for row in rows] == [str(event.id) for event in events]
        assert {row.subject for row in rows} == {"usage.v1.operation.requested"}

    async def test_refused_write_leaves_no_hole_and_harms_no_neighbour(self, journal: Journal) -> None:
        again = requested_by(journal)
        await journal.begin(again)
        writes = [journal.begin(again if index % 3 == 1 else requested_by(journal)) for index in range(30)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert [isinstance(result, RuntimeError) for result in results] == [index % 3 == 1 for index in range(30)]
        assert await sequences(journal) == list(range(1, 22))

    async def test_outcome_is_recorded_once(self, journal: Journal) -> None:
        requested = requested_by(journal)
        await journal.begin(requested)
        assert await journal.finish(completed(requested))
        assert not await journal.finish(failed(requested))
        assert await sequences(journal) == [1, 2]
        assert await journal.unfinished() == []

    async def test_outcome_without_intent_is_not_recorded(self, journal: Journal) -> None:
        assert not await journal.finish(completed(requested_by(journal)))
        assert await sequences(journal) == []

    async def test_confirmed_rows_leave_and_numbers_are_never_used_again(self, journal: Journal) -> None:
        for _ in range(5):
            await journal.begin(requested_by(journal))
        assert await journal.confirm([(1, 2), (4, 99)]) == 4
        assert await journal.confirm([(1, 2)]) == 0
        assert await sequences(journal) == [3]
        await journal.confirm([(3, 3)])
        await journal.begin(requested_by(journal))
        assert await sequences(journal) == [6]
        assert await journal.last_sequence() == 6

    async def test_many_rows_are_confirmed_and_read_in_portions(self, journal: Journal) -> None:
        await asyncio.gather(*(journal.begin(requested_by(journal)) for _ in range(5_000)))
        assert [row.sequence for row in await journal.outbox(4_000, 5_000, 3)] == [4_000, 4_001, 4_002]
        assert await journal.confirm([(1, 4_999)]) == 4_999
        assert await journal.outbox_ends() == (5_000, 5_000)


class TestKeys:
    async def test_first_claim_wins_and_later_ones_see_it(self, journal: Journal) -> None:
        claims = [claim_for(request_hash=str(number)) for number in range(20)]
        answers = await asyncio.gather(*(journal.claim(claim) for claim in claims))
        assert answers[0] is None
        assert {answer.operation_id for answer in answers[1:] if answer} == {claims[0].operation_id}
        assert await journal.claim(claim_for(account="other")) is None

    async def test_key_follows_its_operation(self, journal: Journal) -> None:
        claim = claim_for()
        await journal.claim(claim)
        requested = requested_by(journal, claim.operation_id)
        await journal.begin(requested)
        [left] = await journal.unfinished()
        assert left.requested.data.operation_id == claim.operation_id
        await journal.finish(failed(requested), problem="{}")
        kept = await journal.claim(claim_for())
        assert kept is not None
        assert (kept.operation_id, kept.state, kept.problem) == (claim.operation_id, "finished", "{}")

    async def test_forgetting_frees_a_claim_and_never_an_operation(self, journal: Journal) -> None:
        claim = claim_for()
        await journal.claim(claim)
        await journal.forget(claim.operation_id)
        second = claim_for()
        assert await journal.claim(second) is None
        await journal.begin(requested_by(journal, second.operation_id))
        await journal.forget(second.operation_id)
        assert len(await journal.unfinished()) == 1

    async def test_sweep_forgets_what_is_over_and_keeps_what_runs(self, journal: Journal) -> None:
        done, running = claim_for("done"), claim_for("running")
        for claim in (done, running):
            await journal.claim(claim)
            await journal.begin(requested_by(journal, claim.operation_id))
        await journal.finish(completed(requested_by(journal, done.operation_id)))
        await journal.sweep(older_than_seconds=60)
        assert await journal.claim(claim_for("done")) is not None
        await journal.sweep(older_than_seconds=-1)
        assert await journal.claim(claim_for("done")) is None
        assert len(await journal.unfinished()) == 1


class TestDurability:
    async def test_reopened_it_goes_on_where_it_was(self, journal: Journal, tmp_path: Path) -> None:
        left_behind = requested_by(journal)
        await journal.begin(left_behind)
        journal.close()
        again = Journal(tmp_path / "journal.db", GIBIBYTE)
        try:
            assert again.source == journal.source
            assert [left.requested.data for left in await again.unfinished()] == [left_behind.data]
            await again.begin(requested_by(again))
            assert await sequences(again) == [1, 2]
        finally:
            again.close()

    async def test_second_owner_is_refused(self, journal: Journal, tmp_path: Path) -> None:
        with pytest.raises(JournalUnavailableError, match="in use"):
            Journal(tmp_path / "journal.db", GIBIBYTE)

    @pytest.mark.parametrize("place", ["a file/journal.db", "a folder"])
    async def test_a_place_that_no_journal_can_be_at_is_said_to_be_that(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "a file").touch()
        (tmp_path / "a folder").mkdir()
        for _ in range(2):  # and is not in use afterwards
            with pytest.raises(JournalUnavailableError, match=place):
                Journal(tmp_path / place, GIBIBYTE)

    async def test_a_file_that_may_not_be_written_is_said_to_be_that(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def denied(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as refusing:
            refusing.setattr(Path, "open", denied)  # root may write anywhere
            with pytest.raises(JournalUnavailableError, match="Permission denied"):
                Journal(tmp_path / "journal.db", GIBIBYTE)
        Journal(tmp_path / "journal.db", GIBIBYTE).close()

    async def test_a_lease_of_another_version_keeps_no_service_from_starting(self, tmp_path: Path) -> None:
        lease = LeaseRequest.model_validate(builders.lease(estimated_cost="0.1"))
        journal = Journal(tmp_path / "journal.db", GIBIBYTE)
        await journal.keep_lease(lease)
        journal.close()
        with closing(sqlite3.connect(tmp_path / "journal.db")) as file:
            file.execute("insert into leases (lease_id, request) values ('1', '{\"newer\": 1}')")
            file.commit()
        journal = Journal(tmp_path / "journal.db", GIBIBYTE)
        assert await journal.kept_leases() == [(lease, None)]
        journal.close()

    async def test_other_version_is_refused(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "journal.db") as file:
            file.execute("pragma user_version = 99")
        with pytest.raises(JournalUnavailableError, match="another version"):
            Journal(tmp_path / "journal.db", GIBIBYTE)

    async def test_journal_at_its_bound_refuses_new_operations_and_takes_outcomes(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "small.db", bytes_max=300_000)
        begun = []
        with pytest.raises(JournalUnavailableError, match="full"):  # noqa: PT012  the bound comes somewhere in the loop
            while True:
                requested = requested_by(journal)
                await journal.begin(requested)
                begun.append(requested)
        for requested in begun:
            assert await journal.finish(completed(requested))
        with pytest.raises(JournalUnavailableError):
            await journal.probe()
        await journal.confirm([(1, len(begun) * 2)])
        await journal.begin(requested_by(journal))
        journal.close()

    async def test_closed_journal_says_so(self, journal: Journal) -> None:
        journal.close()
        with pytest.raises(JournalUnavailableError):
            await journal.begin(requested_by(journal))


class SlowDisk(sqlite3.Connection):
    """Its first commit takes until the gate opens."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # as sqlite3.connect calls it
        super().__init__(*args, **kwargs)
        self.committing, self.gate = threading.Event(), threading.Event()
        self.commits = 0

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # as sqlite3 declares it
        if sql == "commit":
            self.commits += 1
            self.committing.set()
            self.gate.wait(10)
        return super().execute(sql, *values)


@pytest.fixture
def slow_disk(tmp_path: Path) -> SlowDisk:
    connection = sqlite3.connect(tmp_path / "file.db", isolation_level=None, check_same_thread=False, factory=SlowDisk)
    connection.execute("create table t (n integer)")
    return connection


def insert(connection: sqlite3.Connection) -> int | None:
    return connection.execute("insert into t values (1)").lastrowid


async def test_waiting_writes_share_a_transaction(slow_disk: SlowDisk) -> None:
    writer = GroupCommit(slow_disk)
    first = asyncio.create_task(writer.write(insert))
    await asyncio.to_thread(slow_disk.committing.wait, 10)
    others = [asyncio.create_task(writer.write(insert)) for _ in range(50)]
    await asyncio.sleep(0.05)
    assert not first.done()
    slow_disk.gate.set()
    assert await first == 1
    assert await asyncio.gather(*others) == list(range(2, 52))
    assert slow_disk.commits == 2
    writer.close()


async def test_closing_writes_what_waits_and_takes_nothing_more(slow_disk: SlowDisk) -> None:
    writer = GroupCommit(slow_disk, batch_writes_max=20)
    first = asyncio.create_task(writer.write(insert))
    await asyncio.to_thread(slow_disk.committing.wait, 10)
    others = [asyncio.create_task(writer.write(insert)) for _ in range(50)]
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(asyncio.to_thread(writer.close))
    await asyncio.sleep(0.05)
    with pytest.raises(JournalUnavailableError):
        await writer.write(insert)
    slow_disk.gate.set()
    await closing
    assert await asyncio.gather(first, *others) == list(range(1, 52))
    assert slow_disk.execute("select count(*) from t").fetchone() == (51,)


async def test_beside_nats_a_refused_event_is_not_shown_again_each_second(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: asyncio.Queue[int] = asyncio.Queue()

    class Ledger:
        async def record_events(self, bodies: list[bytes]) -> dict[int, Problem]:
            numbers = [parse_event(body).sourcesequence or 0 for body in bodies]
            for number in numbers:
                shown.put_nowait(number)
            return {place: problem(INVALID_REQUEST, "no") for place, number in enumerate(numbers) if number == 1}

    async def are_shown(*numbers: int) -> bool:
        return [await asyncio.wait_for(shown.get(), 5) for _ in numbers] == [*numbers]

    delivery = HttpDelivery(journal, cast("HttpTransport", Ledger()))
    for _ in range(2):
        await journal.begin(requested_by(journal))
    delivering = asyncio.create_task(delivery.run_after(0.02))
    assert await are_shown(1, 2)
    await journal.begin(requested_by(journal))
    assert await are_shown(3)
    await asyncio.sleep(0.3)
    assert shown.empty()
    assert await journal.outbox_ends() == (1, 1)
    await stop(delivering)

    monkeypatch.setattr(http_delivery, "REFUSED_AGAIN_SECONDS", 0.1)
    delivering = asyncio.create_task(delivery.run_after(0.02))
    assert await are_shown(1, 1)
    await stop(delivering)


async def test_another_event_loop_is_refused_while_one_writes(journal: Journal, tmp_path: Path) -> None:
    """In another thread, say: answers reach only the loop that waits for them."""
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        writing = asyncio.create_task(journal.probe())
        await asyncio.sleep(0.05)
        with pytest.raises(JournalUnavailableError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(asyncio.wait_for(journal.probe(), 2)))
        other.execute("rollback")
    await writing
    await asyncio.to_thread(lambda: asyncio.run(asyncio.wait_for(journal.probe(), 2)))  # one after the other


FORKED = """
import asyncio, os, sys
from pathlib import Path
from contracts.client.journal import Journal, JournalUnavailableError
journal = Journal(Path(sys.argv[1]), 2**30)
asyncio.run(journal.probe())
child = os.fork()
if not child:
    try:
        asyncio.run(asyncio.wait_for(journal.probe(), 2))
    except JournalUnavailableError as error:
        os._exit(7 if "forked" in str(error) else 8)
    os._exit(9)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
asyncio.run(journal.probe())
journal.close()
"""


def test_a_forked_process_is_told_to_open_it_itself(tmp_path: Path) -> None:
    """A server that loads the service and then forks its workers, for one."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path / "journal.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


async def test_a_file_that_another_process_has_locked_does_not_stop_the_loop(journal: Journal) -> None:
    [(_, _, path)] = journal._looking.execute("pragma database_list").fetchall()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin immediate")
        begun = asyncio.create_task(journal.begin(requested_by(journal)))
        longest, until = 0.0, time.monotonic() + 0.5
        while time.monotonic() < until:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)
        assert not begun.done()
        other.execute("rollback")
    await begun
    assert longest < LOCKED_SECONDS_MAX / 4


# Writes in a process of its own until it is killed or cannot; prints each operation whose write was acknowledged.
WRITER = """
import asyncio, resource, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from contracts.client.journal import Journal, JournalUnavailableError
from tests.unit.test_journal import GIBIBYTE, completed, requested_by

if sys.argv[3] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))

async def write(journal):
    while True:
        requested = requested_by(journal)
        await journal.begin(requested)
        print("begun", requested.data.operation_id, flush=True)
        await journal.finish(completed(requested))
        print("finished", requested.data.operation_id, flush=True)

async def main():
    journal = Journal(Path(sys.argv[1]), GIBIBYTE)
    results = await asyncio.gather(*(write(journal) for _ in range(8)), return_exceptions=True)
    assert all(isinstance(result, JournalUnavailableError) for result in results), results
    print("refused", str(results[0]).replace(" ", "_"), flush=True)

asyncio.run(main())
"""


def start_writer(path: Path, file_bytes_max: int = 0) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(root), str(file_bytes_max)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
    )


async def check_after_crash(path: Path, said: list[list[str]]) -> None:
    """Everything acknowledged is there; sequences have no holes; each event belongs to an operation's history."""
    journal = Journal(path, GIBIBYTE)
    try:
        rows = await journal.outbox(1, 2**62, 1_000_000)
        assert [row.sequence for row in rows] == list(range(1, len(rows) + 1))
        events = [parse_event(row.body) for row in rows]
        begun = {str(event.data.operation_id) for event in events if event.outcome is None}
        finished = {str(event.data.operation_id) for event in events if event.outcome is not None}
        assert {word[1] for word in said if word[0] == "begun"} <= begun
        assert {word[1] for word in said if word[0] == "finished"} <= finished
        left = {str(operation.requested.data.operation_id) for operation in await journal.unfinished()}
        assert left == begun - finished
        await journal.begin(requested_by(journal))
        assert await journal.last_sequence() == len(rows) + 1
    finally:
        journal.close()


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    writer = start_writer(tmp_path / "journal.db")
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(400)]
    os.kill(writer.pid, signal.SIGKILL)
    rest, _ = writer.communicate()
    whole = [line.split() for line in [*lines, *rest.splitlines(keepends=True)] if line.endswith("\n")]
    assert len(whole) >= 400
    await check_after_crash(tmp_path / "journal.db", whole)


async def test_disk_full_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    writer = start_writer(tmp_path / "journal.db", file_bytes_max=2_000_000)
    out, err = writer.communicate(timeout=60)
    assert writer.returncode == 0, err
    said = [line.split() for line in out.splitlines()]
    assert said[-1][0] == "refused"
    assert len(said) > 50
    await check_after_crash(tmp_path / "journal.db", said[:-1])


@pytest.mark.parametrize("name", SQL)
def test_every_statement_of_the_journal_can_be_prepared(name: str, tmp_path: Path) -> None:
    connection = connect(tmp_path / "journal.db")
    prepare(connection, "tests")
    named = {"operation_id", "account_id", "idempotency_key", "request_hash", "now", "provider", "model"}
    values: Any = dict.fromkeys([*named, "requested_event"]) if ":" in SQL[name] else (None,) * SQL[name].count("?")
    connection.execute(f"explain {SQL[name]}", values)
    connection.close()
