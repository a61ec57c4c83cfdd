"""TCP ports on the loopback interface."""

import random
import socket
from pathlib import Path

from deploy.local.errors import PortTakenError, StackError

HOST = "127.0.0.1"
FIRST_PORT = 10_000
TRIES_MAX = 200
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_FIRST_DEFAULT = 32_768


def _bindable(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _ephemeral_first() -> int:
    try:
        first = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL_FIRST_DEFAULT
    return first if first > FIRST_PORT + TRIES_MAX else _EPHEMERAL_FIRST_DEFAULT


def free_port() -> int:
    """A port that nobody listens on now, below the range from which outgoing connections take theirs.

    A port of that range would not do: while a killed server is away, a client that keeps connecting to it can be
    given the same number as its own end, is then connected to itself, and the server cannot come back.
    """
    for _ in range(TRIES_MAX):
        port = random.randrange(FIRST_PORT, _ephemeral_first())  # noqa: S311 - not a secret
        if _bindable(port):
            return port
    raise StackError(f"No free TCP port found on {HOST} in {TRIES_MAX} tries.")


def claim(port: int, flag: str) -> int:
    """The port that a flag asks for, 0 for a free one; PortTakenError, naming the flag, where it is taken."""
    if port == 0:
        return free_port()
    if not _bindable(port):
        raise PortTakenError(port, flag)
    return port
