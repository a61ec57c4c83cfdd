"""The provider emulators for tests: one server for a file, forgotten between tests; asked over real sockets."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from deploy.emulators.jobs import Pace
from deploy.emulators.server import EmulatorServer

TIMEOUT_SECONDS = 10.0


@dataclass
class Emulators:
    """What a test asks of them."""

    server: EmulatorServer
    http: httpx.Client

    def url(self, provider: str) -> str:
        return f"{self.server.url}/{provider}"

    def fault(self, kind: str, **more: Any) -> None:
        answer = self.http.post(f"{self.server.control_url}/faults", json={"kind": kind, **more})
        assert answer.status_code == 200, answer.text

    def billed(self, provider: str | None = None) -> dict[str, Any]:
        query = {} if provider is None else {"provider": provider}
        book: dict[str, Any] = self.http.get(f"{self.server.control_url}/billed", params=query).json()
        return book

    def amounts(self) -> list[str]:
        return [job["amount"] for job in self.billed()["jobs"]]

    def hits(self) -> list[dict[str, Any]]:
        hits: list[dict[str, Any]] = self.http.get(f"{self.server.control_url}/faults").json()["hits"]
        return hits

    def pace(self, **seconds: float) -> None:
        assert self.http.post(f"{self.server.control_url}/pace", json=seconds).status_code == 200

    def forget(self) -> None:
        self.http.post(f"{self.server.control_url}/reset")
        self.server.emulation.pace = Pace()
        self.server.emulation.clock = time.monotonic


@contextmanager
def running_emulators() -> Iterator[Emulators]:
    with EmulatorServer() as server, httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as http:
        yield Emulators(server, http)


def picture(width: int = 64, height: int = 64, mode: str = "RGB", form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height), "teal" if mode != "L" else 128).save(out, form)
    return out.getvalue()


def opened(content: bytes) -> Image.Image:
    """Decoded wholly."""
    image = Image.open(io.BytesIO(content))
    image.load()
    return image
