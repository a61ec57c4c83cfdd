"""The emulators as one server: all providers on one port, each below its name, and the files on another one.

``http://127.0.0.1:P/wavespeed`` takes the place of ``https://api.wavespeed.ai``, and so on: real clients need another
base URL, and nothing else. ``http://127.0.0.1:P/_emulator/`` is the control.
"""

import asyncio
import socket
import threading
import time
from typing import Final, Self

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deploy.emulators.control import control_app
from deploy.emulators.emulation import Emulation, Provider
from deploy.emulators.faults import CDN
from deploy.emulators.files import file_error, files_app
from deploy.emulators.layer import TRANSPORT_STATE, FaultLayer
from deploy.emulators.registry import PROVIDERS

HOST: Final = "127.0.0.1"
CONTROL: Final = "_emulator"
BACKLOG: Final = 1024
START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 2


class OpenedProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it; the application can reach its connection, to break it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own does
        super().connection_made(transport)
        self.app_state = {**self.app_state, TRANSPORT_STATE: transport}


class EmulatorApp:
    """Leads each request to the one it is for: by its port, then by the first part of its path."""

    def __init__(self, emulation: Emulation, cdn_port: int) -> None:
        self.emulation = emulation
        self.providers: dict[str, Provider] = {one.name: one(emulation) for one in PROVIDERS}
        self._cdn_port = cdn_port
        self._files = FaultLayer(files_app(emulation), emulation.plan, CDN, file_error)
        self._apps: dict[str, ASGIApp] = {
            name: FaultLayer(Starlette(routes=provider.routes()), emulation.plan, name, provider.error)
            for name, provider in self.providers.items()
        }
        self._apps[CONTROL] = control_app(emulation, self.providers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["server"][1] == self._cdn_port:
            await self._files(scope, receive, send)
            return
        name, _, rest = scope["path"].removeprefix("/").partition("/")
        app = self._apps.get(name)
        if app is None:
            ready = scope["path"] == "/readyz"
            answer = PlainTextResponse("ready\n" if ready else "no such provider\n", 200 if ready else 404)
            await answer(scope, receive, send)
            return
        await app({**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode(), "root_path": ""}, receive, send)


class EmulatorServer:
    """Bound at once, so that the addresses are known; 0 = a free port. Serves once `run` or `start` is called."""

    def __init__(self, emulation: Emulation | None = None, *, port: int = 0, cdn_port: int = 0) -> None:
        self.emulation = emulation or Emulation()
        self._sockets = [_listen(port), _listen(cdn_port)]
        self.port, self.cdn_port = (one.getsockname()[1] for one in self._sockets)
        self.emulation.origin = f"http://{HOST}:{self.port}"
        self.emulation.cdn_origin = f"http://{HOST}:{self.cdn_port}"
        self.app = EmulatorApp(self.emulation, self.cdn_port)
        config = uvicorn.Config(
            self.app,
            http=OpenedProtocol,
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return self.emulation.origin

    @property
    def control_url(self) -> str:
        return f"{self.url}/{CONTROL}"

    def run(self) -> None:
        """Serve until a signal ends the process."""
        self._server.run(sockets=self._sockets)

    def start(self) -> Self:
        """Serve on a thread of its own, until `stop`."""
        self._thread = threading.Thread(target=self.run, name="emulators", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the emulators did not start")
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        """Idempotent."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((HOST, port))
    listening.listen(BACKLOG)
    return listening
