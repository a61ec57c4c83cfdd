"""What customers are charged."""

from typing import TYPE_CHECKING, Final

from contracts.resale_prices import RESALE_PRICES_MAX, ResalePriceStored
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


async def lock_resale_prices(connection: "Connection") -> None:
    """Whoever changes resale prices waits here for others who do, until they have committed."""
    await connection.execute(SQL["lock"])


async def list_resale_prices(connection: "Connection", account_id: str | None) -> list[ResalePriceStored]:
    """Those of an account, or (None) those for all: at most RESALE_PRICES_MAX."""
    rows = await connection.fetch(SQL["of_account"], account_id or "", RESALE_PRICES_MAX)
    # Valid already; a second reading would want the money as a string again.
    return [ResalePriceStored.model_construct(**{**row, "account_id": row["account_id"] or None}) for row in rows]


async def put_resale_price(connection: "Connection", price: ResalePriceStored) -> None:
    """Writes a row anew, or over what it was."""
    await connection.execute(
        SQL["put"], price.account_id or "", price.operation, price.model, price.valid_from, price.version,
        price.unit_price, price.reason,
    )  # fmt: skip
