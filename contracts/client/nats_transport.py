"""The ledger over NATS request-reply."""

import asyncio
import time
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.micro.request import ERROR_CODE_HEADER

from contracts.client.asking import OK, AnswerLostError, NotSentError, Question, Reply
from contracts.client.nats_link import NatsLink
from contracts.subjects import SERVICE_NAME

_PING_SUBJECT: Final = f"$SRV.PING.{SERVICE_NAME}"
_PROBE_TIMEOUT_SECONDS: Final = 1.0
#: For an error code that is no HTTP status.
_UNKNOWN: Final = 500


class NatsTransport:
    """One connection; safe for any number of concurrent calls."""

    def __init__(self, link: NatsLink, *, connect_timeout_seconds: float, attempt_seconds: float) -> None:
        self._link = link
        self._connect_timeout_seconds = connect_timeout_seconds
        self._attempt_seconds = attempt_seconds
        self._answered_at = 0.0

    async def ask(self, question: Question) -> Reply:
        answer = await self._request(question.subject, question.message, self._attempt_seconds, question.trace_headers)
        code = (answer.headers or {}).get(ERROR_CODE_HEADER)
        return Reply(OK if code is None else int(code) if code.isdigit() else _UNKNOWN, answer.data)

    async def is_ready(self) -> bool:
        """A ledger that serves checks answers NATS's own ping for services."""
        try:
            await self._request(_PING_SUBJECT, b"", _PROBE_TIMEOUT_SECONDS)
        except (NotSentError, AnswerLostError):
            return False
        return True

    async def close(self) -> None:
        await self._link.close()

    async def _request(
        self, subject: str, message: bytes, timeout_seconds: float, headers: dict[str, str] | None = None
    ) -> Msg:
        client = await self._client()
        began = time.monotonic()
        try:
            answer = await _cancellable_request(client, subject, message, timeout_seconds, headers)
        except nats.errors.NoRespondersError:
            raise NotSentError("no ledger answers on NATS") from None
        except nats.errors.TimeoutError:
            if self._answered_at < began:
                # Nobody was answered meanwhile: the connection may be half open, and would be for another ten seconds.
                await self._link.replace(client)
            raise AnswerLostError(f"no answer within {timeout_seconds:g} s") from None
        except (OSError, nats.errors.Error) as error:
            raise AnswerLostError(str(error) or type(error).__name__) from error
        self._answered_at = time.monotonic()
        return answer

    async def _client(self) -> Client:
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                return await self._link.client()
        except TimeoutError:
            raise NotSentError("no connection to NATS") from None


async def _cancellable_request(
    client: Client, subject: str, message: bytes, timeout_seconds: float, headers: dict[str, str] | None
) -> Msg:
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    answer = await client.request(subject, message, timeout=timeout_seconds, headers=headers)
    if task.cancelling() > before:
        # asyncio.wait_for of Python 3.11, which the client uses, drops a cancellation that comes with the answer.
        raise asyncio.CancelledError
    return answer
