"""Resale prices: what customers are charged for a unit, so that margins can be told. Nothing is billed by them."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, StringConstraints

from contracts.identifiers import ModelName, OperationType
from contracts.moments import UtcMoment
from contracts.money import CostNanos

#: Of one account, or of those for all.
RESALE_PRICES_MAX: Final = 10_000


class ResalePrice(BaseModel):
    """What a unit is sold for from ``valid_from`` on, until the next price of the same begins. "0": given away."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    valid_from: UtcMoment
    unit_price: CostNanos
    reason: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")] = ""


class ResalePriceStored(ResalePrice):
    """A price as it stands; ``account_id`` null: for all accounts without one of their own. ``version`` counts its
    changes."""

    account_id: str | None
    operation: OperationType
    model: ModelName
    version: int


class ResalePrices(BaseModel):
    """Those for all, or those of one account: by operation, model and beginning."""

    items: list[ResalePriceStored]
