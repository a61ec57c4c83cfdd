"""Stability's emulator against what Stability documents (the addresses are in deploy/emulators/stability.py)."""

import base64
from dataclasses import replace
from typing import Any

import httpx
import pytest

from deploy.emulators.media import make
from deploy.emulators.stability_endpoints import ENDPOINTS
from tests.emulators import Emulators, opened, picture

KEY = {"Authorization": "Bearer sk-emulator-key"}
PREFIX = "/v2beta/stable-image"
_now = 0.0


@pytest.fixture
def emulators(emulators: Emulators) -> Emulators:
    global _now
    _now += 1000  # past every rate limit's time-out
    emulators.server.emulation.clock = lambda: _now
    return emulators


def post(
    emulators: Emulators,
    path: str,
    fields: dict[str, str] | None = None,
    images: dict[str, bytes] | None = None,
    accept: str = "image/*",
) -> httpx.Response:
    """As the documentation's samples send it: a multipart form, also without a file."""
    files: dict[str, Any] = {name: (f"{name}.png", content) for name, content in (images or {}).items()}
    return emulators.http.post(
        f"{emulators.url('stability')}{path}",
        headers={**KEY, "Accept": accept},
        data=fields or {},
        files=files or {"none": ""},
    )


def test_bytes_with_the_reason_and_the_seed_in_headers(emulators: Emulators) -> None:
    answer = post(
        emulators, f"{PREFIX}/generate/core", {"prompt": "A lighthouse", "seed": "7", "output_format": "webp"}
    )
    assert answer.status_code == 200
    assert (answer.headers["content-type"], answer.headers["finish-reason"]) == ("image/webp", "SUCCESS")
    assert (answer.headers["seed"], opened(answer.content).format) == ("7", "WEBP")


def test_json_with_the_image_in_base64(emulators: Emulators) -> None:
    """{"image": …, "seed": 343940597, "finish_reason": "SUCCESS"}"""
    answer = post(emulators, f"{PREFIX}/generate/ultra", {"prompt": "x"}, accept="application/json").json()
    assert set(answer) == {"image", "finish_reason", "seed"}
    assert answer["finish_reason"] == "SUCCESS"
    assert isinstance(answer["seed"], int)
    assert opened(base64.b64decode(answer["image"], validate=True)).size == (1024, 1024)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_required_fields_are_required(emulators: Emulators, path: str) -> None:
    answer = post(emulators, path)
    assert answer.status_code == 400
    body = answer.json()
    assert set(body) == {"id", "name", "errors"}
    assert body["name"] == "bad_request"
    endpoint = ENDPOINTS[path]
    assert [f"{name}: is required" for name in (*endpoint.images, *endpoint.fields)] == [
        error for error in body["errors"] if error.endswith("is required") and "," not in error
    ]
    assert emulators.amounts() == []


#: What a valid request of each needs beyond its required fields, and the size of what comes out of 96 x 64.
MORE: dict[str, dict[str, str]] = {
    f"{PREFIX}/edit/outpaint": {"left": "32", "down": "16"},
    f"{PREFIX}/edit/replace-background-and-relight": {"background_prompt": "a beach"},
    # Four megapixels are quicker to write so.
    f"{PREFIX}/upscale/conservative": {"output_format": "jpeg"},
    f"{PREFIX}/upscale/creative": {"output_format": "jpeg"},
}
SIZES = {
    f"{PREFIX}/generate/ultra": (1024, 1024),
    f"{PREFIX}/generate/core": (1280, 1280),
    f"{PREFIX}/generate/sd3": (1024, 1024),
    f"{PREFIX}/edit/outpaint": (128, 80),
    f"{PREFIX}/upscale/fast": (384, 256),
    f"{PREFIX}/upscale/conservative": (2496, 1664),
    f"{PREFIX}/upscale/creative": (2496, 1664),
    f"{PREFIX}/control/style": (1024, 1024),
}


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_endpoint_makes_what_it_says_and_bills_its_price(emulators: Emulators, path: str) -> None:
    endpoint = ENDPOINTS[path]
    fields = dict.fromkeys(endpoint.fields, "a text") | MORE.get(path, {})
    answer = post(emulators, path, fields, {name: picture(96, 64) for name in endpoint.images}, accept="*/*")
    assert answer.status_code == 200, answer.text
    if endpoint.asynchronous:
        answer = emulators.http.get(f"{emulators.url('stability')}/v2beta/results/{answer.json()['id']}", headers=KEY)
    if path.startswith("/v2beta/3d/"):
        assert answer.headers["content-type"] == "model/gltf-binary"
        assert answer.content.startswith(b"glTF")
    else:
        image = opened(answer.content)
        assert image.size == SIZES.get(path, (96, 64))
        assert (image.mode == "RGBA") == path.endswith("remove-background")
    price = next(iter(endpoint.prices.values()))
    assert [float(amount) for amount in emulators.amounts()] == [float(price)]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (f"{PREFIX}/upscale/creative", {"prompt": "x"}),
        (f"{PREFIX}/edit/replace-background-and-relight", {"background_prompt": "x"}),
    ],
)
def test_long_ones_answer_with_an_id_and_are_asked_for(emulators: Emulators, path: str, fields: dict[str, str]) -> None:
    began = _now
    now = [began]
    emulators.server.emulation.clock = lambda: now[0]
    emulators.pace(queue=5, run=10)
    images = {ENDPOINTS[path].images[0]: picture(96, 64)}
    fields = {**fields, "output_format": "jpeg"}
    started = post(emulators, path, fields, images, accept="image/*")
    assert (started.status_code, list(started.json())) == (200, ["id"])
    job_id = started.json()["id"]
    assert len(job_id) == 64

    def result(accept: str, key: dict[str, str] = KEY) -> httpx.Response:
        url = f"{emulators.url('stability')}/v2beta/results/{job_id}"
        return emulators.http.get(url, headers={**key, "Accept": accept})

    for now[0] in (began, began + 6, began + 14):
        assert (result("image/*").status_code, result("image/*").json()) == (
            202,
            {"id": job_id, "status": "in-progress"},
        )
    now[0] = began + 15
    assert opened(result("image/*").content).format == "JPEG"
    assert set(result("application/json").json()) == {"image", "finish_reason", "seed"}
    assert result("image/*", {"Authorization": "Bearer another"}).status_code == 401
    missing = emulators.http.get(f"{emulators.url('stability')}/v2beta/results/{'0' * 64}", headers=KEY)
    assert (missing.status_code, missing.json()["name"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "fields", "images", "says"),
    [
        ("generate/core", {"prompt": "x", "aspect_ratio": "4:3"}, {}, "aspect_ratio"),
        ("generate/core", {"prompt": "x", "seed": "-1"}, {}, "seed"),
        ("generate/core", {"prompt": "x", "output_format": "gif"}, {}, "output_format"),
        ("generate/core", {"prompt": "x" * 10_001}, {}, "prompt"),
        ("generate/sd3", {"prompt": "x", "model": "sd9"}, {}, "model"),
        ("generate/sd3", {"prompt": "x", "mode": "image-to-image"}, {}, "image"),
        ("generate/ultra", {"prompt": "x"}, {"image": picture()}, "strength"),
        ("edit/outpaint", {}, {"image": picture()}, "left"),
        ("edit/remove-background", {"output_format": "jpeg"}, {"image": picture()}, "output_format"),
        ("edit/replace-background-and-relight", {}, {"subject_image": picture()}, "background_prompt"),
        ("edit/erase", {}, {"image": picture(32, 256)}, "every side"),
        ("edit/erase", {}, {"image": b"no image"}, "image: must be"),
        ("edit/erase", {}, {"image": picture()[:60]}, "image: must be"),
        ("upscale/fast", {}, {"image": picture(1100, 1000)}, "pixel count"),
        ("upscale/conservative", {"prompt": "x", "creativity": "0.9"}, {"image": picture()}, "creativity"),
    ],
)
def test_what_is_out_of_bounds_is_refused(
    emulators: Emulators, path: str, fields: dict[str, str], images: dict[str, bytes], says: str
) -> None:
    answer = post(emulators, f"{PREFIX}/{path}", fields, images)
    assert answer.status_code == 400, answer.content[:100]
    assert any(says in error for error in answer.json()["errors"])
    assert emulators.amounts() == []


def test_the_form_the_key_and_the_size_of_a_request(emulators: Emulators) -> None:
    url = f"{emulators.url('stability')}{PREFIX}/generate/core"
    assert emulators.http.post(url, headers=KEY, json={"prompt": "x"}).status_code == 400
    assert emulators.http.post(url, data={"prompt": "x"}, files={"none": ""}).json()["name"] == "unauthorized"
    large = post(emulators, f"{PREFIX}/edit/erase", {}, {"image": bytes(11 * 1024 * 1024)})
    assert (large.status_code, large.json()["name"]) == (413, "payload_too_large")
    assert post(emulators, f"{PREFIX}/generate/core", {"prompt": "x"}, accept="text/html").status_code == 400


def test_moderation_of_a_request_costs_nothing(emulators: Emulators) -> None:
    """The example of ContentModerationResponse in the published document."""
    answer = post(emulators, f"{PREFIX}/generate/core", {"prompt": "x [refused]"})
    body = answer.json()
    assert (answer.status_code, body["name"]) == (403, "content_moderation")
    (error,) = body["errors"]
    assert error.endswith("content moderation system, as a result your request was denied and you were not charged.")
    assert emulators.amounts() == []


def test_a_filtered_result_is_blurred_and_paid(emulators: Emulators) -> None:
    answer = post(emulators, f"{PREFIX}/generate/core", {"prompt": "x [filtered]"})
    assert (answer.status_code, answer.headers["finish-reason"]) == (200, "CONTENT_FILTERED")
    result = emulators.server.emulation.book.jobs[0].outputs[0].result
    assert answer.content == make(result) != make(replace(result, blurred=False))
    fields = {"prompt": "x [filtered]"}
    assert post(emulators, f"{PREFIX}/generate/core", fields, accept="application/json").json()["finish_reason"] == (
        "CONTENT_FILTERED"
    )
    assert emulators.amounts() == ["0.030000000"] * 2


def test_a_failed_generation_is_not_charged(emulators: Emulators) -> None:
    assert post(emulators, f"{PREFIX}/generate/core", {"prompt": "x [fails]"}).status_code == 500
    images = {"image": picture()}
    job_id = post(emulators, f"{PREFIX}/upscale/creative", {"prompt": "x [fails]"}, images, accept="*/*").json()["id"]
    polled = emulators.http.get(f"{emulators.url('stability')}/v2beta/results/{job_id}", headers=KEY)
    assert (polled.status_code, polled.json()["name"]) == (500, "internal_error")
    assert emulators.amounts() == ["0.000000000"] * 2


def test_a_failed_job_is_one_whatever_the_time(emulators: Emulators) -> None:
    """Times are floats: a moment and a duration later, less than that may have passed."""
    now, images = [_now], {"image": picture()}
    emulators.server.emulation.clock = lambda: now[0]
    emulators.pace(queue=0.01, run=0.01)
    statuses = []
    for number in range(20):
        now[0] = _now + number * 10.37
        path = f"{PREFIX}/upscale/creative"
        job_id = post(emulators, path, {"prompt": "x [fails]"}, images, accept="*/*").json()["id"]
        now[0] += 1
        statuses.append(emulators.http.get(f"{emulators.url('stability')}/v2beta/results/{job_id}", headers=KEY))
    assert {answer.status_code for answer in statuses} == {500}


def test_150_requests_in_10_seconds_and_no_more(emulators: Emulators) -> None:
    now = [_now]
    emulators.server.emulation.clock = lambda: now[0]
    url = f"{emulators.url('stability')}/v2beta/results/{'0' * 64}"
    assert {emulators.http.get(url, headers=KEY).status_code for _ in range(150)} == {404}
    refused = emulators.http.get(url, headers=KEY)
    assert (refused.status_code, refused.json()["name"]) == (429, "rate_limit_exceeded")
    assert post(emulators, f"{PREFIX}/generate/core", {"prompt": "x"}).status_code == 429
    assert emulators.amounts() == []
    now[0] += 11  # the window is over, the time-out is not
    assert emulators.http.get(url, headers=KEY).status_code == 429
    now[0] += 60
    assert emulators.http.get(url, headers=KEY).status_code == 404


def test_sd3_is_billed_by_its_model(emulators: Emulators) -> None:
    for model in ("sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium", "sd3.5-flash"):
        assert post(emulators, f"{PREFIX}/generate/sd3", {"prompt": "x", "model": model}).status_code == 200
    assert emulators.amounts() == ["0.065000000", "0.040000000", "0.035000000", "0.025000000"]
