"""Columns of a batch as PostgreSQL array literals."""

from collections.abc import Iterable, Sequence

import orjson


def array_literal(values: Sequence[object]) -> str:
    """Texts, numbers, booleans, UUIDs, times or None as ``{"a","b",null}``; to be cast in SQL: ``$1::text::uuid[]``.

    An array as a parameter of its own would have its elements checked and encoded one by one, in Python's time: that
    was a tenth of a limit check. JSON escapes in strings what an array literal has to escape, in the same way, as long
    as there are no control characters: names have none, and JSON texts none that are not escaped.
    """
    return "{" + orjson.dumps(values)[1:-1].decode() + "}"


def array_literals(rows: Iterable[Sequence[object]]) -> list[str]:
    """The columns of rows, at least one."""
    return [array_literal(column) for column in zip(*rows, strict=True)]
