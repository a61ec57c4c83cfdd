"""Clients of the tests' own, made quickly."""

import os
from dataclasses import dataclass
from typing import Any, Final

import httpx

from contracts.access.http_connections import authorities

#: Where they name other authorities, httpx reads those.
NAMED_BY: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
#: Of one pool, before there is another.
POOL_REQUESTS_MAX: Final = 4
POOLS_MAX: Final = 25


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


@dataclass
class _Pool:
    connections: httpx.AsyncHTTPTransport
    in_flight: int = 0


class Spread(httpx.AsyncBaseTransport):
    """Connections for many requests at once, in as many pools as they need: at each request, a pool of httpx looks
    through all that it has, and a hundred at once took ten times the processor time of the ledger that answers them."""

    def __init__(self) -> None:
        self._pools: list[_Pool] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        pool = min(self._pools, key=lambda one: one.in_flight, default=None)
        if pool is None or (pool.in_flight >= POOL_REQUESTS_MAX and len(self._pools) < POOLS_MAX):
            pool = _Pool(httpx.AsyncHTTPTransport(verify=authorities()))
            self._pools.append(pool)
        pool.in_flight += 1
        try:
            return await pool.connections.handle_async_request(request)
        finally:
            pool.in_flight -= 1

    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.connections.aclose()
