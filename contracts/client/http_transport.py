"""The ledger over HTTP."""

from collections.abc import Sequence
from typing import Final

import httpx

from contracts.client.asking import AnswerLostError, NotSentError, Question, Reply
from contracts.client.errors import LedgerRefused, LedgerUnavailable
from contracts.client.reading import read_problem
from contracts.events import BATCH_CONTENT_TYPE
from contracts.problems import CONFLICT, OPERATION_CONFLICT, Problem

CONNECTIONS_MAX: Final = 128
_PROBE_TIMEOUT_SECONDS: Final = 1.0

#: Errors that come before a byte of the request was sent.
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class HttpTransport:
    """Pooled; safe for any number of concurrent calls, of which the pool lets `CONNECTIONS_MAX` through at once."""

    def __init__(self, base_url: str, *, connect_timeout_seconds: float, attempt_seconds: float) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(attempt_seconds, connect=min(connect_timeout_seconds, attempt_seconds)),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
            headers={"Content-Type": "application/json"},
            # A proxy from the environment is for the world outside, not for our own ledger.
            trust_env=False,
        )

    async def ask(self, question: Question) -> Reply:
        try:
            answer = await self._http.post(question.path, content=question.body)
        except _NOT_SENT as error:
            raise NotSentError(_describe(error)) from error
        except httpx.TransportError as error:
            raise AnswerLostError(_describe(error)) from error
        return Reply(answer.status_code, answer.content)

    async def record_events(self, bodies: Sequence[bytes]) -> dict[int, Problem]:
        """Have events recorded, each a CloudEvent in JSON; answers those that the ledger cannot read, by their places.

        All others are committed: taken now, taken before, or kept among the ledger's dead letters. Idempotent.
        Raises LedgerUnavailable or LedgerRefused. One attempt.
        """
        headers = {"Content-Type": BATCH_CONTENT_TYPE}
        try:
            answer = await self._http.post("/v1/events", content=b"[" + b",".join(bodies) + b"]", headers=headers)
        except httpx.TransportError as error:
            raise LedgerUnavailable(_describe(error), outcome_unknown=True) from error
        if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise LedgerUnavailable(f"the ledger answered {answer.status_code}", outcome_unknown=True)
        if answer.status_code != httpx.codes.OK:
            raise LedgerRefused(read_problem(Reply(answer.status_code, answer.content)))
        dead_lettered = (CONFLICT.code, OPERATION_CONFLICT.code)
        rejected = {one["index"]: Problem.model_validate(one["problem"]) for one in answer.json()["rejected"]}
        return {index: problem for index, problem in rejected.items() if problem.code not in dead_lettered}

    async def is_ready(self) -> bool:
        """The ledger decides with its database; it does not need NATS for that."""
        try:
            answer = await self._http.get("/readyz", timeout=_PROBE_TIMEOUT_SECONDS)
        except httpx.TransportError:
            return False
        return answer.status_code == httpx.codes.OK or b'"database":"ok"' in answer.content

    async def close(self) -> None:
        await self._http.aclose()


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
