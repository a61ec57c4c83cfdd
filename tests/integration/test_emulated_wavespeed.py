"""WaveSpeed's emulator against what WaveSpeed documents (the addresses are in deploy/emulators/wavespeed.py)."""

import base64
import re
from typing import Any

import httpx
import pytest

from tests.emulators import Emulators, opened, picture

KEY = {"Authorization": "Bearer ws-emulator-key"}


def submit(emulators: Emulators, model: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    url = f"{emulators.url('wavespeed')}/api/v3/{model}"
    return emulators.http.post(url, headers=KEY if headers is None else headers, json=body)


def result_of(emulators: Emulators, answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    polled = emulators.http.get(answer.json()["data"]["urls"]["get"], headers=KEY)
    assert polled.status_code == 200
    data: dict[str, Any] = polled.json()["data"]
    return data


def data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def test_what_is_answered_has_the_documented_members(emulators: Emulators) -> None:
    """docs/shared/submit-response and docs/submit-task."""
    answer = submit(emulators, "wavespeed-ai/flux-dev", prompt="A cat wearing a space suit").json()
    assert (answer["code"], answer["message"]) == (200, "success")
    data = answer["data"]
    assert set(data) >= {
        "id",
        "model",
        "outputs",
        "urls",
        "has_nsfw_contents",
        "status",
        "created_at",
        "error",
        "timings",
    }
    assert (data["model"], data["status"], data["outputs"], data["error"]) == (
        "wavespeed-ai/flux-dev",
        "created",
        [],
        "",
    )
    assert data["urls"]["get"].endswith(f"/api/v3/predictions/{data['id']}/result")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", data["created_at"])
    assert isinstance(data["timings"]["inference"], int)


def test_a_prediction_goes_through_its_states(emulators: Emulators) -> None:
    """docs/what-are-predictions: created, processing, completed; both addresses of a result."""
    now = [100.0]
    emulators.server.emulation.clock = lambda: now[0]
    emulators.pace(queue=2, run=3)
    url = submit(emulators, "wavespeed-ai/flux-dev", prompt="x").json()["data"]["urls"]["get"]

    def status(address: str = url) -> str:
        return str(emulators.http.get(address, headers=KEY).json()["data"]["status"])

    seen = [status()]
    for seconds in (2, 3):
        now[0] += seconds
        seen.append(status())
    assert seen == ["created", "processing", "completed"]
    assert status(url.removesuffix("/result")) == "completed"


def test_the_size_is_width_times_height_with_a_star(emulators: Emulators) -> None:
    data = result_of(emulators, submit(emulators, "bytedance/seedream-v4", prompt="x", size="640*384"))
    file = emulators.http.get(data["outputs"][0])
    assert (file.headers["content-type"], opened(file.content).size) == ("image/jpeg", (640, 384))
    for size in ("640x384", "640", "10*10", "99999*99999"):
        assert submit(emulators, "bytedance/seedream-v4", prompt="x", size=size).status_code == 400


def test_base64_output_has_no_prefix(emulators: Emulators) -> None:
    """llms.txt of the models: "naked base64 (no data:<mime>;base64, prefix)"."""
    body: dict[str, Any] = {"prompt": "x", "size": "256*256", "enable_base64_output": True, "output_format": "webp"}
    data = result_of(emulators, submit(emulators, "bytedance/seedream-v4", **body))
    assert opened(base64.b64decode(data["outputs"][0], validate=True)).format == "WEBP"


def test_sync_mode_answers_with_the_result(emulators: Emulators) -> None:
    data = submit(emulators, "wavespeed-ai/z-image/turbo", prompt="Cat", enable_sync_mode=True).json()["data"]
    assert (data["status"], len(data["outputs"])) == ("completed", 1)


@pytest.mark.parametrize("stuck", [False, True])
def test_sync_mode_may_still_be_processing(emulators: Emulators, stuck: bool) -> None:
    """The official client's test has status, code and error; the task goes on and can be asked for."""
    emulators.pace(run=0 if stuck else 60, wait=0.05)
    if stuck:
        emulators.fault("job_stuck")
    answer = submit(emulators, "wavespeed-ai/z-image/turbo", prompt="Cat", enable_sync_mode=True)
    data = answer.json()["data"]
    assert (answer.status_code, data["status"], data["code"], data["outputs"]) == (200, "processing", 5004, [])
    assert data["error"].startswith("Sync mode timed out")
    assert emulators.http.get(data["urls"]["get"], headers=KEY).json()["data"]["status"] in ("created", "processing")


def test_what_a_model_needs_is_asked_for(emulators: Emulators) -> None:
    image, broken = data_uri(picture()), data_uri(b"no image")
    swap = "wavespeed-ai/image-face-swap"
    assert submit(emulators, swap, image=image).status_code == 400
    assert submit(emulators, swap, image=image, face_image=broken).status_code == 400
    assert submit(emulators, swap, image=image, face_image="%%%").status_code == 400
    assert submit(emulators, "wavespeed-ai/flux-dev").status_code == 400
    assert submit(emulators, "wavespeed-ai/flux-dev", prompt="x", num_images=0).status_code == 400
    assert submit(emulators, "nobody/no-model", prompt="x").status_code == 404
    assert submit(emulators, "wavespeed-ai/flux-dev", headers={}, prompt="x").status_code == 401
    assert emulators.http.get(f"{emulators.url('wavespeed')}/api/v3/predictions/none/result", headers=KEY).is_error
    wrong = submit(emulators, swap, image=image).json()
    assert (wrong["code"], "face_image" in wrong["message"]) == (400, True)
    assert emulators.amounts() == []


def test_images_come_as_data_or_as_addresses(emulators: Emulators) -> None:
    model = "wavespeed-ai/image-face-swap"
    data = result_of(
        emulators, submit(emulators, model, image=data_uri(picture(96, 64)), face_image="https://a.b/c.png")
    )
    assert opened(emulators.http.get(data["outputs"][0]).content).size == (96, 64)


def test_what_the_other_models_make(emulators: Emulators) -> None:
    image = data_uri(picture(96, 64))

    def made(model: str, **body: Any) -> httpx.Response:
        return emulators.http.get(result_of(emulators, submit(emulators, model, image=image, **body))["outputs"][0])

    assert opened(made("wavespeed-ai/image-upscaler", target_resolution="2k").content).size == (2048, 1365)
    assert opened(made("wavespeed-ai/image-background-remover").content).mode == "RGBA"
    assert made("wavespeed-ai/hunyuan3d-v3/image-to-3d").content.startswith(b"glTF")
    clip = made("wavespeed-ai/wan-2.2/image-to-video", prompt="x", duration=8)
    assert (clip.headers["content-type"], clip.content[4:12]) == ("video/mp4", b"ftypisom")
    assert emulators.amounts() == ["0.010000000", "0.010000000", "0.250000000", "0.480000000"]


def test_what_is_billed(emulators: Emulators) -> None:
    """Each image is; a failed task is refunded; a flagged one is delivered; a refused one never was."""
    model = "wavespeed-ai/flux-dev"
    assert len(result_of(emulators, submit(emulators, model, prompt="x", num_images=3))["outputs"]) == 3
    assert result_of(emulators, submit(emulators, model, prompt="x [fails]"))["status"] == "failed"
    flagged = result_of(emulators, submit(emulators, model, prompt="x [filtered]"))
    assert (flagged["status"], flagged["has_nsfw_contents"]) == ("completed", [True])
    assert submit(emulators, model, prompt="x [refused]").status_code == 400
    assert emulators.amounts() == ["0.036000000", "0.000000000", "0.012000000"]


def test_a_result_is_for_the_key_that_asked_for_it(emulators: Emulators) -> None:
    emulators.server.emulation.keys = {"wavespeed": ("one", "two")}
    try:
        one, two = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
        url = submit(emulators, "wavespeed-ai/flux-dev", headers=one, prompt="x").json()["data"]["urls"]["get"]
        assert [emulators.http.get(url, headers=key).status_code for key in (one, two)] == [200, 404]
    finally:
        emulators.server.emulation.keys = {}
