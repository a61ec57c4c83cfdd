"""Connections of httpx, whose failures all are failures of the network."""

import ssl
from functools import cache

import httpx


@cache
def authorities() -> ssl.SSLContext:
    """httpx's own, whatever the environment says of others; shared by all clients of the process, so not to be changed.

    To read them takes 40 ms of processor time, more than all else of a client, and each service has several.
    """
    return httpx.create_ssl_context(trust_env=False)


class Connections(httpx.AsyncHTTPTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except AttributeError as error:
            # Of a connection that was reset as soon as it was made, anyio wants to know whose it is; on uvloop it has
            # no socket any more then. Whether anything was sent is not known here.
            raise httpx.ReadError("the connection was reset", request=request) from error
