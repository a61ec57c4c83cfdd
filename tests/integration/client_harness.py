"""What the client's tests put between it and the real servers, and how they ask for one."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from contracts.client import ClientSettings
from tests.builders import ACCOUNT, usual
from tests.tokens import TOKEN

#: An operation that the usual plan allows, as keyword arguments.
OPERATION: dict[str, Any] = {
    "account_id": ACCOUNT,
    "user_id": "ada",
    "operation": "generate",
    "provider": "local",
    "model": "render-1",
    "estimated_cost": "0.04",
}


def an_operation(**fields: Any) -> dict[str, Any]:
    """The same of the account that the test has."""
    return {**OPERATION, "account_id": usual.account_id, **fields}


def settings_of(ledger_url: str | None, nats_url: str | None, **changes: Any) -> ClientSettings:
    wanted = {
        "source": "tests",
        "ledger_url": ledger_url,
        "nats_url": nats_url,
        "timeout_seconds": 2.0,
        "token": TOKEN,
        **changes,
    }
    return ClientSettings.model_validate(wanted)


def journal_in(folder: Path, *, wanted: bool = True) -> Path | None:
    return folder / "client" / "journal.db" if wanted else None


class Proxy:
    """Between a client and a server. With ``lose_answers`` the server still hears everything, and nobody hears it.

    ``deaf_connections``: so many, the first ones, stay like that whatever comes.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, parts.port
        self.lose_answers = False
        self.deaf_connections = 0
        self.lost_bytes = 0
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"{self._scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0.05)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        self._writers += [writer, up_writer]
        await asyncio.gather(self._pump(reader, up_writer, 0), self._pump(up_reader, writer, number))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, down: int) -> None:
        """``down``: the connection's number where this carries answers, 0 where it carries questions."""
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if down and (self.lose_answers or down <= self.deaf_connections):
                    self.lost_bytes += len(data)
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()
