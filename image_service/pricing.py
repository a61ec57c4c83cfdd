"""What a provider's work costs where the provider does not say: the ledger's price catalogue."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import structlog
from pydantic import ValidationError

from contracts.client import LedgerClient, LedgerRefused, LedgerUnavailable
from contracts.prices import RateQuery

#: Prices are dated; one that was read is used for so long, and for longer only while the ledger cannot be reached.
FRESH_SECONDS: Final = 60.0
STALE_SECONDS: Final = 86_400.0
PRICES_KEPT_MAX: Final = 1_000

_Key = tuple[str, str, str, tuple[tuple[str, str | int], ...]]

_log = structlog.stdlib.get_logger(__name__)


class Pricing:
    """Asks the ledger, and remembers."""

    def __init__(self, ledger: LedgerClient) -> None:
        self._ledger = ledger
        #: What a unit costs (None: there is no price), and when that was read.
        self._known: OrderedDict[_Key, tuple[int | None, float]] = OrderedDict()

    async def cost(
        self, provider: str, operation: str, model: str, quantity: int, attributes: Mapping[str, str | int]
    ) -> int | None:
        """Nano-dollars for so many units of this; None where the catalogue has no price, or none can be found out."""
        key = (provider, operation, model, tuple(sorted(attributes.items())))
        unit_price, read_at = self._known.get(key, (None, 0.0))
        age_seconds = time.monotonic() - read_at if read_at else STALE_SECONDS
        if age_seconds > FRESH_SECONDS:
            try:
                unit_price = await self._ask(provider, operation, model, attributes)
            except (LedgerUnavailable, LedgerRefused, ValidationError) as error:
                _log.warning("price_unknown", provider=provider, model=model, reason=str(error))
                if age_seconds >= STALE_SECONDS:
                    return None
            else:
                self._known[key] = (unit_price, time.monotonic())
                self._known.move_to_end(key)
                if len(self._known) > PRICES_KEPT_MAX:
                    self._known.popitem(last=False)
        return None if unit_price is None else unit_price * quantity

    async def _ask(self, provider: str, operation: str, model: str, attributes: Mapping[str, str | int]) -> int | None:
        query = RateQuery(provider=provider, operation=operation, model=model, attributes=dict(attributes) or None)
        answer = await self._ledger.rate(query)
        return None if answer.price is None else answer.price.unit_price
