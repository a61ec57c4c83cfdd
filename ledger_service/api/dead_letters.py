"""Dead letters: what could not enter the log; looked at, redriven or discarded."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request

from contracts.dead_letters import (
    DEAD_LETTER_ID_MAX,
    DeadLetter,
    DeadLetterItem,
    DeadLetterPage,
    LetterAct,
    LettersAct,
    LettersDone,
    LetterState,
    Redrive,
    Redriven,
)
from contracts.events import EVENT_BYTES_MAX
from contracts.identifiers import Name
from contracts.moments import Moment
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import json_body, read_model
from ledger_service.calls import CHECK_BYTES_MAX
from ledger_service.dead_letter_views import item_view, letter_view, page_view
from ledger_service.dead_letters import (
    PORTION_MAX,
    discard,
    discard_one,
    next_portion,
    not_found,
    redrive,
    redrive_corrected,
    redrive_one,
    selected_by,
)
from ledger_service.services import Services, services
from ledger_service.store.dead_letters import LetterFilter, find_actions, find_letter, list_letters
from ledger_service.store.pool import Connection

log = structlog.get_logger()
router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["dead letters"])

#: A corrected event, and around it who corrects it and why.
REDRIVE_BYTES_MAX: Final = 2 * EVENT_BYTES_MAX

Wired = Annotated[Services, Depends(services)]
LetterId = Annotated[int, Path(ge=1, le=DEAD_LETTER_ID_MAX)]
_Exact = Annotated[str | None, Query(max_length=128, pattern=r"^[^\x00]*$")]


@router.get("/dead-letters")
async def list_dead_letters(
    wired: Wired,
    state: Annotated[
        list[LetterState] | None, Query(max_length=10, description="several times: any of them; default: open")
    ] = None,
    code: _Exact = None,
    origin: _Exact = None,
    subject: _Exact = None,
    account_id: Name | None = None,
    start: Annotated[Moment | None, Query(alias="from", description="received then or later")] = None,
    end: Annotated[Moment | None, Query(alias="to", description="received before")] = None,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DeadLetterPage:
    """What could not enter the log, newest first, by default what nobody has dealt with yet.

    The same bytes are one letter, however often they came. ``next_cursor`` goes on where a page ended.
    """
    states = [one.value for one in state or [LetterState.OPEN]]
    chosen = LetterFilter(states, code, origin, subject, account_id, start, end)
    async with wired.reads.acquire() as connection:
        rows = await list_letters(connection, chosen, int(cursor) if cursor else None, limit)
    return page_view(rows, limit)


@router.get("/dead-letters/{dead_letter_id}")
async def read_dead_letter(dead_letter_id: LetterId, wired: Wired) -> DeadLetter:
    """One letter: its bytes, as text too where they are UTF-8, every rule they break, and what was done about it."""
    async with wired.reads.acquire() as connection:
        row = await find_letter(connection, dead_letter_id)
        if row is None:
            raise not_found(dead_letter_id)
        return letter_view(row, await find_actions(connection, dead_letter_id))


@router.post("/dead-letters/{dead_letter_id}:redrive", openapi_extra=json_body(Redrive))
async def redrive_dead_letter(dead_letter_id: LetterId, request: Request, wired: Wired) -> Redriven:
    """Takes the letter in once more, as if it had just come: its event is recorded once, however often this is asked.

    ``outcome``: ``recorded``, ``duplicate`` (it was in the log already), ``closed`` (it had been redriven before), or
    ``refused``, and the letter stays, with the new reason. With ``event``, a corrected copy is recorded instead; both
    are kept. It may differ from the letter only where that breaks a rule: ids that can be read stay as they are.
    """
    act = await read_model(request, Redrive, REDRIVE_BYTES_MAX)
    async with wired.writes.acquire() as connection:
        if act.event is not None:
            done = await redrive_corrected(connection, dead_letter_id, act.event, act)
        else:
            done = await redrive_one(connection, dead_letter_id, act)
        _log("dead_letters_redriven", act, [dead_letter_id], {done.outcome.value: 1})
        letter = await _item(connection, dead_letter_id)
    return Redriven(outcome=done.outcome, problem=done.problem, dead_letter=letter)


@router.post("/dead-letters/{dead_letter_id}:discard", openapi_extra=json_body(LetterAct))
async def discard_dead_letter(dead_letter_id: LetterId, request: Request, wired: Wired) -> DeadLetterItem:
    """Says that the letter shall not count. Its bytes stay, it can still be redriven. 409 where it was recorded."""
    act = await read_model(request, LetterAct, CHECK_BYTES_MAX)
    async with wired.writes.acquire() as connection:
        await discard_one(connection, dead_letter_id, act)
        _log("dead_letters_discarded", act, [dead_letter_id], {"discarded": 1})
        return await _item(connection, dead_letter_id)


@router.post("/dead-letters:redrive", openapi_extra=json_body(LettersAct))
async def redrive_dead_letters(request: Request, wired: Wired) -> LettersDone:
    """Redrives up to ``limit`` of the letters selected, oldest first; ``next_cursor`` goes on where it ended."""
    act = await read_model(request, LettersAct, CHECK_BYTES_MAX)
    outcomes: Counter[str] = Counter()

    async def work(connection: Connection, ids: list[int]) -> None:
        done = Counter(one.outcome.value for one in await redrive(connection, ids, act))
        _log("dead_letters_redriven", act, ids, done)
        outcomes.update(done)

    return LettersDone(next_cursor=await _each(wired, act, work), outcomes=outcomes)


@router.post("/dead-letters:discard", openapi_extra=json_body(LettersAct))
async def discard_dead_letters(request: Request, wired: Wired) -> LettersDone:
    """Discards up to ``limit`` of the letters selected, oldest first; ``next_cursor`` goes on where it ended."""
    act = await read_model(request, LettersAct, CHECK_BYTES_MAX)
    outcomes: Counter[str] = Counter()

    async def work(connection: Connection, ids: list[int]) -> None:
        discarded = await discard(connection, ids, act)
        _log("dead_letters_discarded", act, discarded, {"discarded": len(discarded)})
        outcomes["discarded"] += len(discarded)

    return LettersDone(next_cursor=await _each(wired, act, work), outcomes=outcomes)


async def _each(
    wired: Services, act: LettersAct, work: Callable[[Connection, list[int]], Awaitable[None]]
) -> int | None:
    """Does the work on the selected letters, portion by portion; answers where the selection goes on."""
    chosen, left, cursor = selected_by(act.select), act.limit, act.cursor
    while left:
        # Given back between portions: others wait for these connections.
        async with wired.writes.acquire() as connection:
            ids = await next_portion(connection, chosen, cursor, left)
            if ids:
                await work(connection, ids)
        if len(ids) < min(PORTION_MAX, left):
            return None
        left, cursor = left - len(ids), ids[-1]
    return cursor


async def _item(connection: Connection, dead_letter_id: int) -> DeadLetterItem:
    row = await find_letter(connection, dead_letter_id)
    if row is None:
        raise not_found(dead_letter_id)
    return item_view(row)


def _log(what: str, act: LetterAct, dead_letter_ids: Sequence[int], outcomes: Mapping[str, int]) -> None:
    log.info(what, letters=list(dead_letter_ids), author=act.author, reason=act.reason, **outcomes)
