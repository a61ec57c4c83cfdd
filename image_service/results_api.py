"""Operations after their request: how they stand, their progress as it comes, and their results."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import FastAPI, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from contracts.access.guard import principal_of_request
from contracts.client import JournalUnavailableError
from contracts.client.journal import Journal
from contracts.http_bounds import at_shutdown
from contracts.http_documents import EVENT_STREAM, component, event_stream
from contracts.problems import NOT_FOUND, RECORDING_UNAVAILABLE, Problem, ProblemError
from image_service.access import account_of
from image_service.outcomes import Completed, Outcome, OutcomeStore
from image_service.replies import LatestReplies, LatestReply, ProgressReply, StatusReply, alone, described, progress_of
from image_service.watching import State, Watch, Watches

#: Clients and proxies give up connections on which nothing comes.
HEARTBEAT_SECONDS: Final = 15.0
#: A client whose connection broke asks again after so long.
RETRY_MS: Final = 2000

#: Numbers of steps; what is longer is none of ours.
_EVENT_ID: Final = re.compile(r"[0-9]{1,9}")
#: One of a Range: from, to; or the last so many.
_RANGE: Final = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")
_OperationId = Annotated[UUID, Path(description="As the operation's answer has it.")]
_NOT_THERE: Final[dict[int | str, dict[str, Any]]] = {  # Any: as FastAPI takes it
    404: {"model": Problem, "description": "No such operation of the account, or no longer kept"}
}
#: For links: a browser sends no header with them.
_OF_ACCOUNT: Final[dict[str, Any]] = {  # Any: an OpenAPI fragment, as FastAPI takes it
    "parameters": [
        {
            "name": "account_id",
            "in": "query",
            "required": False,
            "description": "Whose: as the header X-Account-Id, for links.",
            "schema": {"type": "string"},
        }
    ]
}


@dataclass(frozen=True)
class ResultsApi:
    """What the routes need."""

    watches: Watches
    outcomes: OutcomeStore
    journal: Journal
    retention_seconds: float

    async def status(self, request: Request, operation_id: UUID) -> Response:
        """How an operation stands: one that runs, or whose outcome is kept."""
        account_id = _account(request)
        watch = self._watch(account_id, operation_id)
        body = await self._status(account_id, operation_id, watch)
        recalled = self.watches.recall(operation_id)
        if recalled is not None and recalled.account_id == account_id:
            body["steps"] = [progress_of(state) for state in recalled.states]
            body["decision"] = None if recalled.decision is None else recalled.decision.model_dump(mode="json")
        headers = {"Retry-After": "1"} if body["status"] == "running" else {}
        return Response(orjson.dumps(body), media_type="application/json", headers=headers)

    async def events(self, request: Request, operation_id: UUID, last_event_id: str | None) -> Response:
        """Its progress as server-sent events, until its outcome, or until the service stops: then they come again."""
        account_id = _account(request)
        watch = self._watch(account_id, operation_id)
        first = await self._status(account_id, operation_id, watch)
        after = int(last_event_id) if last_event_id and _EVENT_ID.fullmatch(last_event_id) else 0
        stops = asyncio.Event()
        at_shutdown(request.scope, stops.set)
        stream = _until(stops, self._follow(account_id, operation_id, watch, first, after))
        return StreamingResponse(stream, media_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})

    async def result(self, request: Request, operation_id: UUID, number: int) -> Response:
        """One result of a completed operation."""
        outcome = await self._outcome(_account(request), operation_id)
        if not isinstance(outcome, Completed) or not 0 <= number < len(outcome.artifacts):
            raise ProblemError(NOT_FOUND, f"there is no result {number} of operation {operation_id}")
        _drop_odd_ranges(request)
        headers = {"Cache-Control": "private, immutable", "X-Content-Type-Options": "nosniff"}
        try:
            return alone(outcome, number, headers)
        except FileNotFoundError:
            raise _not_there(operation_id) from None

    def latest(self, request: Request, most: int) -> LatestReplies:
        """What this process did last for an account."""
        return LatestReplies(
            operations=[
                LatestReply(
                    operation_id=str(one.operation_id),
                    operation=one.operation,
                    began_at=one.began_at,
                    running=not one.over,
                )
                for one in self.watches.latest(_account(request), most)
            ]
        )

    def _watch(self, account_id: str, operation_id: UUID) -> Watch | None:
        watch = self.watches.find(operation_id)
        # Another account's is none, and one that is not admitted yet may never be.
        return watch if watch is not None and watch.account_id == account_id and watch.begun.is_set() else None

    async def _outcome(self, account_id: str, operation_id: UUID) -> Outcome:
        outcome = await asyncio.to_thread(self.outcomes.load, operation_id)
        if outcome is None or outcome.account_id != account_id:
            raise _not_there(operation_id)
        return outcome

    async def _status(self, account_id: str, operation_id: UUID, watch: Watch | None) -> dict[str, object]:
        recalled = self.watches.recall(operation_id)
        # Where it is decided that it is not kept, it may still run for a moment: there is nothing to wait for.
        is_unkept = recalled is not None and recalled.unkept
        if watch is not None and not watch.over and not is_unkept:
            watch.wanted = True
            return running_status(watch)
        try:
            outcome = await self._outcome(account_id, operation_id)
        except ProblemError:
            intent = None if is_unkept else await self._intent(operation_id)
            if intent is None or intent[0] != account_id:
                raise
            return {"operation_id": str(operation_id), "operation": intent[1], "status": "running"}
        about: dict[str, object] = {"operation_id": str(operation_id), "operation": outcome.operation}
        if isinstance(outcome, Completed):
            assert outcome.kept_at is not None, "it was loaded"
            expires_at = outcome.kept_at + timedelta(seconds=self.retention_seconds)
            try:
                result = await asyncio.to_thread(described, outcome, expires_at)
            except FileNotFoundError:  # its time was over just now
                raise _not_there(operation_id) from None
            return {**about, "status": "completed", "result": result}
        return {**about, "status": "failed", "problem": outcome.problem.model_dump(mode="json")}

    async def _intent(self, operation_id: UUID) -> tuple[str, str] | None:
        """Account and operation of one whose outcome is still to be found out."""
        try:
            requested = await self.journal.intent_of(operation_id)
        except JournalUnavailableError as error:
            raise ProblemError(RECORDING_UNAVAILABLE, "the journal cannot be read") from error
        return None if requested is None else (requested.data.account_id, requested.data.operation)

    async def _follow(
        self, account_id: str, operation_id: UUID, watch: Watch | None, first: dict[str, object], after: int
    ) -> AsyncIterator[bytes]:
        yield f"retry: {RETRY_MS}\n\n".encode()
        last = after
        if watch is not None:
            # Numbers begin anew after a restart of the service.
            known = watch.states[-1].number if watch.states else 0
            last = after if after <= known else 0
            async for state in watch.after(last, HEARTBEAT_SECONDS):
                if state is None:
                    yield b": still running\n\n"
                else:
                    last = state.number
                    yield _event("progress", state.number, progress_of(state))
        status = first
        while status["status"] == "running":
            # Its watch is over, and its outcome about to be there; or it waits to be recovered.
            try:
                status = await self._status(account_id, operation_id, self._watch(account_id, operation_id))
            except ProblemError:  # it is not kept; whoever comes again is told so
                return
            if status["status"] == "running":
                yield b": still running\n\n"
                await asyncio.sleep(1)
        yield _event(str(status["status"]), last + 1, status)


async def _until(stops: asyncio.Event, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream, to its end or until then, whichever is first."""
    stopping = asyncio.create_task(stops.wait())
    following: asyncio.Task[bytes | None] | None = None
    try:
        while not stops.is_set():
            following = asyncio.create_task(anext(stream, None))
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            part = await following if following.done() else None
            if part is None:
                return
            yield part
    finally:
        # Without waiting for them: where the client is gone, nothing may be waited for here.
        stopping.cancel()
        if following is not None:
            following.cancel()


def _drop_odd_ranges(request: Request) -> None:
    """Takes a Range out of the request that is no range of bytes: it is to be ignored (RFC 9110, 14.2), and what
    answers with a file refuses it."""
    if not _is_of_bytes(request.headers.get("Range", "")):
        request.scope["headers"] = [one for one in request.scope["headers"] if one[0] != b"range"]


def _is_of_bytes(asked: str) -> bool:
    unit, _, ranges = asked.partition("=")
    found = [_RANGE.fullmatch(one.strip(" \t")) for one in ranges.split(",")]
    return unit.strip().lower() == "bytes" and all(
        one and (one[1] or one[2]) and not (one[1] and one[2] and int(one[1]) > int(one[2])) for one in found
    )


def _not_there(operation_id: UUID) -> ProblemError:
    return ProblemError(NOT_FOUND, f"there is no operation {operation_id}, or it is no longer kept")


def running_status(watch: Watch) -> dict[str, object]:
    """The status of one that runs."""
    body: dict[str, object] = {
        "operation_id": str(watch.operation_id),
        "operation": watch.operation,
        "status": "running",
        "events": f"/v1/operations/{watch.operation_id}/events",
    }
    latest: State | None = watch.states[-1] if watch.states else None
    return body if latest is None else {**body, "progress": progress_of(latest)}


def accepted(watch: Watch, preference_applied: str) -> Response:
    """202: where it can be followed."""
    headers = {"Location": f"/v1/operations/{watch.operation_id}", "Retry-After": "1"}
    if preference_applied:
        headers["Preference-Applied"] = preference_applied
    return Response(orjson.dumps(running_status(watch)), 202, headers, "application/json")


def _account(request: Request) -> str:
    return account_of(principal_of_request(request), request.headers, request.query_params.get("account_id"))


def _event(name: str, number: int, data: dict[str, object]) -> bytes:
    """As https://html.spec.whatwg.org/multipage/server-sent-events.html has it; JSON has no line breaks."""
    return f"event: {name}\nid: {number}\ndata: ".encode() + orjson.dumps(data) + b"\n\n"


def add_result_routes(app: FastAPI, api: ResultsApi) -> None:
    @app.get("/v1/operations", tags=["results"], summary="The latest operations", openapi_extra=_OF_ACCOUNT)
    async def latest(request: Request, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> LatestReplies:
        """The account's operations that this process runs, or that are among the last that it ran. For all that it ever
        had there is the ledger's usage log."""
        return api.latest(request, limit)

    @app.get(
        "/v1/operations/{operation_id}",
        openapi_extra=_OF_ACCOUNT,
        tags=["results"],
        summary="How an operation stands",
        responses={200: {"model": StatusReply}, **_NOT_THERE},
        response_model=None,
    )
    async def status(request: Request, operation_id: _OperationId) -> Response:
        return await api.status(request, operation_id)

    @app.get(
        "/v1/operations/{operation_id}/events",
        openapi_extra=_OF_ACCOUNT,
        tags=["results"],
        summary="Follow an operation",
        description="Server-sent events: `progress`, and at last `completed` or `failed` with the operation's status.",
        responses={
            200: {
                "content": event_stream(
                    progress=component(ProgressReply), completed=component(StatusReply), failed=component(StatusReply)
                ),
                "description": "A stream",
            },
            **_NOT_THERE,
        },
        response_model=None,
        response_class=Response,
    )
    async def events(
        request: Request,
        operation_id: _OperationId,
        last_event_id: Annotated[str | None, Header(description="What came last, on a new connection.")] = None,
    ) -> Response:
        return await api.events(request, operation_id, last_event_id)

    @app.get(
        "/v1/results/{operation_id}/{number}",
        openapi_extra=_OF_ACCOUNT,
        tags=["results"],
        summary="A result",
        description="Its bytes, with its media type; ranges are answered as such.",
        responses={200: {"content": {"image/*": {}, "model/*": {}, "video/*": {}}, "description": "It"}, **_NOT_THERE},
        response_model=None,
        response_class=Response,
    )
    async def result(request: Request, operation_id: _OperationId, number: int) -> Response:
        return await api.result(request, operation_id, number)
