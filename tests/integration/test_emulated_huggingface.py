"""The emulated Hugging Face router in front of fal against what both document (addresses in deploy/emulators)."""

import base64
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.emulators import Emulators, opened, picture

KEY = {"Authorization": "Bearer hf_emulator_key"}
QUEUE = {"_subdomain": "queue"}


def run(
    emulators: Emulators, model: str, *, queue: bool = False, headers: dict[str, str] = KEY, **body: Any
) -> httpx.Response:
    url = f"{emulators.url('huggingface')}/fal-ai/{model}"
    return emulators.http.post(url, params=QUEUE if queue else {}, headers=headers, json=body)


def follow(emulators: Emulators, submitted: dict[str, Any], what: str = "") -> httpx.Response:
    """As huggingface_hub's fal_ai.py does: the path of response_url, asked of the router."""
    path = urlsplit(submitted["response_url"]).path
    return emulators.http.get(f"{emulators.url('huggingface')}/fal-ai{path}{what}", params=QUEUE, headers=KEY)


def data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def test_an_image_is_at_an_address(emulators: Emulators) -> None:
    """The output of fal-ai/flux/dev."""
    size = {"width": 640, "height": 384}
    body = run(emulators, "fal-ai/flux/dev", prompt="a lighthouse", image_size=size, seed=7).json()
    assert set(body) == {"images", "timings", "seed", "has_nsfw_concepts", "prompt"}
    assert (body["seed"], body["has_nsfw_concepts"], body["prompt"]) == (7, [False], "a lighthouse")
    (image,) = body["images"]
    assert (image["width"], image["height"], image["content_type"]) == (640, 384, "image/jpeg")
    file = emulators.http.get(image["url"])
    assert opened(file.content).size == (640, 384)


def test_sizes_by_name_and_the_image_in_the_answer(emulators: Emulators) -> None:
    body = run(emulators, "fal-ai/flux/schnell", prompt="x", image_size="portrait_16_9", sync_mode=True).json()
    head, _, content = body["images"][0]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert opened(base64.b64decode(content, validate=True)).size == (576, 1024)


def test_the_queue_goes_through_its_states(emulators: Emulators) -> None:
    now = [50.0]
    emulators.server.emulation.clock = lambda: now[0]
    emulators.pace(queue=2, run=3)
    submitted = run(emulators, "fal-ai/flux/dev", queue=True, prompt="x", image_size="square").json()
    assert (submitted["status"], submitted["queue_position"]) == ("IN_QUEUE", 0)
    assert set(submitted) >= {"request_id", "response_url", "status_url", "cancel_url"}
    # Owner and application, without the path behind them; on fal's own host, not the router's.
    expected = f"https://queue.fal.run/fal-ai/flux/requests/{submitted['request_id']}"
    assert (submitted["response_url"], submitted["status_url"]) == (expected, f"{expected}/status")
    seen = []
    for seconds in (0, 2, 3):
        now[0] += seconds
        answer = follow(emulators, submitted, "/status")
        seen.append((answer.status_code, answer.json()["status"]))
        if seconds < 3:
            assert follow(emulators, submitted).status_code == 400
    assert seen == [(202, "IN_QUEUE"), (202, "IN_PROGRESS"), (200, "COMPLETED")]
    assert follow(emulators, submitted).json()["images"][0]["width"] == 512


def test_what_the_other_models_make(emulators: Emulators) -> None:
    image = data_uri(picture(96, 64))

    def made(model: str, member: str, **body: Any) -> httpx.Response:
        submitted = run(emulators, model, queue=True, image_url=image, **body).json()
        return emulators.http.get(follow(emulators, submitted).json()[member]["url"])

    assert opened(made("fal-ai/recraft/upscale/crisp", "image").content).size == (384, 256)
    assert opened(made("fal-ai/bria/background/remove", "image").content).mode == "RGBA"
    assert made("fal-ai/trellis", "model_mesh").content.startswith(b"glTF")
    clip = made("bytedance/seedance-2.0/image-to-video", "video", prompt="x", duration="4", resolution="480p")
    assert clip.headers["content-type"] == "video/mp4"
    assert emulators.amounts() == ["0.004000000", "0.018000000", "0.020000000", "0.538400000"]


def test_an_upscaler_takes_a_factor_and_is_paid_for_what_it_makes(emulators: Emulators) -> None:
    """fal.ai/models/fal-ai/clarity-upscaler/llms.txt: upscale_factor, 1 to 4, by default 2; $0.03 a megapixel."""
    image = data_uri(picture(600, 400))
    for factor, size in (
        ({}, (1200, 800)),
        ({"upscale_factor": 1.5}, (900, 600)),
        ({"upscale_factor": 4}, (2400, 1600)),
    ):
        body = run(emulators, "fal-ai/clarity-upscaler", image_url=image, **factor).json()
        assert opened(emulators.http.get(body["image"]["url"]).content).size == size
    assert emulators.amounts() == ["0.030000000", "0.030000000", "0.120000000"]
    for wrong in (0.5, 4.5, "2", True):
        refused = run(emulators, "fal-ai/clarity-upscaler", image_url=image, upscale_factor=wrong)
        assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "upscale_factor"])


def test_begun_megapixels_count_whole(emulators: Emulators) -> None:
    for size in ("square", "square_hd", {"width": 1025, "height": 1024}):
        run(emulators, "fal-ai/flux/dev", prompt="x", image_size=size)
    run(emulators, "fal-ai/flux/dev", prompt="x", image_size="square_hd", num_images=3)
    assert emulators.amounts() == ["0.025000000", "0.025000000", "0.050000000", "0.075000000"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x", "image_size": "huge"}, "image_size"),
        ({"prompt": "x", "image_size": {"width": 0, "height": 5}}, "image_size"),
        ({"prompt": "x", "num_images": 9}, "num_images"),
        ({"prompt": "x", "seed": "s"}, "seed"),
        ({"prompt": "x", "output_format": "gif"}, "output_format"),
    ],
)
def test_a_model_says_what_is_wrong_with_its_input(emulators: Emulators, body: dict[str, Any], where: str) -> None:
    """fal.ai/docs/documentation/model-apis/errors; at once, and through the queue with the result."""
    answer = run(emulators, "fal-ai/flux/dev", **body)
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert (detail["loc"], set(detail)) == (["body", where], {"loc", "msg", "type"})
    assert emulators.amounts() == []
    queued = run(emulators, "fal-ai/flux/dev", queue=True, **body)
    assert queued.status_code == 200
    assert follow(emulators, queued.json(), "/status").json()["status"] == "COMPLETED"
    assert follow(emulators, queued.json()).status_code == 422
    assert emulators.amounts() == ["0.000000000"]


def test_the_router_refuses_in_its_own_words(emulators: Emulators) -> None:
    assert run(emulators, "fal-ai/flux/dev", headers={}, prompt="x").json() == {
        "error": "Invalid username or password."
    }
    assert run(emulators, "fal-ai/no-model", prompt="x").status_code == 404
    assert run(emulators, "flux/dev", prompt="x").status_code == 404
    submitted = run(emulators, "fal-ai/flux/dev", queue=True, prompt="x").json()
    submitted["response_url"] = submitted["response_url"].replace("fal-ai/flux", "fal-ai/trellis")
    assert follow(emulators, submitted).status_code == 404


def test_a_failed_job_names_the_type_of_its_error(emulators: Emulators) -> None:
    """fal.ai/docs/documentation/model-apis/request-errors; trouble on the way to it names none."""
    submitted = run(emulators, "fal-ai/flux/dev", queue=True, prompt="x [fails]").json()
    failed = follow(emulators, submitted)
    assert (failed.status_code, failed.json()["error_type"]) == (500, failed.headers["x-fal-error-type"])
    emulators.fault("status", status=500, route="GET *")
    trouble = follow(emulators, submitted)
    assert (trouble.status_code, list(trouble.json())) == (500, ["detail"])
    assert "x-fal-error-type" not in trouble.headers


def test_what_is_billed(emulators: Emulators) -> None:
    """Server errors are not; what a checker looked at is; a flagged picture is delivered."""
    model = "fal-ai/flux/dev"
    assert run(emulators, model, prompt="x [fails]").status_code == 500
    policy = run(emulators, model, prompt="x [refused]")
    assert (policy.status_code, policy.json()["detail"][0]["type"]) == (422, "content_policy_violation")
    assert run(emulators, model, prompt="x [filtered]", image_size="square").json()["has_nsfw_concepts"] == [True]
    assert emulators.amounts() == ["0.000000000", "0.025000000", "0.025000000"]
    states = [job["state"] for job in emulators.billed()["jobs"]]
    assert states == ["failed", "failed", "filtered"]
