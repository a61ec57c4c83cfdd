"""A disk that is really full: no new operation begins, what runs is recorded, and it goes on by itself afterwards."""

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.events import parse_event
from image_service.config import Settings
from tests.integration.image_harness import (
    GENERATE,
    ScriptedLedger,
    eventually,
    make_settings,
)

DISK_BYTES = 16 * 1024 * 1024
RESERVE_BYTES = 2 * 1024 * 1024
#: Takes a second or so, so that the disk can fill up meanwhile.
SLOW = {**GENERATE, "width": 1500, "height": 1500}


class Disk:
    """A file system of its own that can be filled to the last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (1024 * 1024, 4096, 1):
                while True:
                    try:
                        os.write(descriptor, bytes(size))
                    except OSError:
                        break
        finally:
            os.close(descriptor)

    def make_room(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a file system of its own can be mounted by root only")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def ledger(scripted_ledger: ScriptedLedger) -> ScriptedLedger:
    return scripted_ledger


@pytest.fixture
def settings(ledger: ScriptedLedger, disk: Disk) -> Settings:
    return make_settings(disk.folder, ledger.url, journal_reserve_bytes=RESERVE_BYTES)


def events(settings: Settings) -> list[Any]:
    """On the disk, as a process that starts now would find them."""
    with closing(sqlite3.connect(f"file:{settings.data_dir}/journal.db?mode=ro", uri=True)) as journal:
        return [parse_event(body) for (body,) in journal.execute("select body from outbox order by sequence")]


def reserve(settings: Settings) -> Path:
    return settings.data_dir / "journal.reserve"


async def begun(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    return list((await client.get("/v1/in-doubt")).json()["operations"])


async def is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


async def until_refused(client: httpx.AsyncClient) -> httpx.Response:
    """What is in SQLite's log already is used up first: operations that fit there are recorded, and may run."""
    for _ in range(50):
        answer = await client.post("/v1/images/generate", json=GENERATE)
        if answer.status_code != 200:
            return answer
    raise AssertionError("a full disk refuses nothing")


async def test_on_a_full_disk_no_operation_begins_and_with_room_they_do_again(
    client: httpx.AsyncClient, ledger: ScriptedLedger, settings: Settings, disk: Disk
) -> None:
    assert (await client.post("/v1/images/generate", json=GENERATE)).status_code == 200
    disk.fill()
    refused = await until_refused(client)
    assert (refused.status_code, refused.json()["code"]) == (503, "recording_unavailable")
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["parts"]["journal"]["ok"]) == (503, False)
    before = events(settings)
    keyed = await client.post("/v1/images/generate", json=GENERATE, headers={"Idempotency-Key": "full"})
    assert (keyed.status_code, keyed.json()["code"]) == (503, "recording_unavailable")
    assert events(settings) == before, "nothing was begun"
    assert await begun(client) == []
    await eventually(lambda: len(ledger.released) >= 1)

    disk.make_room()
    await eventually(lambda: is_ready(client))
    for headers in ({}, {"Idempotency-Key": "full"}):
        assert (await client.post("/v1/images/generate", json=GENERATE, headers=headers)).status_code == 200
    # Every operation that began has its outcome, and what was refused left no trace.
    recorded = events(settings)
    requested = [event.data.operation_id for event in recorded if event.outcome is None]
    completed = [event.data.operation_id for event in recorded if event.outcome == "completed"]
    assert sorted(requested) == sorted(completed)
    assert [event.sourcesequence for event in recorded] == list(range(1, len(recorded) + 1))


async def test_an_outcome_is_recorded_when_the_disk_fills_up_while_its_provider_works(
    client: httpx.AsyncClient, settings: Settings, disk: Disk
) -> None:
    assert reserve(settings).exists() or await is_ready(client)
    asking = asyncio.create_task(
        client.post("/v1/images/generate", json=SLOW, headers={"Idempotency-Key": "in-the-middle"})
    )
    await eventually(lambda: begun(client))
    [running] = await begun(client)
    assert (running["state"], running["account_id"], running["provider"]) == ("running", "acme", "local")
    disk.fill()
    await use_up_the_log(settings)
    answer = await asking
    assert answer.status_code == 200
    _, completed = events(settings)
    assert (completed.outcome, str(completed.data.operation_id)) == ("completed", answer.json()["operation_id"])
    assert completed.data.cost > 0
    assert await begun(client) == []
    assert not reserve(settings).exists(), "the outcome has taken the room that was kept for it"

    refused = await client.post("/v1/images/generate", json=GENERATE)
    assert (refused.status_code, refused.json()["code"]) == (503, "recording_unavailable")
    # Its picture could not be kept, which is said, and it is not done, nor billed, again.
    again = await client.post("/v1/images/generate", json=SLOW, headers={"Idempotency-Key": "in-the-middle"})
    assert (again.status_code, again.json()["code"]) == (409, "operation_finished")
    disk.make_room()
    await eventually(lambda: is_ready(client))
    assert reserve(settings).exists()


async def test_an_outcome_waits_in_memory_where_even_the_reserve_is_gone(
    client: httpx.AsyncClient, settings: Settings, disk: Disk
) -> None:
    asking = asyncio.create_task(client.post("/v1/images/generate", json=SLOW))
    await eventually(lambda: begun(client))
    reserve(settings).unlink()
    disk.fill()
    await use_up_the_log(settings)
    assert (await asking).status_code == 200
    [waiting] = await begun(client)
    assert waiting["state"] == "outcome_waits"
    assert not await is_ready(client)
    assert (await client.post("/v1/images/generate", json=GENERATE)).status_code == 503
    disk.make_room()
    await eventually(lambda: len(events(settings)) == 2)
    assert events(settings)[1].outcome == "completed"
    assert await begun(client) == []
    await eventually(lambda: is_ready(client))


async def use_up_the_log(settings: Settings) -> None:
    """SQLite writes into its log's old pages while there are some: takes them, as other operations would."""

    def write() -> None:
        with closing(sqlite3.connect(settings.data_dir / "journal.db", timeout=5)) as journal:
            journal.execute("pragma wal_autocheckpoint = 0")
            try:
                for _ in range(10_000):
                    journal.execute("insert or replace into meta values ('used up', ?)", (os.urandom(3000),))
                    journal.commit()
            except sqlite3.OperationalError as error:
                assert "full" in str(error)  # noqa: PT017
                return
        raise AssertionError("the disk is not full")

    await asyncio.to_thread(write)
