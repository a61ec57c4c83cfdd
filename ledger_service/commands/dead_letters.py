"""`ledger dead-letters …`: what could not enter the log; looked at, redriven or discarded."""

import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contracts.dead_letters import (
    DeadLetter,
    DeadLetterItem,
    LetterAct,
    LetterSelection,
    LetterState,
    Redrive,
    RedriveOutcome,
)
from contracts.exit_codes import ExitCode
from contracts.problems import PROBLEM_TYPES, ProblemError, field_errors
from ledger_service.commands.database import messages, moment, output, stop, stop_at, with_database
from ledger_service.commands.dead_letter_screen import panel, table
from ledger_service.commands.json_output import AsJson, AsJsonLines, write_json, write_json_lines
from ledger_service.dead_letter_views import item_view, letter_view
from ledger_service.dead_letters import (
    Redriving,
    discard,
    discard_one,
    next_portion,
    redrive,
    redrive_corrected,
    redrive_one,
    selected_by,
)
from ledger_service.store import event_log
from ledger_service.store.dead_letters import count_letters, find_actions, find_letter, list_letters
from ledger_service.store.pool import Connection

app = typer.Typer(no_args_is_help=True, help="Events that could not enter the log: why, and what to do about them.")

PAGE_ROWS: Final = 50
ORIGINS: Final = ("jetstream", "http")
_ANY: Final = "any"

Ids = Annotated[list[int] | None, typer.Argument(help="Letters by their number; or give filters and --all.")]
State = Annotated[str, typer.Option(help="open, redriven, discarded, or any.")]
Code = Annotated[str | None, typer.Option(help="With this code, invalid_request for one.")]
Origin = Annotated[str | None, typer.Option(help="That came over jetstream, or http.")]
Subject = Annotated[str | None, typer.Option(help="That came on this NATS subject.")]
Account = Annotated[str | None, typer.Option("--account", help="That claim to be of this account.")]
Start = Annotated[str | None, typer.Option("--from", help="Received at 2026-11-01, or an RFC 3339 time, or later.")]
End = Annotated[str | None, typer.Option("--to", help="Received before.")]
All = Annotated[bool, typer.Option("--all", help="All letters that fit the filters.")]
Author = Annotated[str, typer.Option(help="Who does it; kept in the log.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the log.")]
Work = Callable[[Connection, list[int]], Awaitable[Counter[str]]]
Answer = TypeVar("Answer")


@app.command("list")
def list_(
    state: State = LetterState.OPEN.value,
    code: Code = None,
    origin: Origin = None,
    subject: Subject = None,
    account: Account = None,
    start: Start = None,
    end: End = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many, newest first.")] = PAGE_ROWS,
    before: Annotated[int | None, typer.Option(help="Only letters older than this one: the next page.")] = None,
    as_json: AsJsonLines = False,
) -> None:
    """Shows what could not enter the log: by default what nobody has dealt with yet."""
    chosen = selected_by(_selection(state, code, origin, subject, account, start, end))

    async def read(connection: Connection) -> tuple[list[DeadLetterItem], int]:
        rows = await list_letters(connection, chosen, before, limit)
        return [item_view(row) for row in rows], await count_letters(connection, chosen)

    items, total = with_database(read)
    if as_json:
        write_json_lines(items)
        return
    if not items:
        messages().print("no dead letters" if total == 0 else "no older ones")
        return
    output().print(table(items, datetime.now(UTC)))
    if len(items) == limit:
        last = items[-1].dead_letter_id
        messages().print(f"{total} fit; `--before {last}` goes on with older ones")
    messages().print("`ledger dead-letters show LETTER` shows one whole; `redrive` and `discard` deal with them")


@app.command()
def show(
    letter: Annotated[int, typer.Argument(help="The letter's number.")],
    raw: Annotated[bool, typer.Option("--raw", help="Only its bytes, as they came: > event.json")] = False,
    as_json: AsJson = False,
) -> None:
    """Shows one letter: every rule it breaks, its bytes, and what was done about it."""

    async def read(connection: Connection) -> tuple[DeadLetter, bytes] | None:
        row = await find_letter(connection, letter)
        return None if row is None else (letter_view(row, await find_actions(connection, letter)), row["body"])

    found = with_database(read)
    if found is None:
        raise stop(f"there is no dead letter {letter}", "`ledger dead-letters list` shows those there are.")
    view, body = found
    if raw:
        sys.stdout.buffer.write(body)
    elif as_json:
        write_json(view)
    else:
        output().print(panel(view, datetime.now(UTC)))


@app.command("redrive")
def redrive_(
    author: Author,
    reason: Reason,
    letters: Ids = None,
    event_file: Annotated[
        Path | None, typer.Option("--event", help="A corrected copy of the one letter's event; - reads it from stdin.")
    ] = None,
    everything: All = False,
    state: State = LetterState.OPEN.value,
    code: Code = None,
    origin: Origin = None,
    subject: Subject = None,
    account: Account = None,
    start: Start = None,
    end: End = None,
    as_json: AsJson = False,
) -> None:
    """Takes letters in once more, as if they had just come. Each counts once, however often this is done.

    Exit 0 where all of them are in the log now; 1 where any was refused again: it stays, with the new reason.
    """
    if event_file is not None:
        done = _redrive_corrected(letters or [], event_file, author, reason)
        if as_json:
            write_json(_as_json({done.outcome.value: 1}, [done]))
        return
    act = _act(author, reason)

    async def work(connection: Connection, ids: list[int]) -> Counter[str]:
        return Counter(one.outcome.value for one in await redrive(connection, ids, act))

    told: list[Redriving] = []

    async def one_by_one(connection: Connection) -> Counter[str]:
        for letter in letters or []:
            told.append(await redrive_one(connection, letter, act))
            _tell(told[-1])
        return Counter(one.outcome.value for one in told)

    if letters and not everything:
        outcomes = _done(one_by_one)
    else:
        selection = _selection(state, code, origin, subject, account, start, end)
        outcomes = _for_all(letters, everything, selection, "redriving", work)
    if as_json:
        write_json(_as_json(outcomes, told))
    raise typer.Exit(ExitCode.FAILED if outcomes[RedriveOutcome.REFUSED] else ExitCode.DONE)


def _as_json(outcomes: Mapping[str, int], letters: Sequence[Redriving] = ()) -> dict[str, object]:
    """``letters``: those that were named one by one."""
    told = [{"dead_letter_id": one.dead_letter_id, "outcome": one.outcome, "problem": one.problem} for one in letters]
    return {"outcomes": dict(outcomes), "letters": told}


@app.command("discard")
def discard_(
    author: Author,
    reason: Reason,
    letters: Ids = None,
    everything: All = False,
    code: Code = None,
    origin: Origin = None,
    subject: Subject = None,
    account: Account = None,
    start: Start = None,
    end: End = None,
    as_json: AsJson = False,
) -> None:
    """Says that letters shall not count. Their bytes stay, and they can still be redriven."""
    act = _act(author, reason)

    async def work(connection: Connection, ids: list[int]) -> Counter[str]:
        return Counter(discarded=len(await discard(connection, ids, act)))

    async def one_by_one(connection: Connection) -> None:
        for letter in letters or []:
            await discard_one(connection, letter, act)
            messages().print(f"{letter}: discarded; its bytes stay")

    if letters and not everything:
        _done(one_by_one)
        outcomes: Mapping[str, int] = {"discarded": len(letters)}
    else:
        selection = _selection(LetterState.OPEN.value, code, origin, subject, account, start, end)
        outcomes = _for_all(letters, everything, selection, "discarding", work)
    if as_json:
        write_json(_as_json(outcomes))


def _for_all(
    letters: list[int] | None, everything: bool, selection: LetterSelection, what: str, work: Work
) -> Counter[str]:
    if letters or not everything:
        raise typer.BadParameter("give numbers of letters, or filters with --all, and not both")
    chosen = selected_by(selection)
    screen = messages()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    async def run(connection: Connection) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        after: int | None = None
        with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
            bar = progress.add_task(what, total=await count_letters(connection, chosen))
            while ids := await next_portion(connection, chosen, after, sys.maxsize):
                outcomes.update(await work(connection, ids))
                progress.advance(bar, len(ids))
                after = ids[-1]
        return outcomes

    outcomes = _done(run)
    told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()) if number)
    screen.print(told or "no letter fits")
    if outcomes[RedriveOutcome.REFUSED]:
        screen.print("what was refused stays open, with its new reason: `ledger dead-letters list`")
    return outcomes


def _redrive_corrected(letters: list[int], file: Path, author: str, reason: str) -> Redriving:
    if len(letters) != 1:
        raise typer.BadParameter("--event is the corrected copy of one letter: give its number")
    try:
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        event = json.loads(body)
    except (OSError, ValueError, RecursionError) as error:
        raise stop(f"cannot read an event from {file}: {error}") from None
    try:
        act = Redrive(author=author, reason=reason, event=event)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(f"{one.field}: {one.message}" for one in field_errors(error))) from None
    corrected = act.event
    assert corrected is not None, "just read"
    done = _done(lambda connection: redrive_corrected(connection, letters[0], corrected, act))
    _tell(done)
    return done


def _done(work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    async def prepared(connection: Connection) -> Answer:
        await event_log.prepare_connection(connection)
        return await work(connection)

    try:
        return with_database(prepared)
    except ProblemError as error:
        if error.problem.errors:
            raise stop_at(error.problem.errors, error.kind.title) from None
        raise stop(error.problem.detail) from None


def _tell(done: Redriving) -> None:
    said = {
        RedriveOutcome.RECORDED: "recorded: it is in the log now",
        RedriveOutcome.DUPLICATE: "duplicate: it was in the log already; the letter is closed",
        RedriveOutcome.CLOSED: "closed: it had been redriven before",
        RedriveOutcome.REFUSED: f"refused again: {done.problem.detail if done.problem else ''}",
    }
    refused = done.outcome is RedriveOutcome.REFUSED
    messages().print(f"{done.dead_letter_id}: {said[done.outcome]}", style="red" if refused else "green", markup=False)


def _selection(
    state: str,
    code: str | None,
    origin: str | None,
    subject: str | None,
    account: str | None,
    start: str | None,
    end: str | None,
) -> LetterSelection:
    _refuse_unknown("--code", code, [kind.code for kind in PROBLEM_TYPES])
    _refuse_unknown("--origin", origin, ORIGINS)
    wanted = {
        "state": list(LetterState) if state == _ANY else [state],
        "code": code,
        "origin": origin,
        "subject": subject,
        "account_id": account,
        "from": moment(start),
        "to": moment(end),
    }
    try:
        return LetterSelection.model_validate(wanted)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(f"{one.field}: {one.message}" for one in field_errors(error))) from None


def _refuse_unknown(option: str, given: str | None, known: Sequence[str]) -> None:
    """A letter that is not there and a typing error look the same."""
    if given is not None and given not in known:
        raise typer.BadParameter(f"{option} {given}: one of {', '.join(known)}")


def _act(author: str, reason: str) -> LetterAct:
    try:
        return LetterAct(author=author, reason=reason)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(f"{one.field}: {one.message}" for one in field_errors(error))) from None
