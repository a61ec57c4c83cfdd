"""Reports: the bodies of what finance and operations look at now and then."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from contracts.money import TotalNanos


class EstimateLine(BaseModel):
    """What checks of one provider, model and operation held as cost, beside what was settled in the end.

    Ratios are settled / held, of all together and of single operations; null where nothing was held.
    """

    provider: str
    model: str
    operation: str
    operations: int
    held: TotalNanos
    settled: TotalNanos
    ratio: float | None
    p50: float | None
    p95: float | None
    #: Operations whose check held no cost: unpriced without a cost limit, or an estimate of 0.
    held_at_nothing: int
    #: Operations that cost more than was held, by how much at worst, and which one that was.
    above: int
    worst_above: TotalNanos
    worst_account_id: str | None
    worst_operation_id: UUID | None


class EstimateReport(BaseModel):
    """How far off holds were: ``start`` ≤ occurred_at < ``end``."""

    start: datetime
    end: datetime
    account_id: str | None
    lines: list[EstimateLine]
