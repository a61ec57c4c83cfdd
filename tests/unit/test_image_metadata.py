"""Uploads lose what their files say beside the pixels, and nothing else."""

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from image_service.artifacts import Content
from image_service.image_metadata import without_metadata
from image_service.images import Bounds, examine, stripped

BOUNDS = Bounds(pixels_max=1_000_000, edge_pixels_max=4_000)
#: Stands wherever a file has room for words.
SECRET = b"52.5163N 13.3777E Ada Lovelace"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def photo(mode: str = "RGB") -> Image.Image:
    image = Image.merge("RGB", [Image.linear_gradient("L").rotate(turn).resize((48, 32)) for turn in (0, 90, 180)])
    return image.convert(mode)


def exif() -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = 1
    found[0x010E] = SECRET.decode()
    found.get_ifd(0x8825)[29] = SECRET.decode()
    return found


def file_of(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def told(form: str, mode: str = "RGB", **options: Any) -> bytes:
    """With words in all places that Pillow writes."""
    options = {"exif": exif(), "xmp": b"<x>" + SECRET + b"</x>", "icc_profile": PROFILE, **options}
    if form == "JPEG":
        options["comment"] = SECRET
    if form == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Author", SECRET.decode())
        texts.add_itxt("XML:com.adobe.xmp", SECRET.decode())
        options["pnginfo"] = texts
        del options["xmp"]
    return file_of(photo(mode), form, **options)


def pixels(content: bytes) -> tuple[str, bytes, Any]:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.mode, image.tobytes(), image.info.get("icc_profile")


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("JPEG", "RGB", {}), ("JPEG", "L", {}), ("JPEG", "RGB", {"progressive": True, "quality": 60}),
        ("JPEG", "RGB", {"restart_marker_blocks": 1, "subsampling": 0}), ("JPEG", "RGB", {"keep_rgb": True}),
        ("JPEG", "CMYK", {"icc_profile": None}), ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "L", {"dpi": (9, 9)}),
        ("WEBP", "RGB", {}), ("WEBP", "RGBA", {}), ("WEBP", "RGBA", {"lossless": True}),
    ],
)  # fmt: skip
def test_words_are_gone_and_pixels_and_profile_are_the_same(form: str, mode: str, options: dict[str, Any]) -> None:
    content = told(form, mode, **options)
    assert SECRET in content
    bare = without_metadata(content, MEDIA_TYPES[form])
    assert SECRET not in bare
    assert (b"Exif" in bare, b"EXIF" in bare, b"eXIf" in bare, b"XMP" in bare) == (False,) * 4
    assert pixels(bare) == pixels(content)
    assert without_metadata(bare, MEDIA_TYPES[form]) is bare, "there is no more to lose"


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_what_follows_the_picture_goes(form: str) -> None:
    plain = file_of(photo(), form)
    assert without_metadata(plain, MEDIA_TYPES[form]) == plain
    assert without_metadata(plain + b"\xff\xd8" + SECRET, MEDIA_TYPES[form]) == plain


def test_a_phone_s_further_pictures_and_thumbnails_go() -> None:
    """MPO: a JPEG, and behind it another, each with words of its own; JFXX: a thumbnail before the picture."""
    several = file_of(photo(), "MPO", save_all=True, append_images=[photo().rotate(90)], exif=exif())
    bare = without_metadata(several, "image/jpeg")
    assert (SECRET in several, SECRET in bare, b"MPF" in bare) == (True, False, False)
    with Image.open(io.BytesIO(bare)) as image:
        assert image.format == "JPEG"
    plain = file_of(photo(), "JPEG")
    with_thumbnail = plain[:2] + segment(0xE0, b"JFXX\0\x10" + SECRET) + plain[2:]
    assert without_metadata(with_thumbnail, "image/jpeg") == plain
    body = plain[6:20]
    in_jfif = plain[:2] + segment(0xE0, body[:-2] + b"\1\1" + b"rgb" + SECRET) + plain[20:]
    assert without_metadata(in_jfif, "image/jpeg") == plain


@pytest.mark.parametrize("marker", [*range(0xE1, 0xF0), 0xFE, 0xF7])
def test_no_segment_of_an_application_stays_but_those_that_say_how_colours_are_meant(marker: int) -> None:
    plain = file_of(photo(), "JPEG")
    assert without_metadata(plain[:2] + segment(marker, SECRET) + plain[2:], "image/jpeg") == plain


def test_no_chunk_that_is_not_known_stays() -> None:
    png = file_of(photo(), "PNG")
    assert without_metadata(png[:33] + chunk(b"prVt", SECRET) + chunk(b"tIME", SECRET) + png[33:], "image/png") == png
    webp = file_of(photo(), "WEBP", exif=exif())
    more = struct.pack("<4sI", b"GPS ", 3) + b"abc\0"
    longer = webp[:4] + struct.pack("<I", len(webp) - 8 + len(more)) + webp[8:] + more
    bare = without_metadata(longer, "image/webp")
    assert (b"GPS " in bare, len(bare) % 2, struct.unpack("<I", bare[4:8])[0]) == (False, 0, len(bare) - 8)


@given(st.sampled_from(sorted(MEDIA_TYPES)), st.integers(0, 3_000), st.integers(0, 255))
def test_a_broken_file_is_refused_or_read_to_its_end(form: str, at: int, value: int) -> None:
    content = bytearray(told(form))
    content[at % len(content)] = value
    for damaged in (bytes(content), bytes(content[: at % len(content)])):
        try:
            bare = without_metadata(damaged, MEDIA_TYPES[form])
        except ValueError:
            continue
        assert len(bare) <= len(damaged)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_file_that_only_a_patient_reader_makes_out_is_written_anew(form: str) -> None:
    content = told(form)
    loose = content[:-12] if form == "PNG" else content[:20] + bytes(2) + content[20:]  # no end; bytes too many
    with pytest.raises(ValueError, match=r"ends too early|no marker"):
        without_metadata(loose, MEDIA_TYPES[form])
    bare = stripped(examine(Content(loose), BOUNDS)).read()
    assert SECRET not in bare
    with Image.open(io.BytesIO(bare)) as image:
        assert (image.size, image.mode, image.info["icc_profile"]) == ((48, 32), "RGB", PROFILE)


def test_what_is_turned_stays_upright_without_its_mark() -> None:
    turned = exif()
    turned[0x0112] = 6
    source = examine(Content(file_of(photo(), "JPEG", exif=turned, quality=95)), BOUNDS)
    bare = stripped(source).read()
    assert SECRET not in bare
    with Image.open(io.BytesIO(bare)) as image:
        assert image.size == (32, 48)
