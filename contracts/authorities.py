"""Whom our TLS clients trust in the world outside."""

import ssl
from functools import cache

import httpx


@cache
def authorities() -> ssl.SSLContext:
    """httpx's own, whatever the environment says of others; shared by all clients of the process, so not to be changed.

    To read them takes 40 ms of processor time, more than all else of a client, and each service has several.
    """
    return httpx.create_ssl_context(trust_env=False)
