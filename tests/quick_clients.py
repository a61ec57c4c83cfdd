"""Clients of the tests' own, made quickly."""

import os
from typing import Any, Final

import httpx

from contracts.authorities import authorities

#: Where they name other authorities, httpx reads those.
NAMED_BY: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def remember_authorities() -> None:
    """Clients of this process that trust whom httpx trusts share one context: to read the authorities of the world for
    each takes 40 ms, longer than many a test."""
    # httpx gives no other way to do so for clients wherever they are made; mypy knows none of its private parts.
    transports: Any = httpx._transports.default
    make = transports.create_ssl_context

    def made(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:  # Any: as httpx's
        usual = verify is True and cert is None and not any(os.environ.get(name) for name in NAMED_BY)
        return authorities() if usual else make(verify=verify, cert=cert, trust_env=trust_env)

    transports.create_ssl_context = made
