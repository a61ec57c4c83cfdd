"""The tables as they were: a query about now becomes one about a moment of the past.

In a statement, a relation of its WITH clause stands before a table of the same name. So a query is asked about the past
by putting before it what each table that it reads was then: the log as far as it was recorded, and what follows from
that. No query has to be written twice, and none can forget to leave something out; one that reads a table whose past
nobody can tell is refused.
"""

import re
from functools import lru_cache
from typing import Final

from ledger_service.projections import NO_PROJECTIONS, PROJECTIONS, facts
from ledger_service.store.queries import load

_SQL: Final = load(__name__)
_BY_NAME: Final = {one.name: one for one in PROJECTIONS}

#: Relations in an order in which each reads only those before it; as_of is $1. Where a projection follows from what is
#: administrative alone, it is rebuilt from that.
_PAST: Final = {
    "event_log": _SQL["event_log"],
    "events": _SQL["events"],
    "administration": facts.RELATIONS["administration"],
    **{name: _SQL[name] for name in ("usage_log", "usage_summary", "period_closings", "limit_alerts", "accounts")},
    "decisions": _SQL["decisions"],
    **{
        name: _BY_NAME[name].rebuild_sql
        for name in ("limit_overrides", "credit_grants", "resale_prices", "plans", "prices", "webhooks")
    },
}
#: Tables that nothing is known of but how they are now.
PASTLESS: Final = frozenset({*_BY_NAME, *NO_PROJECTIONS} - _PAST.keys())

_COMMENT: Final = re.compile(r"--.*$", re.MULTILINE)
#: Not a type, as in null::counters.
_WORD: Final = re.compile(r"(?<![:\w])[a-z_]+\b")
_PARAMETER: Final = re.compile(r"\$(\d+)")
_WITH: Final = re.compile(r"\s*with\s", re.IGNORECASE)


class NoPastError(Exception):
    """A query reads a table of which only the present is known."""


@lru_cache(maxsize=1000)
def of_the_past(query: str) -> str:
    """The query about what was recorded until a moment, which is its last parameter, after those that it has.

    Raises NoPastError.
    """
    named = _words(query)
    unknown = named & PASTLESS
    if unknown:
        raise NoPastError(f"nobody knows how {', '.join(sorted(unknown))} was")
    moment = f"${max((int(number) for number in _PARAMETER.findall(query)), default=0) + 1}"
    needed: list[str] = []
    for name in reversed(_PAST):
        if name in named:
            needed.insert(0, f"{name} as not materialized ({_PAST[name].replace('$1', moment)})")
            named |= _words(_PAST[name])
    if not needed:
        return query
    written = _COMMENT.sub("", query).strip()
    beginning = "with " + ",\n".join(needed)
    return _WITH.sub(f"{beginning},\n", written, count=1) if _WITH.match(written) else f"{beginning}\n{written}"


def is_timeless(query: str) -> bool:
    """Whether the query reads no table at all."""
    return of_the_past(query) == query


def _words(sql: str) -> set[str]:
    return set(_WORD.findall(_COMMENT.sub("", sql)))
