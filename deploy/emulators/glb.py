"""A small, valid GLB: one textured quad.

Binary glTF 2.0, https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html#glb-file-format-specification
"""

import json
import struct
from typing import Final

MEDIA_TYPE: Final = "model/gltf-binary"
_MAGIC: Final = b"glTF"
_FLOAT: Final = 5126
_UNSIGNED_SHORT: Final = 5123
_CORNERS: Final = (-0.5, -0.5, 0.0, 0.5, -0.5, 0.0, 0.5, 0.5, 0.0, -0.5, 0.5, 0.0)
_TEXTURE_CORNERS: Final = (0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
_TRIANGLES: Final = (0, 1, 2, 0, 2, 3)


def textured_quad(jpeg: bytes) -> bytes:
    """One face that shows the picture."""
    parts = [
        struct.pack("<12f", *_CORNERS),
        struct.pack("<8f", *_TEXTURE_CORNERS),
        struct.pack("<6H", *_TRIANGLES),
        jpeg,
    ]
    binary, views = b"", []
    for part in parts:
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(part)})
        binary += _padded(part, b"\0")
    document = {
        "asset": {"version": "2.0", "generator": "provider emulators"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}]},
        ],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0}}],
        "textures": [{"source": 0}],
        "images": [{"bufferView": 3, "mimeType": "image/jpeg"}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": _FLOAT,
                "count": 4,
                "type": "VEC3",
                "min": [-0.5, -0.5, 0.0],
                "max": [0.5, 0.5, 0.0],
            },
            {"bufferView": 1, "componentType": _FLOAT, "count": 4, "type": "VEC2"},
            {"bufferView": 2, "componentType": _UNSIGNED_SHORT, "count": 6, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = _padded(json.dumps(document, separators=(",", ":")).encode(), b" ")
    chunks = _chunk(b"JSON", text) + _chunk(b"BIN\0", binary)
    return _MAGIC + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def _padded(data: bytes, with_byte: bytes) -> bytes:
    return data + with_byte * (-len(data) % 4)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + kind + data
