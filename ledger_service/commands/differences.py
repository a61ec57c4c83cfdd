"""Differences between projections and the log, for people and for machines."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from rich.table import Table

from ledger_service.rebuilding import kind_of
from ledger_service.store.pool import Connection
from ledger_service.store.tables import Table as StoredTable
from ledger_service.verification import Difference, described

VALUE_WIDTH_MAX: Final = 60
Json = dict[str, Any]  # rows of any table, as the database writes them


@dataclass(frozen=True)
class Described:
    """A difference in words. ``columns``: name, live value, value that the log says; one row or more where both rows
    are there, else all columns that say something."""

    projection: str
    kind: str
    key: Json
    columns: list[tuple[str, object, object]]

    def to_json(self) -> Json:
        columns = [{"column": name, "live": live, "recomputed": wanted} for name, live, wanted in self.columns]
        return {"projection": self.projection, "kind": self.kind, "key": self.key, "columns": columns}


async def describe(
    connection: Connection, tables: dict[str, StoredTable], differences: Iterable[Difference]
) -> list[Described]:
    """Differences in words, in the order of their projections."""
    by_projection: dict[str, list[Difference]] = {}
    for one in differences:
        by_projection.setdefault(one.projection, []).append(one)
    found = []
    for name, some in by_projection.items():
        rows = await described(connection, tables[name], some)
        found += [_in_words(one, tables[name], *row) for one, row in zip(some, rows, strict=True)]
    return found


def _in_words(difference: Difference, table: StoredTable, live_row: str | None, wanted_row: str | None) -> Described:
    live: Json = orjson.loads(live_row) if live_row and difference.live is not None else {}
    wanted: Json = orjson.loads(wanted_row) if wanted_row and difference.wanted is not None else {}
    key_columns = [column.strip('"') for column in table.key]
    there = live or wanted
    names = difference.columns or [name for name in there if name not in key_columns and there[name] is not None]
    return Described(
        difference.projection,
        kind_of(difference),
        {name: there[name] for name in key_columns},
        [(name, live.get(name), wanted.get(name)) for name in names],
    )


def difference_table(found: Iterable[Described]) -> Table:
    """One line a column that differs; a row that is missing or invented is one line."""
    table = Table("projection", "row", "column", "live", "the log says")
    for one in found:
        key = " ".join(str(value) for value in one.key.values())
        if one.kind == "changed":
            for number, (name, live, wanted) in enumerate(one.columns):
                first = (one.projection, key) if number == 0 else ("", "")
                table.add_row(*first, name, _shown(live), _shown(wanted))
        else:
            values = _shown({name: live if wanted is None else wanted for name, live, wanted in one.columns})
            shown = ("no such row", values) if one.kind == "missing" else (values, "no such row")
            table.add_row(one.projection, key, "(all)", *shown)
    return table


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= VALUE_WIDTH_MAX else f"{text[: VALUE_WIDTH_MAX - 1]}…"
