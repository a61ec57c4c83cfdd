"""Numbers of a source that never will arrive: somebody says so, and they are missing no more."""

from typing import Final

from contracts.problems import NOT_FOUND, ProblemError, broken_rule
from contracts.sources import GiveUp, NumbersGivenUp
from ledger_service.administration import log_change
from ledger_service.domain.ledger_events import NO_ACCOUNT, SOURCE_NUMBERS_GIVEN_UP
from ledger_service.store.pool import Connection
from ledger_service.store.sources import give_up_numbers

#: Of one event.
RANGES_MAX: Final = 1_000


async def give_up(connection: Connection, wanted: GiveUp) -> NumbersGivenUp:
    """Those of the numbers that are missing count as missing no more; answers which these were. Each change is an event
    in the log, in the same transaction; where none of them is missing, nothing is changed.

    It is not said to their producer, which goes on sending what it has: one that arrives after all is recorded as any
    other. Raises ProblemError: not_found, and where the numbers go beyond the last that came, or are in too many holes.
    """
    async with connection.transaction():
        found = await give_up_numbers(
            connection, wanted.source, wanted.first_sequence, wanted.last_sequence, RANGES_MAX
        )
        if found is None:
            raise ProblemError(NOT_FOUND, f"nothing with a number of the source {wanted.source} has come")
        last, numbers = found
        if wanted.last_sequence > last:
            message = f"the last number that came of it is {last}: what is behind that may still come"
            raise broken_rule("last_sequence", "not_missing", message)
        if len(numbers) > RANGES_MAX:
            message = f"there are more than {RANGES_MAX:,} holes between these numbers: give them up in portions"
            raise broken_rule("last_sequence", "too_many", message)
        given_up = NumbersGivenUp(source=wanted.source, numbers=numbers, reason=wanted.reason)
        if numbers:
            await log_change(connection, SOURCE_NUMBERS_GIVEN_UP, NO_ACCOUNT, given_up)
    return given_up
