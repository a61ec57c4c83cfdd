"""Operations: complete, deterministic, honest about sizes; images that come in are understood or refused."""

import asyncio
import importlib
import io
import tempfile
from collections.abc import Awaitable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

import image_service.operations
from contracts.operations import OPERATION_TYPES
from contracts.problems import ProblemError
from image_service.artifacts import Artifact, Content
from image_service.config import Settings
from image_service.images import BadImageError, Bounds, SourceImage, encode, pixels_of
from image_service.images import examine as examine_content
from image_service.main import create_app
from image_service.operations import OPERATIONS
from image_service.operations.base import Parameters, Uploads
from image_service.operations.edit import EditParameters
from image_service.operations.generate import GenerateParameters
from image_service.operations.upscale import UpscaleParameters
from image_service.providers.base import ProviderError, ProviderResult
from image_service.providers.local import MODELS, LocalProvider
from image_service.providers.local_render import render
from image_service.providers.registry import Providers, build
from image_service.providers.requests import GenerateRequest
from tests.attempts import attempt_of

BOUNDS = Bounds(pixels_max=1_000_000, edge_pixels_max=4096)


def file_of(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def photo(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    return render("a photograph", 1, width, height, 0).convert(mode)


def examine(data: bytes, bounds: Bounds) -> SourceImage:
    return examine_content(Content(data), bounds)


def opened(image: Artifact) -> Image.Image:
    result = Image.open(io.BytesIO(image.content.read()))
    result.load()
    assert result.size == (image.width, image.height)
    return result


@pytest.fixture
def local():
    provider = LocalProvider(threads=2)
    yield provider
    asyncio.run(provider.close())


def run(
    local: LocalProvider,
    name: str,
    parameters: Parameters,
    source: SourceImage | None = None,
    model: str | None = None,
) -> ProviderResult:
    operation = OPERATIONS[name]
    uploads = Uploads({} if source is None else {"image": (source,)})
    request = operation.request(parameters, uploads, BOUNDS)
    chosen = Providers((local,)).select(operation, "local", model, request).model

    async def work() -> ProviderResult:
        return await operation.run(local, chosen, request, attempt_of(name))

    return asyncio.run(work())


@cache
def _document() -> dict[str, Any]:
    """The service's OpenAPI document."""
    with tempfile.TemporaryDirectory() as folder:
        return create_app(Settings(data_dir=Path(folder))).openapi()


def generation(count: int = 1) -> GenerateRequest:
    return GenerateRequest("a lighthouse", 64, 64, seed=1, count=count)


def called(calling: Awaitable[ProviderResult]) -> ProviderResult:
    async def work() -> ProviderResult:
        return await calling

    return asyncio.run(work())


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    return value if isinstance(value, tuple) else (int(value or 0),)


class TestCompleteness:
    def test_every_operation_type_has_its_file_and_every_file_its_type(self) -> None:
        files = {path.stem for path in Path(image_service.operations.__file__).parent.glob("*.py")}
        assert files - {"__init__", "base"} == set(OPERATION_TYPES) == set(OPERATIONS)

    @pytest.mark.parametrize("name", OPERATION_TYPES)
    def test_declaration_is_whole(self, name: str) -> None:
        operation = OPERATIONS[name]
        assert importlib.import_module(f"image_service.operations.{name}").OPERATION is operation
        assert operation.summary
        assert operation.description

    @pytest.mark.parametrize("name", OPERATION_TYPES)
    def test_uploads_are_named_once_and_refer_to_required_ones(self, name: str) -> None:
        uploads = OPERATIONS[name].uploads
        fields = {field.name for field in uploads} | set(OPERATIONS[name].parameters.model_fields)
        assert len(fields) == len(uploads) + len(OPERATIONS[name].parameters.model_fields)
        required = {field.name for field in uploads if field.required}
        assert {field.same_size_as for field in uploads} <= {None, *required}

    @pytest.mark.parametrize("name", OPERATION_TYPES)
    def test_the_document_has_every_field_and_file(self, name: str) -> None:
        operation = OPERATIONS[name]
        body = _document()["paths"][operation.path]["post"]["requestBody"]["content"]
        [(media_type, content)] = body.items()
        assert media_type == ("multipart/form-data" if operation.uploads else "application/json")
        named = {field.name for field in operation.uploads} | set(operation.parameters.model_fields)
        assert set(content["schema"]["properties"]) == named
        for kind in operation.kinds:
            assert kind in str(content["schema"])

    @pytest.mark.parametrize("name", OPERATION_TYPES)
    def test_its_own_provider_does_every_kind_and_says_what_it_costs(self, name: str) -> None:
        provider = build(Settings()).find(OPERATIONS[name].default_provider)
        assert provider is not None
        models = [model for model in provider.models if model.operation == name]
        assert OPERATIONS[name].capability(provider) is provider
        assert set().union(*(model.kinds for model in models)) == set(OPERATIONS[name].kinds)
        assert all(model.price_per_unit_nanos for model in models)

    def test_every_model_of_a_provider_serves_a_known_operation_and_has_a_price(self) -> None:
        assert {model.operation for model in MODELS} <= set(OPERATION_TYPES)
        assert all(model.price_per_unit_nanos for model in MODELS)
        assert len({model.name for model in MODELS}) == len(MODELS)

    def test_price_is_per_unit(self) -> None:
        selection = build(Settings()).select(OPERATIONS["generate"], None, None, generation(count=4))
        assert (selection.quantity, selection.first.quote.cost_nanos) == (4, 40_000_000)

    @pytest.mark.parametrize(
        ("operation", "provider", "model", "field"),
        [
            ("generate", "nobody", None, "provider"),
            ("generate", None, "nothing", "model"),
            ("edit", "local", "local-render-1", "model"),
        ],
    )
    def test_what_does_not_exist_is_refused_by_name(self, operation, provider, model, field) -> None:
        with pytest.raises(ProblemError) as refused:
            build(Settings()).select(OPERATIONS[operation], provider, model, generation())
        assert refused.value.problem.errors[0].field == field


class TestGenerate:
    def parameters(self, **change) -> GenerateParameters:
        values = {"prompt": "a lighthouse", "width": 120, "height": 80, "seed": 1, **change}
        return GenerateParameters.model_validate(values)

    def test_same_prompt_and_seed_give_the_same_bytes(self, local) -> None:
        first, second = (run(local, "generate", self.parameters(variations=2)) for _ in range(2))
        assert [image.content.read() for image in first.artifacts] == [
            image.content.read() for image in second.artifacts
        ]

    def test_other_prompt_seed_or_variation_gives_another_picture(self, local) -> None:
        asked = [self.parameters(), self.parameters(seed=2), self.parameters(prompt="a lake")]
        pictures = [run(local, "generate", parameters).artifacts[0].content.read() for parameters in asked]
        pictures += [
            image.content.read() for image in run(local, "generate", self.parameters(variations=3)).artifacts[1:]
        ]
        assert len(set(pictures)) == 5

    @pytest.mark.parametrize("size", [(16, 16), (17, 333), (640, 480), (4096, 16), (16, 4096)])
    def test_size_is_what_was_asked(self, local, size) -> None:
        [image] = run(local, "generate", self.parameters(width=size[0], height=size[1])).artifacts
        assert opened(image).size == size

    def test_it_is_a_picture_and_not_a_plain_area(self) -> None:
        for seed in range(6):
            colours = render("anything", seed, 64, 64, 0).getcolors(64 * 64)
            assert colours is None or len(colours) > 200

    def test_without_a_seed_one_is_chosen_and_given_back(self, local) -> None:
        chosen = run(local, "generate", self.parameters(seed=None))
        assert chosen.seed is not None
        assert run(local, "generate", self.parameters(seed=chosen.seed)).artifacts == chosen.artifacts

    def test_quantity_and_cost_are_the_variations(self, local) -> None:
        parameters = self.parameters(variations=3)
        request = OPERATIONS["generate"].request(parameters, Uploads(), BOUNDS)
        assert request.quantity == len(run(local, "generate", parameters).artifacts) == 3
        assert request.attributes == {"size": "120x80", "megapixels": 1}

    def test_unreliable_model_fails_and_bills_nothing(self, local) -> None:
        with pytest.raises(ProviderError) as failure:
            run(local, "generate", self.parameters(), model="local-unreliable-1")
        assert (failure.value.code, failure.value.cost_nanos) == ("unreliable", 0)

    def test_more_pixels_than_allowed_are_refused(self, local) -> None:
        with pytest.raises(ProblemError) as refused:
            run(local, "generate", self.parameters(width=1024, height=1024))
        assert refused.value.problem.errors[0].field == "width"


class TestEdit:
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
    @pytest.mark.parametrize("effect", ["enhance", "grayscale", "sepia", "blur", "sharpen"])
    def test_effect_changes_the_picture_and_keeps_size_and_type(self, local, effect, mode) -> None:
        image = photo(mode=mode)
        if mode == "RGBA":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        source = examine(file_of(image), BOUNDS)
        [edited] = run(local, "edit", EditParameters(effect=effect), source).artifacts
        result = opened(edited)
        assert (result.size, edited.media_type) == ((60, 40), "image/png")
        if not (effect == "grayscale" and mode == "L"):
            assert result.convert("RGBA").tobytes() != image.convert("RGBA").tobytes()
        if mode == "RGBA" and effect != "blur":
            assert result.getchannel("A").tobytes() == image.getchannel("A").tobytes()

    def test_rotation_is_clockwise(self, local) -> None:
        image = Image.new("RGB", (3, 2))
        image.putpixel((0, 0), (255, 0, 0))
        source = examine(file_of(image), BOUNDS)
        [edited] = run(local, "edit", EditParameters(effect="rotate", angle=90), source).artifacts
        result = opened(edited)
        assert result.size == (2, 3)
        assert result.getpixel((1, 0)) == (255, 0, 0)

    def test_crop_takes_exactly_that_part(self, local) -> None:
        image = photo()
        source = examine(file_of(image), BOUNDS)
        [edited] = run(local, "edit", EditParameters(effect="crop", left=5, top=6, width=7, height=8), source).artifacts
        assert opened(edited).tobytes() == image.crop((5, 6, 12, 14)).tobytes()

    def test_blur_lets_no_transparent_colour_bleed(self, local) -> None:
        image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
        image.paste((0, 0, 255, 255), (10, 10, 30, 30))
        [edited] = run(
            local, "edit", EditParameters(effect="blur", strength=1), examine(file_of(image), BOUNDS)
        ).artifacts
        assert max(pixel(opened(edited), x, 20)[0] for x in range(10, 30)) < 40

    @pytest.mark.parametrize(
        ("asked", "size"), [({"width": 30}, (30, 20)), ({"height": 80}, (120, 80)), ({"width": 9, "height": 9}, (9, 9))]
    )
    def test_resize_reaches_the_size(self, local, asked, size) -> None:
        source = examine(file_of(photo()), BOUNDS)
        [edited] = run(local, "edit", EditParameters(effect="resize", **asked), source).artifacts
        assert opened(edited).size == size


class TestUpscale:
    @pytest.mark.parametrize(
        ("asked", "size"),
        [
            ({}, (120, 80)),
            ({"factor": 4}, (240, 160)),
            ({"width": 90}, (90, 60)),
            ({"height": 41}, (62, 41)),
            ({"width": 61, "height": 99}, (61, 99)),
        ],
    )
    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
    def test_size_is_what_was_asked(self, local, asked, size, file_format) -> None:
        source = examine(file_of(photo(), file_format), BOUNDS)
        [image] = run(local, "upscale", UpscaleParameters(**asked), source).artifacts
        assert opened(image).size == size
        assert image.media_type == source.media_type

    def test_transparent_pixels_do_not_bleed(self, local) -> None:
        image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
        image.paste((0, 0, 255, 255), (5, 5, 15, 15))
        [large] = run(local, "upscale", UpscaleParameters(factor=4), examine(file_of(image), BOUNDS)).artifacts
        result = opened(large)
        seen = [pixel(result, x, 40) for x in range(80) if pixel(result, x, 40)[3] > 128]
        assert seen
        assert max(colour[0] for colour in seen) < 40


class TestComingIn:
    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
    def test_media_type_is_by_content(self, file_format) -> None:
        source = examine(file_of(photo(), file_format), BOUNDS)
        assert (source.media_type, source.width, source.height) == (f"image/{file_format.lower()}", 60, 40)

    def test_exif_rotation_is_applied_and_gone(self) -> None:
        image = Image.new("RGB", (4, 2), "black")
        image.putpixel((0, 0), (255, 255, 255))
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        source = examine(file_of(image, exif=exif), BOUNDS)
        pixels = pixels_of(source)
        assert (source.width, source.height) == pixels.size == (2, 4)
        assert pixels.getpixel((1, 0)) == (255, 255, 255)
        assert not Image.open(io.BytesIO(encode(pixels, "image/png").content.read())).getexif()

    def test_cmyk_becomes_the_same_colours(self) -> None:
        image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
        red, green, blue = pixel(pixels_of(examine(file_of(image, "JPEG"), BOUNDS)), 4, 4)
        assert red > 200
        assert max(green, blue) < 60

    def test_sixteen_bits_keep_their_tones(self) -> None:
        image = Image.new("I;16", (2, 1))
        image.putpixel((0, 0), 0x4000)
        image.putpixel((1, 0), 0xC000)
        pixels = pixels_of(examine(file_of(image), BOUNDS))
        assert pixels.mode == "L"
        assert [pixels.getpixel((0, 0)), pixels.getpixel((1, 0))] == [0x40, 0xC0]

    def test_palette_with_transparency_keeps_it(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.putpixel((1, 0), 1)
        pixels = pixels_of(examine(file_of(image, transparency=0), BOUNDS))
        assert pixels.mode == "RGBA"
        assert (pixel(pixels, 0, 0)[3], pixel(pixels, 1, 0)) == (0, (0, 255, 0, 255))

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
    def test_every_usual_mode_can_be_edited_and_upscaled(self, local, mode) -> None:
        source = examine(file_of(photo(mode=mode)), BOUNDS)
        assert opened(run(local, "edit", EditParameters(effect="sepia"), source).artifacts[0]).size == (60, 40)
        assert opened(run(local, "upscale", UpscaleParameters(), source).artifacts[0]).size == (120, 80)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
    def test_cut_off_anywhere_is_refused_or_whole(self, file_format) -> None:
        whole = file_of(photo(), file_format)
        for length in range(0, len(whole) - 8, max(1, len(whole) // 60)):
            with pytest.raises(BadImageError):
                examine(whole[:length], BOUNDS)

    def test_pixel_bound_is_checked_before_decoding(self) -> None:
        bomb = file_of(Image.new("1", (4000, 4000)))
        assert len(bomb) < 10_000
        with pytest.raises(BadImageError, match="1000000 in all"):
            examine(bomb, BOUNDS)


class TestLocalModels:
    """What the guide says of them, on pictures in which it can be measured."""

    def source(self, image: Image.Image) -> SourceImage:
        return examine(file_of(image), BOUNDS)

    def edited(self, local, image: Image.Image, mask: Image.Image | None = None, **parameters: Any) -> Image.Image:
        operation = OPERATIONS["edit"]
        uploads = {"image": (self.source(image),)}
        if mask is not None:
            uploads["mask"] = (self.source(mask),)
        request = operation.request(EditParameters(**parameters), Uploads(uploads), BOUNDS)
        result = called(operation.run(local, "local-edit-1", request, attempt_of("edit")))
        return opened(result.artifacts[0])

    def disc(self, colour: str = "red") -> Image.Image:
        image = Image.new("RGB", (80, 60), (190, 205, 220))
        ImageDraw.Draw(image).ellipse((25, 15, 55, 45), fill=colour)
        return image

    def test_background_goes_and_the_subject_stays(self, local) -> None:
        result = self.edited(local, self.disc(), kind="remove_background")
        assert result.mode == "RGBA"
        assert (pixel(result, 2, 2)[3], pixel(result, 40, 30)) == (0, (255, 0, 0, 255))

    def test_erase_leaves_no_trace_and_touches_nothing_else(self, local) -> None:
        mask = Image.new("L", (80, 60))
        ImageDraw.Draw(mask).rectangle((20, 10, 60, 50), fill=255)
        result = self.edited(local, self.disc(), mask, kind="erase")
        red, green, blue = pixel(result, 40, 30)
        assert abs(red - 190) < 30
        assert min(green, blue) > 170
        assert result.crop((0, 0, 80, 10)).tobytes() == self.disc().crop((0, 0, 80, 10)).tobytes()

    def test_inpaint_changes_the_mask_alone_and_follows_the_seed(self, local) -> None:
        mask = Image.new("L", (80, 60))
        ImageDraw.Draw(mask).rectangle((30, 20, 70, 50), fill=255)
        one, same, other = (
            self.edited(local, self.disc(), mask, kind="inpaint", prompt="x", seed=seed) for seed in (1, 1, 2)
        )
        assert one.tobytes() == same.tobytes() != other.tobytes()
        assert one.crop((0, 0, 29, 60)).tobytes() == self.disc().crop((0, 0, 29, 60)).tobytes()
        assert pixel(one, 50, 35) != pixel(self.disc(), 50, 35)

    def test_outpaint_keeps_what_was_there(self, local) -> None:
        result = self.edited(local, self.disc(), kind="outpaint", left=30, bottom=100)
        assert result.size == (110, 160)
        assert result.crop((30, 0, 110, 60)).tobytes() == self.disc().tobytes()

    def test_search_recolor_finds_the_colour_that_is_named(self, local) -> None:
        result = self.edited(local, self.disc(), kind="search_recolor", search="the red ball", prompt="green, please")
        red, green, _ = pixel(result, 40, 30)
        assert green > 2 * red
        assert pixel(result, 3, 3) == (190, 205, 220)

    def test_relight_is_lighter_on_its_side(self, local) -> None:
        result = self.edited(local, Image.new("RGB", (80, 60), "grey"), kind="relight", direction="left")
        assert pixel(result, 2, 30)[0] > 128 > pixel(result, 77, 30)[0]

    def test_general_does_what_its_words_say(self, local) -> None:
        assert pixel(self.edited(local, self.disc(), kind="general", prompt="inverted"), 40, 30) == (0, 255, 255)
        assert pixel(self.edited(local, self.disc(), kind="general", prompt="much darker"), 40, 30)[0] < 160

    @pytest.mark.parametrize(
        ("parameters", "field"),
        [
            ({"kind": "general", "prompt": "make it interesting"}, "prompt"),
            ({"kind": "search_replace", "search": "the dog", "prompt": "x"}, "search"),
            ({"kind": "search_recolor", "search": "red", "prompt": "loud"}, "prompt"),
        ],
    )
    def test_what_they_cannot_read_is_refused_before_any_hold(self, local, parameters, field) -> None:
        operation = OPERATIONS["edit"]
        request = operation.request(
            EditParameters(**parameters), Uploads({"image": (self.source(self.disc()),)}), BOUNDS
        )
        with pytest.raises(ProblemError) as refused:
            Providers((local,)).select(operation, None, None, request)
        assert refused.value.problem.errors[0].field == field

    def test_a_colour_that_is_nowhere_is_a_failure_at_no_cost(self, local) -> None:
        with pytest.raises(ProviderError) as failure:
            self.edited(local, self.disc("red"), kind="search_recolor", search="green", prompt="blue")
        assert (failure.value.code, failure.value.cost_nanos) == ("nothing_found", 0)

    def test_no_face_is_a_failure_at_no_cost(self, local) -> None:
        operation = OPERATIONS["face_swap"]
        source = self.source(self.disc("green"))
        request = operation.request(operation.parameters(), Uploads({"image": (source,), "face": (source,)}), BOUNDS)
        with pytest.raises(ProviderError, match="no_face"):
            called(operation.run(local, "local-face-1", request, attempt_of("face_swap")))
