"""The demo as a person or a build runs it: a process of its own, on real servers."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from PIL import Image
from rich.console import Console

from contracts.identifiers import uuid7
from contracts.limits import Denial, LimitState
from deploy.local.demo_client import Answer, Done, Explained, LogRow, Problem, Usage
from deploy.local.demo_screen import Screen
from deploy.local.demo_verdict import Evidence, Failure, SavedPicture, judge

ROOT = Path(__file__).parents[2]
RUN_TIMEOUT_SECONDS = 240.0  # on a machine that does much else
STOP_TIMEOUT_SECONDS = 60.0


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts it with ``tmp_path`` as the system's temporary folder."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        # As little of the caller's terminal as a build has; forced colours would be no plain output.
        environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS")}
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local.demo", *arguments],
            cwd=ROOT,
            env={**environment, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def processes_in(folder: Path) -> list[str]:
    """Those that name a folder in their arguments or environment; a zombie has neither."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in words:
                found.append(words.split(b"\0", 1)[0].decode(errors="replace"))
    return found


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


# --- how it looks


def test_nothing_is_cut_in_a_terminal_of_eighty_columns() -> None:
    console = Console(width=80, file=io.StringIO(), highlight=False)
    screen = Screen(console, answers_expected=0)
    logged = LogRow.model_validate({**row(uuid7()).model_dump(), "model": "local-unreliable-1", "cost": "0.01"})
    why = "limit images allows 25 calls in 2026-11: 2 settled, 23 held, 1 asked"
    with console.capture() as capture:
        screen.usage_log([logged])
        screen.burst([denied(why)], images_limit(settled=2), 2.6)
    said = capture.get()
    assert "local-unreliable-1   completed   $0.010   5 ms" in said
    assert "…" not in said
    assert " ".join(said.split()).endswith(why)


# --- the demo itself


def test_demo_keeps_its_promises_and_leaves_only_its_pictures(
    start_demo: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start_demo()
    said, errors = process.communicate(timeout=RUN_TIMEOUT_SECONDS)
    assert process.returncode == 0, said + errors
    assert "2 used + 23 admitted = 25 of 25 images, 77 of 100 denied" in said
    assert "limit images allows 25 calls" in said
    assert "All 7 promises held" in said
    assert not {character for character in said if ord(character) < ord(" ")} - {"\n"}, "control characters"
    assert max(map(len, said.splitlines())) <= 100 + len(str(tmp_path))
    assert errors == ""

    assert processes_in(tmp_path) == []
    (results,) = tmp_path.iterdir()
    assert results.name.startswith("usage-ledger-demo-")
    assert str(results) in said
    sizes = {path.name: size_of(path) for path in results.iterdir()}
    assert sizes.pop("1-edited.jpg") == (640, 427)
    assert sizes.pop("2-upscaled.jpg") == (1280, 854)
    assert sorted(sizes) == [f"generated-{number:02}.png" for number in range(1, 24)]
    assert set(sizes.values()) == {(512, 512)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stops_cleanly(
    start_demo: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    process = start_demo()
    deadline = time.monotonic() + RUN_TIMEOUT_SECONDS
    # PostgreSQL and NATS run by then, and the services are about to.
    while not list(tmp_path.glob("*/logs/migrate.log")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    said, errors = process.communicate(timeout=STOP_TIMEOUT_SECONDS)
    assert process.returncode == 128 + number
    assert f"Stopped by {number.name}" in said
    assert "Traceback" not in errors
    assert processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_says_why_the_stack_cannot_start(start_demo: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").touch()
    process = start_demo("--data", str(foreign))
    said, errors = process.communicate(timeout=STOP_TIMEOUT_SECONDS)
    assert process.returncode == 2
    assert "was not made by usage-stack" in errors
    assert "Traceback" not in said + errors
    assert list(tmp_path.iterdir()) == [foreign]
    assert [path.name for path in foreign.iterdir()] == ["cat.jpg"]


def test_says_that_the_folder_for_pictures_is_none(
    start_demo: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    process = start_demo("--out", str(tmp_path / "file"))
    _, errors = process.communicate(timeout=STOP_TIMEOUT_SECONDS)
    assert process.returncode == 2
    assert "choose another with --out" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- its verdict


def images_limit(settled: int, held: int = 0) -> LimitState:
    return LimitState.model_validate(
        {"limit_id": "images", "scope": "account", "meter": "calls", "window": "month", "period": "2026-11"}
        | {"maximum": 25, "settled": settled, "held": held, "available": 25 - settled - held}
    )


def spend_limit(settled: str) -> LimitState:
    return LimitState.model_validate(
        {"limit_id": "spend", "scope": "account", "meter": "cost", "window": "month", "period": "2026-11"}
        | {"maximum": "1.00", "settled": settled, "held": "0", "available": "0"}
    )


def done() -> Answer:
    answered = {"operation_id": uuid7(), "model": "m", "cost": "0.010000000", "images": []}
    return Answer(200, 0.1, done=Done.model_validate(answered))


def denied(why: str = "no room") -> Answer:
    denial = {"code": "limit_exceeded", "message": why, "limit_id": "images"}
    answered = {"code": "limit_exceeded", "detail": "no room", "operation_id": uuid7(), "decision": {"denial": denial}}
    return Answer(429, 0.1, problem=Problem.model_validate(answered))


def row(operation_id: UUID, outcome: str = "completed", cost: str = "0.01") -> LogRow:
    fields = {"operation": "generate", "model": "m", "quantity": 1, "duration_ms": 5, "occurred_at": datetime.now(UTC)}
    return LogRow.model_validate({**fields, "operation_id": operation_id, "outcome": outcome, "cost": cost})


def explained(operation_id: UUID, state: str, denial: Denial | None = None) -> Explained:
    return Explained(operation_id=operation_id, allowed=denial is None, denial=denial, limits=[], state=state)


def usage(calls: int, failures: int, cost: str, settled: int) -> Usage:
    totals = {"calls": calls, "units": calls, "failures": failures, "cost": cost}
    return Usage.model_validate(
        {
            "period": "2026-11",
            "totals": totals,
            "by_operation": {},
            "limits": [images_limit(settled), spend_limit(cost)],
        }
    )


def kept() -> Evidence:
    """What a demo finds where all is well: 2 edits, a failure, 23 admitted of 30."""
    edits, burst = [done(), done()], [*(done() for _ in range(23)), *(denied() for _ in range(7))]
    failed = Answer(502, 0.1, problem=Problem(code="operation_failed", detail="no", operation_id=uuid7()))
    assert failed.problem is not None
    assert failed.problem.operation_id is not None
    refused = burst[-1].problem
    assert refused is not None
    assert refused.operation_id is not None
    ran = [answer.done.operation_id for answer in (*edits, *burst) if answer.done]
    released = explained(failed.problem.operation_id, "released")
    return Evidence(
        limit_id="images",
        edits=edits,
        failure=Failure(failed, released, images_limit(2), images_limit(2, held=1), images_limit(2)),
        before_burst=images_limit(2),
        burst=burst,
        pictures=[SavedPicture(Path("a.png"), (512, 512), (512, 512), 9)] * 25,
        explained=explained(refused.operation_id, "denied", burst[-1].denial),
        provider_calls=[*ran, released.operation_id],
        usage=usage(25, 1, "0.25", settled=25),
        log=[*(row(operation_id) for operation_id in ran), row(released.operation_id, "failed", "0")],
    )


def broken_in(evidence: Evidence) -> set[str]:
    return {promise.name for promise in judge(evidence) if not promise.holds}


def test_verdict_is_green_where_every_promise_holds() -> None:
    assert broken_in(kept()) == set()


LIMIT, CALLS, LOG = "No call past a limit", "Denied means not called", "No usage lost or doubled"
FAILURE, MONEY = "A failure gives its hold back", "Money agrees to the nano"
DENIALS, SIZES = "Every denial explained", "What was asked is what came"


@pytest.mark.parametrize(
    ("spoil", "broken"),
    [
        (lambda good: replace(good, burst=[*good.burst[:-1], done()]), {LIMIT, LOG, MONEY, DENIALS}),
        (lambda good: replace(good, burst=good.burst[1:]), {LIMIT, LOG, MONEY}),
        (lambda good: replace(good, burst=[*good.burst[:-1], Answer(503, 0.1)]), {LIMIT, DENIALS}),
        (lambda good: replace(good, provider_calls=[*good.provider_calls, uuid7()]), {CALLS, LOG}),
        (lambda good: replace(good, provider_calls=good.provider_calls[1:]), {CALLS}),
        (lambda good: replace(good, log=good.log[1:]), {LOG, MONEY}),
        (lambda good: replace(good, log=[*good.log, good.log[0]]), {LOG, MONEY}),
        (lambda good: replace(good, log=[*good.log[:-1], row(good.log[-1].operation_id)]), {FAILURE, MONEY}),
        (lambda good: replace(good, usage=usage(25, 1, "0.250000001", settled=25)), {MONEY}),
        (lambda good: replace(good, usage=usage(3, 1, "0.25", settled=3)), {LIMIT, CALLS, SIZES}),
        (lambda good: replace(good, failure=replace(good.failure, after=images_limit(2, held=1))), {FAILURE}),
        (lambda good: replace(good, failure=replace(good.failure, after=images_limit(3))), {FAILURE}),
        (lambda good: replace(good, explained=None), {DENIALS}),
        (lambda good: replace(good, explained=explained(good.explained.operation_id, "held")), {DENIALS}),
        (lambda good: replace(good, pictures=good.pictures[1:]), {SIZES}),
        (lambda good: replace(good, pictures=[replace(p, size=(256, 256)) for p in good.pictures]), {SIZES}),
    ],
)
def test_verdict_is_red_where_one_is_broken(spoil: Callable[[Evidence], Evidence], broken: set[str]) -> None:
    assert broken_in(spoil(kept())) == broken
