"""How a process gets at NATS: where it is, as whom, and how the line is kept."""

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nats.aio.client import Client

#: nats-py's defaults give up after 60 reconnects, and notice a half-open connection after six minutes.
PING_INTERVAL_SECONDS: Final = 5
OUTSTANDING_PINGS_MAX: Final = 2
RECONNECT_WAIT_SECONDS: Final = 1
CONNECT_TIMEOUT_SECONDS: Final = 2
CLOSE_SECONDS_MAX: Final = 2.0
INBOX_PREFIX: Final = "_INBOX"


@dataclass(frozen=True)
class NatsAccess:
    """``url`` may carry a user and password; ``nkey_path`` names a file with the seed of an nkey instead. ``ca_path``:
    who vouches for the server, where the machine does not know. A URL with ``tls://`` is never spoken to in clear: the
    server must have ``handshake_first``.

    ``url``: of one server, or of several, set apart by commas: whichever answers.
    Answers come to ``inbox_prefix``: with one of its own that only it may subscribe to, nobody else reads them.
    """

    url: str
    nkey_path: Path | None = None
    ca_path: Path | None = None
    inbox_prefix: str = INBOX_PREFIX

    def options(self) -> dict[str, Any]:  # of different types, each as nats-py's connect() takes it
        """Arguments of nats-py's ``connect``: a line that is never given up, and half-open ones are noticed within
        15 seconds. Raises OSError where a file cannot be read, ssl.SSLError where it holds no certificate."""
        options: dict[str, Any] = {  # as above
            "servers": self.url.split(","),
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "reconnect_time_wait": RECONNECT_WAIT_SECONDS,
            "max_reconnect_attempts": -1,
            "ping_interval": PING_INTERVAL_SECONDS,
            "max_outstanding_pings": OUTSTANDING_PINGS_MAX,
            "inbox_prefix": self.inbox_prefix,
        }
        if self.nkey_path is not None:
            # As text: given the file, nats-py takes the line break behind the seed for a part of it.
            options["nkeys_seed_str"] = self.nkey_path.read_text().strip()
        if self.url.startswith("tls://"):
            options["tls"] = ssl.create_default_context(cafile=self.ca_path)
            # Else whoever sits between says "no TLS here", and nats-py sends its password in clear.
            options["tls_handshake_first"] = True
        return options


async def close_client(client: "Client") -> None:
    """Closes it within two seconds, whatever state it is in."""
    # Not above: settings name this module, and most commands that read them have nothing to do with NATS.
    import nats.errors
    import structlog

    # A black-holed socket, or a TLS handshake that failed half-way, lets close() wait for ever (nats.py #671).
    try:
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            await client.close()
    except (OSError, TimeoutError, nats.errors.Error) as error:
        structlog.stdlib.get_logger(__name__).warning("nats_close_failed", reason=str(error) or type(error).__name__)
