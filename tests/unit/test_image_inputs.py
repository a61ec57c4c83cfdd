"""Uploads that are unusual, or meant to harm: what becomes of them before anything is done with them."""

import io
import struct
import time
import zlib
from typing import Any

import pytest
from PIL import Image, ImageCms

from image_service.artifacts import Content
from image_service.images import SCANS_MAX, BadImageError, Bounds, SourceImage, examine, stripped

BOUNDS = Bounds(pixels_max=40_000_000, edge_pixels_max=16_383)


def examined(content: bytes) -> SourceImage:
    return examine(Content(content), BOUNDS)


def file_of(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((48, 32)).convert("RGB").save(buffer, form, **options)
    return buffer.getvalue()


# --- JPEG of many scans ---


def many_scans(edge: int, scans: int, between: bytes = b"") -> bytes:
    """A progressive JPEG, all of one grey, whose every scan says in 58 bytes that nothing changes anywhere."""
    blocks = (edge // 8) ** 2
    dc = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" + bytes(blocks // 8)
    runs = "".join("0" + format(run - 16384, "014b") for run in _runs(blocks))
    bits = runs + "1" * (-len(runs) % 8)
    ac = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" + int(bits, 2).to_bytes(len(bits) // 8).replace(
        b"\xff", b"\xff\x00"
    )
    return b"".join(
        (
            b"\xff\xd8\xff\xdb\x00\x43\x00" + b"\x01" * 64,
            b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, edge, edge, 1) + b"\x01\x11\x00",
            b"\xff\xc4\x00\x14\x00\x01" + bytes(15) + b"\x00",
            b"\xff\xc4\x00\x14\x10\x01" + bytes(15) + b"\xe0",
            between + dc + (between + ac) * (scans - 1) + b"\xff\xd9",
        )
    )


def _runs(blocks: int) -> list[int]:
    """Each from 16,384 to 32,767 blocks, as a code of 14 bits has it; the last may say more than there are."""
    return [min(32_767, max(16_384, blocks - start)) for start in range(0, blocks, 32_767)]


def test_a_jpeg_of_as_many_scans_as_encoders_write_is_taken() -> None:
    assert examined(many_scans(512, SCANS_MAX)).width == 512
    assert examined(file_of("JPEG", progressive=True)).media_type == "image/jpeg"


@pytest.mark.parametrize("between", [b"", b"garbage"])
def test_a_jpeg_that_is_decoded_for_ever_is_refused_at_once(between: bytes) -> None:
    """A thousandth of what may be uploaded; each scan goes over all 36 million pixels, which takes 5 ms. A patient
    reader passes over what is no marker."""
    bomb = many_scans(6_000, 400, between)
    began = time.process_time()
    with pytest.raises(BadImageError, match="scans"):
        examined(bomb)
    assert time.process_time() - began < 1


def test_what_only_looks_like_scans_is_none() -> None:
    """As in the film that phones put behind a picture, or in what a file says beside its pixels."""
    noise = b"\xff\xda" * 1_000
    plain = file_of("JPEG", comment=noise)
    assert examined(plain + noise).width == 48


# --- 16 bits a channel ---


def deep_png(colour_type: int, channels: int) -> bytes:
    """4 x 4 pixels of 16 bits a channel, all of them 0x8040."""
    return png_of((4, 4), 16, colour_type, (b"\x00" + b"\x80\x40" * channels * 4) * 4)


def png_of(size: tuple[int, int], bits: int, colour_type: int, rows: bytes, transparent: bytes | None = None) -> bytes:
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0)),
        *([] if transparent is None else [(b"tRNS", transparent)]),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


@pytest.mark.parametrize(
    ("colour_type", "channels", "mode"), [(0, 1, "L"), (2, 3, "RGB"), (4, 2, "RGBA"), (6, 4, "RGBA")]
)
def test_sixteen_bits_a_channel_become_eight(colour_type: int, channels: int, mode: str) -> None:
    content = stripped(examined(deep_png(colour_type, channels))).read()
    assert content[24] == 8, "bits a channel, as IHDR has them"
    with Image.open(io.BytesIO(content)) as image:
        assert (image.mode, {value & 0xFF for value in image.tobytes()}) == (mode, {0x80})


@pytest.mark.parametrize(
    ("bits", "colour_type", "row", "transparent", "lights"),
    [
        (1, 0, b"\x40", b"\0\1", [0, 255]),
        (2, 0, b"\x1b", b"\0\1", [0, 85]),
        (4, 0, b"\x05", b"\0\5", [0, 85]),
        (8, 0, b"\x00\x64", b"\0\x64", [0, 100]),
        (16, 0, b"\x40\x00\x80\x40", b"\x80\x40", [64, 128]),
        (16, 2, b"\x40\x00\x40\x00\x40\x00\x80\x40\x80\x40\x80\x40", b"\x80\x40" * 3, [64, 128]),
    ],
)
def test_the_colour_that_is_transparent_is_so_whatever_bits_a_png_has(
    bits: int, colour_type: int, row: bytes, transparent: bytes, lights: list[int]
) -> None:
    found = examined(png_of((2, 1), bits, colour_type, b"\x00" + row, transparent))
    pixels = [(light, light, light, alpha) for light, alpha in zip(lights, (255, 0), strict=True)]
    assert found.has_alpha
    with Image.open(io.BytesIO(stripped(found).read())) as image:
        assert image.tobytes() == bytes(part for pixel in pixels for part in pixel)


# --- EXIF that is none ---


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")
def test_a_sound_picture_with_broken_words_about_it_is_sound(form: str, exif: bytes) -> None:
    found = examined(file_of(form, exif=exif))
    assert (found.width, found.height) == (48, 32)
    assert b"garbage" not in stripped(found).read()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_every_way_of_lying_on_its_side_is_put_upright(form: str) -> None:
    marked = Image.new("RGB", (48, 32), "white")
    marked.paste((200, 0, 0), (0, 0, 16, 16))
    corners = {1: (2, 2), 2: (45, 2), 3: (45, 29), 4: (2, 29), 5: (2, 2), 6: (29, 2), 7: (29, 45), 8: (2, 45)}
    for orientation, corner in corners.items():
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        marked.save(buffer, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
        found = examined(buffer.getvalue())
        assert (found.width, found.height) == ((48, 32) if orientation < 5 else (32, 48))
        with Image.open(io.BytesIO(stripped(found).read())) as image:
            red, green, _ = image.convert("RGB").getpixel(corner)  # type: ignore[misc]  # three numbers, of RGB
            assert (red > 150, green < 80) == (True, True), orientation


# --- colours ---


@pytest.mark.parametrize(
    ("mode", "space", "is_kept"), [("LA", b"GRAY", False), ("P", b"RGB ", True), ("P", b"CMYK", False)]
)
def test_a_profile_of_other_colours_than_the_picture_has_does_not_stay(mode: str, space: bytes, is_kept: bool) -> None:
    """Grey with alpha becomes colour with alpha: what says how its grey is meant is wrong of that."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile, buffer = profile[:16] + space + profile[20:], io.BytesIO()
    Image.linear_gradient("L").convert(mode).save(buffer, "PNG", icc_profile=profile)
    with Image.open(io.BytesIO(stripped(examined(buffer.getvalue())).read())) as image:
        assert image.info.get("icc_profile") == (profile if is_kept else None)
