"""Events over HTTP, for services without NATS."""

from collections.abc import Iterator
from itertools import islice
from json import JSONDecoder
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, JsonValue, TypeAdapter

from contracts.access.guard import bound_account
from contracts.access.rules import not_your_account
from contracts.events import BATCH_CONTENT_TYPE, CONTENT_TYPE, UsageEvent
from contracts.http_problems import problem_response
from contracts.problems import (
    MALFORMED_JSON,
    TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    Problem,
    ProblemError,
)
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import EVENTS_BYTES_MAX, read_body
from ledger_service.api.moments import POSITION
from ledger_service.domain.batches import DEAD_LETTERED, Receipt, Submission
from ledger_service.event_intake import Received
from ledger_service.intake import read_event
from ledger_service.recording import letter_problem
from ledger_service.services import Services, services

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["events"])

EVENTS_PER_REQUEST_MAX: Final = 1_000
_JSON: Final = "application/json"
_DECODER: Final = JSONDecoder()


class EventsRecorded(BaseModel):
    """What became of a request's events. ``rejected``: at which place in the batch, and why."""

    accepted: int
    duplicates: int
    rejected: list[dict[str, JsonValue]]


def _event_bodies() -> dict[str, Any]:  # Any: a piece of an OpenAPI document
    event = TypeAdapter(UsageEvent).json_schema(ref_template="#/components/schemas/{model}")
    named = {name: value for name, value in event.items() if name != "$defs"}
    batch = {"type": "array", "items": named, "maxItems": EVENTS_PER_REQUEST_MAX}
    content = {CONTENT_TYPE: {"schema": event}, BATCH_CONTENT_TYPE: {"schema": batch}}
    return {"requestBody": {"required": True, "content": content}}


@router.post("/events", response_model=EventsRecorded, openapi_extra=_event_bodies())
async def record_events(request: Request) -> Response:
    """Records one CloudEvent or a batch of them; answered once committed.

    Idempotent: an event that is in the log already counts as a duplicate. A single event that breaks a rule is
    answered with the problem itself; in a batch the others are recorded and it is listed under ``rejected``. A token
    that is bound to an account sends its own events only, and numbers (``sourcesequence``) of its own sources only.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in (CONTENT_TYPE, BATCH_CONTENT_TYPE, _JSON):
        raise ProblemError(UNSUPPORTED_MEDIA_TYPE, f"send {CONTENT_TYPE} or {BATCH_CONTENT_TYPE}")
    body = await read_body(request, EVENTS_BYTES_MAX)
    is_batch = content_type == BATCH_CONTENT_TYPE or (content_type == _JSON and body.lstrip()[:1] == b"[")
    reads = [read_event(one, "http") for one in (_split_batch(body) if is_batch else [body])]
    only = bound_account(request)
    if only is not None:
        reads = [_own(read, only) for read in reads]
    results, position = await _record(await services(request), reads, only)
    problems = [(index, result) for index, result in enumerate(results) if isinstance(result, Problem)]
    if problems and not is_batch:
        return problem_response(problems[0][1])
    return Response(
        orjson.dumps(
            {
                "accepted": results.count(Receipt.ACCEPTED),
                "duplicates": results.count(Receipt.DUPLICATE),
                "rejected": [{"index": index, "problem": problem.model_dump()} for index, problem in problems],
            }
        ),
        media_type="application/json",
        headers=None if position is None else {POSITION: str(position)},
    )


def _own(read: Submission | Problem, only: str) -> Submission | Problem:
    if isinstance(read, Submission) and not read.event.subject == read.event.data.account_id == only:
        return not_your_account().problem
    return read


def _split_batch(body: bytes) -> list[bytes]:
    """The events of a JSON array, each as it was sent. Raises ProblemError where it is none, or has too many."""
    try:
        text = body.decode()
        slices = list(islice(_elements(text), EVENTS_PER_REQUEST_MAX + 1))
    except (ValueError, RecursionError) as error:
        raise ProblemError(MALFORMED_JSON, f"not a JSON array: {error}") from None
    if len(slices) > EVENTS_PER_REQUEST_MAX:
        raise ProblemError(TOO_LARGE, f"at most {EVENTS_PER_REQUEST_MAX} events a request")
    return [text[start:end].encode() for start, end in slices]


def _elements(text: str) -> Iterator[tuple[int, int]]:
    position = _skip_space(text, 0)
    if text[position : position + 1] != "[":
        raise ValueError("a batch begins with [")
    position = _skip_space(text, position + 1)
    while text[position : position + 1] != "]":
        _, end = _DECODER.raw_decode(text, position)
        yield position, end
        position = _skip_space(text, end)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise ValueError(f"expected , or ] at character {position}")
    if _skip_space(text, position + 1) != len(text):
        raise ValueError(f"something follows the array at character {position + 1}")


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


async def _record(
    wired: Services, reads: list[Submission | Problem], only: str | None
) -> tuple[list[Receipt | Problem], int | None]:
    """Records what could be read; in the place of each, what became of it; and the position, where there is any."""
    submissions = [read for read in reads if isinstance(read, Submission)]
    received = await wired.event_intake.record(submissions, only) if submissions else Received([], None)
    receipts = iter(received.receipts)
    results: list[Receipt | Problem] = []
    for read in reads:
        if isinstance(read, Problem):
            results.append(read)
            continue
        receipt = next(receipts)
        is_letter = isinstance(receipt, Receipt) and receipt in DEAD_LETTERED
        results.append(letter_problem(read, receipt) if is_letter else receipt)
    return results, received.position
