"""The ledger over HTTP: limit checks, releases and events, with bounded time and safe retries."""

import asyncio
import random
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import httpx
from pydantic import ValidationError

from contracts.events import BATCH_CONTENT_TYPE
from contracts.limits import Decision, LimitCheck
from contracts.problems import CONFLICT, OPERATION_CONFLICT

#: A check is safe to repeat: the same operation_id gets the same answer and one hold.
CHECK_ATTEMPTS_MAX: Final = 3
RETRY_PAUSE_SECONDS: Final = 0.05
CONNECTIONS_MAX: Final = 128
_PROBE_TIMEOUT_SECONDS: Final = 1.0

#: Errors that come before a byte of the request was sent.
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class LedgerUnavailableError(Exception):
    """No decision in time. ``outcome_unknown``: the ledger may hold a reservation for the check all the same."""

    def __init__(self, message: str, *, outcome_unknown: bool) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class LedgerRefusedError(Exception):
    """The ledger understood and said that the request itself is wrong; asking again would not help."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"the ledger refused the request with {status}: {body}")
        self.status = status


class LedgerClient:
    """Pooled; safe for any number of concurrent calls, of which the pool lets `CONNECTIONS_MAX` through at once."""

    def __init__(self, base_url: str, *, connect_timeout_seconds: float, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        # An attempt that hangs leaves time for another.
        attempt_seconds = timeout_seconds / 2
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(attempt_seconds, connect=min(connect_timeout_seconds, attempt_seconds)),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
            headers={"Content-Type": "application/json"},
            # A proxy from the environment is for the world outside, not for our own ledger.
            trust_env=False,
        )

    async def check(self, check: LimitCheck) -> Decision:
        """The decision on an operation. Idempotent by ``operation_id``.

        Raises LedgerUnavailableError within the client's timeout, or LedgerRefusedError.
        """
        body = check.model_dump_json(exclude_none=True).encode()
        failures: list[str] = []
        sent = False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                for attempt in range(CHECK_ATTEMPTS_MAX):
                    if attempt:
                        await asyncio.sleep(RETRY_PAUSE_SECONDS * attempt * random.uniform(1, 2))  # noqa: S311  jitter
                    try:
                        return _decision(await self._http.post("/v1/limit-checks", content=body), check.operation_id)
                    except _NOT_SENT as error:
                        failures.append(_describe(error))
                    except (httpx.TransportError, _NoDecisionError) as error:
                        sent = True
                        failures.append(_describe(error))
                    except asyncio.CancelledError:
                        sent = True
                        raise
        except TimeoutError:
            failures.append(f"no decision within {self._timeout_seconds} s")
        raise LedgerUnavailableError("; ".join(failures), outcome_unknown=sent)

    async def record_events(self, bodies: Sequence[bytes]) -> set[int]:
        """Have events recorded, each a CloudEvent in JSON; answers the places of those that the ledger cannot read.

        All others are committed: taken now, taken before, or kept among the ledger's dead letters. Idempotent.
        Raises LedgerUnavailableError or LedgerRefusedError.
        """
        headers = {"Content-Type": BATCH_CONTENT_TYPE}
        try:
            answer = await self._http.post("/v1/events", content=b"[" + b",".join(bodies) + b"]", headers=headers)
        except httpx.TransportError as error:
            raise LedgerUnavailableError(_describe(error), outcome_unknown=True) from error
        if answer.is_server_error:
            raise LedgerUnavailableError(f"the ledger answered {answer.status_code}", outcome_unknown=True)
        if answer.status_code != httpx.codes.OK:
            raise LedgerRefusedError(answer.status_code, answer.text[:500])
        dead_lettered = (CONFLICT.code, OPERATION_CONFLICT.code)
        return {one["index"] for one in answer.json()["rejected"] if one["problem"]["code"] not in dead_lettered}

    async def release(self, operation_id: UUID) -> bool:
        """Give a hold back; False where there is none (yet). Idempotent. Raises LedgerUnavailableError."""
        try:
            answer = await self._http.post(f"/v1/reservations/{operation_id}:release")
        except httpx.TransportError as error:
            raise LedgerUnavailableError(_describe(error), outcome_unknown=True) from error
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise LedgerUnavailableError(f"release answered {answer.status_code}", outcome_unknown=True)
        return answer.status_code != httpx.codes.NOT_FOUND

    async def is_ready(self) -> bool:
        """Whether the ledger says that it can decide; for that it needs its database, but not NATS."""
        try:
            answer = await self._http.get("/readyz", timeout=_PROBE_TIMEOUT_SECONDS)
        except httpx.TransportError:
            return False
        return answer.status_code == httpx.codes.OK or b'"database":"ok"' in answer.content

    async def close(self) -> None:
        await self._http.aclose()


class _NoDecisionError(Exception):
    """An answer came, and there is no decision in it."""


def _decision(answer: httpx.Response, operation_id: UUID) -> Decision:
    if answer.status_code == httpx.codes.OK:
        try:
            decision = Decision.model_validate_json(answer.content)
        except ValidationError as error:
            raise _NoDecisionError(f"the answer is no decision: {error.error_count()} errors") from error
        if decision.operation_id != operation_id:
            raise _NoDecisionError("the decision is on another operation")
        return decision
    if answer.status_code in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS) or answer.is_server_error:
        raise _NoDecisionError(f"the ledger answered {answer.status_code}")
    raise LedgerRefusedError(answer.status_code, answer.text[:500])


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
