"""Every operation over HTTP with the local provider; 202, status, events and results: on real sockets."""

import asyncio
import base64
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw

from image_service.operations import OPERATIONS
from image_service.providers.attempt import Attempt
from image_service.providers.base import ProviderResult
from image_service.providers.local import MODELS
from image_service.providers.registry import Providers
from tests.integration.image_harness import (
    GENERATE,
    ScriptedLedger,
    denied,
    eventually,
    hold_finish,
    image_service,
    make_settings,
    picture,
)
from tests.integration.scripted_provider import ScriptedProvider, delivered

ASYNC = {"Prefer": "respond-async"}


@pytest.fixture
def ledger(scripted_ledger: ScriptedLedger) -> ScriptedLedger:
    return scripted_ledger


def file_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def ball(colour: str = "red") -> bytes:
    image = Image.new("RGB", (64, 48), (190, 205, 220))
    ImageDraw.Draw(image).ellipse((20, 10, 46, 36), fill=colour)
    return file_of(image)


def face(background: str) -> bytes:
    image = Image.new("RGB", (60, 60), background)
    ImageDraw.Draw(image).ellipse((15, 10, 45, 50), fill=(224, 172, 140))
    return file_of(image)


def mask(size: tuple[int, int] = (64, 48)) -> bytes:
    image = Image.new("L", size)
    ImageDraw.Draw(image).rectangle((24, 14, 40, 30), fill=255)
    return file_of(image)


#: Of every operation and kind: fields, files, media type, and the cost of the local model.
CASES: list[tuple[str, dict[str, Any], dict[str, bytes], str, str]] = [
    ("generate", {"prompt": "a lake", "width": 32, "height": 32, "variations": 2}, {}, "image/png", "0.020000000"),
    ("character", {"prompt": "at sea", "width": 48, "height": 48}, {"reference": ball()}, "image/png", "0.015000000"),
    ("edit", {"effect": "sepia"}, {"image": ball()}, "image/png", "0.020000000"),
    ("edit", {"kind": "general", "prompt": "warmer, please"}, {"image": ball()}, "image/png", "0.020000000"),
    ("edit", {"kind": "remove_background"}, {"image": picture((40, 30), "JPEG")}, "image/png", "0.020000000"),
    ("edit", {"kind": "inpaint", "prompt": "x"}, {"image": ball(), "mask": mask()}, "image/png", "0.020000000"),
    ("edit", {"kind": "outpaint", "left": 9}, {"image": ball()}, "image/png", "0.020000000"),
    ("edit", {"kind": "erase"}, {"image": ball(), "mask": mask()}, "image/png", "0.020000000"),
    ("edit", {"kind": "search_replace", "search": "red", "prompt": "x"}, {"image": ball()}, "image/png", "0.020000000"),
    ("edit", {"kind": "search_recolor", "search": "red", "prompt": "blue"}, {"image": ball()}, "image/png", "0.02"),
    ("edit", {"kind": "relight", "direction": "left"}, {"image": ball()}, "image/png", "0.020000000"),
    ("face_swap", {}, {"image": face("navy"), "face": face("green")}, "image/png", "0.015000000"),
    ("upscale", {"kind": "fast"}, {"image": ball()}, "image/png", "0.005000000"),
    ("upscale", {"kind": "conservative"}, {"image": ball()}, "image/png", "0.005000000"),
    ("upscale", {"kind": "creative", "creativity": 1}, {"image": ball()}, "image/png", "0.005000000"),
    ("control", {"kind": "sketch", "prompt": "x"}, {"image": ball()}, "image/png", "0.015000000"),
    ("control", {"kind": "structure", "prompt": "x"}, {"image": ball()}, "image/png", "0.015000000"),
    ("control", {"kind": "style", "prompt": "x"}, {"image": ball()}, "image/png", "0.015000000"),
    ("image_to_3d", {"texture_resolution": 512}, {"image": ball()}, "model/gltf-binary", "0.030000000"),
    ("image_to_video", {"seconds": 1, "resolution": "480p"}, {"image": ball()}, "image/webp", "0.004000000"),
]  # fmt: skip


def request_of(fields: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
    if not files:
        return {"json": fields}
    return {"data": {name: str(value) for name, value in fields.items()}, "files": files}


def test_every_operation_and_kind_is_tried_and_every_local_model() -> None:
    tried = {(name, fields.get("kind")) for name, fields, *_ in CASES}
    for operation in OPERATIONS.values():
        for kind in operation.kinds or (None,):
            assert (operation.name, None if kind == "effect" else kind) in tried
    assert {model.operation for model in MODELS} == set(OPERATIONS)


async def test_every_operation_works_offline_and_is_metered(ledger, settings) -> None:
    async with image_service(settings) as client:
        for name, fields, files, media_type, cost in CASES:
            answer = await client.post(f"/v1/images/{name}", **request_of(fields, files), headers={"Prefer": "wait=30"})
            assert answer.status_code == 200, (name, fields, answer.text)
            body = answer.json()
            assert body["images"][0]["media_type"] == media_type, (name, fields)
            assert float(body["cost"]) == float(cost), (name, fields)
            data = base64.b64decode(body["images"][0]["data"])
            if media_type == "model/gltf-binary":
                assert data[:4] == b"glTF"
                assert int.from_bytes(data[8:12], "little") == len(data)
            else:
                opened = Image.open(io.BytesIO(data))
                assert opened.size == (body["images"][0]["width"], body["images"][0]["height"])
                assert getattr(opened, "n_frames", 1) == (8 if name == "image_to_video" else 1)
            assert ledger.checks[-1]["operation"] == name
            assert float(ledger.checks[-1]["estimated_cost"]) == float(cost)
    assert not list((settings.data_dir / "spool").iterdir())


class TestLater:
    async def test_respond_async_then_status_then_result(self, settings) -> None:
        async with image_service(settings) as client:
            accepted = await client.post("/v1/images/generate", json={**GENERATE, "variations": 2}, headers=ASYNC)
            assert accepted.status_code == 202
            assert accepted.headers["Preference-Applied"] == "respond-async"
            place = accepted.headers["Location"]
            assert accepted.json()["operation_id"] in place
            status = await over(client, place)
            images = status["result"]["images"]
            assert (status["status"], len(images), status["result"]["cost"]) == ("completed", 2, "0.020000000")
            assert "data" not in images[0]
            whole = await client.get(images[1]["url"])
            part = await client.get(images[1]["url"], headers={"Range": "bytes=1-3"})
            assert Image.open(io.BytesIO(whole.content)).size == (48, 32)
            assert (part.status_code, part.content) == (206, whole.content[1:4])
            assert whole.headers["Content-Type"] == "image/png"
            assert len(whole.content) == images[1]["size_bytes"]
        async with image_service(settings) as client:  # restarted
            # How it went, and what admitted it, only the process knew that ran it.
            remembered = {"steps", "decision"}
            assert status.keys() >= remembered
            kept = {name: value for name, value in status.items() if name not in remembered}
            assert (await client.get(place)).json() == kept
            assert (await client.get(images[1]["url"])).content == whole.content

    async def test_a_result_is_what_it_says_in_whole_and_in_parts(self, settings) -> None:
        async with image_service(settings) as client:
            accepted = await client.post("/v1/images/generate", json=GENERATE, headers=ASYNC)
            url = (await over(client, accepted.headers["Location"]))["result"]["images"][0]["url"]
            whole = await client.get(url)
            # No browser makes another thing of it, and no cache of many people keeps it.
            assert whole.headers["X-Content-Type-Options"] == "nosniff"
            assert whole.headers["Cache-Control"].startswith("private")
            for asked in ("bytes=-5", f"BYTES={len(whole.content) - 5}-"):
                part = await client.get(url, headers={"Range": asked})
                assert (part.status_code, part.content) == (206, whole.content[-5:])
            beyond = await client.get(url, headers={"Range": "bytes=99999999-"})
            assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{len(whole.content)}")
            # RFC 9110, 14.2: units that are not known, and ranges that are none, are as if they were not there.
            for asked in ("lines=1-2", "bytes=abc", "bytes=5-1", "bytes=0-1,x", "bytes=-", "bytes", "bytes=\u00b2-"):
                answer = await client.get(url, headers={b"Range": asked.encode("latin-1")})
                assert (answer.status_code, answer.content) == (200, whole.content), asked

    async def test_nobody_else_sees_it(self, settings) -> None:
        async with image_service(settings) as client:
            accepted = await client.post("/v1/images/generate", json=GENERATE, headers=ASYNC)
            place = accepted.headers["Location"]
            url = (await over(client, place))["result"]["images"][0]["url"]
            other = {"X-Account-Id": "other"}
            for path in (place, f"{place}/events", url):
                answer = await client.get(path, headers=other)
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
            assert (await client.get(url.replace("/0", "/1"))).status_code == 404
            assert (await client.get("/v1/operations/x")).status_code == 422

    async def test_a_denial_is_said_at_once_and_a_failure_by_the_status(self, ledger, settings) -> None:
        ledger.script.append(denied)
        async with image_service(settings) as client:
            answer = await client.post("/v1/images/generate", json=GENERATE, headers=ASYNC)
            assert answer.status_code == 429
            failing = {**GENERATE, "model": "local-unreliable-1"}
            accepted = await client.post("/v1/images/generate", json=failing, headers=ASYNC)
            status = await over(client, accepted.headers["Location"])
            assert (status["status"], status["problem"]["error"]["code"]) == ("failed", "unreliable")

    async def test_minimal_gives_urls_at_once(self, settings) -> None:
        async with image_service(settings) as client:
            answer = await client.post("/v1/images/generate", json=GENERATE, headers={"Prefer": "return=minimal"})
            assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "return=minimal")
            [image] = answer.json()["images"]
            assert (await client.get(image["url"])).status_code == 200

    async def test_a_long_model_answers_202_by_itself_and_wait_waits(self, ledger, settings) -> None:
        go = asyncio.Event()

        async def slow(attempt: Attempt) -> ProviderResult:
            attempt.progress(0.25, "processing")
            await go.wait()
            attempt.progress(0.75, "rendering")
            return delivered()

        provider = ScriptedProvider(otherwise=slow)
        film: dict[str, Any] = {"data": {"provider": "paid", "model": "film-1"}, "files": {"image": picture()}}
        async with image_service(settings, Providers((provider,))) as client:
            accepted = await client.post("/v1/images/image_to_video", **film)
            assert accepted.status_code == 202
            waited = await client.post("/v1/images/image_to_video", **film, headers={"Prefer": "wait=1"})
            assert (waited.status_code, waited.headers["Preference-Applied"]) == (202, "wait=1")
            place = accepted.headers["Location"]
            await eventually(lambda: provider.calls == 2)
            progress = (await client.get(place)).json()["progress"]
            assert (progress["state"], progress["fraction"]) == ("processing", 0.25)
            following = asyncio.create_task(events(client, f"{place}/events"))
            await asyncio.sleep(0.1)
            go.set()
            heard = await following
            assert [event["event"] for event in heard][-1] == "completed"
            assert [event["data"]["state"] for event in heard[:-1]] == ["running", "processing", "rendering"]
            assert heard[-1]["data"]["result"]["images"][0]["url"]
            [last] = await events(client, f"{place}/events", {"Last-Event-ID": heard[-2]["id"]})
            assert last["event"] == "completed"

    async def test_a_result_that_comes_as_patience_ends_is_not_lost(self, ledger, tmp_path, monkeypatch) -> None:
        """It was not kept, as nobody had been told where it would be: then nobody is told so afterwards."""
        settings = make_settings(tmp_path, ledger.url, patience_seconds=0.2)
        held = hold_finish(monkeypatch)
        async with image_service(settings) as client:
            asking = asyncio.create_task(client.post("/v1/images/generate", json=GENERATE))
            await eventually(held.reached.is_set)
            await asyncio.sleep(3 * settings.patience_seconds)
            held.go.set()
            answer = await asking
        assert (answer.status_code, len(answer.json()["images"])) == (200, 1)

    async def test_a_place_among_events_that_is_none_is_the_beginning(self, settings) -> None:
        async with image_service(settings) as client:
            accepted = await client.post("/v1/images/generate", json=GENERATE, headers=ASYNC)
            place = accepted.headers["Location"]
            await over(client, place)
            [last] = await events(client, f"{place}/events", {"Last-Event-ID": "9" * 5000})
            assert last["event"] == "completed"

    async def test_results_go_when_their_time_is_over(self, ledger, tmp_path) -> None:
        settings = make_settings(tmp_path, ledger.url, outcome_retention_seconds=0.5)
        async with image_service(settings) as client:
            accepted = await client.post("/v1/images/generate", json=GENERATE, headers=ASYNC)
            await over(client, accepted.headers["Location"])
            await eventually(lambda: not list((settings.data_dir / "outcomes").iterdir()))
            assert (await client.get(accepted.headers["Location"])).status_code == 404


class TestUploads:
    """Each file is checked as the image is, and by its own name."""

    @pytest.mark.parametrize(
        ("operation", "files", "field", "says"),
        [
            ("edit", {"image": ball()}, "mask", "needed"),
            ("edit", {"image": ball(), "mask": mask((64, 47))}, "mask", "64 x 47 pixels, and image has 64 x 48"),
            ("edit", {"image": ball(), "mask": b""}, "mask", "empty"),
            ("edit", {"image": ball(), "mask": mask()[:-40]}, "mask", "cut off"),
            ("edit", {"image": ball(), "mask": b"%PDF-1.7"}, "mask", "not a PNG"),
            ("edit", {"image": ball(), "mask": mask(), "face": ball()}, "face", "a file"),
            ("face_swap", {"image": ball()}, "face", "missing"),
        ],
    )
    async def test_bad(self, ledger, settings, operation, files, field, says) -> None:
        fields = {"kind": "erase"} if operation == "edit" else {}
        async with image_service(settings) as client:
            answer = await client.post(f"/v1/images/{operation}", data=fields, files=files)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field), answer.text
        assert says in answer.json()["detail"]
        assert ledger.checks == []

    async def test_up_to_four_references(self, settings) -> None:
        fields = {"prompt": "at sea", "width": "32", "height": "32"}
        async with image_service(settings) as client:
            four, five = [
                await client.post("/v1/images/character", data=fields, files=[("reference", ball())] * number)
                for number in (4, 5)
            ]
        assert (four.status_code, five.status_code) == (200, 422)
        assert "5 times" in five.json()["detail"]

    async def test_a_mask_that_lies_on_its_side_is_turned_as_its_image(self, settings) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = picture((48, 64), "JPEG", exif=exif)  # seen as 64 x 48
        async with image_service(settings) as client:
            answer = await client.post(
                "/v1/images/edit", data={"kind": "erase"}, files={"image": turned, "mask": mask()}
            )
        assert answer.status_code == 200, answer.text
        assert (answer.json()["images"][0]["width"], answer.json()["images"][0]["height"]) == (64, 48)


async def over(client: httpx.AsyncClient, place: str) -> dict[str, Any]:
    """The status once the operation is over."""
    found: dict[str, Any] = {}

    async def is_over() -> bool:
        answer = await client.get(place)
        assert answer.status_code == 200, answer.text
        found.clear()
        found.update(answer.json())
        return bool(found["status"] != "running")

    await eventually(is_over)
    return found


async def events(client: httpx.AsyncClient, path: str, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """All server-sent events, to the stream's end."""
    answer = await client.get(path, headers=headers)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    heard = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "event" in fields:
            heard.append({**fields, "data": json.loads(fields["data"])})
    return heard
