"""Changes of resale prices: each is an event in the log, in the same transaction."""

from contracts.problems import NOT_FOUND, ProblemError, broken_rule
from contracts.resale_prices import RESALE_PRICES_MAX, ResalePrice, ResalePriceStored
from ledger_service.administration import log_change
from ledger_service.domain.ledger_events import NO_ACCOUNT, RESALE_PRICE_CHANGED
from ledger_service.store.accounts import find_account
from ledger_service.store.pool import Connection
from ledger_service.store.resale_prices import list_resale_prices, lock_resale_prices, put_resale_price


async def change_resale_price(
    connection: Connection, account_id: str | None, operation: str, model: str, price: ResalePrice
) -> ResalePriceStored:
    """Puts the price of an account, or (None) for all, that begins at its ``valid_from``. Idempotent: the same again
    changes nothing and is no event.

    Raises ProblemError where nothing is known of the account, or it has RESALE_PRICES_MAX already.
    """
    async with connection.transaction():
        await require_account(connection, account_id)
        await lock_resale_prices(connection)
        others = await list_resale_prices(connection, account_id)
        place = (operation, model, price.valid_from)
        before = next((one for one in others if (one.operation, one.model, one.valid_from) == place), None)
        stored = ResalePriceStored.model_construct(
            account_id=account_id, operation=operation, model=model, version=before.version + 1 if before else 1,
            **dict(price),
        )  # fmt: skip
        if before is not None and stored == before.model_copy(update={"version": stored.version}):
            return before
        if before is None and len(others) >= RESALE_PRICES_MAX:
            raise broken_rule("valid_from", "resale_prices_max", f"there are {RESALE_PRICES_MAX} resale prices already")
        await put_resale_price(connection, stored)
        await log_change(connection, RESALE_PRICE_CHANGED, account_id or NO_ACCOUNT, stored)
    return stored


async def require_account(connection: Connection, account_id: str | None) -> None:
    """Raises ProblemError (not_found) where nothing is known of it."""
    if account_id is not None and await find_account(connection, account_id) is None:
        raise ProblemError(NOT_FOUND, f"nothing is known of account {account_id}")
