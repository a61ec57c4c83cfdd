"""What is sent to WaveSpeed and Stability, and what their answers mean: documented examples, and every refusal."""

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from image_service.images import Bounds
from image_service.providers import registry, stability, stability_models, wavespeed, wavespeed_models
from image_service.providers.base import OutcomeUnknownError, ProviderError, RefusedRequestError
from image_service.providers.downloads import Downloads
from image_service.providers.http import Answer
from image_service.providers.jobs import Done, Finisher, Job, NotDone, Running
from image_service.providers.requests import (
    CharacterRequest,
    ControlRequest,
    FaceSwapRequest,
    GeneralEdit,
    GenerateRequest,
    Inpaint,
    Outpaint,
    Relight,
    SearchRecolor,
    ThreeDRequest,
    UpscaleKind,
    UpscaleRequest,
    VideoRequest,
)
from ledger_service.price_files import read_shipped
from tests.attempts import Heard, attempt_of
from tests.provider_orders import ALL, MASK, PICTURE, image_of

#: No public price was found for them; deploy/guides/providers.md says what to do about it.
UNPRICED = {"wavespeed-ai/image-upscaler", "wavespeed-ai/ultimate-image-upscaler"}
GENERATE = GenerateRequest("a cat", 1024, 768, 7, 1)


def answer(status: int, content: Any = None, **headers: str) -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answer(status, httpx.Headers(headers), body)


def test_every_model_has_a_price_under_its_name_and_operation() -> None:
    priced = {put.key for put in read_shipped().puts}
    models = [(remote, model) for remote in (wavespeed, stability) for model in remote.MODELS]
    missing = {model.name for remote, model in models if (remote.NAME, model.operation, model.name) not in priced}
    assert missing == UNPRICED


def test_every_model_has_an_order_that_is_tried() -> None:
    tried = {(asked.provider, asked.operation, asked.model) for asked in ALL}
    known = {(remote.NAME, model.operation, model.name) for remote in (wavespeed, stability) for model in remote.MODELS}
    assert {name for _, _, name in known - tried} == UNPRICED | {wavespeed_models.WAN_480P}


def test_names_of_the_registry_are_those_of_the_providers() -> None:
    assert [remote.name for remote in registry.REMOTES][:2] == [wavespeed.NAME, stability.NAME]
    assert [remote.variable for remote in registry.REMOTES][:2] == ["IMAGE_WAVESPEED_KEY", "IMAGE_STABILITY_KEY"]


class TestWaveSpeed:
    """https://wavespeed.ai/docs"""

    def body(self, model: str, request: Any, index: int = 0) -> dict[str, Any]:
        planned = wavespeed_models.plan(model, request, seed=5)
        return planned.body([f"https://u/{number}" for number in range(len(planned.images))], index)

    def test_text_to_image_as_its_page_shows_it(self) -> None:
        request = replace(GENERATE, count=2, steps=28)
        assert [self.body(wavespeed_models.FLUX_DEV, request, index) for index in (0, 1)] == [
            {"prompt": "a cat", "size": "1024*768", "num_images": 1, "output_format": "png",
             "num_inference_steps": 28, "seed": seed}
            for seed in (7, 8)
        ]  # fmt: skip

    def test_references_go_in_their_order(self) -> None:
        request = CharacterRequest("a cat", (PICTURE, MASK), 2048, 1024, None, 1)
        assert self.body(wavespeed_models.SEEDREAM_EDIT, request) == {
            "prompt": "a cat", "images": ["https://u/0", "https://u/1"], "size": "2048*1024",
        }  # fmt: skip

    def test_a_mask_is_white_where_new_pixels_are_made(self) -> None:
        sent = self.body(wavespeed_models.FLUX_DEV, Inpaint(PICTURE, MASK, "a dog"))
        assert (sent["image"], sent["mask_image"], sent["size"]) == ("https://u/0", "https://u/1", "256*256")

    def test_the_largest_face_is_the_default(self) -> None:
        assert "target_index" not in self.body(wavespeed_models.FACE_SWAP, FaceSwapRequest(PICTURE, PICTURE))
        assert self.body(wavespeed_models.FACE_SWAP, FaceSwapRequest(PICTURE, PICTURE, 2))["target_index"] == 2

    @pytest.mark.parametrize(("edge", "resolution"), [(2048, "2k"), (2049, "4k"), (4096, "4k"), (8192, "8k")])
    def test_the_smallest_resolution_that_reaches_the_size(self, edge: int, resolution: str) -> None:
        request = UpscaleRequest(image_of(256, 128), "fast", edge, edge // 2)
        assert self.body(wavespeed_models.UPSCALER, request)["target_resolution"] == resolution

    @pytest.mark.parametrize(
        ("model", "request_", "field"),
        [
            (wavespeed_models.FLUX_DEV, replace(GENERATE, width=1537), "width"),
            (wavespeed_models.FLUX_DEV, replace(GENERATE, height=255), "height"),
            (wavespeed_models.FLUX_DEV, replace(GENERATE, negative_prompt="x"), "negative_prompt"),
            (wavespeed_models.FLUX_DEV, replace(GENERATE, steps=51), "steps"),
            (wavespeed_models.FLUX_DEV, replace(GENERATE, seed=2**31), "seed"),
            (wavespeed_models.SEEDREAM, replace(GENERATE, width=1024, height=1024), "seed"),
            (wavespeed_models.SEEDREAM, replace(GENERATE, seed=None, width=4097, height=1024), "width"),
            (wavespeed_models.FLUX_DEV, Inpaint(image_of(100, 300), image_of(100, 300, "L"), "x"), "image"),
            (wavespeed_models.UPSCALER, UpscaleRequest(PICTURE, "fast", 8193, 8193), "width"),
            (wavespeed_models.UPSCALER, UpscaleRequest(PICTURE, "fast", 2048, 1024), "width"),
            (wavespeed_models.HUNYUAN_3D, ThreeDRequest(PICTURE, 2048), "texture_resolution"),
            (wavespeed_models.WAN_720P, VideoRequest(PICTURE, "x", 8, "720p"), "seconds"),
            (wavespeed_models.WAN_720P, VideoRequest(PICTURE, "x", 5, "1080p"), "resolution"),
            (wavespeed_models.WAN_480P, VideoRequest(PICTURE, None, 5, "480p"), "prompt"),
        ],
    )
    def test_what_a_model_cannot_do_is_refused_before_any_hold(self, model: str, request_: Any, field: str) -> None:
        with pytest.raises(RefusedRequestError) as refused:
            wavespeed_models.plan(model, request_, 0)
        assert refused.value.field == field

    def test_the_answer_of_its_documentation(self) -> None:
        data = {"id": "pred_abc123", "status": "completed", "outputs": ["https://cdn.wavespeed.ai/a.png"],
                "timings": {"inference": 2500}}  # fmt: skip
        prediction = wavespeed.read_prediction({"code": 200, "message": "success", "data": data})
        assert wavespeed.seen(prediction) == Done(("https://cdn.wavespeed.ai/a.png",))

    @pytest.mark.parametrize("url", [None, "", 7, {}])
    async def test_no_order_goes_out_without_a_url_of_what_was_uploaded(self, url: object) -> None:
        paths = []

        async def api(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head.lower())[0]))
            paths.append(head.split()[1].decode())
            body = json.dumps({"code": 200, "data": {"download_url": url, "id": "a", "status": "created"}}).encode()
            writer.write(f"HTTP/1.1 200 X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(api, "127.0.0.1") as server:
            place = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            finisher = Finisher(Downloads((), bytes_max=1), Bounds(1, 1))
            provider, attempt = wavespeed.WaveSpeed(place, SecretStr("k"), finisher), attempt_of("edit")
            with pytest.raises(ProviderError, match="took no upload"):
                await provider.edit(wavespeed_models.KONTEXT, GeneralEdit(PICTURE, "x"), attempt)
            await provider.close()
        assert (paths, attempt.may_be_billed) == (["/api/v3/media/upload/binary"], False)

    @pytest.mark.parametrize("status", ["created", "processing", "moderating", ""])
    def test_jobs_on_their_way(self, status: str) -> None:
        """Also where nobody has heard of the state: that it failed, and costs nothing, is said by those of its SDK."""
        assert wavespeed.seen(wavespeed.Prediction("a", status)) == Running(status)

    @pytest.mark.parametrize(
        ("status", "number", "code", "elsewhere"),
        [("failed", 1200, "content_filtered", False), ("failed", 1401, "invalid_input", False),
         ("failed", 5003, "provider_unavailable", True), ("failed", None, "job_failed", True),
         ("cancelled", None, "job_failed", True), ("timeout", 5004, "provider_timeout", True)],
    )  # fmt: skip
    def test_failed_jobs_are_refunded(self, status: str, number: int | None, code: str, elsewhere: bool) -> None:
        ended = wavespeed.seen(wavespeed.Prediction("a", status, (), number))
        assert isinstance(ended, NotDone)
        assert (ended.error.code, ended.error.cost_nanos, ended.error.elsewhere) == (code, 0, elsewhere)

    @pytest.mark.parametrize(
        "content",
        [None, [], {}, {"data": None}, {"data": {"id": "../x", "status": "created"}}, {"data": {"id": "a"}},
         {"data": {"id": "a", "status": "created", "outputs": "x"}}, {"data": {"id": "a" * 101, "status": "created"}}],
    )  # fmt: skip
    def test_what_is_no_prediction(self, content: Any) -> None:
        with pytest.raises(ValueError, match="no "):
            wavespeed.read_prediction(content)

    @pytest.mark.parametrize("status", [200, 202, 408, 429, 500, 502, 503, 504])
    def test_only_a_clear_refusal_is_certain(self, status: int) -> None:
        assert wavespeed.refusal(answer(status, {})) is None


class TestStability:
    """https://platform.stability.ai/docs/api-reference"""

    @pytest.mark.parametrize(
        ("kind", "size", "would_make"),
        [("fast", (64, 5_000), "256 x 20000"), ("fast", (700, 700), "2800 x 2800"),
         ("conservative", (100, 400), "1024 x 4096"), ("creative", (512, 512), "2048 x 2048")],
    )  # fmt: skip
    async def test_an_upscale_beyond_what_the_service_takes_is_not_ordered(
        self, kind: UpscaleKind, size: tuple[int, int], would_make: str
    ) -> None:
        bounds = Bounds(pixels_max=4_000_000, edge_pixels_max=16_383)
        client = stability.Stability("http://127.0.0.1:1", SecretStr("x"), Finisher(Downloads((), bytes_max=1), bounds))
        model = next(model for model in stability_models.MODELS if kind in model.kinds)
        prompt = None if kind == "fast" else "a cat"
        request = UpscaleRequest(image_of(*size), kind, size[0] * 2, size[1] * 2, prompt=prompt)
        with pytest.raises(RefusedRequestError, match=would_make):
            client.quote(model, request)
        await client.close()

    def test_text_to_image(self) -> None:
        planned = stability_models.plan("stable-image-core", GenerateRequest("a cat", 1344, 768, 7, 2, "a dog"))
        assert planned.path == "/v2beta/stable-image/generate/core"
        assert [dict(form) for form in planned.forms] == [
            {
                "prompt": "a cat",
                "negative_prompt": "a dog",
                "aspect_ratio": "16:9",
                "seed": seed,
                "output_format": "png",
            }
            for seed in ("7", "8")
        ]

    def test_the_models_of_one_endpoint_are_named_in_the_form(self) -> None:
        planned = stability_models.plan("sd3.5-medium", replace(GENERATE, height=1024))
        assert (planned.path, planned.forms[0]["model"]) == ("/v2beta/stable-image/generate/sd3", "sd3.5-medium")

    def test_the_sample_of_search_and_recolor(self) -> None:
        planned = stability_models.plan("search-and-recolor", SearchRecolor(PICTURE, "car", "a yellow car"))
        assert planned.path == "/v2beta/stable-image/edit/search-and-recolor"
        expected = {"prompt": "a yellow car", "select_prompt": "car", "output_format": "png"}
        assert (dict(planned.forms[0]), list(planned.images)) == (expected, ["image"])

    def test_outpaint_says_up_and_down_and_leaves_out_what_is_nothing(self) -> None:
        planned = stability_models.plan("outpaint", Outpaint(PICTURE, 0, 5, 6, 7))
        assert dict(planned.forms[0]) == {"right": "5", "up": "6", "down": "7", "output_format": "png"}
        assert planned.size == (261, 269)

    def test_relight_is_a_job_and_names_its_image_otherwise(self) -> None:
        planned = stability_models.plan("replace-background-and-relight", Relight(PICTURE, "a beach", "left", 0.3))
        assert (planned.is_job, list(planned.images)) == (True, ["subject_image"])
        assert planned.forms[0]["light_source_direction"] == "left"

    @pytest.mark.parametrize(("asked", "sent"), [(0.0, "0.1"), (0.5, "0.3"), (1.0, "0.5"), (None, None)])
    def test_creativity_is_a_share_of_what_the_model_has(self, asked: float | None, sent: str | None) -> None:
        request = UpscaleRequest(PICTURE, "creative", 512, 512, prompt="x", creativity=asked)
        assert stability_models.plan("upscale-creative", request).forms[0].get("creativity") == sent

    @pytest.mark.parametrize(
        ("model", "request_", "field"),
        [
            ("stable-image-core", replace(GENERATE, height=600), "width"),
            ("stable-image-core", replace(GENERATE, width=2048, height=2048), "width"),
            ("stable-image-core", replace(GENERATE, height=1024, seed=0), "seed"),
            ("stable-image-core", replace(GENERATE, height=1024, seed=2**32 - 1), "seed"),
            ("stable-image-core", replace(GENERATE, height=1024, steps=5), "steps"),
            ("outpaint", Outpaint(PICTURE, 2001, 0, 0, 0), "left"),
            ("outpaint", Outpaint(image_of(64, 512), 1, 0, 0, 0), "image"),
            ("remove-background", SearchRecolor(image_of(63, 512), "a", "b"), "image"),
            ("upscale-fast", UpscaleRequest(PICTURE, "fast", 1025, 1025), "factor"),
            ("upscale-fast", UpscaleRequest(image_of(1100, 1000), "fast", 1200, 1100), "image"),
            ("upscale-creative", UpscaleRequest(PICTURE, "creative", 512, 512), "prompt"),
            ("upscale-conservative", UpscaleRequest(PICTURE, "conservative", 4096, 4096, prompt="x"), "width"),
            ("replace-background-and-relight", Relight(PICTURE, None, "left"), "prompt"),
            ("replace-background-and-relight", Relight(PICTURE, "x", None, 0.5), "strength"),
            ("control-style", ControlRequest(PICTURE, "style", "x", 1000, 300), "width"),
            ("stable-fast-3d", ThreeDRequest(PICTURE, 512, seed=1), "seed"),
        ],
    )
    def test_what_a_model_cannot_do_is_refused_before_any_hold(self, model: str, request_: Any, field: str) -> None:
        with pytest.raises(RefusedRequestError) as refused:
            stability_models.plan(model, request_)
        assert refused.value.field == field

    @pytest.mark.parametrize(
        ("status", "name", "code", "elsewhere"),
        [(400, "bad_request", "invalid_input", False), (403, "content_moderation", "content_filtered", False),
         (422, "public_figure", "content_filtered", False), (422, "invalid_language", "invalid_input", False),
         (413, "payload_too_large", "invalid_input", False), (401, "unauthorized", "provider_credentials", True),
         (402, "payment_required", "provider_credit", True)],
    )  # fmt: skip
    def test_refusals_are_free_and_keep_the_texts_of_errors_to_themselves(
        self, status: int, name: str, code: str, elsewhere: bool
    ) -> None:
        content = {"id": "a1b2", "name": name, "errors": ["prompt: my secret prompt is not allowed"]}
        refused = stability.refusal(answer(status, content))
        assert refused is not None
        assert (refused.code, refused.cost_nanos, refused.elsewhere) == (code, 0, elsewhere)
        assert "secret" not in str(refused)
        assert name in str(refused)

    @pytest.mark.parametrize("status", [200, 202, 429, 500, 502, 503, 504])
    def test_only_a_clear_refusal_is_certain(self, status: int) -> None:
        assert stability.refusal(answer(status, {"name": "internal_error"})) is None

    def test_a_result_that_is_held_back_was_made_and_billed(self, tmp_path: Any) -> None:
        headers = httpx.Headers({"content-type": "image/png", "finish-reason": "CONTENT_FILTERED", "seed": "7"})
        with pytest.raises(ProviderError) as held_back:
            stability.read_result(Answer(200, headers, b"", tmp_path / "x"))
        assert (held_back.value.code, held_back.value.cost_nanos) == ("content_filtered", None)
        found = stability.read_result(
            Answer(200, httpx.Headers({**headers, "finish-reason": "SUCCESS"}), b"", tmp_path)
        )
        assert found.seed == 7

    @pytest.mark.parametrize("media_type", ["text/html", "application/json", ""])
    def test_a_success_that_is_none_of_theirs_says_nothing(self, media_type: str) -> None:
        with pytest.raises(OutcomeUnknownError):
            stability.read_result(answer(200, b"<html>", **{"content-type": media_type}))

    async def test_a_job_is_started_whichever_success_says_so(self) -> None:
        """202 as well: its result is answered so while it is made. In doubt, it would be paid for and never fetched."""
        paths = []

        async def api(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST"):
                await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head.lower())[0]))
            paths.append(head.split()[1].decode())
            body = b'{"id": "a1b2"}' if head.startswith(b"POST") else b'{"name": "content_moderation"}'
            status = 202 if head.startswith(b"POST") else 403
            writer.write(
                f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
            )
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(api, "127.0.0.1") as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            provider = stability.Stability(
                url, SecretStr("k"), Finisher(Downloads((), bytes_max=1), Bounds(1, 1), poll_seconds=(0.01, 0.01))
            )
            heard, request = Heard(), Relight(PICTURE, "a beach", "left")
            with pytest.raises(ProviderError, match="content_filtered"):
                await provider.edit("replace-background-and-relight", request, attempt_of("edit", heard))
            await provider.close()
        assert paths[1:] == ["/v2beta/results/a1b2"]
        assert [Job.read(kept).ids for kept in heard.jobs] == [("a1b2",)]

    @pytest.mark.parametrize("content", [b"no JSON", {}, {"id": 5}, {"id": "../../x"}, {"id": ""}, []])
    def test_an_answer_that_names_no_job(self, content: Any) -> None:
        with pytest.raises(OutcomeUnknownError):
            stability.read_job_id(answer(200, content))
