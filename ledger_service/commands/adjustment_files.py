"""`ledger adjust-all`: adjustments out of a file, as `ledger reconcile` proposes them."""

from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

import typer
from pydantic import BaseModel, ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contracts.adjustments import Adjustment, Author
from contracts.money import format_nanos
from contracts.problems import FieldError, ProblemError, field_errors
from ledger_service.adjusting import adjust, refuse_wrong_fields
from ledger_service.commands.database import messages, output, stop, stop_at, with_database
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.store import event_log
from ledger_service.store.pool import Connection

#: Of one file; they are read before the first is recorded.
ADJUSTMENTS_MAX: Final = 1_000_000
_ERRORS_MAX: Final = 20


class _By(BaseModel):
    author: Author


class _RefusedError(Exception):
    def __init__(self, line: int, done: int, error: ProblemError) -> None:
        super().__init__(str(error))
        self.line = line
        self.done = done
        self.problem = error.problem


def adjust_all(
    file: Annotated[Path, typer.Argument(help="One adjustment a line, as POST /v1/adjustments takes them.")],
    author: Annotated[str, typer.Option(help="Who does it; kept in the log.")],
    as_json: AsJson = False,
) -> None:
    """Records every adjustment of a file, each in a transaction of its own. Run again, it adds nothing.

    Exit 0 where all of them are in the log; 1 where the file breaks a rule (then nothing was recorded), or the ledger
    refuses one (then those before it were); 2 for wrong options.
    """
    try:
        by = _By(author=author).author
    except ValidationError as error:
        raise typer.BadParameter(f"--author: {error.errors()[0]['msg']}") from None
    wanted = _read(file)
    try:
        costs = with_database(lambda connection: _record(connection, wanted, by))
    except _RefusedError as refused:
        detail = refused.problem.detail
        raise stop(
            f"{file.name}:{refused.line}: {detail}",
            f"{refused.done} before it are recorded; without that line, run it again: nothing is added twice.",
        ) from None
    total = sum(costs.values())
    if as_json:
        write_json({"adjustments": len(costs), "cost": format_nanos(total)})
    else:
        output().print(f"{len(costs)} adjustments are in the log; what they add up to: ${format_nanos(total)}")


def _read(file: Path) -> list[tuple[int, Adjustment]]:
    found: list[tuple[int, Adjustment]] = []
    errors: list[FieldError] = []
    try:
        with file.open("rb") as lines:
            for number, written in enumerate(lines, 1):
                line = written.removeprefix(BOM_UTF8) if number == 1 else written  # editors put it there
                if not line.strip():
                    continue
                try:
                    one = Adjustment.model_validate_json(line)
                    refuse_wrong_fields(one)
                    found.append((number, one))
                except ValidationError as error:
                    errors += [_placed(file, number, one) for one in field_errors(error)]
                except ProblemError as error:
                    errors += [_placed(file, number, one) for one in error.problem.errors]
                if len(found) > ADJUSTMENTS_MAX:
                    errors.append(FieldError(field=file.name, rule="too_many", message=f"at most {ADJUSTMENTS_MAX}"))
                if len(errors) >= _ERRORS_MAX or len(found) > ADJUSTMENTS_MAX:
                    break
    except OSError as error:
        raise stop(f"{file}: {error.strerror}") from None
    if errors:
        raise stop_at(errors, f"{file.name}: nothing was recorded")
    return found


def _placed(file: Path, line: int, error: FieldError) -> FieldError:
    field = f"{file.name}:{line}" + (f":{error.field}" if error.field else "")
    return error.model_copy(update={"field": field})


async def _record(connection: Connection, wanted: Sequence[tuple[int, Adjustment]], author: str) -> dict[UUID, int]:
    """What each adds, in nano-dollars: a line that stands twice is one adjustment."""
    await event_log.prepare_connection(connection)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    screen, costs = messages(), dict[UUID, int]()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        for done, (line, one) in enumerate(progress.track(wanted, description="recording")):
            try:
                stored = await adjust(connection, one, author)
                costs[stored.adjustment_id] = stored.cost
            except ProblemError as error:
                raise _RefusedError(line, done, error) from error
    return costs
