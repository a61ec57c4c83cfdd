"""The ledger over HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx
import structlog
from pydantic import BaseModel, SecretStr

from contracts.access.http_connections import Connections, authorities
from contracts.access.service_tokens import Introspection
from contracts.client.asking import AnswerLostError, NotSentError, Question, Reply
from contracts.client.errors import LedgerRefused, LedgerUnavailable, TokenRefused
from contracts.client.reading import UnusableAnswerError, read, read_problem, refuses_token, unavailable
from contracts.events import BATCH_CONTENT_TYPE
from contracts.problems import CONFLICT, IN_FUTURE, OPERATION_CONFLICT, Problem

CONNECTIONS_MAX: Final = 128
#: httpcore looks at every connection of its pool, several times a request: a few small pools cost far less than one
#: large one. At 64 callers one pool took two thirds of the CPU of a service that does nothing else.
POOLS: Final = 8
_PROBE_TIMEOUT_SECONDS: Final = 1.0
_INTROSPECTION_SECONDS: Final = 2.0

#: Errors that come before a byte of the request was sent.
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

_log = structlog.stdlib.get_logger(__name__)


class _Rejected(BaseModel):
    index: int
    problem: Problem


class _EventsRecorded(BaseModel):
    rejected: list[_Rejected]


@dataclass
class _Pool:
    client: httpx.AsyncClient
    in_flight: int = 0


class HttpTransport:
    """Pooled; safe for any number of concurrent calls, of which the pool lets `CONNECTIONS_MAX` through at once."""

    def __init__(
        self, base_url: str, *, connect_timeout_seconds: float, attempt_seconds: float, token: SecretStr | None = None
    ) -> None:
        authorization = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
        share = CONNECTIONS_MAX // POOLS
        self._pools = [
            _Pool(
                httpx.AsyncClient(
                    base_url=base_url,
                    timeout=httpx.Timeout(attempt_seconds, connect=min(connect_timeout_seconds, attempt_seconds)),
                    headers={"Content-Type": "application/json", **authorization},
                    # A proxy from the environment is for the world outside, not for our own ledger.
                    transport=Connections(
                        limits=httpx.Limits(max_connections=share, max_keepalive_connections=share),
                        verify=authorities(),
                        trust_env=False,
                    ),
                    trust_env=False,
                )
            )
            for _ in range(POOLS)
        ]
        self._http = self._pools[0].client
        self._place = httpx.URL(base_url).copy_with(userinfo=b"")  # what is told of it, in logs too

    async def ask(self, question: Question) -> Reply:
        pool = min(self._pools, key=lambda one: one.in_flight)
        pool.in_flight += 1
        try:
            answer = await pool.client.post(question.path, content=question.body, headers=question.trace_headers)
        except _NOT_SENT as error:
            raise NotSentError(self._describe(error)) from error
        except httpx.RequestError as error:
            raise AnswerLostError(self._describe(error)) from error
        finally:
            pool.in_flight -= 1
        return Reply(answer.status_code, answer.content)

    async def record_events(self, bodies: Sequence[bytes]) -> dict[int, Problem]:
        """Have events recorded, each a CloudEvent in JSON; answers those that the ledger cannot read, by their places.

        All others are committed: taken now, taken before, or kept among the ledger's dead letters, which the log says.
        Idempotent.
        Raises LedgerUnavailable or LedgerRefused. One attempt.
        """
        headers = {"Content-Type": BATCH_CONTENT_TYPE}
        try:
            answer = await self._http.post("/v1/events", content=b"[" + b",".join(bodies) + b"]", headers=headers)
        except httpx.RequestError as error:
            raise LedgerUnavailable(self._describe(error), outcome_unknown=True) from error
        if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise LedgerUnavailable(unavailable(Reply(answer.status_code, answer.content)), outcome_unknown=True)
        if answer.status_code != httpx.codes.OK:
            refusal = read_problem(Reply(answer.status_code, answer.content))
            raise TokenRefused(refusal) if refuses_token(refusal) else LedgerRefused(refusal)
        dead_lettered = (CONFLICT.code, OPERATION_CONFLICT.code, IN_FUTURE.code)
        rejected = _rejected(answer.content, len(bodies))
        kept = [problem for problem in rejected.values() if problem.code in dead_lettered]
        if kept:
            _log.warning("events_dead_lettered", events=len(kept), first=kept[0].detail)
        return {index: problem for index, problem in rejected.items() if problem.code not in dead_lettered}

    async def introspect(self, token: str) -> Introspection:
        """Whose service token it is. Raises LedgerUnavailable. One attempt."""
        try:
            answer = await self._http.post(
                "/v1/tokens:introspect",
                data={"token": token},
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                timeout=_INTROSPECTION_SECONDS,
            )
        except httpx.RequestError as error:
            raise LedgerUnavailable(self._describe(error), outcome_unknown=False) from error
        reply = Reply(answer.status_code, answer.content)
        if answer.status_code != httpx.codes.OK:
            refusal = read_problem(reply)
            if refuses_token(refusal):
                raise TokenRefused(refusal)
            raise LedgerUnavailable(unavailable(reply), outcome_unknown=False)
        try:
            return read(Introspection, reply.body)
        except UnusableAnswerError as error:
            raise LedgerUnavailable(str(error), outcome_unknown=False) from error

    async def is_ready(self) -> bool:
        """The ledger decides with its database; it does not need NATS for that."""
        try:
            answer = await self._http.get("/readyz", timeout=_PROBE_TIMEOUT_SECONDS)
        except httpx.RequestError:
            return False
        return answer.status_code == httpx.codes.OK or b'"database":"ok"' in answer.content

    async def close(self) -> None:
        for pool in self._pools:
            await pool.client.aclose()

    def _describe(self, error: Exception) -> str:
        return f"{self._place}: {str(error) or type(error).__name__}"


def _rejected(body: bytes, events: int) -> dict[int, Problem]:
    """The problems by their places. Raises LedgerUnavailable where the answer is none to so many events."""
    try:
        rejected = {one.index: one.problem for one in read(_EventsRecorded, body).rejected}
    except UnusableAnswerError as error:
        raise LedgerUnavailable(str(error), outcome_unknown=True) from error
    if not all(0 <= index < events for index in rejected):
        raise LedgerUnavailable("the answer is about other events", outcome_unknown=True)
    return rejected
