"""How analytics answers are shown: JSON, CSV and Arrow, all with the same rows."""

import csv
import io
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import orjson

from contracts.exports import ColumnType
from contracts.money import format_nanos
from ledger_service.domain.usage_answers import Amounts, Answer, Row
from ledger_service.domain.usage_queries import Measure
from ledger_service.usage_views import Json

ARROW: Final = "application/vnd.apache.arrow.stream"
GROUP, OTHERS, TOTAL = "group", "others", "total"
#: Programs that open CSV take cells that begin so for formulas.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def json_bytes(answer: Answer) -> bytes:
    return orjson.dumps(_report(answer), option=orjson.OPT_UTC_Z)


def _report(answer: Answer) -> Json:
    query, measures = answer.plan.query, answer.plan.query.measures
    report: Json = {
        "from": query.start,
        "to": query.end,
        "interval": query.interval,
        "time_zone": query.zone.key,
        "group_by": query.group_by,
        "filters": {name: sorted(values) for name, values in query.filters.items()},
        "measures": measures,
        "as_of": query.as_of,
        "served_from": answer.plan.source,
        "served_because": answer.plan.reasons,
        "totals": _amounts(answer.totals, measures),
    }
    if answer.previous is not None:
        earlier = answer.plan.earlier
        totals = _amounts(answer.previous, measures)
        report["previous"] = {"from": earlier[0].start, "to": earlier[-1].end, "totals": totals}
    compares = answer.previous is not None
    if answer.groups is not None:
        report["groups"] = [_row(answer, row, compares) for row in answer.groups]
        compares = False
    report["rows"] = [_row(answer, row, compares) for row in answer.rows]
    return report


def _row(answer: Answer, row: Row, compares: bool) -> Json:
    query = answer.plan.query
    shown: Json = {
        "period": row.bucket.name,
        "start": row.bucket.start,
        "end": row.bucket.end,
        "kind": OTHERS if row.group is None else GROUP,
        "group": {} if row.group is None else dict(zip(query.group_by, row.group, strict=True)),
        **_amounts(row.amounts, query.measures),
    }
    if compares:
        shown["previous"] = None if row.previous is None else _amounts(row.previous, query.measures)
    return shown


def _amounts(amounts: Amounts, measures: tuple[Measure, ...]) -> Json:
    return {measure.value: _shown(measure, amounts.of(measure)) for measure in measures}


def _shown(measure: Measure, amount: int | None) -> int | str | None:
    return format_nanos(amount) if measure is Measure.COST and amount is not None else amount


# --- tables


class _Line(NamedTuple):
    """A row of the table: the last one has the totals."""

    kind: str
    period: str
    start: datetime
    end: datetime
    group: tuple[str | None, ...]
    amounts: Amounts
    previous: Amounts | None


def _lines(answer: Answer) -> Iterator[_Line]:
    query = answer.plan.query
    none = (None,) * len(query.group_by)
    for row in answer.rows:
        kind = OTHERS if row.group is None else GROUP
        yield _Line(kind, *_period(row), row.group or none, row.amounts, row.previous)
    yield _Line(TOTAL, "", query.start, query.end, none, answer.totals, answer.previous)


def _period(row: Row) -> tuple[str, datetime, datetime]:
    return row.bucket.name, row.bucket.start, row.bucket.end


class _Column(NamedTuple):
    name: str
    type: ColumnType
    value: Callable[[_Line], object]


def _columns(answer: Answer) -> list[_Column]:
    query = answer.plan.query
    columns = [
        _Column("kind", ColumnType.TEXT, lambda line: line.kind),
        _Column("period", ColumnType.TEXT, lambda line: line.period),
        _Column("start", ColumnType.MOMENT, lambda line: line.start),
        _Column("end", ColumnType.MOMENT, lambda line: line.end),
    ]
    columns += [_Column(name, ColumnType.TEXT, _group_value(place)) for place, name in enumerate(query.group_by)]
    columns += [_Column(one.value, _type(one), _now(one)) for one in query.measures]
    if answer.previous is not None:
        columns += [_Column(f"previous_{one.value}", _type(one), _before(one)) for one in query.measures]
    return columns


def _type(measure: Measure) -> ColumnType:
    return ColumnType.DECIMAL if measure is Measure.COST else ColumnType.INTEGER


def _group_value(place: int) -> Callable[[_Line], object]:
    return lambda line: line.group[place]


def _now(measure: Measure) -> Callable[[_Line], object]:
    return lambda line: _shown(measure, line.amounts.of(measure))


def _before(measure: Measure) -> Callable[[_Line], object]:
    return lambda line: None if line.previous is None else _shown(measure, line.previous.of(measure))


def csv_bytes(answer: Answer) -> bytes:
    written = io.StringIO(newline="")
    table, columns = csv.writer(written), _columns(answer)
    table.writerow(column.name for column in columns)
    groups = set(answer.plan.query.group_by)
    for line in _lines(answer):
        table.writerow(_cell(column.value(line), column.name in groups) for column in columns)
    return written.getvalue().encode()


def _cell(value: object, is_text: bool) -> object:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if is_text and isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def arrow_stream(answer: Answer) -> bytes:
    """An Arrow IPC stream: money as decimals with nine places, times in UTC; where it was served from in the schema."""
    # Read when first needed: with numpy it takes 50 MiB and a tenth of a second, and most processes need none of it.
    import pyarrow as pa

    from ledger_service.export_parquet import ARROW_TYPES

    columns, lines = _columns(answer), list(_lines(answer))
    arrays = [pa.array([_typed(column, line) for line in lines], ARROW_TYPES[column.type]) for column in columns]
    told = {"served_from": answer.plan.source.value, "served_because": "; ".join(answer.plan.reasons)}
    schema = pa.schema([(column.name, ARROW_TYPES[column.type]) for column in columns], metadata=told)
    written = io.BytesIO()
    with pa.ipc.new_stream(written, schema) as stream:
        stream.write_batch(pa.record_batch(arrays, schema=schema))
    return written.getvalue()


def _typed(column: _Column, line: _Line) -> object:
    value = column.value(line)
    return Decimal(value) if column.type is ColumnType.DECIMAL and isinstance(value, str) else value
