"""Idempotency keys, callers that go away, and journals that fail: on real sockets, against a scripted ledger."""

import asyncio
import io
import json
import signal
import socket
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from contracts.client.journal import Journal, JournalUnavailableError
from contracts.events import parse_event
from image_service.config import Settings
from image_service.providers.attempt import Attempt
from image_service.providers.base import (
    Model,
    ProviderError,
    ProviderRequest,
    ProviderResult,
    Quote,
    StillRunning,
    plain_quote,
)
from image_service.providers.local import LocalProvider
from image_service.providers.registry import Providers
from image_service.providers.requests import GenerateRequest, UpscaleRequest
from image_service.spool import MEMORY_BYTES_MAX
from tests.integration.image_harness import (
    CALLER,
    GENERATE,
    ScriptedLedger,
    answers,
    denied,
    eventually,
    free_port,
    image_service,
    make_settings,
    picture,
    start_process,
    unavailable,
    upload,
)

KEY = {"Idempotency-Key": "order-1"}


class SlowProvider:
    """Named as the default one; its work takes until the test lets it end."""

    name = "local"
    models: tuple[Model, ...] = (Model("local-render-1", "generate", 10_000_000),)
    available = True

    def __init__(self) -> None:
        self.calls = 0
        self.go = asyncio.Event()
        self._local = LocalProvider(threads=1)

    def quote(self, model: Model, request: ProviderRequest) -> Quote:
        return plain_quote(model, request)

    async def recover(self, model: str, job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
        raise ProviderError("interrupted", "stopped", cost_nanos=4_000_000)

    async def generate(self, model: str, request: GenerateRequest, attempt: Attempt) -> ProviderResult:
        self.calls += 1
        attempt.sending()
        await self.go.wait()
        return await self._local.generate(model, request, attempt)

    async def close(self) -> None:
        await self._local.close()


class SlowUpscaler(SlowProvider):
    models = tuple(model for model in LocalProvider.models if model.name == "local-upscale-1")

    async def upscale(self, model: str, request: UpscaleRequest, attempt: Attempt) -> ProviderResult:
        self.calls += 1
        await self.go.wait()
        return await self._local.upscale(model, request, attempt)


def noise() -> bytes:
    """A picture that is too large to be kept in memory."""
    buffer = io.BytesIO()
    Image.effect_noise((700, 700), 90).save(buffer, "PNG")
    assert buffer.tell() > MEMORY_BYTES_MAX
    return buffer.getvalue()


@pytest.fixture
def ledger(scripted_ledger: ScriptedLedger) -> ScriptedLedger:
    return scripted_ledger


def event_types(settings: Settings) -> list[str]:
    with sqlite3.connect(settings.data_dir / "journal.db") as journal:
        rows = journal.execute("select body from outbox order by sequence").fetchall()
    return [parse_event(body).type.split(".")[2] for (body,) in rows]


async def generate(client: httpx.AsyncClient, headers: dict[str, str] = KEY, **change: Any) -> httpx.Response:
    return await client.post("/v1/images/generate", json={**GENERATE, **change}, headers=headers)


class TestRepeats:
    async def test_repeat_gets_the_first_outcome_and_is_charged_once(self, client, ledger, settings) -> None:
        first = await generate(client, seed=None)
        second = await generate(client, seed=None)
        assert first.json() == second.json()
        assert second.headers["Idempotency-Replayed"] == "true"
        assert "Idempotency-Replayed" not in first.headers
        assert len(ledger.checks) == 1
        assert event_types(settings) == ["requested", "completed"]

    async def test_also_after_a_restart_and_for_uploads(self, ledger, settings) -> None:
        image = picture((40, 30), "JPEG")
        async with image_service(settings) as client:
            first = await client.post("/v1/images/upscale", **upload(image, factor="2"), headers=KEY)
        async with image_service(settings) as client:
            again = await client.post("/v1/images/upscale", **upload(image, factor="2"), headers=KEY)
            other_image = await client.post("/v1/images/upscale", **upload(picture()), headers=KEY)
        assert (first.status_code, first.json()) == (200, again.json())
        assert other_image.json()["code"] == "idempotency_key_reused"
        assert len(ledger.checks) == 1

    async def test_another_request_with_the_same_key_is_refused(self, client, ledger) -> None:
        await generate(client)
        for change in ({"prompt": "else"}, {"variations": 2}, {"model": "local-unreliable-1"}):
            answer = await generate(client, **change)
            assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
        other_user = await generate(client, {**KEY, "X-User-Id": "bob"})
        assert other_user.json()["code"] == "idempotency_key_reused"
        other_account = await generate(client, {**KEY, "X-Account-Id": "other"})
        assert other_account.status_code == 200
        assert len(ledger.checks) == 2

    async def test_failed_operation_is_an_outcome_that_repeats_see(self, client, ledger, settings) -> None:
        first = await generate(client, model="local-unreliable-1")
        second = await generate(client, model="local-unreliable-1")
        assert first.status_code == second.status_code == 502
        assert first.json() == second.json()
        assert event_types(settings) == ["requested", "failed"]

    async def test_denied_is_not_kept_and_tries_again_as_a_new_operation(self, client, ledger) -> None:
        ledger.script.append(denied)
        assert (await generate(client)).status_code == 429
        assert (await generate(client)).status_code == 200
        assert ledger.checks[0]["operation_id"] != ledger.checks[1]["operation_id"]

    async def test_ledger_unavailable_is_not_kept_and_tries_again_as_the_same_operation(self, client, ledger) -> None:
        ledger.script.extend([unavailable] * 3)
        assert (await generate(client)).status_code == 503
        assert (await generate(client)).status_code == 200
        assert len({check["operation_id"] for check in ledger.checks}) == 1
        # The hold that the first check may have placed is the repeat's own.
        assert ledger.released == []

    async def test_result_past_its_retention(self, ledger, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, ledger.url, outcome_retention_seconds=0.2)
        async with image_service(settings) as client:
            first = await generate(client)
            await eventually(lambda: not list((settings.data_dir / "outcomes").iterdir()))
            again = await generate(client)
        assert (first.status_code, again.status_code) == (200, 200)
        assert first.json()["operation_id"] != again.json()["operation_id"]

    async def test_result_that_was_lost_is_not_done_and_charged_again(self, client, ledger, settings) -> None:
        await generate(client)
        for file in (settings.data_dir / "outcomes").iterdir():
            file.unlink()
        again = await generate(client)
        assert (again.status_code, again.json()["code"]) == (409, "operation_finished")
        assert len(ledger.checks) == 1


class TestWhileRunning:
    async def test_sixty_at_once_with_one_key_run_once(self, ledger, settings) -> None:
        provider = SlowProvider()
        async with image_service(settings, Providers((provider,))) as client:
            asks = [asyncio.create_task(generate(client)) for _ in range(60)]
            await eventually(lambda: provider.calls)
            different = await generate(client, prompt="else")
            provider.go.set()
            answers = await asyncio.gather(*asks)
        assert different.json()["code"] == "idempotency_key_reused"
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        assert (provider.calls, len(ledger.checks)) == (1, 1)
        assert event_types(settings) == ["requested", "completed"]

    async def test_an_upload_that_is_refused_for_its_key_leaves_no_file(self, ledger, settings) -> None:
        provider = SlowUpscaler()
        large = upload(noise(), factor="2")
        async with image_service(settings, Providers((provider,))) as client:
            first = asyncio.create_task(client.post("/v1/images/upscale", **upload(picture(), factor="2"), headers=KEY))
            await eventually(lambda: provider.calls or first.done())
            different = await client.post("/v1/images/upscale", **large, headers=KEY)
            assert different.json()["code"] == "idempotency_key_reused"
            assert not list((settings.data_dir / "spool").iterdir())
            provider.go.set()
            assert (await first).status_code == 200

    async def test_waiting_for_the_first_is_bounded(self, ledger, tmp_path: Path) -> None:
        provider = SlowProvider()
        settings = make_settings(tmp_path, ledger.url, repeat_wait_seconds=0.1)
        async with image_service(settings, Providers((provider,))) as client:
            first = asyncio.create_task(generate(client))
            await eventually(lambda: provider.calls)
            answer = await generate(client)
            assert (answer.status_code, answer.json()["code"]) == (409, "operation_in_progress")
            provider.go.set()
            assert (await first).status_code == 200

    async def test_caller_that_goes_away_does_not_lose_the_outcome(self, ledger, settings) -> None:
        provider = SlowProvider()
        async with image_service(settings, Providers((provider,))) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/images/generate", json=GENERATE, timeout=0.3, headers=KEY)
            provider.go.set()
            await eventually(lambda: event_types(settings) == ["requested", "completed"])
            assert (await generate(client)).status_code == 200
        assert provider.calls == 1

    async def test_provider_that_takes_too_long_is_a_failure_as_the_provider_costs_it(
        self, ledger, tmp_path: Path
    ) -> None:
        settings = make_settings(tmp_path, ledger.url, provider_timeout_seconds=0.1)
        async with image_service(settings, Providers((SlowProvider(),))) as client:
            answer = await generate(client)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "interrupted")
        with sqlite3.connect(settings.data_dir / "journal.db") as journal:
            [(body,)] = journal.execute("select body from outbox where sequence = 2").fetchall()
        assert b'"cost":"0.004000000"' in body

    async def test_stop_with_an_operation_running_records_it(self, ledger, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, ledger.url, shutdown_seconds=0.2)
        provider = SlowProvider()
        async with image_service(settings, Providers((provider,))) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/images/generate", json=GENERATE, timeout=0.3)
        assert event_types(settings) == ["requested", "failed"]

    @pytest.mark.parametrize("headers", [{}, KEY])
    async def test_stop_lets_an_operation_end_whose_request_it_has_cut_off(self, ledger, settings, headers) -> None:
        provider = SlowProvider()
        async with image_service(settings, Providers((provider,))) as client:
            asking = asyncio.create_task(generate(client, headers))
            await eventually(lambda: provider.calls)
            asyncio.get_running_loop().call_later(1.6, provider.go.set)  # requests have one second here to end
        await asyncio.gather(asking, return_exceptions=True)
        assert event_types(settings) == ["requested", "completed"]


class TestJournalTrouble:
    async def test_intent_that_cannot_be_recorded_is_refused_and_the_hold_given_back(
        self, client, ledger, settings, monkeypatch
    ) -> None:
        async def full(*_: object) -> None:
            raise JournalUnavailableError("database or disk is full")

        monkeypatch.setattr(Journal, "begin", full)
        answer = await generate(client)
        assert (answer.status_code, answer.json()["code"]) == (503, "recording_unavailable")
        assert answer.headers["Retry-After"] == "5"
        await eventually(lambda: ledger.released == [ledger.checks[0]["operation_id"]])
        monkeypatch.undo()
        assert (await generate(client)).status_code == 200
        assert ledger.checks[0]["operation_id"] != ledger.checks[1]["operation_id"]

    async def test_outcome_that_cannot_be_recorded_yet_is_delivered_and_recorded_later(
        self, client, settings, monkeypatch
    ) -> None:
        async def full(*_: object, **__: object) -> bool:
            raise JournalUnavailableError("database or disk is full")

        monkeypatch.setattr(Journal, "finish", full)
        assert (await generate(client)).status_code == 200
        assert event_types(settings) == ["requested"]
        assert (await generate(client)).json()["code"] == "operation_in_progress"
        monkeypatch.undo()
        await eventually(lambda: event_types(settings) == ["requested", "completed"])
        assert (await generate(client)).headers["Idempotency-Replayed"] == "true"

    async def test_result_that_cannot_be_kept_is_delivered(self, client, settings) -> None:
        (settings.data_dir / "outcomes").rmdir()
        assert (await generate(client)).status_code == 200
        assert event_types(settings) == ["requested", "completed"]


class TestProcess:
    """The service as a process of its own."""

    async def test_kill_9_while_running_then_recovery(self, ledger, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, ledger.url, port=free_port())
        big: dict[str, Any] = {"width": 4096, "height": 4096, "variations": 10}
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{settings.port}", headers=CALLER, timeout=60, trust_env=False
        ) as client:
            process = start_process(settings)
            try:
                await eventually(lambda: answers(settings.port))
                running = asyncio.create_task(generate(client, **big))
                await eventually(lambda: event_types(settings) == ["requested"])
            finally:
                process.kill()
                process.communicate()
            with pytest.raises(httpx.TransportError):
                await running

            process = start_process(settings)
            try:
                await eventually(lambda: answers(settings.port))
                await eventually(lambda: event_types(settings) == ["requested", "failed"])
                repeat = await generate(client, **big)
                assert (repeat.status_code, repeat.json()["error"]["code"]) == (502, "interrupted")
                assert len(ledger.checks) == 1
            finally:
                process.send_signal(signal.SIGTERM)
                _, err = await asyncio.to_thread(process.communicate)
            assert process.returncode == 0, err

    async def test_log_line_and_readable_block(self, ledger, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, ledger.url, port=free_port())
        process = start_process(settings, IMAGE_CONSOLE="1")
        try:
            await eventually(lambda: answers(settings.port))
            url = f"http://127.0.0.1:{settings.port}"
            async with httpx.AsyncClient(base_url=url, headers=CALLER, timeout=30, trust_env=False) as client:
                answer = await generate(client)
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = await asyncio.to_thread(process.communicate)
        [line] = [json.loads(line) for line in err.splitlines() if b'"operation_id"' in line]
        assert line["operation_id"] == answer.json()["operation_id"]
        assert (line["outcome"], line["account_id"], line["cost"]) == ("completed", "acme", "0.010000000")
        assert line["limits"] == [{"limit_id": "images", "before": 12, "after": 13, "maximum": 25}]
        assert "12 → 13 / 25" in out.decode()
        assert "local-render-1" in out.decode()
        assert b"lighthouse" not in err + out

    async def test_log_that_nobody_reads_any_more_fails_nothing(self, ledger, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, ledger.url, port=free_port())
        process = start_process(settings, IMAGE_CONSOLE="1")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
        try:
            await eventually(lambda: answers(settings.port))
            url = f"http://127.0.0.1:{settings.port}"
            async with httpx.AsyncClient(base_url=url, headers=CALLER, timeout=30, trust_env=False) as client:
                assert (await generate(client)).status_code == 200
                assert (await generate(client, {})).status_code == 200
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait)

    async def test_port_that_is_taken_is_a_clear_error(self, ledger, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            process = start_process(make_settings(tmp_path, ledger.url, port=taken.getsockname()[1]))
            _, err = await asyncio.to_thread(process.communicate)
        assert process.returncode != 0
        assert b"address already in use" in err.lower()

    async def test_data_folder_of_another_service_is_a_clear_error(self, client, settings) -> None:
        process = start_process(settings)
        _, err = await asyncio.to_thread(process.communicate)
        assert process.returncode == 1
        assert b"in use by another process" in err
