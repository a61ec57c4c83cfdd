"""HTTP to a provider: what is sent again and what never is, in which pace, and when to leave it alone.

The rule of money: a request that may be billed (`Channel.order`) goes out again only where it is certain that the first
did not start anything: no connection came about, or the provider answered with a status that says so. Whatever else
goes wrong once it is on its way ends as OutcomeUnknownError. Requests that only look (`look`) are repeated freely.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from contracts.access.http_connections import Connections, authorities
from contracts.retry_after import retry_after_seconds
from image_service.providers.attempt import Attempt
from image_service.providers.base import OutcomeUnknownError, ProviderError
from image_service.providers.breaker import Breaker

T = TypeVar("T")

CONNECT_SECONDS: Final = 5.0
WRITE_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 30.0
#: Tries of one request, the first included.
TRIES_MAX: Final = 4
BACKOFF_SECONDS_FIRST: Final = 0.25
BACKOFF_SECONDS_MAX: Final = 8.0
#: A provider that asks for more patience than this is treated as one that cannot do it now.
RETRY_AFTER_SECONDS_MAX: Final = 30.0
#: Of an answer that is kept in memory: JSON, with images in it as base64 where a provider has no other way.
ANSWER_BYTES_MAX: Final = 96 * 1024 * 1024
UNAVAILABLE: Final = "provider_unavailable"
OVERLOADED: Final = "provider_overloaded"

#: Nothing was sent: there was no connection to send it on.
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_LOOKS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=20)
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Pace:
    """How much of a provider's capacity is used: calls at once, and requests in any ``per_seconds``."""

    calls_max: int = 64
    requests_max: int | None = None
    per_seconds: float = 1.0

    def limiter(self) -> AsyncLimiter | None:
        """A leaky bucket lets through its size at once and then its rate: with a fifth of the limit as its size and
        the rest as its rate, no window of ``per_seconds`` has more than ``requests_max``."""
        if self.requests_max is None:
            return None
        burst = max(1.0, self.requests_max / 5)
        return AsyncLimiter(burst, self.per_seconds * burst / (self.requests_max - burst))


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end: into memory, or into ``file`` where it was to be spooled and is a success."""

    status: int
    headers: httpx.Headers
    body: bytes = b""
    file: Path | None = None
    #: Tries before this one.
    retries: int = 0

    @property
    def media_type(self) -> str:
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()

    def json(self) -> Any:  # Any: whatever the provider sent; readers check it
        """Raises ValueError."""
        return httpx.Response(200, content=self.body).json()


class AnswerLostError(Exception):
    """A success whose answer was not received to its end. ``status`` and ``headers`` are what came of it."""

    def __init__(self, status: int, headers: httpx.Headers, reason: str, *, is_too_long: bool = False) -> None:
        super().__init__(f"the answer (status {status}) is {'too long' if is_too_long else 'cut off'}: {reason}")
        self.status = status
        self.headers = headers
        self.is_too_long = is_too_long


class TroubleError(Exception):
    """What only looks at the provider did not work, though it was tried again and again. Says nothing about a job, but
    where the last ``answer`` has words of the provider's about it. ``after_seconds``: for so long it wants to be left
    alone."""

    def __init__(self, message: str, answer: Answer | None = None) -> None:
        super().__init__(message)
        self.answer = answer
        self.after_seconds = _asked_for(answer) or 0.0


def _asked_for(answer: Answer | None) -> float | None:
    return None if answer is None else retry_after_seconds(answer.headers.get("retry-after"), datetime.now(UTC))


class _AgainError(Exception):
    """Not done, and may be tried again. ``after_seconds`` is what the provider asked for."""

    def __init__(self, reason: str, answer: Answer | None = None, cause: Exception | None = None) -> None:
        super().__init__(reason)
        self.answer = answer
        self.cause = cause
        self.after_seconds = _asked_for(answer)


@dataclass(frozen=True)
class Order:
    """A request that may be billed. ``spool``: a success is written to a file, of at most ``bytes_max``."""

    path: str
    json: Mapping[str, Any] | None = None  # Any: JSON of the provider's own shape
    #: Fields of a multipart form; with neither, and no JSON, the body is empty.
    form: Mapping[str, str] = field(default_factory=dict)
    #: More of its fields: name, and file name, bytes, media type.
    files: tuple[tuple[str, tuple[str, bytes, str]], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    spool: bool = False
    bytes_max: int = ANSWER_BYTES_MAX


class Channel:
    """All HTTP of one provider. ``not_accepted``: statuses of which it documents that nothing was started, which is
    tried again, unless the answer ``is_final``: that of an account without credit, say.

    ``headers`` carry the key; nothing else here, and nothing that is logged or raised, has it.
    """

    def __init__(
        self,
        name: str,
        url: str,
        headers: Mapping[str, str],
        *,
        pace: Pace,
        not_accepted: frozenset[int] = frozenset({429}),
        is_final: Callable[[Answer], bool] = lambda _: False,
        breaker: Breaker | None = None,
        backoff_seconds: float = BACKOFF_SECONDS_FIRST,
    ) -> None:
        self.name = name
        self._not_accepted = not_accepted
        self._is_final = is_final
        self._breaker = breaker or Breaker()
        self._calls = asyncio.Semaphore(pace.calls_max)
        self._limiter = pace.limiter()
        self._backoff_seconds = backoff_seconds
        self._looks = _client(url, headers, _LOOKS)
        # A kept connection may be closed by the other end just as an order goes out on it, and then nobody knows
        # whether it was read: every order gets a connection of its own.
        self._orders = _client(url, headers, httpx.Limits(max_keepalive_connections=0))

    @property
    def available(self) -> bool:
        return self._breaker.available

    async def close(self) -> None:
        await self._looks.aclose()
        await self._orders.aclose()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A call of the provider, from its first request to its last: waits for a place among the calls at once.

        Raises ProviderError where the breaker is open.
        """
        async with self._calls:
            if not self._breaker.enter():
                raise ProviderError(UNAVAILABLE, f"{self.name} is left alone after repeated trouble", elsewhere=True)
            probe = self._breaker.probe
            try:
                yield
            finally:
                self._breaker.leave(probe)

    async def order(self, order: Order, attempt: Attempt) -> Answer:
        """Send a request that may be billed. Any status may come back, but none that is worth another try.

        Raises ProviderError where nothing was started however often it was tried; OutcomeUnknownError where nobody
        knows; AnswerLostError where an answer began.
        """

        async def once(retries: int) -> Answer:
            await self._pace()
            attempt.sending()
            try:
                answer = await self._send(order, attempt, retries)
            except _NOT_SENT as error:
                attempt.not_sent()
                self._breaker.failed()
                raise _AgainError(f"could not be reached ({type(error).__name__})", cause=error) from error
            except httpx.HTTPError as error:
                self._breaker.failed()
                raise OutcomeUnknownError(
                    f"{self.name} gave no answer to a request ({type(error).__name__})"
                ) from error
            if answer.status in self._not_accepted and not self._is_final(answer):
                attempt.not_sent()
                if answer.status >= 500:
                    self._breaker.failed()
                raise _AgainError(f"took no request (status {answer.status})", answer)
            self._note(answer.status)
            return answer

        try:
            return await self._again(once)
        except _AgainError as error:
            raise self._gave_up(error) from error.cause

    async def look(self, path: str, is_of_job: Callable[[Answer], bool] = lambda _: False) -> Answer:
        """Ask, as often as it takes, what costs nothing. Any status may come back that is not trouble of the moment.
        ``is_of_job``: whether an answer tells of trouble that is the job's alone, and none of the provider.

        Raises TroubleError after TRIES_MAX, and where the answer has more than ANSWER_BYTES_MAX.
        """
        return await self._in_memory(lambda: self._looks.build_request("GET", path), is_of_job)

    async def look_spooled(self, path: str, attempt: Attempt, bytes_max: int, headers: Mapping[str, str]) -> Answer:
        """The same, with a success written to a file, of at most ``bytes_max``. Raises AnswerLostError too, where the
        answer is too long."""

        async def once() -> Answer:
            async with self._looks.stream("GET", path, headers=dict(headers)) as response:
                file = attempt.spool() if response.status_code == 200 else None
                return await _receive(response, file, bytes_max=bytes_max if file is not None else ANSWER_BYTES_MAX)

        return await self._free(once)

    async def upload(self, path: str, file: tuple[str, bytes, str]) -> Answer:
        """Send a file that costs nothing by itself. Raises ProviderError: without it, no order goes out."""
        try:
            return await self._in_memory(lambda: self._looks.build_request("POST", path, files={"file": file}))
        except TroubleError as error:
            raise ProviderError(UNAVAILABLE, str(error), retry_count=TRIES_MAX - 1, elsewhere=True) from error

    # --- inside

    async def _in_memory(
        self, make: Callable[[], httpx.Request], is_of_job: Callable[[Answer], bool] = lambda _: False
    ) -> Answer:
        async def once() -> Answer:
            response = await self._looks.send(make(), stream=True)
            try:
                return await _receive(response, None, bytes_max=ANSWER_BYTES_MAX)
            finally:
                await response.aclose()

        try:
            return await self._free(once, is_of_job)
        except AnswerLostError as error:
            raise TroubleError(f"{self.name}: {error}") from error

    async def _free(
        self, request: Callable[[], Awaitable[Answer]], is_of_job: Callable[[Answer], bool] = lambda _: False
    ) -> Answer:
        async def once(_: int) -> Answer:
            await self._pace()
            try:
                answer = await request()
            except httpx.HTTPError as error:
                self._breaker.failed()
                raise _AgainError(f"could not be asked ({type(error).__name__})", cause=error) from error
            except AnswerLostError as error:
                if error.is_too_long:
                    raise
                raise _AgainError(f"{error}", cause=error) from error
            if is_of_job(answer):
                self._breaker.succeeded()
            else:
                self._note(answer.status)
            if answer.status in _TRANSIENT:
                raise _AgainError(f"answered with status {answer.status}", answer)
            return answer

        try:
            return await self._again(once)
        except _AgainError as error:
            raise TroubleError(f"{self.name} {error}", error.answer) from error.cause

    async def _send(self, order: Order, attempt: Attempt, retries: int) -> Answer:
        timeout = httpx.Timeout(attempt.deadline_seconds, connect=CONNECT_SECONDS, write=WRITE_SECONDS)
        # A field without a file name is a plain one: so a form without a file is multipart too.
        fields = [(name, (None, value.encode(), None)) for name, value in order.form.items()]
        request = self._orders.build_request(
            "POST",
            order.path,
            json=order.json,
            files=[*fields, *order.files] or None,
            headers=dict(order.headers),
            timeout=timeout,
        )
        response = await self._orders.send(request, stream=True)
        try:
            file = attempt.spool() if order.spool and response.status_code == 200 else None
            bytes_max = ANSWER_BYTES_MAX if file is None else order.bytes_max
            answer = await _receive(response, file, bytes_max=bytes_max)
        finally:
            await response.aclose()
        return Answer(answer.status, answer.headers, answer.body, answer.file, retries)

    async def _pace(self) -> None:
        if self._limiter is not None:
            await self._limiter.acquire()

    def _note(self, status: int) -> None:
        """A refusal is an answer of a provider that works."""
        if status >= 500:
            self._breaker.failed()
        else:
            self._breaker.succeeded()

    def _gave_up(self, error: _AgainError) -> ProviderError:
        status = None if error.answer is None else error.answer.status
        code = OVERLOADED if status == 429 else UNAVAILABLE
        return ProviderError(
            code, f"{self.name} {error}", status_code=status, retry_count=TRIES_MAX - 1, elsewhere=True
        )

    async def _again(self, once: Callable[[int], Awaitable[T]]) -> T:
        def wait(state: RetryCallState) -> float:
            assert state.outcome is not None
            error = state.outcome.exception()
            asked = error.after_seconds if isinstance(error, _AgainError) else None
            longest = min(BACKOFF_SECONDS_MAX, self._backoff_seconds * 2**state.attempt_number)
            drawn = random.uniform(longest / 2, longest)  # noqa: S311  jitter, no secret
            return drawn if asked is None else asked + drawn / 4

        def stop(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome is not None else None
            asked = error.after_seconds if isinstance(error, _AgainError) else None
            return stop_after_attempt(TRIES_MAX)(state) or (asked or 0) > RETRY_AFTER_SECONDS_MAX

        retrying = AsyncRetrying(wait=wait, stop=stop, retry=retry_if_exception_type(_AgainError), reraise=True)
        tries = -1

        async def counted() -> T:
            nonlocal tries
            tries += 1
            return await once(tries)

        return await retrying(counted)


def _client(url: str, headers: Mapping[str, str], limits: httpx.Limits) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=url,
        headers=dict(headers),
        timeout=httpx.Timeout(LOOK_SECONDS, connect=CONNECT_SECONDS, write=WRITE_SECONDS),
        transport=Connections(limits=limits, verify=authorities(), trust_env=False),
        trust_env=False,
    )


async def _receive(response: httpx.Response, path: Path | None, *, bytes_max: int) -> Answer:
    """The whole answer, in memory or in a file; of one that is no success, as much as came. Raises AnswerLostError."""
    status, headers = response.status_code, response.headers
    received = 0
    portions: list[bytes] = []
    file = None if path is None else await asyncio.to_thread(path.open, "wb")
    try:
        async for portion in response.aiter_bytes(256 * 1024):
            received += len(portion)
            if received > bytes_max:
                raise AnswerLostError(status, headers, f"more than {bytes_max} bytes", is_too_long=True)
            if file is None:
                portions.append(portion)
            else:
                await asyncio.to_thread(file.write, portion)
    except httpx.HTTPError as error:
        if status < 300:
            raise AnswerLostError(status, headers, type(error).__name__) from error
    finally:
        if file is not None:
            await asyncio.to_thread(file.close)
    return Answer(status, headers, b"".join(portions), path)
