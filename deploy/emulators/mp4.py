"""A short, valid MP4 whose frames are JPEGs: no encoder is needed, every frame can be read by itself.

ISO/IEC 14496-12 (the boxes) and 14496-14 with object type 0x6C, which is JPEG. Players on FFmpeg or GStreamer show it,
browsers do not: they take no JPEG as a video stream.
"""

import struct
from collections.abc import Sequence
from typing import Final

MEDIA_TYPE: Final = "video/mp4"
TICKS_A_SECOND: Final = 1000
_MATRIX: Final = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_OBJECT_TYPE_JPEG: Final = 0x6C
_VISUAL_STREAM: Final = (4 << 2) | 1


def clip(frames: Sequence[bytes], width: int, height: int, seconds: int) -> bytes:
    """The JPEGs one after the other, each for the same time; ``seconds`` altogether."""
    start = _box(b"ftyp", b"isom" + struct.pack(">I", 0x200) + b"isomiso2mp41")
    duration = seconds * TICKS_A_SECOND
    first = len(start) + 8
    return start + _box(b"mdat", b"".join(frames)) + _movie(frames, width, height, duration, first)


def _box(kind: bytes, *contents: bytes) -> bytes:
    body = b"".join(contents)
    return struct.pack(">I", 8 + len(body)) + kind + body


def _full(kind: bytes, flags: int, *contents: bytes) -> bytes:
    return _box(kind, struct.pack(">I", flags), *contents)


def _movie(frames: Sequence[bytes], width: int, height: int, duration: int, first: int) -> bytes:
    header = _full(
        b"mvhd",
        0,
        struct.pack(">IIIIIHHII", 0, 0, TICKS_A_SECOND, duration, 0x10000, 0x100, 0, 0, 0),
        _MATRIX,
        bytes(24),
        struct.pack(">I", 2),
    )
    track = _full(
        b"tkhd",
        3,
        struct.pack(">IIIII", 0, 0, 1, 0, duration),
        bytes(16),
        _MATRIX,
        struct.pack(">II", width << 16, height << 16),
    )
    media = _box(
        b"mdia",
        _full(b"mdhd", 0, struct.pack(">IIIIHH", 0, 0, TICKS_A_SECOND, duration, 0x55C4, 0)),
        _full(b"hdlr", 0, bytes(4), b"vide", bytes(12), b"video\0"),
        _box(
            b"minf",
            _full(b"vmhd", 1, bytes(8)),
            _box(b"dinf", _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1))),
            _sample_table(frames, width, height, duration, first),
        ),
    )
    return _box(b"moov", header, _box(b"trak", track, media))


def _sample_table(frames: Sequence[bytes], width: int, height: int, duration: int, first: int) -> bytes:
    sizes = [len(frame) for frame in frames]
    entry = _box(
        b"mp4v",
        bytes(6),
        struct.pack(">H", 1),
        bytes(16),
        struct.pack(">HHIII", width, height, 0x480000, 0x480000, 0),
        struct.pack(">H", 1),
        bytes(32),
        struct.pack(">Hh", 24, -1),
        _elementary_stream(),
    )
    return _box(
        b"stbl",
        _full(b"stsd", 0, struct.pack(">I", 1), entry),
        _full(b"stts", 0, struct.pack(">III", 1, len(frames), duration // len(frames))),
        _full(b"stsc", 0, struct.pack(">IIII", 1, 1, len(frames), 1)),
        _full(b"stsz", 0, struct.pack(">II", 0, len(frames)), struct.pack(f">{len(sizes)}I", *sizes)),
        _full(b"stco", 0, struct.pack(">II", 1, first)),
    )


def _elementary_stream() -> bytes:
    decoder = _descriptor(4, struct.pack(">BBHBII", _OBJECT_TYPE_JPEG, _VISUAL_STREAM, 0, 0, 0, 0))
    return _full(b"esds", 0, _descriptor(3, struct.pack(">HB", 1, 0) + decoder + _descriptor(6, b"\x02")))


def _descriptor(tag: int, body: bytes) -> bytes:
    return bytes([tag, len(body)]) + body
