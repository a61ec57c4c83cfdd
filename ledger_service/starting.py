"""The start of the ledger: it waits a while for its servers, and says in one line why it gives up."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import nats.errors
import structlog

from contracts.spans import SpansUnavailableError
from ledger_service.seal_keys import SealKeyError
from ledger_service.store.migrations import MigrationError
from ledger_service.store.pool import OUT_OF_REACH, UNAVAILABLE, reason_of
from ledger_service.stream import StreamConfigError

ATTEMPTS_MAX: Final = 60
RETRY_SECONDS: Final = 0.5
_NOT_THERE_YET: Final[tuple[type[Exception], ...]] = (*UNAVAILABLE, nats.errors.Error)


class _NotThereError(Exception):
    """A server was awaited in vain; its text says which, and why."""


#: What whoever runs the ledger can mend: where in the code it was found says nothing to them.
_TO_MEND: Final[tuple[type[Exception], ...]] = (
    _NotThereError,
    *OUT_OF_REACH,
    MigrationError,
    StreamConfigError,
    SealKeyError,
    SpansUnavailableError,
)
_ADVICE: Final = "`ledger doctor`, with the same settings, says what is wrong and what to do"

log = structlog.get_logger()

Opened = TypeVar("Opened")


class CannotStartError(Exception):
    """Its text says why, and was logged."""


async def await_server(what: str, opening: Callable[[], Awaitable[Opened]]) -> Opened:
    """Opens it, for half a minute again and again while it is not there."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return await opening()
        except _NOT_THERE_YET as error:
            if attempt == ATTEMPTS_MAX:
                raise _NotThereError(f"{what} is out of reach: {reason_of(error)}") from error
            log.warning("startup_waits", for_what=what, error=reason_of(error))
            await asyncio.sleep(RETRY_SECONDS)
    raise AssertionError("unreachable: the last attempt returns or raises")


@contextmanager
def saying_why() -> Iterator[None]:
    """Logs what can be mended as ``cannot_start``, and raises CannotStartError in its place."""
    try:
        yield
    except _TO_MEND as error:
        say_cannot_start(reason_of(error))
        raise CannotStartError(reason_of(error)) from None


def say_cannot_start(reason: str) -> None:
    log.critical("cannot_start", reason=reason, advice=_ADVICE)


def hide_what_was_said() -> None:
    """Keeps the web server, which logs the traceback of any start that failed, from saying it again."""
    logging.getLogger("uvicorn.error").addFilter(lambda record: CannotStartError.__name__ not in record.getMessage())
