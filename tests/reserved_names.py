"""Names that RFC 2606 reserves for documents and tests: here they have no address, and that is said at once."""

import socket
from collections.abc import Callable
from typing import Any, Final

RESERVED: Final = (".invalid", ".example", ".test", "example.com", "example.net", "example.org")


def answer_for_reserved_names() -> None:
    """In this process no name server is asked for them: where none is reached it takes seconds to find that out, and
    where one is, a test would call somebody else's machine."""
    socket.getaddrinfo = _answering(socket.getaddrinfo)


def _answering(look_up: Callable[..., Any]) -> Callable[..., Any]:  # Any: as socket's
    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:  # Any: as socket's
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and name.lower().rstrip(".").endswith(RESERVED):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *rest, **named)

    return getaddrinfo
