"""How PostgreSQL is known to be ours: what a libpq URL says of TLS.

Without a word about it, clients use `prefer`: TLS where the server offers it, with whatever certificate, and none where
whoever sits in between says that there is none. Only `verify-full` keeps password and data from such a one.
"""

from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

_MODE, _ROOT, _HOST = "sslmode", "sslrootcert", "host"
VERIFY_FULL: Final = "verify-full"
_LOCAL: Final = frozenset({"", "localhost", "127.0.0.1", "::1"})


def verified(url: str, ca_file: Path) -> str:
    """The URL with sslmode=verify-full, and this file as who vouches for the server, where it names none.

    Raises ValueError where it says another sslmode: a typing error must not turn the check off.
    """
    said = _said(url)
    mode = said.get(_MODE, VERIFY_FULL)
    if mode != VERIFY_FULL:
        raise ValueError(f"the database's URL says sslmode={mode}: with database_ca_file it is {VERIFY_FULL}")
    missing = {name: value for name, value in ((_MODE, mode), (_ROOT, str(ca_file))) if name not in said}
    for name, value in missing.items():
        url += f"{'&' if '?' in url else '?'}{name}={quote(value, safe='/')}"
    return url


def is_safe(url: str) -> bool:
    """Whether nobody can listen or answer in the server's place: it is verified, or on this machine."""
    if _said(url).get(_MODE) == VERIFY_FULL:
        return True
    places = urlsplit(url).netloc.rpartition("@")[2].split(",")
    hosts = [_said(url)[_HOST]] if _HOST in _said(url) else [_without_port(place) for place in places]
    return all(host in _LOCAL or unquote(host).startswith("/") for host in ",".join(hosts).split(","))


def _said(url: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


def _without_port(place: str) -> str:
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place.partition(":")[0]
