"""Results that are kept, and those that are not: looked at, swept and read in awkward moments, on real sockets."""

import asyncio
import base64
import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from contracts.client.journal import Journal, JournalUnavailableError
from contracts.http_bounds import Bounds, bounded_protocol
from contracts.identifiers import uuid7
from contracts.problems import NOT_FOUND, problem
from image_service import main, outcomes
from image_service.artifacts import Artifact
from image_service.outcomes import Failed, Outcome, OutcomeStore
from image_service.providers.attempt import Attempt
from image_service.providers.base import ProviderResult
from image_service.providers.registry import Providers
from tests.integration.image_harness import (
    CALLER,
    GENERATE,
    ScriptedLedger,
    eventually,
    hold_finish,
    image_service,
    make_settings,
    too_slow,
)
from tests.integration.scripted_provider import ScriptedProvider, delivered, hanging
from tests.integration.test_image_idempotency import event_types
from tests.integration.test_image_results import ASYNC, events, over

#: Of a provider with a price of its own.
FIXED = {**GENERATE, "provider": "paid", "model": "fixed-1"}
#: More than the buffers of a connection hold.
LARGE = os.urandom(20_000_000)


@pytest.fixture
def ledger(scripted_ledger: ScriptedLedger) -> ScriptedLedger:
    return scripted_ledger


class TestSweep:
    def test_what_vanishes_meanwhile_or_is_no_file_ends_no_pass(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = OutcomeStore(tmp_path)
        for _ in range(6):
            store.save(Failed(uuid7(), "acme", "generate", problem(NOT_FOUND, "x")))
        (tmp_path / "lost+found").mkdir()
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        real = os.scandir

        class Vanishing:
            """Each second file is gone once its name was read."""

            def __enter__(self) -> Iterator["os.DirEntry[str]"]:
                entries = list(real(tmp_path))
                for entry in [one for one in entries if one.is_file()][::2]:
                    Path(entry.path).unlink()
                return iter(entries)

            def __exit__(self, *_: object) -> None:
                return None

        monkeypatch.setattr(os, "scandir", lambda _: Vanishing())
        assert store.sweep(60.0) == 3
        monkeypatch.undo()
        assert [path.name for path in tmp_path.iterdir()] == ["lost+found"]

    async def test_a_journal_that_cannot_be_swept_keeps_no_results(self, ledger, tmp_path, monkeypatch) -> None:
        """It may be because the disk is full, which the results of yesterday would mend."""

        async def full(*_: Any) -> None:
            raise JournalUnavailableError("database or disk is full")

        monkeypatch.setattr(Journal, "sweep", full)
        settings = make_settings(tmp_path, ledger.url, outcome_retention_seconds=0.5)
        async with image_service(settings) as client:
            accepted = await client.post("/v1/images/generate", json=GENERATE, headers=ASYNC)
            await over(client, accepted.headers["Location"])
            await eventually(lambda: not list((settings.data_dir / "outcomes").iterdir()))


class TestNotKept:
    async def test_what_will_not_be_kept_is_not_said_to_run(self, settings, monkeypatch) -> None:
        """Nobody had asked for it when it was decided; whoever looks a moment later must not wait for it."""
        held = hold_finish(monkeypatch)
        async with image_service(settings) as client:
            asking = asyncio.create_task(client.post("/v1/images/generate", json=GENERATE))
            await eventually(held.reached.is_set)
            [one] = (await client.get("/v1/operations")).json()["operations"]
            place = f"/v1/operations/{one['operation_id']}"
            status = await client.get(place)
            following = asyncio.create_task(client.get(f"{place}/events"))
            await asyncio.wait({following}, timeout=5)
            held.go.set()
            assert (await asking).status_code == 200
            assert (status.status_code, (await following).status_code) == (404, 404)
            assert (await client.get(place)).status_code == 404

    async def test_whoever_follows_what_could_not_be_kept_hears_its_end(self, settings) -> None:
        go = asyncio.Event()

        async def slow(attempt: Attempt) -> ProviderResult:
            await go.wait()
            return delivered()

        provider = ScriptedProvider(otherwise=slow)
        async with image_service(settings, Providers((provider,))) as client:
            accepted = await client.post("/v1/images/generate", json=FIXED, headers=ASYNC)
            place = accepted.headers["Location"]
            following = asyncio.create_task(events(client, f"{place}/events"))
            await asyncio.sleep(0.1)
            (settings.data_dir / "outcomes").rmdir()
            go.set()
            heard = await following  # raises where the connection is cut off
            assert {one["event"] for one in heard} == {"progress"}
            assert (await client.get(f"{place}/events")).status_code == 404


class TestStop:
    async def test_whoever_follows_an_operation_holds_up_no_stop(self, ledger, tmp_path) -> None:
        settings = make_settings(tmp_path, ledger.url, shutdown_seconds=0.5)
        is_told = asyncio.Event()

        async def follow(url: httpx.URL) -> None:
            async with httpx.AsyncClient(headers=CALLER, timeout=40) as other, other.stream("GET", url) as answer:
                async for line in answer.aiter_lines():  # raises where the connection is cut off
                    if line == "event: progress":
                        is_told.set()

        bounded = {"http": bounded_protocol(Bounds()), "timeout_graceful_shutdown": 30}
        provider = ScriptedProvider(otherwise=hanging())
        async with image_service(settings, Providers((provider,)), **bounded) as client:
            accepted = await client.post("/v1/images/generate", json=FIXED, headers=ASYNC)
            url = client.base_url.join(f"{accepted.headers['Location']}/events")
            following = asyncio.create_task(follow(url))
            await is_told.wait()
            begin = time.monotonic()
        await following
        assert time.monotonic() - begin < 10

    async def test_an_operation_that_nobody_waits_for_has_as_long_to_end_as_any(
        self, ledger, tmp_path, monkeypatch
    ) -> None:
        async def deliver_late(attempt: Attempt) -> ProviderResult:
            attempt.sending()
            await asyncio.sleep(1.0)
            return delivered()

        monkeypatch.setattr(main, "DRAIN_SECONDS", 0.1)
        settings = make_settings(tmp_path, ledger.url, shutdown_seconds=10)
        provider = ScriptedProvider(otherwise=deliver_late)
        async with image_service(settings, Providers((provider,))) as client:
            await client.post("/v1/images/generate", json=FIXED, headers=ASYNC)
            await eventually(lambda: provider.calls)
        assert event_types(settings) == ["requested", "completed"]

    def test_what_requests_took_of_the_time_to_stop_is_gone(self) -> None:
        app = FastAPI()
        assert main._drain_seconds(app, 20) == 20
        app.state.stopping_since = time.monotonic() - 12
        assert 7.9 < main._drain_seconds(app, 20) <= 8
        app.state.stopping_since -= 10
        assert (main._drain_seconds(app, 20), main._drain_seconds(app, 2)) == (5, 2)


class TestPatience:
    async def test_nobody_is_told_where_to_look_before_it_is_admitted(self, ledger, tmp_path) -> None:
        """Its status would be 404 until then, and that nothing was started be told to nobody."""
        ledger.otherwise = too_slow
        settings = make_settings(tmp_path, ledger.url, ledger_timeout_seconds=2.0)
        async with image_service(settings) as client:
            answer = await client.post("/v1/images/generate", json=GENERATE, headers={"Prefer": "wait=1"})
        assert (answer.status_code, answer.json().get("code")) == (503, "ledger_unavailable")


class TestFiles:
    """Large results are in files."""

    def large(self, go: asyncio.Event | None = None) -> ScriptedProvider:
        async def spooled(attempt: Attempt) -> ProviderResult:
            attempt.sending()
            path = attempt.spool()
            path.write_bytes(LARGE)
            if go is not None:
                await go.wait()
            return ProviderResult((Artifact.of(path, "image/png", width=9, height=9),), status_code=200)

        return ScriptedProvider(otherwise=spooled)

    async def test_a_result_that_can_be_kept_in_part_only_is_delivered(self, settings, monkeypatch) -> None:
        """Moving a file needs no room on a full disk, and writing what is to be known of it does."""
        write = outcomes._write

        def full(path: Path, content: bytes) -> None:
            if path.suffix == ".outcome":
                raise OSError(errno.ENOSPC, "no space left")
            write(path, content)

        monkeypatch.setattr(outcomes, "_write", full)
        async with image_service(settings, Providers((self.large(),))) as client:
            answer = await client.post("/v1/images/generate", json=FIXED, headers={"Idempotency-Key": "1"})
        assert answer.status_code == 200, answer.text
        assert base64.b64decode(answer.json()["images"][0]["data"]) == LARGE
        assert [*(settings.data_dir / "spool").iterdir(), *(settings.data_dir / "outcomes").iterdir()] == []

    async def test_one_that_goes_as_it_is_looked_at_is_not_there(self, settings, monkeypatch) -> None:
        load = OutcomeStore.load

        def swept(store: OutcomeStore, operation_id: UUID) -> Outcome | None:
            found = load(store, operation_id)
            for path in (settings.data_dir / "outcomes").glob(f"{operation_id}.[0-9]"):
                path.unlink()
            return found

        async with image_service(settings, Providers((self.large(),))) as client:
            for path in ("/v1/operations/{}", "/v1/results/{}/0"):
                accepted = await client.post("/v1/images/generate", json=FIXED, headers=ASYNC)
                operation_id = accepted.json()["operation_id"]
                await over(client, accepted.headers["Location"])
                monkeypatch.setattr(OutcomeStore, "load", swept)
                assert (await client.get(path.format(operation_id))).status_code == 404
                monkeypatch.undo()

    @pytest.mark.parametrize("accept", ["application/json", "image/*"])
    @pytest.mark.parametrize("leaves", ["before the answer", "within the answer"])
    async def test_a_client_that_goes_away_leaves_no_file(self, settings, leaves: str, accept: str) -> None:
        go, spool = asyncio.Event(), settings.data_dir / "spool"
        async with image_service(settings, Providers((self.large(go),))) as client:
            body = json.dumps(FIXED).encode()
            headers = {
                **client.headers,
                "accept": accept,
                "content-length": str(len(body)),
                "content-type": "application/json",
            }
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            writer.write(f"POST /v1/images/generate HTTP/1.1\r\nhost: x\r\n{head}\r\n".encode() + body)
            await eventually(lambda: list(spool.iterdir()))
            if leaves == "before the answer":
                writer.close()
                await asyncio.sleep(0.1)
                go.set()
            else:
                go.set()
                assert (await reader.read(50)).startswith(b"HTTP/1.1 200")
                writer.close()
            await eventually(lambda: not list(spool.iterdir()), 5)


class TestAnotherAccount:
    """It sees nothing of an operation, however far that is."""

    async def nothing_for_others(self, client: httpx.AsyncClient, place: str) -> None:
        other = {"X-Account-Id": "other"}
        for path in (place, f"{place}/events"):
            async with asyncio.timeout(10):
                answer = await client.get(path, headers=other)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert (await client.get("/v1/operations", headers=other)).json() == {"operations": []}

    async def test_while_it_runs(self, settings) -> None:
        go = asyncio.Event()

        async def slow(attempt: Attempt) -> ProviderResult:
            attempt.progress(0.5, "half of it")
            await go.wait()
            return delivered()

        async with image_service(settings, Providers((ScriptedProvider(otherwise=slow),))) as client:
            accepted = await client.post("/v1/images/generate", json=FIXED, headers=ASYNC)
            try:
                assert (await client.get(accepted.headers["Location"])).json()["status"] == "running"
                await self.nothing_for_others(client, accepted.headers["Location"])
            finally:
                go.set()

    async def test_while_its_outcome_waits_for_the_journal(self, settings, monkeypatch) -> None:
        async def full(*_: Any, **__: Any) -> bool:
            raise JournalUnavailableError("database or disk is full")

        monkeypatch.setattr(Journal, "finish", full)
        monkeypatch.setattr(OutcomeStore, "load", lambda *_: None)
        async with image_service(settings) as client:
            accepted = await client.post("/v1/images/generate", json=GENERATE, headers=ASYNC)
            place = accepted.headers["Location"]

            async def is_over() -> bool:
                [one] = (await client.get("/v1/operations")).json()["operations"]
                return not one["running"]

            await eventually(is_over)
            assert (await client.get(place)).json()["status"] == "running"
            await self.nothing_for_others(client, place)
