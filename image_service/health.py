"""Is the process alive, and can it serve."""

import asyncio
from typing import Literal

import orjson
import structlog
from fastapi import FastAPI, Response
from pydantic import BaseModel

from contracts.client import JournalUnavailableError, LedgerClient
from contracts.client.journal import Journal
from contracts.version import VERSION

_log = structlog.stdlib.get_logger(__name__)


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"]
    version: str


class JournalPart(BaseModel):
    """``unconfirmed_events``: about how many wait for the ledger; null where that cannot be read."""

    ok: bool
    unconfirmed_events: int | None


class LedgerPart(BaseModel):
    ok: bool


class TokenPart(BaseModel):
    """``refusal``: why the ledger does not take IMAGE_LEDGER_TOKEN."""

    ok: bool
    refusal: str | None


class NatsPart(BaseModel):
    """``needed``: whether operations need it."""

    ok: bool
    needed: bool


class Parts(BaseModel):
    """What operations need."""

    journal: JournalPart
    ledger: LedgerPart
    ledger_token: TokenPart
    nats: NatsPart


class Readiness(BaseModel):
    """Whether operations can be checked and recorded, and each part of that."""

    status: Literal["ready", "not_ready"]
    parts: Parts


def add_health_routes(app: FastAPI, journal: Journal, ledger: LedgerClient) -> None:
    @app.get("/livez", tags=["health"], summary="The process answers")
    async def livez() -> Alive:
        return Alive(status="ok", version=VERSION)

    @app.get(
        "/readyz", tags=["health"], summary="Operations can be served", response_model=Readiness, responses={503: {}}
    )
    async def readyz() -> Response:
        """Ready means that an operation can be checked and recorded. Without NATS it can: the journal keeps events.

        A ledger that does not take IMAGE_LEDGER_TOKEN decides nothing for us, however well it is.
        """
        journal_writable = await _is_writable(journal)
        ledger_ready, refusal = await asyncio.gather(ledger.is_ready(), ledger.token_refusal())
        if refusal is not None:
            _log.warning("ledger_token_refused", reason=refusal, setting="IMAGE_LEDGER_TOKEN")
        ready = journal_writable and ledger_ready and refusal is None
        body = {
            "status": "ready" if ready else "not_ready",
            "parts": {
                "journal": {"ok": journal_writable, "unconfirmed_events": await _unconfirmed(journal)},
                "ledger": {"ok": ledger_ready},
                "ledger_token": {"ok": refusal is None, "refusal": refusal},
                "nats": {"ok": ledger.nats_connected, "needed": False},
            },
        }
        return Response(orjson.dumps(body), 200 if ready else 503, media_type="application/json")


async def _is_writable(journal: Journal) -> bool:
    try:
        await journal.probe()
    except JournalUnavailableError:
        return False
    return True


async def _unconfirmed(journal: Journal) -> int | None:
    """About how many events wait for the ledger: from the first such sequence to the last."""
    try:
        first, last = await journal.outbox_ends()
    except JournalUnavailableError:
        return None
    return last - first + 1 if first else 0
