"""What is sent to OpenAI and Google, what their answers mean, and that no call costs more than was held for it."""

import io
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contracts.money import COST_NANOS_MAX
from image_service.artifacts import Content
from image_service.images import SourceImage
from image_service.providers import gemini, gemini_models, openai, openai_models
from image_service.providers.base import Model, RefusedRequestError
from image_service.providers.http import Answer
from image_service.providers.requests import CharacterRequest, Erase, GeneralEdit, GenerateRequest, Inpaint
from image_service.providers.token_prices import TOKEN_PRICES, TOKENS_MAX, Tokens, cost_nanos

GPT = Model(openai_models.GPT_IMAGE, "generate")


def image(width: int = 64, height: int = 64, mode: str = "RGB", colour: Any = 0) -> SourceImage:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, "PNG")
    return SourceImage(Content(buffer.getvalue()), "image/png", width, height)


def generate(width: int = 1024, height: int = 1024, **other: Any) -> GenerateRequest:
    return GenerateRequest(**{"prompt": "a cat", "seed": None, "count": 1, "width": width, "height": height, **other})


def answer(status: int, content: bytes) -> Answer:
    return Answer(status, httpx.Headers(), content)


def test_an_image_has_as_many_tokens_as_openai_s_calculator_says() -> None:
    """Of https://community.openai.com/t/1379464 and the calculator of the guide, at high quality."""
    assert openai_models.image_out_tokens(1024, 1024, "high") == 7024
    assert (
        openai_models.image_out_tokens(1536, 1024, "high") == openai_models.image_out_tokens(1024, 1536, "high") == 5488
    )
    assert openai_models.image_out_tokens(1792, 1024, "high") == 5063
    assert openai_models.image_out_tokens(3584, 2048, "high") == 12329


def test_prices_are_those_of_the_list_where_it_has_one() -> None:
    """The list rounds to a tenth of a cent, or less; tokens are exact."""
    assert cost_nanos("gpt-image-2", Tokens(image_out=7024)) == 210_720_000  # 0.211
    assert cost_nanos("gemini-3-pro-image", Tokens(image_out=1120)) == 134_400_000  # 0.134
    assert cost_nanos("gemini-2.5-flash-image", Tokens(image_out=1290)) == 38_700_000  # 0.039
    assert cost_nanos("gemini-3.1-flash-image", Tokens(image_out=2520)) == 151_200_000  # 0.151
    assert (
        cost_nanos("gemini-3-pro-image", Tokens(text_in=3, image_in=5, text_out=7))
        == 3 * 2_000 + 5 * 2_000 + 7 * 12_000
    )


def test_what_openai_is_sent() -> None:
    planned = openai_models.plan(generate(1000, 700, count=3, quality="low"))
    assert planned.path == "/v1/images/generations"
    assert planned.fields == {
        "model": "gpt-image-2", "prompt": "a cat", "n": 3, "size": "1008x704", "output_format": "png", "quality": "low",
    }  # fmt: skip
    assert (planned.size, planned.wanted) == ((1008, 704), (1000, 700))
    character = openai_models.plan(CharacterRequest("a cat", (image(), image()), 1024, 1024, None, 2))
    assert (character.path, len(character.images)) == ("/v1/images/edits", 2)
    large = openai_models.plan(generate(3840, 2160, count=4))
    assert large.fields["output_format"] == "webp"


def test_a_mask_is_transparent_where_something_changes() -> None:
    mask = image(2, 1, "L", 255)
    pixels = Image.open(io.BytesIO(openai_models.mask_file(mask)))
    assert (pixels.mode, pixels.getchannel("A").getextrema()) == ("RGBA", (0, 0))
    kept = Image.open(io.BytesIO(openai_models.mask_file(image(2, 1, "L", 0))))
    assert kept.getchannel("A").getextrema() == (255, 255)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (generate(seed=1), "seed"),
        (generate(steps=5), "steps"),
        (generate(negative_prompt="a dog"), "negative_prompt"),
        (generate(quality="hd"), "quality"),
        (generate(2048, 512), "width"),
        (generate(4096, 4096), "width"),
        (GeneralEdit(image(300, 60), "x"), "image"),
        (Erase(image(), image()), "kind"),
    ],
)
def test_what_openai_cannot_do_is_refused_by_name(request_: Any, field: str) -> None:
    with pytest.raises(RefusedRequestError) as refused:
        openai_models.quote(GPT, request_)
    assert refused.value.field == field


@given(st.integers(16, 4096), st.integers(16, 4096))
def test_sizes_that_openai_is_asked_for_are_sizes_of_its_own(width: int, height: int) -> None:
    try:
        found = openai_models.fitting_size(width, height)
    except RefusedRequestError:
        assert max(width, height) > min(3840, 3 * min(width, height)) or width * height > 8_294_400
        return
    assert all(edge % 16 == 0 and edge <= 3840 for edge in found)
    assert max(found) <= 3 * min(found)
    assert 655_360 <= found[0] * found[1] <= 8_294_400
    assert abs(found[0] * height / (found[1] * width) - 1) < 0.04, "what is cropped away is little"


def test_what_openai_s_answers_mean() -> None:
    """The usage of https://developers.openai.com/api/reference, images: generations."""
    usage = {
        "total_tokens": 100, "input_tokens": 50, "output_tokens": 50,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    }  # fmt: skip
    assert openai.read_usage({"usage": usage}) == Tokens(text_in=10, image_in=40, image_out=50)
    assert openai.read_usage({"usage": {**usage, "input_tokens": -1}}) is None
    assert openai.read_usage({"usage": {**usage, "output_tokens": True}}) is None
    assert openai.read_usage({}) is None
    absurd = {"input_tokens": 10**15, "output_tokens": 0}
    assert openai.read_usage({"usage": absurd}) is None, "no event can say what that would cost"
    most = Tokens(TOKENS_MAX, TOKENS_MAX, TOKENS_MAX, TOKENS_MAX)
    assert 10 * max(cost_nanos(model, most) for model in TOKEN_PRICES) <= COST_NANOS_MAX
    assert openai.read_images({"data": [{"b64_json": "x"}, {"b64_json": "y"}]}, 2) == ("x", "y")
    assert openai.read_images({"data": [{"b64_json": "x"}]}, 2) is None
    blocked = openai.refusal(answer(400, b'{"error": {"code": "moderation_blocked", "message": "a cat"}}'))
    assert blocked is not None
    assert (blocked.code, blocked.cost_nanos, "a cat" in blocked.message) == ("content_filtered", 0, False)
    limit = openai.refusal(answer(400, b'{"error": {"code": "billing_hard_limit_reached"}}'))
    assert limit is not None
    assert (limit.code, limit.elsewhere) == ("provider_credit", True)
    spent = openai.refusal(answer(429, b'{"error": {"code": "insufficient_quota"}}'))
    assert spent is not None
    assert (spent.code, spent.elsewhere) == ("provider_credit", True)
    assert openai.refusal(answer(429, b'{"error": {"code": "rate_limit_exceeded"}}')) is None, "of the moment"
    for status in (500, 502, 503, 504, 200, 302):
        assert openai.refusal(answer(status, b"{}")) is None, "not certain that nothing was started"


def test_what_google_is_sent() -> None:
    planned = gemini_models.plan("gemini-3.1-flash-image", generate(1920, 1080, count=2))
    assert planned.path == "/v1beta/models/gemini-3.1-flash-image:generateContent"
    assert planned.body((("image/png", "QUJD"),)) == {
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "a cat"}, {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}],
            }
        ],
        "generationConfig": {
            "responseModalities": ["IMAGE"],
            "maxOutputTokens": 1_680 + 2_048,
            "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
        },
    }
    earlier = gemini_models.plan("gemini-2.5-flash-image", generate(1024, 1024))
    assert earlier.config["imageConfig"] == {"aspectRatio": "1:1"}
    with pytest.raises(RefusedRequestError, match="proportions"):
        gemini_models.plan("gemini-2.5-flash-image", generate(1000, 400))
    with pytest.raises(RefusedRequestError, match="1024x1024"):
        gemini_models.plan("gemini-2.5-flash-image", generate(2000, 2000))
    with pytest.raises(RefusedRequestError, match="mask"):
        gemini_models.plan("gemini-3-pro-image", Inpaint(image(), image(), "x"))


def test_what_google_s_answers_mean() -> None:
    """Shapes of https://ai.google.dev/api/generate-content."""
    blocked = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
    }
    made = gemini.read_made(blocked)
    assert made is not None
    assert (made.code, made.tokens) == ("content_filtered", Tokens(text_in=9))
    usage = {
        "promptTokenCount": 1_300, "candidatesTokenCount": 1_300, "thoughtsTokenCount": 20,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10}, {"modality": "IMAGE", "tokenCount": 1_290}],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1_290}, {"modality": "TEXT", "tokenCount": 10}],
    }  # fmt: skip
    parts = [
        {"inlineData": {"mimeType": "image/png", "data": "dGhvdWdodA=="}, "thought": True},
        {"text": "here"},
        {"inlineData": {"mimeType": "image/png", "data": "aW1hZ2U="}},
    ]
    done = gemini.read_made({"candidates": [{"content": {"parts": parts}}], "usageMetadata": usage})
    assert done is not None
    assert (done.image, done.tokens) == ("aW1hZ2U=", Tokens(10, 1_290, 1_290, 30))
    held = gemini.read_made({"candidates": [{"finishReason": "IMAGE_SAFETY"}], "usageMetadata": usage})
    assert held is not None
    assert (held.image, held.code) == (None, "content_filtered")
    assert gemini.read_made({}) is None
    assert gemini.read_made([]) is None
    for status in (500, 503, 504, 200):
        assert gemini.refusal(answer(status, b"{}")) is None
    refused = gemini.refusal(answer(400, b'{"error": {"status": "FAILED_PRECONDITION"}}'))
    assert refused is not None
    assert (refused.code, refused.elsewhere) == ("provider_credit", True)


REFERENCES = (image(300, 200), image(64, 64))
texts = st.text(min_size=1, max_size=60)
edges = st.integers(16, 4096)


@settings(max_examples=80)
@given(texts, edges, edges, st.integers(1, 10), st.sampled_from([None, "low", "medium", "high"]))
def test_openai_cannot_bill_more_than_was_held(
    prompt: str, width: int, height: int, count: int, quality: str | None
) -> None:
    """Whatever quality it chooses, and whichever way it counts the images that go in."""
    references = REFERENCES
    wanted: list[GenerateRequest | CharacterRequest] = [
        GenerateRequest(prompt, width, height, None, count, quality=quality),
        CharacterRequest(prompt, references, width, height, None, count, quality),
    ]
    for request in wanted:
        try:
            held = openai_models.quote(GPT, request).cost_nanos
        except RefusedRequestError:
            continue
        size = openai_models.plan(request).size
        images_in = len(references) if isinstance(request, CharacterRequest) else 0
        for chosen in [quality] if quality else ["low", "medium", "high"]:
            usage = Tokens(
                text_in=(len(prompt) + 32 * images_in) * count,
                # High fidelity, of an upright or wide image, beside its tiles.
                image_in=images_in * (65 + 129 * 2 + 6_240) * count,
                image_out=openai_models.image_out_tokens(*size, str(chosen)) * count,
            )
            assert held is not None
            assert cost_nanos(GPT.name, usage) <= held


@settings(max_examples=80)
@given(
    texts, edges, edges, st.integers(1, 10), st.sampled_from(sorted(TOKEN_PRICES.keys() - {"gpt-image-2"})), st.data()
)
def test_google_cannot_bill_more_than_was_held(
    prompt: str, width: int, height: int, count: int, model: str, data: st.DataObject
) -> None:
    """However it divides what maxOutputTokens allows for between images, words and thoughts."""
    request = CharacterRequest(prompt, REFERENCES[:1], width, height, None, count)
    try:
        held = gemini_models.quote(Model(model, "character"), request).cost_nanos
    except RefusedRequestError:
        return
    allowed = gemini_models.plan(model, request).config["maxOutputTokens"]
    of_images = data.draw(st.integers(0, allowed))
    usage = Tokens(len(prompt), 2_240, of_images, allowed - of_images)
    assert held is not None
    assert cost_nanos(model, usage) * count <= held


@given(st.sampled_from(sorted(TOKEN_PRICES.keys() - {"gpt-image-2"})), edges, edges)
def test_what_google_makes_is_as_large_as_what_is_wanted(model: str, width: int, height: int) -> None:
    try:
        planned = gemini_models.plan(model, generate(width, height))
    except RefusedRequestError:
        return
    pixels = gemini_models._PIXELS_2_5 if model == gemini_models.FLASH_2_5 else gemini_models._PIXELS
    times = gemini_models._RESOLUTIONS[model][planned.resolution][0]
    base = pixels[gemini_models.aspect_ratio(model, width, height)]
    # Cropping and a hair of enlarging, no more.
    assert base[0] * times * 1.04 >= width
    assert base[1] * times * 1.04 >= height
