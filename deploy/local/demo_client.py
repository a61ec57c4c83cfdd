"""What the demo asks of the two services, and what it reads of their answers. Money in nano-dollars."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar
from uuid import UUID, uuid4

import httpx
from pydantic import Base64Bytes, BaseModel, BeforeValidator, ConfigDict, ValidationError

from contracts.limits import Account, Denial, LimitState, Plan
from contracts.money import parse_nanos

TIMEOUT_SECONDS: Final = 60.0
LOG_ROWS_MAX: Final = 1000
ATTEMPTS_MAX: Final = 8
RETRY_SECONDS: Final = 1.0

Nanos = Annotated[int, BeforeValidator(parse_nanos)]


class DemoError(Exception):
    """The demo cannot go on. The text is one message for a person."""


class _Answered(BaseModel):
    """Other members are for other readers."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Totals(_Answered):
    calls: int
    units: int
    failures: int
    cost: Nanos


class Usage(_Answered):
    """The usage summary of the current month."""

    period: str
    totals: Totals
    by_operation: dict[str, Totals]
    limits: list[LimitState]

    def limit(self, limit_id: str) -> LimitState:
        return find_limit(self.limits, limit_id)


class LogRow(_Answered):
    """A row of the usage log."""

    operation_id: UUID
    operation: str
    model: str
    outcome: Literal["completed", "failed"]
    quantity: int
    cost: Nanos
    occurred_at: datetime
    duration_ms: int


class LogPage(_Answered):
    items: list[LogRow]
    next_cursor: str | None


class Explained(_Answered):
    """A decision explained: as it was given, and what became of its hold."""

    operation_id: UUID
    allowed: bool
    denial: Denial | None
    limits: list[LimitState]
    state: str


class Picture(_Answered):
    media_type: str
    width: int
    height: int
    data: Base64Bytes


class Done(_Answered):
    """A finished operation."""

    operation_id: UUID
    model: str
    cost: Nanos
    images: list[Picture]


class RefusedDecision(_Answered):
    denial: Denial | None


class Problem(_Answered):
    """Why an operation was not done."""

    code: str
    detail: str
    operation_id: UUID | None = None
    decision: RefusedDecision | None = None


@dataclass(frozen=True)
class Answer:
    """The image service's last answer; one of ``done`` and ``problem`` is there. ``repeats`` follow a 503 each."""

    status: int
    seconds: float
    repeats: int = 0
    done: Done | None = None
    problem: Problem | None = None

    @property
    def denial(self) -> Denial | None:
        decision = self.problem.decision if self.problem else None
        return decision.denial if decision and self.status == httpx.codes.TOO_MANY_REQUESTS else None


def find_limit(limits: list[LimitState], limit_id: str) -> LimitState:
    for limit in limits:
        if limit.limit_id == limit_id:
            return limit
    raise DemoError(f"The ledger's answer has no limit {limit_id}.")


M = TypeVar("M", bound=BaseModel)
#: Sends one request to an address, with these headers.
Send = Callable[[str, dict[str, str]], Awaitable[httpx.Response]]


class DemoClient:
    """Both services, as one account's user. Raises DemoError for an answer that makes no sense, httpx's for none."""

    def __init__(self, http: httpx.AsyncClient, ledger_url: str, image_url: str) -> None:
        self._http = http
        self._ledger = f"{ledger_url}/v1"
        self._image = f"{image_url}/v1/images"

    async def is_account(self, account_id: str) -> bool:
        response = await self._http.get(f"{self._ledger}/accounts/{account_id}")
        return response.status_code != httpx.codes.NOT_FOUND

    async def put_plan(self, plan_id: str, plan: Plan) -> None:
        _expect_ok(await self._http.put(f"{self._ledger}/plans/{plan_id}", json=plan.model_dump(mode="json")))

    async def put_account(self, account_id: str, account: Account) -> None:
        body = account.model_dump(mode="json")
        _expect_ok(await self._http.put(f"{self._ledger}/accounts/{account_id}", json=body))

    async def usage(self, account_id: str) -> Usage:
        return _read(Usage, await self._http.get(f"{self._ledger}/accounts/{account_id}/usage"))

    async def usage_log(self, account_id: str) -> list[LogRow]:
        """All rows, newest first; DemoError where there are more than a demo makes."""
        url = f"{self._ledger}/accounts/{account_id}/usage-log"
        page = _read(LogPage, await self._http.get(url, params={"limit": LOG_ROWS_MAX}))
        if page.next_cursor is not None:
            raise DemoError(f"The usage log of {account_id} has {LOG_ROWS_MAX} rows or more.")
        return page.items

    async def explain(self, operation_id: UUID) -> Explained:
        return _read(Explained, await self._http.get(f"{self._ledger}/decisions/{operation_id}"))

    async def generate(self, caller: dict[str, str], body: dict[str, str | int]) -> Answer:
        return await self._operate(
            "generate", caller, lambda url, headers: self._http.post(url, headers=headers, json=body)
        )

    async def upload(self, operation: str, caller: dict[str, str], image: Path, fields: dict[str, str]) -> Answer:
        """For the operations that take an image."""
        content = await asyncio.to_thread(image.read_bytes)
        files = {"image": (image.name, content, "image/jpeg")}
        return await self._operate(
            operation, caller, lambda url, headers: self._http.post(url, headers=headers, files=files, data=fields)
        )

    async def _operate(self, operation: str, caller: dict[str, str], send: Send) -> Answer:
        """As a good client does: a 503 means "not now", and repeating it with the same key is charged once."""
        headers = {**caller, "Idempotency-Key": str(uuid4())}
        loop = asyncio.get_running_loop()
        started = loop.time()
        for repeats in range(ATTEMPTS_MAX):
            response = await send(f"{self._image}/{operation}", headers)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or repeats == ATTEMPTS_MAX - 1:
                return _answer(response, loop.time() - started, repeats)
            await asyncio.sleep(RETRY_SECONDS)
        raise AssertionError("unreachable: the last attempt returns")


def _answer(response: httpx.Response, seconds: float, repeats: int) -> Answer:
    if response.is_success:
        return Answer(response.status_code, seconds, repeats, done=_parse(Done, response))
    return Answer(response.status_code, seconds, repeats, problem=_parse(Problem, response))


def _read(model: type[M], response: httpx.Response) -> M:
    _expect_ok(response)
    return _parse(model, response)


def _expect_ok(response: httpx.Response) -> None:
    if not response.is_success:
        raise DemoError(f"{_request(response)} was answered {response.status_code}: {response.text[:500]}")


def _parse(model: type[M], response: httpx.Response) -> M:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in reason["loc"]) or "the body"
        raise DemoError(
            f"{_request(response)} was answered {response.status_code}, and {where}: {reason['msg']}"
        ) from error


def _request(response: httpx.Response) -> str:
    return f"{response.request.method} {response.request.url.path}"
