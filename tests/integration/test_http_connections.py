"""The client's HTTP where whoever it talks to accepts connections and resets them at once, as a dying balancer does."""

import socket
import struct
import threading
from collections import Counter

import uvloop

from contracts.client.asking import AnswerLostError, NotSentError, Question
from contracts.client.http_transport import HttpTransport

ATTEMPTS = 200
RESET = struct.pack("ii", 1, 0)


async def _ask_one_that_resets() -> Counter[str]:
    outcomes: Counter[str] = Counter()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_reset_all, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        transport = HttpTransport(url, connect_timeout_seconds=1, attempt_seconds=1)
        for _ in range(ATTEMPTS):
            try:
                await transport.ask(Question("/v1/limit-checks", b"{}", "", b"{}"))
            except (NotSentError, AnswerLostError) as error:
                outcomes[type(error).__name__] += 1
        assert not await transport.is_ready()
        await transport.close()
        listener.shutdown(socket.SHUT_RDWR)
    return outcomes


def _reset_all(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.close()


def test_a_connection_that_is_reset_at_once_is_a_ledger_that_is_away() -> None:
    """On uvloop, as the services run: anyio meets a connection without a socket there."""
    assert uvloop.run(_ask_one_that_resets()).total() == ATTEMPTS
