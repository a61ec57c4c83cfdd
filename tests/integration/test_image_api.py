"""The image service over HTTP, on real sockets, against a ledger that answers by script."""

import asyncio
import base64
import io
import sqlite3
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contracts.events import parse_event
from contracts.web.rendering import CONTENT_SECURITY_POLICY
from image_service.admission import SLOW_SECONDS_MIN
from image_service.config import Settings
from tests.integration.image_harness import (
    GENERATE,
    ScriptedLedger,
    denied,
    eventually,
    garbage,
    image_service,
    make_settings,
    picture,
    too_slow,
    unavailable,
    upload,
)


@pytest.fixture
def ledger(scripted_ledger: ScriptedLedger) -> ScriptedLedger:
    return scripted_ledger


def events(settings: Settings) -> list[Any]:
    """Every event in the outbox, as the contract reads it."""
    with sqlite3.connect(settings.data_dir / "journal.db") as journal:
        return [parse_event(body) for (body,) in journal.execute("select body from outbox order by sequence")]


def decoded(image: dict[str, Any]) -> Image.Image:
    opened = Image.open(io.BytesIO(base64.b64decode(image["data"])))
    opened.load()
    return opened


class TestOperations:
    async def test_generate_returns_the_asked_images_and_records_them(self, client, ledger, settings) -> None:
        answer = await client.post("/v1/images/generate", json={**GENERATE, "variations": 3})

        assert answer.status_code == 200
        body = answer.json()
        assert (body["provider"], body["model"], body["cost"]) == ("local", "local-render-1", "0.030000000")
        assert body["seed"] == 7
        assert [decoded(image).size for image in body["images"]] == [(48, 32)] * 3
        assert len({image["data"] for image in body["images"]}) == 3
        requested, completed = events(settings)
        assert (requested.type, completed.type) == ("usage.operation.requested.v1", "usage.operation.completed.v1")
        assert (requested.sourcesequence, completed.sourcesequence) == (1, 2)
        assert str(requested.data.operation_id) == body["operation_id"] == ledger.checks[0]["operation_id"]
        assert requested.data.quantity == completed.data.quantity == ledger.checks[0]["quantity"] == 3
        assert requested.data.estimated_cost == completed.data.cost == 30_000_000
        assert completed.data.response_bytes == sum(len(base64.b64decode(image["data"])) for image in body["images"])
        assert completed.data.request_bytes == len(answer.request.content)
        assert completed.data.endpoint == "/v1/images/generate"

    async def test_no_event_holds_the_prompt(self, client, settings) -> None:
        await client.post("/v1/images/generate", json=GENERATE)
        with sqlite3.connect(settings.data_dir / "journal.db") as journal:
            assert not journal.execute("select 1 from outbox where instr(body, 'lighthouse')").fetchall()

    async def test_edit_and_upscale_take_an_upload(self, client) -> None:
        edited = await client.post("/v1/images/edit", **upload(picture((40, 30)), effect="sepia"))
        upscaled = await client.post("/v1/images/upscale", **upload(picture((40, 30), "JPEG"), factor="3"))

        assert (edited.status_code, upscaled.status_code) == (200, 200)
        assert decoded(edited.json()["images"][0]).size == (40, 30)
        assert decoded(upscaled.json()["images"][0]).size == (120, 90)
        assert upscaled.json()["images"][0]["media_type"] == "image/jpeg"

    async def test_image_bytes_alone(self, client) -> None:
        answer = await client.post("/v1/images/generate", json=GENERATE, headers={"Accept": "image/*"})

        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["X-Cost"] == "0.010000000"
        assert Image.open(io.BytesIO(answer.content)).size == (48, 32)

    async def test_optional_identities_reach_check_and_events(self, client, ledger, settings) -> None:
        headers = {"X-Project-Id": "site", "X-Api-Key-Id": "key-1"}
        await client.post("/v1/images/generate", json=GENERATE, headers=headers)
        assert (ledger.checks[0]["project_id"], ledger.checks[0]["api_key_id"]) == ("site", "key-1")
        assert [(event.data.project_id, event.data.api_key_id) for event in events(settings)] == [("site", "key-1")] * 2

    async def test_failing_provider_is_recorded_and_costs_nothing(self, client, ledger, settings) -> None:
        answer = await client.post("/v1/images/generate", json={**GENERATE, "model": "local-unreliable-1"})

        assert (answer.status_code, answer.json()["code"]) == (502, "operation_failed")
        assert answer.json()["error"]["code"] == "unreliable"
        failed = events(settings)[1]
        assert failed.type == "usage.operation.failed.v1"
        assert str(failed.data.operation_id) == answer.json()["operation_id"]
        assert (failed.data.cost, failed.data.error.code) == (0, "unreliable")
        # The failed event releases the hold; a release beside it would race with that.
        assert ledger.released == []

    async def test_health_and_docs(self, client) -> None:
        assert (await client.get("/livez")).status_code == 200
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["parts"]["nats"] == {"ok": False, "needed": False}
        page = await client.get("/docs")
        assert (page.status_code, page.headers["content-security-policy"]) == (200, CONTENT_SECURITY_POLICY)
        assert "://" not in page.text
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert {"/v1/images/generate", "/v1/images/edit", "/v1/images/upscale"} <= set(paths)
        schema = paths["/v1/images/upscale"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert {"image", "factor", "width", "height"} <= set(schema["properties"])
        assert "application/problem+json" in paths["/v1/images/generate"]["post"]["responses"]["429"]["content"]


class TestLimits:
    async def test_denied_is_429_with_the_decision_and_nothing_recorded(self, client, ledger, settings) -> None:
        ledger.otherwise = denied
        answer = await client.post("/v1/images/generate", json=GENERATE)

        assert answer.status_code == 429
        assert answer.headers["Content-Type"] == "application/problem+json"
        problem = answer.json()
        assert problem["code"] == "limit_exceeded"
        assert problem["decision"]["denial"]["limit_id"] == "images"
        assert problem["decision"]["limits"][0]["maximum"] == 25
        assert events(settings) == []

    async def test_ledger_that_comes_back_in_time_is_asked_again_with_the_same_id(self, client, ledger) -> None:
        ledger.script.append(unavailable)
        answer = await client.post("/v1/images/generate", json=GENERATE)
        assert answer.status_code == 200
        assert len(ledger.checks) == 2
        assert len({check["operation_id"] for check in ledger.checks}) == 1

    @pytest.mark.parametrize("answer_of_ledger", [unavailable, garbage, too_slow])
    async def test_no_decision_is_503_in_time_and_the_hold_is_given_back(
        self, client, ledger, settings, answer_of_ledger
    ) -> None:
        ledger.otherwise = answer_of_ledger
        started = asyncio.get_running_loop().time()
        answer = await client.post("/v1/images/generate", json=GENERATE)

        assert asyncio.get_running_loop().time() - started < 2.5
        assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert events(settings) == []
        await eventually(lambda: ledger.released == [ledger.checks[0]["operation_id"]])

    async def test_unreachable_ledger_is_503_and_not_ready(self, tmp_path: Path) -> None:
        async with image_service(make_settings(tmp_path, "http://127.0.0.1:1")) as client:
            answer = await client.post("/v1/images/generate", json=GENERATE)
            assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
            assert (await client.get("/readyz")).status_code == 503

    async def test_check_that_the_ledger_refuses_is_our_bug(self, client, ledger) -> None:
        from starlette.responses import JSONResponse

        ledger.otherwise = lambda check: JSONResponse({"secret": "inside"}, 422)
        answer = await client.post("/v1/images/generate", json=GENERATE)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert "inside" not in answer.text
        assert len(ledger.checks) == 1


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to nothing in it: a decompression bomb's beginning."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def animated(file_format: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, file_format, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


class TestBadInput:
    """Each is a 4xx problem that names the field; no check is made and nothing recorded."""

    @pytest.mark.parametrize(
        ("image", "says"),
        [
            (b"", "empty"),
            (b"GIF89a not really", "not a PNG"),
            (picture(file_format="GIF"), "not a PNG"),
            (picture()[:-30], "cut off"),
            (picture(file_format="JPEG")[:200], "cannot be read"),
            (picture((400, 300), "JPEG")[:-500], "cut off"),
            (picture(file_format="WEBP")[:-20], ""),
            (png_header_only(60_000, 60_000), "60000"),
            (png_header_only(16_000, 16_000), "40000000 in all"),
            (animated("PNG"), "animated"),
            (animated("WEBP"), "animated"),
        ],
    )
    async def test_bad_image(self, client, ledger, settings, image: bytes, says: str) -> None:
        answer = await client.post("/v1/images/edit", **upload(image))
        assert answer.status_code == 422, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["errors"][0]["field"] == "image"
        assert says in answer.json()["detail"]
        assert ledger.checks == []
        assert events(settings) == []

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"prompt": ""}, "prompt"),
            ({"prompt": "  "}, "prompt"),
            ({"width": "64"}, "width"),
            ({"width": 0}, "width"),
            ({"width": 100_000}, "width"),
            ({"height": None}, "height"),
            ({"variations": 0}, "variations"),
            ({"variations": 11}, "variations"),
            ({"seed": -1}, "seed"),
            ({"vairations": 2}, "vairations"),
            ({"provider": "nobody"}, "provider"),
            ({"model": "nothing"}, "model"),
            ({"model": "local-edit-1"}, "model"),
            ({"model": "a\r\nb"}, "model"),
        ],
    )
    async def test_bad_generate(self, client, ledger, change: dict[str, Any], field: str) -> None:
        answer = await client.post("/v1/images/generate", json={**GENERATE, **change})
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["field"] == field
        assert ledger.checks == []

    @pytest.mark.parametrize(
        ("operation", "fields", "field"),
        [
            ("edit", {"effect": "explode"}, "effect"),
            ("edit", {"effect": "rotate"}, "angle"),
            ("edit", {"effect": "rotate", "angle": "45"}, "angle"),
            ("edit", {"effect": "sepia", "angle": "90"}, "angle"),
            ("edit", {"effect": "crop", "width": "40", "height": "30", "left": "1"}, "width"),
            ("edit", {"effect": "crop", "width": "40"}, "height"),
            ("edit", {"effect": "resize"}, "width"),
            ("edit", {"effect": "resize", "width": "50000"}, "width"),
            ("edit", {"strength": "2"}, "strength"),
            ("upscale", {"factor": "5"}, "factor"),
            ("upscale", {"factor": "x"}, "factor"),
            ("upscale", {"factor": "2", "width": "80"}, "width"),
            ("upscale", {"width": "20"}, "width"),
            ("upscale", {"height": "65000"}, "height"),
            ("upscale", {"model": "local-edit-1"}, "model"),
        ],
    )
    async def test_bad_fields(self, client, ledger, operation: str, fields: dict[str, str], field: str) -> None:
        answer = await client.post(f"/v1/images/{operation}", **upload(picture((40, 30)), **fields))
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["field"] == field
        assert ledger.checks == []

    async def test_bad_forms(self, client, ledger) -> None:
        missing = await client.post("/v1/images/edit", files={"photo": b"x"})
        assert missing.json()["errors"][0]["field"] == "image"
        as_text = await client.post("/v1/images/edit", files={"image": (None, "text")})
        assert as_text.json()["errors"][0]["field"] == "image"
        two = await client.post("/v1/images/edit", files=[("image", picture()), ("image", picture())])
        broken = await client.post(
            "/v1/images/edit", content=b"--nothing", headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
        no_boundary = await client.post(
            "/v1/images/edit", content=b"x", headers={"Content-Type": "multipart/form-data"}
        )
        assert [two.status_code, broken.status_code, no_boundary.status_code] == [422, 422, 422]
        assert ledger.checks == []

    @pytest.mark.parametrize(
        ("headers", "field"),
        [
            ({"X-Account-Id": ""}, "X-Account-Id"),
            ({"X-User-Id": "a b"}, "X-User-Id"),
            ({"X-Account-Id": "usage.>"}, "X-Account-Id"),
            ({"X-Project-Id": "-"}, "X-Project-Id"),
            ({"Idempotency-Key": "a b"}, "Idempotency-Key"),
            ({"Idempotency-Key": "k" * 256}, "Idempotency-Key"),
        ],
    )
    async def test_bad_headers(self, client, ledger, headers: dict[str, str], field: str) -> None:
        answer = await client.post("/v1/images/generate", json=GENERATE, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == field
        assert ledger.checks == []

    async def test_missing_caller(self, client) -> None:
        del client.headers["X-User-Id"]
        answer = await client.post("/v1/images/generate", json=GENERATE)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "X-User-Id")

    async def test_malformed_and_misdirected(self, client) -> None:
        json_type = {"Content-Type": "application/json"}
        malformed = await client.post("/v1/images/generate", content=b"{", headers=json_type)
        assert (malformed.status_code, malformed.json()["code"]) == (400, "malformed_json")
        no_object = await client.post("/v1/images/generate", content=b"[]", headers=json_type)
        assert no_object.status_code == 422
        form = await client.post("/v1/images/generate", data={"prompt": "x"})
        assert (form.status_code, form.json()["code"]) == (415, "unsupported_media_type")
        nowhere = await client.post("/v1/images/nothing", json={})
        assert (nowhere.status_code, nowhere.json()["code"]) == (404, "not_found")
        method = await client.get("/v1/images/generate")
        assert (method.status_code, method.json()["code"]) == (405, "method_not_allowed")
        assert method.headers["Allow"] == "POST"

    async def test_too_large(self, ledger, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, ledger.url, upload_bytes_max=10_000)
        async with image_service(settings) as client:
            said = await client.post("/v1/images/edit", **upload(b"x" * 200_000))

            async def unsaid() -> AsyncIterator[bytes]:
                yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
                for _ in range(100):
                    yield b"x" * 10_000

            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            chunked = await client.post("/v1/images/edit", content=unsaid(), headers=headers)
            json_body = await client.post("/v1/images/generate", json={**GENERATE, "prompt": "x" * 100_000})
            just_the_file = await client.post("/v1/images/edit", **upload(b"x" * 10_001))
        answers = [said, chunked, json_body, just_the_file]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(413, "too_large")] * 4
        assert ledger.checks == []

    async def test_too_many_at_once(self, ledger, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, ledger.url, operations_in_flight_max=1)
        ledger.script.append(lambda check: 0.5)
        async with image_service(settings) as client:
            first = asyncio.create_task(client.post("/v1/images/generate", json=GENERATE))
            await eventually(lambda: ledger.checks)
            second = await client.post("/v1/images/generate", json=GENERATE)
            assert (second.status_code, second.json()["code"]) == (503, "overloaded")
            assert (await first).status_code == 200

    async def test_uploads_that_come_slowly_keep_nobody_out(self, ledger, tmp_path: Path) -> None:
        """Neither from a place among those that run, nor from one among those that come in: the slowest gives way."""
        settings = make_settings(tmp_path, ledger.url, operations_in_flight_max=3)
        async with image_service(settings) as client:
            place, headers = client.base_url, {**client.headers, "content-type": "multipart/form-data; boundary=b"}
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            slow = []
            for received in (10, 2_000, 20_000):
                reader, writer = await asyncio.open_connection(place.host, place.port)
                part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + b"x" * received
                writer.write(
                    f"POST /v1/images/edit HTTP/1.1\r\nhost: x\r\n{head}content-length: 50000\r\n\r\n".encode()
                )
                writer.write(part)
                slow.append((reader, writer))
            await asyncio.sleep(SLOW_SECONDS_MIN + 0.5)
            answers = [await client.post("/v1/images/generate", json=GENERATE) for _ in range(3)]
            edited = await client.post("/v1/images/upscale", **upload(picture(), factor="2"))
            assert [answer.status_code for answer in (*answers, edited)] == [200] * 4
            told = await asyncio.wait_for(slow[0][0].readuntil(b"}"), 5)
            assert told.startswith(b"HTTP/1.1 408 ")
            assert b"request_timeout" in told
            waiting = {asyncio.create_task(reader.read(1)) for reader, _ in slow[1:]}
            assert not (await asyncio.wait(waiting, timeout=0.1))[0], "the others go on"
            for task in waiting:
                task.cancel()
            for _, writer in slow:
                writer.close()
