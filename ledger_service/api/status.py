"""How the ledger stands, as JSON: the figures of /metrics that are about the whole ledger."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends

from contracts.metrics import Metric, Reading
from contracts.status import LedgerStatus
from ledger_service import metric_names as names
from ledger_service.api.access import LedgerRoute
from ledger_service.services import Services, services

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["health"])


@router.get("/status")
async def read_status(wired: Annotated[Services, Depends(services)]) -> LedgerStatus:
    """What somebody on call looks at first: what waits, what is missing, what is overdue.

    Answered whatever is down: what cannot be read now is null. The database is asked every few seconds at most.
    """
    found = await wired.metrics.readings()
    letters = found.get(names.LETTERS_OPEN_BY_CODE)
    return LedgerStatus(
        read_at=datetime.now(UTC),
        nats_connected=bool(found[names.NATS_CONNECTED]),
        ingest_lag_events=_count(found, names.INGEST_LAG_EVENTS),
        ingest_lag_seconds=_seconds(found, names.INGEST_LAG_SECONDS),
        dead_letters_open=_count(found, names.LETTERS_OPEN),
        dead_letters_open_by_code={code: int(many) for (code,), many in letters.items()}
        if isinstance(letters, Mapping)
        else None,
        missing_events=_count(found, names.MISSING_EVENTS),
        holds_open=_count(found, names.HOLDS_OPEN),
        holds_overdue_seconds=_seconds(found, names.HOLDS_OVERDUE),
        transaction_horizon_age_seconds=_seconds(found, names.HORIZON_AGE),
        is_sealed=wired.seals is not None,
        seals_diverged=bool(found[names.SEALS_DIVERGED]),
        seals_lag_events=_count(found, names.SEAL_LAG_EVENTS),
        seals_lag_seconds=_seconds(found, names.SEAL_LAG_SECONDS),
    )


def _count(found: Mapping[Metric, Reading], metric: Metric) -> int | None:
    value = found.get(metric)
    return int(value) if isinstance(value, int | float) else None


def _seconds(found: Mapping[Metric, Reading], metric: Metric) -> float | None:
    value = found.get(metric)
    return float(value) if isinstance(value, int | float) else None
