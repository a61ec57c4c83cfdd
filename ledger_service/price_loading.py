"""Price files into the catalogue: all of a file or nothing."""

from collections.abc import Sequence
from hashlib import sha256

from contracts.problems import FieldError
from ledger_service.domain.price_versions import Change, Outcome, outcomes_where_nobody_put
from ledger_service.price_changes import change_prices, foresee_changes
from ledger_service.price_files import SHIPPED, PriceFile, PriceFileError, parse_prices, shipped_text
from ledger_service.store.pool import Connection
from ledger_service.store.prices import keep_shipped_digest, read_shipped_digest


async def load_prices(connection: Connection, file: PriceFile, *, dry_run: bool = False) -> list[Outcome]:
    """Puts every price of the file, also over those of an administrator; answers what became of each.

    Idempotent. Raises PriceFileError where one overlaps with another version; then nothing is changed.
    """
    async with connection.transaction():
        outcomes = await (foresee_changes if dry_run else change_prices)(connection, file.puts)
    errors = list(_overlaps(file, outcomes))
    if errors:
        raise PriceFileError(file.name, errors)
    return outcomes


def _overlaps(file: PriceFile, outcomes: Sequence[Outcome]) -> list[FieldError]:
    return [
        file.error(entry, outcome.overlap.field, "overlap", outcome.overlap.message)
        for entry, outcome in enumerate(outcomes)
        if outcome.overlap is not None
    ]


async def follow_shipped(connection: Connection) -> list[Outcome]:
    """Brings what no administrator has put a version of to the shipped file's prices; answers what became of each.

    Prices that an administrator has put are left alone with all their versions, also where the shipped file has a
    later one: a contract's price does not end because the list price changed. The same file again is not even read.
    """
    text = shipped_text()
    digest = sha256(text.encode()).hexdigest()
    if await read_shipped_digest(connection) == digest:
        return []
    file = parse_prices(text, SHIPPED, shipped=True)
    async with connection.transaction():
        outcomes = await change_prices(connection, file.puts, outcomes_where_nobody_put)
        await keep_shipped_digest(connection, digest)
    return outcomes


def count(outcomes: Sequence[Outcome]) -> dict[Change, int]:
    """How many of each change there are, in the order of Change; none of those that there are none of."""
    found = {change: sum(outcome.change is change for outcome in outcomes) for change in Change}
    return {change: number for change, number in found.items() if number}
