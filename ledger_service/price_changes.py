"""Changes of prices: each is an event in the log and a new version of the catalogue, in the same transaction."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from contracts.changes import Author
from contracts.identifiers import uuid7
from contracts.prices import Price, PriceKey, PriceStored
from contracts.problems import INVALID_REQUEST, FieldError, ProblemError
from ledger_service.authorship import author_now
from ledger_service.domain.ledger_events import NO_ACCOUNT, PRICE_CHANGED, ledger_event
from ledger_service.domain.price_versions import Change, Outcome, Put, Standing, Version, outcomes_of
from ledger_service.domain.rating import CostTooLargeError, Key
from ledger_service.store.pool import Connection
from ledger_service.store.prices import Written, find_price, lock_catalogue, read_versions, stored, write_versions

#: How to tell what becomes of puts: see domain.price_versions.
Rule: TypeAlias = Callable[[Standing, Sequence[Put], datetime], list[Outcome]]


def key_of(key: PriceKey) -> Key:
    return key.provider, key.operation, key.model


async def change_price(connection: Connection, key: PriceKey, price: Price) -> PriceStored:
    """Creates the version of a price that begins at its ``valid_from``, or changes it. Idempotent: the same body again
    changes nothing.

    Raises ProblemError where it would overlap with another version; the problem names the field and that version.
    """
    async with connection.transaction():
        [outcome] = await change_prices(connection, [Put(key_of(key), price)])
        if outcome.overlap is not None:
            raise overlap_problem(outcome)
        [found] = [one for one in await find_price(connection, key_of(key)) if one.valid_from == price.valid_from]
    return found


def overlap_problem(outcome: Outcome) -> ProblemError:
    """The problem that an overlap is, with the other version in it."""
    assert outcome.overlap is not None
    field, message, other = outcome.overlap
    return ProblemError(
        INVALID_REQUEST,
        f"{field}: {message}",
        [FieldError(field=field, rule="overlap", message=message)],
        other={"valid_from": other.valid_from, "valid_until": other.valid_until},
    )


def cost_problem(error: CostTooLargeError) -> ProblemError:
    """The problem of a check whose worst case is more than one operation may cost."""
    detail = f"quantity: {error}"
    return ProblemError(
        INVALID_REQUEST, detail, [FieldError(field="quantity", rule="cost_too_large", message=str(error))]
    )


async def change_prices(connection: Connection, puts: Sequence[Put], rule: Rule = outcomes_of) -> list[Outcome]:
    """Puts versions, of which no two may be the same, and answers what became of each.

    All or nothing: where one overlaps, nothing is written. Within a transaction of the caller's.
    """
    await lock_catalogue(connection)
    outcomes = await foresee_changes(connection, puts, rule)
    if not any(outcome.change is Change.OVERLAP for outcome in outcomes):
        author = await author_now(connection)
        written = [
            _written(outcome.put.key, outcome.after, author) for outcome in outcomes if outcome.after is not None
        ]
        if written:
            await write_versions(connection, written)
    return outcomes


async def foresee_changes(connection: Connection, puts: Sequence[Put], rule: Rule = outcomes_of) -> list[Outcome]:
    """What would become of them now. Changes nothing."""
    standing = await read_versions(connection, {put.key for put in puts})
    return rule(standing, puts, datetime.now(UTC))


def _written(key: Key, version: Version, author: Author) -> Written:
    event_id = uuid7()
    data = stored(key, version, []).model_dump(mode="json", exclude={"in_force_until"})
    event = ledger_event(event_id, PRICE_CHANGED, NO_ACCOUNT, version.recorded_at, data, author)
    return Written(key, version, event_id, event)
