"""Exports: the usage log, and the FOCUS data set, as files of any size."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal

import structlog
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from contracts.access.guard import bound_account
from contracts.exports import EXPORT_AS_OF, EXPORT_CURSOR, MEDIA_TYPES, NEXT_CURSOR, ROWS_ESTIMATE, ExportFormat
from contracts.focus import VERSION
from contracts.identifiers import Name
from contracts.problems import ProblemError, broken_rule
from ledger_service.api.access import LedgerRoute
from ledger_service.api.moments import Demanded, reading
from ledger_service.api.usage_filters import Chosen
from ledger_service.export_cursors import last_row
from ledger_service.exporting import FOCUS, USAGE_LOG, DataSet, Export, Wanted
from ledger_service.services import Services, services
from ledger_service.store.moments import Demand
from ledger_service.store.pool import TRANSIENT
from ledger_service.store.usage import UsageLogFilter

log = structlog.get_logger()

router = APIRouter(route_class=LedgerRoute, prefix="/v1/exports", tags=["exports"])

Wired = Annotated[Services, Depends(services)]
#: Of one part, a file by itself.
ROWS_MAX: Final = 10_000_000
#: What may end an export under way, and is no bug.
_BREAKS_OFF: Final[tuple[type[Exception], ...]] = (ProblemError, TimeoutError, *TRANSIENT)


class ExportResponse(StreamingResponse):
    """Gives back what the export holds however the response ends."""

    def __init__(self, export: Export, told: Mapping[str, str], media_type: str, file_name: str) -> None:
        headers = {**told, **export.headers, "Content-Disposition": f'attachment; filename="{file_name}"'}
        super().__init__(export.chunks(), media_type=media_type, headers=headers)
        self._export = export

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except _BREAKS_OFF as error:
            # The answer has begun: all that can still tell is that the connection ends before it does.
            log.warning("export_broken_off", reason=str(error) or type(error).__name__)
        finally:
            await self._export.close()


Cursor = Annotated[
    str | None,
    Query(max_length=400, description=f"{EXPORT_CURSOR} of an interrupted download, or {NEXT_CURSOR} of a part"),
]
After = Annotated[
    str | None,
    Query(
        max_length=400, description="with cursor: account_id,occurred_at,operation_id of the last row that came whole"
    ),
]
RowsMax = Annotated[
    int | None,
    Query(
        ge=1,
        le=ROWS_MAX,
        description=f"a part, of so many rows at most; {NEXT_CURSOR} is there while there may be more",
    ),
]
#: What the route's document says of its answer.
_HEADERS: Final = {
    EXPORT_CURSOR: "goes on with this download: the same request, with it as cursor, and after",
    NEXT_CURSOR: "goes on with the next part: the same request, with it as cursor",
    EXPORT_AS_OF: "the snapshot: only what was recorded by then is in it",
    ROWS_ESTIMATE: "about how many rows follow; not for tokens that are bound to an account",
}


_RESPONSES: Final[dict[int | str, dict[str, object]]] = {
    200: {
        "description": "The rows",
        "content": {media_type: {} for media_type in MEDIA_TYPES.values()},
        "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()},
    }
}


@router.get("/usage-log", response_class=StreamingResponse, responses=_RESPONSES)
async def export_usage_log(
    request: Request,
    wired: Wired,
    demand: Demanded,
    chosen: Chosen,
    wanted: Annotated[ExportFormat, Query(alias="format")],
    account_id: Name | None = None,
    cursor: Cursor = None,
    after: After = None,
    rows_max: RowsMax = None,
) -> ExportResponse:
    """Finished operations, and adjustments, in the order of account, time and id, as one file of any size.

    It is a snapshot: what is recorded later is not in it, also where the download is resumed. One that broke off
    goes on with its ``Export-Cursor`` and, as ``after``, the last row that came whole; CSV then has no header. A
    Parquet file is whole or worthless: ask for parts by ``rows_max``. A part has fewer rows where the filter leaves
    out some.
    """
    return await _respond(request, wired, demand, USAGE_LOG, wanted, chosen, account_id, cursor, after, rows_max)


class FocusFormat(StrEnum):
    CSV = "csv"
    PARQUET = "parquet"


@router.get("/focus", response_class=StreamingResponse, responses=_RESPONSES)
async def export_focus(
    request: Request,
    wired: Wired,
    demand: Demanded,
    chosen: Chosen,
    wanted: Annotated[FocusFormat, Query(alias="format")] = FocusFormat.PARQUET,
    _: Annotated[Literal["1.2"], Query(alias="version", description="of the specification")] = VERSION,
    account_id: Name | None = None,
    cursor: Cursor = None,
    after: After = None,
    rows_max: RowsMax = None,
) -> ExportResponse:
    """The same as a cost and usage data set of FOCUS, the FinOps Open Cost and Usage Specification.

    One row an entry of the usage log; an account is a sub account, and the ledger the billing account. Of a row here,
    ``after`` is ``SubAccountId``, ``x_OccurredAt`` and ``x_EntryId``.
    """
    format_ = ExportFormat(wanted)
    return await _respond(request, wired, demand, FOCUS, format_, chosen, account_id, cursor, after, rows_max)


async def _respond(
    request: Request,
    wired: Services,
    demand: Demand,
    data_set: DataSet,
    wanted: ExportFormat,
    chosen: UsageLogFilter,
    account_id: str | None,
    cursor: str | None,
    after: str | None,
    rows_max: int | None,
) -> ExportResponse:
    if cursor is not None and demand.as_of is not None:
        raise broken_rule("query.as_of", "cursor", "the cursor has its own snapshot")
    if after is not None and cursor is None:
        raise broken_rule("query.after", "cursor", f"it goes with the {EXPORT_CURSOR} of the download that broke off")
    key = last_row(after) if after is not None else None
    async with reading(wired, demand._replace(as_of=None)) as read:  # an export waits for its own as_of
        told = read.headers
    may_estimate = bound_account(request) is None
    chosen_export = Wanted(data_set, wanted, account_id, chosen, demand.as_of, cursor, key, rows_max, may_estimate)
    export = await wired.exports.start(chosen_export)
    return ExportResponse(export, told, MEDIA_TYPES[wanted], f"{data_set.name}.{wanted}")
