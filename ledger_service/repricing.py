"""A repricing from start to end: account by account, in small transactions, each of which stands by itself."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

import orjson

from contracts.adjustments import Adjustment, AdjustmentKind, AppliedPrice, Reference
from contracts.problems import CONFLICT, NOT_FOUND, FieldError, ProblemError
from contracts.repricings import Repricing, RepricingProgress, RepricingResult
from ledger_service.adjusting import Asked, rerate_all
from ledger_service.authorship import author_now
from ledger_service.domain.ledger_events import NO_ACCOUNT, REPRICING_STARTED, ledger_event
from ledger_service.domain.rating import Catalogue
from ledger_service.domain.repricing import Completed, Kept, Rated, Report, rate, rerating_id
from ledger_service.store.accounts import find_account
from ledger_service.store.archives import refuse_archived
from ledger_service.store.event_log import append_one, find_events
from ledger_service.store.pool import Connection, in_transaction, open_hot_pool
from ledger_service.store.prices import CatalogueCache
from ledger_service.store.repricings import Place, count_completed, list_accounts, read_completed

ACCOUNTS_PER_PAGE: Final = 500
#: Operations that are rated again in one transaction: some tens of milliseconds under the account's lock.
PORTION_MAX: Final = 200

Step = RepricingProgress | RepricingResult


async def run_repricing(database_url: str, wanted: Repricing, author: str) -> AsyncGenerator[Step, None]:
    """Progress, first before anything is read, at the end the result. Broken off and run again, it goes on.

    Raises ProblemError (not_found, conflict, period_archived: at its end too), and what asyncpg raises: what was done
    by then stays done.
    """
    pool = await open_hot_pool(database_url, 1, "repricing")
    try:
        async with pool.acquire() as connection, aclosing(_run(connection, wanted, author)) as steps:
            async for step in steps:
                yield step
    finally:
        # Not close(): whoever breaks off does not wait for what is under way.
        pool.terminate()


async def _run(connection: Connection, wanted: Repricing, author: str) -> AsyncGenerator[Step, None]:
    if wanted.account_id is not None and await find_account(connection, wanted.account_id) is None:
        message = f"nothing is known of account {wanted.account_id}"
        raise ProblemError(NOT_FOUND, message, [FieldError(field="account_id", rule="unknown", message=message)])
    await refuse_archived(connection, wanted.start, "the repricing")
    prices = CatalogueCache()
    catalogue = await prices.get(connection)
    if not wanted.dry_run:
        await in_transaction(connection, lambda: _begin(connection, wanted, author, prices.version))
    yield RepricingProgress(done=0, of=None, account_id=None)
    of, report, after = 0, Report(), ""
    while accounts := await list_accounts(connection, after, wanted, ACCOUNTS_PER_PAGE):
        after = accounts[-1]
        for account_id in accounts:
            of += await count_completed(connection, account_id, wanted)
    yield RepricingProgress(done=0, of=of, account_id=None)
    after = ""
    while accounts := await list_accounts(connection, after, wanted, ACCOUNTS_PER_PAGE):
        after = accounts[-1]
        for account_id in accounts:
            place: Place | None = None
            while operations := await read_completed(connection, account_id, wanted, place, PORTION_MAX):
                place = Place(operations[-1].admitted_at, operations[-1].operation_id)
                await _portion(connection, wanted, author, catalogue, operations, report)
                yield RepricingProgress(done=report.looked_at, of=of, account_id=account_id)
    # Each portion is of its own moment: what went into an archive meanwhile was not looked at.
    await refuse_archived(connection, wanted.start, "the repricing")
    yield report.result(wanted.repricing_id, applied=not wanted.dry_run)


async def _begin(connection: Connection, wanted: Repricing, author: str, catalogue_version: int) -> None:
    """Writes down what the repricing is, once; one that goes on must be the same, and by the same prices."""
    # Not whether it is a dry run: that changes nothing, and is not remembered.
    request = wanted.model_dump(mode="json", by_alias=True, exclude={"dry_run"}, exclude_none=True)
    # An account's own are its own matter: whether another one's has this id is not to be told.
    owner = wanted.account_id or NO_ACCOUNT
    key = (owner, wanted.repricing_id)
    body = (await find_events(connection, [key])).get(key)
    if body is None:
        now = datetime.now(UTC)
        data = {"repricing": request, "author": author, "catalogue_version": catalogue_version}
        made_by = await author_now(connection)
        event = ledger_event(wanted.repricing_id, REPRICING_STARTED, owner, now, data, made_by)
        await append_one(connection, owner, wanted.repricing_id, REPRICING_STARTED, None, now, event)
        return
    known = orjson.loads(body)
    if known["type"] != REPRICING_STARTED or known["data"]["repricing"] != request:
        raise ProblemError(CONFLICT, f"repricing {wanted.repricing_id} came before with another body")
    if known["data"]["catalogue_version"] != catalogue_version:
        message = f"prices have changed since repricing {wanted.repricing_id} began: give the rest another repricing_id"
        raise ProblemError(CONFLICT, message)


async def _portion(
    connection: Connection,
    wanted: Repricing,
    author: str,
    catalogue: Catalogue,
    operations: Sequence[Completed],
    report: Report,
) -> None:
    report.looked_at += len(operations)
    changing: dict[object, tuple[Completed, Rated]] = {}
    for operation in operations:
        rated = rate(catalogue, operation)
        if isinstance(rated, Kept):
            report.kept[rated.value] += 1
        else:
            changing[rerating_id(wanted.repricing_id, operation.operation_id)] = (operation, rated)
    if wanted.dry_run:
        for operation, rated in changing.values():
            report.changed(operation, operation.cost_nanos, rated.cost_nanos)
        return
    asked = [_asked(wanted, author, operation, rated) for operation, rated in changing.values()]
    if not asked:
        return
    done = await rerate_all(connection, operations[0].account_id, asked)
    for stored in done:
        assert stored.cost_before is not None
        assert stored.cost_after is not None
        report.changed(changing[stored.adjustment_id][0], stored.cost_before, stored.cost_after)
    # Rated by it before, and by somebody else since; or voided or rated in this very moment.
    report.kept["earlier"] += len(asked) - len(done)


def _asked(wanted: Repricing, author: str, operation: Completed, rated: Rated) -> Asked:
    adjustment = Adjustment.model_construct(
        adjustment_id=rerating_id(wanted.repricing_id, operation.operation_id),
        account_id=operation.account_id,
        kind=AdjustmentKind.RERATE,
        reason=wanted.reason,
        reference=Reference.model_construct(operation_id=operation.operation_id, adjustment_id=None),
        cost=rated.cost_nanos,
    )
    price = AppliedPrice(
        version=rated.version.version, valid_from=rated.version.valid_from, unit_price=rated.unit_price_nanos
    )
    return Asked(adjustment, author, wanted.repricing_id, price)
