"""Denials and why: single ones, and how many."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response

from contracts.denials import DenialCount, DenialCounts, DeniedAccount, DeniedCheck, DeniedChecks
from contracts.identifiers import Name, OperationType
from contracts.moments import Moment
from contracts.problems import broken_rule
from ledger_service.api.access import LedgerRoute
from ledger_service.api.moments import Demanded, reading
from ledger_service.page_cursors import decode_cursor, encode_cursor
from ledger_service.services import Services, services
from ledger_service.store.denials import DenialFilter, count_by_account, count_denials, counted_until, list_denials

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["limit checks"])

Wired = Annotated[Services, Depends(services)]
From = Annotated[Moment | None, Query(alias="from", description="decided_at, inclusive; default: 24 hours before to")]
To = Annotated[Moment | None, Query(alias="to", description="exclusive; default: now")]
#: Counted at once at most: long enough for a month by days.
_INTERVALS_MAX: Final = 800
_ROWS_MAX: Final = 20_000
_ACCOUNTS_MAX: Final = 20
_DAY: Final = timedelta(hours=24)


class DenialInterval(StrEnum):
    """Of UTC."""

    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        return 3600 if self is DenialInterval.HOUR else 86_400


@router.get("/denials")
async def read_denials(
    wired: Wired,
    demand: Demanded,
    response: Response,
    start: From = None,
    end: To = None,
    account_id: Name | None = None,
    code: Annotated[list[Name] | None, Query(max_length=100, description="several times: any of them")] = None,
    limit_id: Name | None = None,
    user_id: Name | None = None,
    operation: OperationType | None = None,
    cursor: Annotated[str | None, Query(max_length=400)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DeniedChecks:
    """Limit checks that were denied, newest first: what was asked, and why not. `GET /v1/decisions/{operation_id}`
    explains each."""
    after = decode_cursor(cursor, _place) if cursor else None
    async with reading(wired, demand) as read:
        since, until = _times(start, end, read.now)
        chosen = DenialFilter(since, until, code, limit_id, user_id, operation)
        rows = await list_denials(read.known, account_id, chosen, after, limit)
    read.tell(response)
    items = [DeniedCheck.model_validate(dict(row)) for row in rows]
    last = items[-1] if len(items) == limit else None
    more = encode_cursor(last.decided_at, last.account_id, last.operation_id) if last else None
    return DeniedChecks(items=items, next_cursor=more)


@router.get("/denials:counts")
async def read_denial_counts(
    wired: Wired,
    demand: Demanded,
    response: Response,
    start: From = None,
    end: To = None,
    interval: DenialInterval = DenialInterval.HOUR,
    account_id: Name | None = None,
) -> DenialCounts:
    """How many checks were denied in each hour or day of UTC, by code and limit; without ``account_id`` also in which
    accounts most were. Whole intervals: ``from`` is taken back to the beginning of its own."""
    async with reading(wired, demand) as read:
        since, until = _times(start, end, read.now)
        since = since.replace(minute=0, second=0, microsecond=0)
        since = since.replace(hour=0) if interval is DenialInterval.DAY else since
        if (until - since).total_seconds() > _INTERVALS_MAX * interval.seconds:
            raise broken_rule("query.from", "too_long", f"at most {_INTERVALS_MAX} intervals of one {interval}")
        # What was counted of days that are over is of all that is known now.
        of_all_now = account_id is None and read.as_of is None
        counted = await counted_until(read.connection) if of_all_now else None
        rows = await count_denials(read.known, account_id, since, until, interval.seconds, _ROWS_MAX, counted)
        by_account = (
            await count_by_account(read.known, since, until, _ACCOUNTS_MAX, counted) if account_id is None else []
        )
    read.tell(response)
    return DenialCounts(
        start=since,
        end=until,
        interval=interval,
        rows=[DenialCount.model_validate(dict(row)) for row in rows],
        accounts=[DeniedAccount.model_validate(dict(row)) for row in by_account],
    )


def _times(start: datetime | None, end: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    until = (end or now + timedelta(microseconds=1)).astimezone(UTC)
    since = (start or until - _DAY).astimezone(UTC)
    if since >= until:
        raise broken_rule("query.to", "window_order", "to is later than from")
    return since, until


def _place(decided_at: datetime, account_id: str, operation_id: str) -> tuple[datetime, str, UUID]:
    return decided_at, account_id, UUID(operation_id)
