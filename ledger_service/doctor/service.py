"""What a ledger process says of itself, over HTTP."""

from typing import Final

import httpx

from contracts.access.http_connections import authorities
from ledger_service.domain.doctor.facts import Service

_SECONDS_MAX: Final = 4.0
#: Gauges without labels that checks look at.
_PREFIX: Final = "ledger_"


async def ask_service(url: str | None, own_url: str) -> Service:
    """``own_url``: where to look when nobody said where a ledger is."""
    base = (url or own_url).rstrip("/")
    asked = url is not None
    try:
        async with httpx.AsyncClient(timeout=_SECONDS_MAX, verify=authorities(), trust_env=False) as client:
            response = await client.get(f"{base}/readyz")
            parts = response.json()
            if not isinstance(parts, dict) or "status" not in parts:
                return Service(base, asked, f"what answers there is no ledger ({response.status_code})")
            told = {str(name): str(how) for name, how in parts.items() if name != "status"}
            metrics = await client.get(f"{base}/metrics")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Service(base, asked, str(error) or type(error).__name__)
    except ValueError:
        return Service(base, asked, "what answers there is no ledger")
    return Service(base, asked, "", response.status_code == httpx.codes.OK, told, _gauges(metrics.text))


def _gauges(exposition: str) -> dict[str, float]:
    found = {}
    for line in exposition.splitlines():
        name, _, value = line.partition(" ")
        if name.startswith(_PREFIX) and "{" not in name:
            try:
                found[name] = float(value)
            except ValueError:
                continue
    return found
