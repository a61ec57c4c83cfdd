"""What operations make: images, 3D models, clips; and the bytes behind what comes in and goes out."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

#: Media types that results may have, beside images: a GLB is binary glTF 2.0.
GLB: Final = "model/gltf-binary"
MP4: Final = "video/mp4"


@dataclass(frozen=True)
class Content:
    """Bytes in memory, or in a file that its maker leaves alone from now on. Large ones belong into a file."""

    source: bytes | Path

    @property
    def size_bytes(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def open(self) -> BinaryIO:
        """To be read from the start, and closed. Blocks where it is a file."""
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")

    def read(self) -> bytes:
        """All of it. Blocks where it is a file."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


@dataclass(frozen=True)
class Artifact:
    """One thing that an operation made. Sizes in pixels, where it has a size; ``duration_ms`` of what moves."""

    content: Content
    media_type: str
    width: int | None = None
    height: int | None = None
    duration_ms: int | None = None

    @classmethod
    def of(
        cls,
        source: bytes | Path,
        media_type: str,
        *,
        width: int | None = None,
        height: int | None = None,
        duration_ms: int | None = None,
    ) -> "Artifact":
        return cls(Content(source), media_type, width, height, duration_ms)
