"""Tables as the database describes them, and the statements that replace single rows of any of them.

These statements are the only SQL that is put together: every projection is compared and replaced alike, by each of its
columns, those of later migrations too.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


@dataclass(frozen=True)
class Table:
    """Names are as SQL writes them. ``columns``: name → type, in the table's order; ``key``: the primary key's."""

    name: str
    columns: dict[str, str]
    key: tuple[str, ...]

    def compared(self, column: str, left: str, right: str, json_by_meaning: Collection[str] = ()) -> str:
        """SQL: whether two values of the column differ. JSON as text, unless its meaning counts."""
        cast = ""
        if self.columns[column] == "json":
            cast = "::jsonb" if column.strip('"') in json_by_meaning else "::text"
        return f"{left}.{column}{cast} is distinct from {right}.{column}{cast}"

    def row_text(self, alias: str, without: Collection[str] = ()) -> str:
        """SQL: the row as text, which casts back to the table's type."""
        values = ", ".join("null" if column in without else f"{alias}.{column}" for column in self.columns)
        return f"row({values})::{self.name}::text"

    def select(self, condition: str, as_text: Collection[str] = ()) -> str:
        """SQL: rows by each of their columns, in the order of the key; columns of the types ``as_text`` are text."""
        columns = (f"{name}::text" if kind in as_text else name for name, kind in self.columns.items())
        return f"select {', '.join(columns)} from {self.name} where {condition} order by {', '.join(self.key)}"

    def same_key(self, left: str, right: str) -> str:
        return " and ".join(f"{left}.{column} = {right}.{column}" for column in self.key)


async def read_tables(connection: "Connection", names: Iterable[str]) -> dict[str, Table]:
    """The tables by name. Raises LookupError where there is one that is not there or has no primary key."""
    wanted = list(names)
    rows = await connection.fetch(SQL["columns"], wanted)
    found = {}
    for name in wanted:
        mine = [row for row in rows if row["table"] == name]
        key = sorted((row["key_place"], row["column"]) for row in mine if row["key_place"] >= 0)
        if not key:
            raise LookupError(f"there is no table {name} with a primary key")
        found[name] = Table(name, {row["column"]: row["type"] for row in mine}, tuple(column for _, column in key))
    return found


@dataclass(frozen=True)
class Replacement:
    """Statements that bring rows to what they should be; ``live`` and ``wanted`` are arrays of rows as text.

    A row that has changed since it was read as ``live`` is left alone, for whoever looks again. Only columns in
    ``sums`` follow what was added to them meanwhile: what they were short of is added, what was too much taken off.
    """

    #: ($1 live, $2 wanted), both there.
    update: str
    #: ($1 wanted) where there was none.
    insert: str
    #: ($1 live) that should not be there.
    delete: str
    #: ($1 live), after delete: what is left of those had something added.
    take_off: str | None


def replacement(table: Table, sums: Sequence[str], untold: Collection[str]) -> Replacement:
    """How rows of a table are replaced. ``untold`` columns keep what they have, or get their default."""
    name = table.name
    told = [column for column in table.columns if column not in untold]
    others = [column for column in told if column not in table.key and column not in sums]
    changes = [
        f"{column} = case when {table.compared(column, '(d.l)', '(d.r)')} then (d.r).{column} else t.{column} end"
        for column in others
    ] + [f"{column} = t.{column} - (d.l).{column} + (d.r).{column}" for column in sums]
    unchanged = "" if sums else " and t::text = d.row_text"
    conflict = "do nothing"
    if sums:
        conflict = "do update set " + ", ".join(f"{column} = t.{column} + excluded.{column}" for column in sums)
    still = " and ".join(f"t.{column} = (d.l).{column}" for column in sums) or "t::text = d.row_text"
    rows = f"select u.live::{name} as l, u.live as row_text from unnest($1::text[]) as u (live)"
    return Replacement(
        update=(
            f"with d as (select u.live::{name} as l, u.wanted::{name} as r, u.live as row_text "
            "from unnest($1::text[], $2::text[]) as u (live, wanted)) "
            f"update {name} t set {', '.join(changes)} from d where {table.same_key('t', '(d.l)')}{unchanged}"
        ),
        insert=(
            f"insert into {name} as t ({', '.join(told)}) "
            f"select {', '.join(f'(d.r).{column}' for column in told)} "
            f"from (select u.wanted::{name} as r from unnest($1::text[]) as u (wanted)) d "
            f"on conflict ({', '.join(table.key)}) {conflict}"
        ),
        delete=f"with d as ({rows}) delete from {name} t using d where {table.same_key('t', '(d.l)')} and {still}",
        take_off=(
            f"with d as ({rows}) update {name} t "
            f"set {', '.join(f'{column} = t.{column} - (d.l).{column}' for column in sums)} "
            f"from d where {table.same_key('t', '(d.l)')}"
            if sums
            else None
        ),
    )
