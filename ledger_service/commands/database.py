"""What commands that work on the database share: a connection, and plain words for what goes wrong."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.console import Console

from contracts.exit_codes import ExitCode
from contracts.moments import UtcMoment
from contracts.problems import FieldError, ProblemError, field_errors
from contracts.settings_reading import WrongSettingsError, read_settings
from contracts.version import VERSION
from ledger_service.config import Settings
from ledger_service.store.accounts import find_account
from ledger_service.store.migrations import MigrationError, check_schema
from ledger_service.store.pool import OUT_OF_REACH, Connection, open_pool, reason_of

#: For tables that are piped, where there is no screen whose width counts.
_PIPED_WIDTH: Final = 200
_MOMENT: Final[TypeAdapter[datetime]] = TypeAdapter(UtcMoment)

Result = TypeVar("Result")
Wanted = TypeVar("Wanted", bound=BaseModel)


def output() -> Console:
    """What was asked for, on standard output. Brackets and colons in what people wrote are nothing but that."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, markup=False, emoji=False)


def messages() -> Console:
    """What is said beside it, on standard error."""
    width = None if sys.stderr.isatty() else _PIPED_WIDTH
    return Console(stderr=True, width=width, highlight=False, markup=False, emoji=False)


def own_settings() -> Settings:
    """The settings as the environment has them. Where they break rules, says which, and exits with 1."""
    try:
        return read_settings(Settings)
    except WrongSettingsError as error:
        raise stop("these settings cannot be used:", *(f"  {one}" for one in error.problems)) from None


def with_database(work: Callable[[Connection], Awaitable[Result]], *, whole_tables: bool = False) -> Result:
    """Runs it on a connection to the ledger's database. Says why, and exits with 1, where there is none.

    ``whole_tables``: it works with each column of tables, and so with no schema that is newer than this version.
    """
    return asyncio.run(_with_database(work, whole_tables))


async def _with_database(work: Callable[[Connection], Awaitable[Result]], whole_tables: bool) -> Result:
    try:
        pool = await open_pool(own_settings().database_url, 1)
        try:
            async with pool.acquire() as connection:
                newer = await check_schema(connection)
                if newer and whole_tables:
                    raise MigrationError(
                        f"the database has {', '.join(newer)}, which version {VERSION} does not know: "
                        "run this command with the version that applied them"
                    )
                return await work(connection)
        finally:
            await pool.close()
    except MigrationError as error:
        raise stop(str(error)) from None
    except OUT_OF_REACH as error:
        raise stop(f"cannot reach the database: {reason_of(error)}", "Check LEDGER_DATABASE_URL.") from None


async def say_if_unknown(connection: Connection, account_id: str | None) -> None:
    """What an answer about an account that nobody knows leaves open: whether there was nothing, or it was misspelt."""
    if account_id is not None and await find_account(connection, account_id) is None:
        messages().print(f"nothing is known of account {account_id}: is that its name?", style="yellow")


def answer_or_stop(work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """The same for what the ledger may refuse: says which rules are broken, and exits with 1."""
    try:
        return with_database(work)
    except ProblemError as error:
        if error.problem.errors:
            raise stop_at(error.problem.errors, error.kind.title) from None
        raise stop(error.problem.detail) from None


def read_options(model: type[Wanted], given: Mapping[str, object]) -> Wanted:
    """A command's options as the model that the same call over HTTP reads. Exits with 2 where they break its rules."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(f"{one.field}: {one.message}" for one in field_errors(error))) from None


def stop(*lines: str) -> typer.Exit:
    """The end of a command that failed, said in these lines."""
    for number, line in enumerate(lines):
        messages().print(line, style="red" if number == 0 else None, markup=False)
    return typer.Exit(ExitCode.FAILED)


def stop_at(errors: list[FieldError], what: str) -> typer.Exit:
    """The same for broken rules, one a line."""
    return stop(what, *(f"  {error.field or 'file'}: {error.message} ({error.rule})" for error in errors))


def moment(text: str | None) -> datetime | None:
    """An option's time: a date, which begins at 0:00 UTC, or a time with its offset."""
    if text is None:
        return None
    try:
        return _MOMENT.validate_python(f"{text}T00:00:00Z" if len(text) == len("2026-11-01") else text)
    except ValidationError as error:
        raise typer.BadParameter(f"{text}: {error.errors()[0]['msg']}") from None


def shown(time: datetime | None) -> str:
    """A time in UTC, as short as it can be."""
    if time is None:
        return ""
    utc = time.astimezone(UTC)
    return f"{utc:%Y-%m-%d}" if (utc.hour, utc.minute, utc.second) == (0, 0, 0) else f"{utc:%Y-%m-%d %H:%M:%S}"
