"""All files at once: opened, looked through for what cannot be taken, and read user by user."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from pydantic import ValidationError

from contracts.problems import Problem, field_errors
from ledger_service.alwrity.files import FileRefusedError, find_files, take_snapshot
from ledger_service.alwrity.tables import Source, open_source
from ledger_service.domain.alwrity.standing import (
    ALERTS,
    RENEWALS,
    SUMMARIES,
    Renewal,
    Summary,
    read_renewal,
    read_summary,
)
from ledger_service.domain.alwrity.terms import (
    PLANS,
    PRICING,
    SUBSCRIPTIONS,
    FoundAccount,
    FoundPlan,
    FoundPrice,
    read_plan,
    read_price,
    read_subscription,
)
from ledger_service.domain.alwrity.usage import TABLE, Usage, account_of, read_usage
from ledger_service.domain.alwrity.values import BadValueError, Row
from ledger_service.domain.batches import Submission
from ledger_service.intake import read_event

#: Broken rows that are named; the others are counted.
BROKEN_SHOWN_MAX: Final = 100

Read = TypeVar("Read")
#: Called with what was done of how much, and what it is.
Progress = Callable[[str, int, int], None]


class Broken(NamedTuple):
    """A file, or a value in it, that cannot be taken. Of a file, ``table``, ``row`` and ``column`` are empty."""

    path: Path
    table: str
    row: str
    column: str
    rule: str
    message: str


class ImportRefusedError(Exception):
    """Nothing was written, because of these; ``count`` of them in all."""

    def __init__(self, broken: Sequence[Broken], count: int) -> None:
        super().__init__(f"{count} problem{'s' if count != 1 else ''}; nothing was imported")
        self.broken, self.count = broken, count


class Taken(NamedTuple):
    """A row as it goes into the ledger, and the file that it was read from."""

    usage: Usage
    submission: Submission
    source: int


@dataclass(frozen=True)
class Plans:
    """Of one file: its plans by their row, and which is the free one."""

    by_row: dict[int, FoundPlan]

    @property
    def free(self) -> FoundPlan | None:
        return next((one for one in self.by_row.values() if one.tier == "free"), None)


@dataclass
class Material:
    """What the files hold besides log rows, all of it read, and how many log rows there are."""

    sources: list[Source]
    plans: list[Plans] = field(default_factory=list)
    accounts: list[tuple[int, FoundAccount]] = field(default_factory=list)
    prices: list[FoundPrice] = field(default_factory=list)
    summaries: dict[tuple[str, str], Summary] = field(default_factory=dict)
    renewals: list[Renewal] = field(default_factory=list)
    alerts: Counter[str] = field(default_factory=Counter)
    users: set[str] = field(default_factory=set)
    notices: list[str] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    broken_count: int = 0
    broken_rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Of users whose rows were wrapped: which files have a row, one bit each, and their aggregated rows.
    places: dict[UUID, int] = field(default_factory=dict)
    aggregated: dict[str, dict[UUID, Usage]] = field(default_factory=dict)
    rows: int = 0


def _place(found: Material, usage: Usage, source: int) -> None:
    found.places[usage.event_id] = found.places.get(usage.event_id, 0) | 1 << source
    if usage.is_aggregated:
        found.aggregated.setdefault(usage.user_id, {})[usage.event_id] = usage


class Reader:
    """Reads files into ``folder``'s copies and from there."""

    def __init__(self, folder: Path, prefix: str, now: datetime, progress: Progress) -> None:
        self._folder, self._prefix, self._now, self._progress = folder, prefix, now, progress

    def open_all(self, paths: Sequence[Path]) -> list[Source]:
        """Raises ImportRefusedError where any of the paths is no file of ALwrity's, or cannot be read."""
        given = {path.resolve() for path in paths if path.is_file()}
        files, refused = find_files(paths)
        sources: list[Source] = []
        self._skipped: list[str] = []
        for number, path in enumerate(files):
            self._progress("copying", number, len(files))
            try:
                source = open_source(path, take_snapshot(path, self._folder, number))
                if source is not None:
                    sources.append(source)
                elif path.resolve() in given:
                    refused.append(FileRefusedError(path, "foreign", "has none of ALwrity's subscription tables"))
                else:
                    self._skipped.append(f"{path} has none of ALwrity's subscription tables, and was skipped")
            except FileRefusedError as error:
                refused.append(error)
        if not sources and not refused:
            refused.append(FileRefusedError(paths[0], "foreign", "nothing here has ALwrity's subscription tables"))
        if refused:
            raise ImportRefusedError(
                [Broken(one.path, "", "", "", one.rule, one.message) for one in refused], len(refused)
            )
        return sources

    def look_through(self, sources: list[Source], *, skip_broken: bool) -> Material:
        """Reads everything once, log rows included.

        Raises ImportRefusedError where a row is broken, unless those are to be left out.
        """
        found = Material(sources, notices=[*self._skipped])
        total = sum(source.count(TABLE) for source in sources)
        wrapped = set[str]().union(*(source.wrapped_users() for source in sources))
        for number, source in enumerate(sources):
            found.notices += [f"{source.path} {notice}" for notice in source.notices]
            self._read_small_tables(found, number, source)
            for row in source.rows(TABLE):
                found.rows += 1
                if found.rows % 1000 == 0:
                    self._progress("checking", found.rows, total)
                usage = self._tried(found, source, TABLE, row, self._taken_of(number))
                if usage is not None:
                    found.users.add(usage.usage.user_id)
                    if usage.usage.user_id in wrapped:
                        _place(found, usage.usage, number)
        if found.broken_count and not skip_broken:
            raise ImportRefusedError(found.broken, found.broken_count)
        return found

    def _read_small_tables(self, found: Material, number: int, source: Source) -> None:
        by_row: dict[int, FoundPlan] = {}
        for plan in self._all(found, source, PLANS, lambda row: read_plan(row, "")):
            by_row[plan.row_id] = plan
        found.plans.append(Plans(by_row))
        found.accounts += [(number, one) for one in self._all(found, source, SUBSCRIPTIONS, self._subscription)]
        found.prices += [
            one for one in self._all(found, source, PRICING, lambda row: read_price(row, self._now)) if one is not None
        ]
        for summary in self._all(found, source, SUMMARIES, self._summary):
            other = found.summaries.get(summary.key)
            if other is not None and other[2:5] != summary[2:5]:
                found.notices.append(
                    f"{source.path}: another file has another summary of {summary.user_id} in {summary.period}; the "
                    "one with more calls is taken"
                )
            if other is None or summary[2:4] > other[2:4]:
                found.summaries[summary.key] = summary
            found.users.add(summary.user_id)
        found.renewals += self._all(found, source, RENEWALS, read_renewal)
        found.alerts.update(self._all(found, source, ALERTS, lambda row: f"{row.get('alert_type') or 'alert'}"))

    def _subscription(self, row: Row) -> FoundAccount:
        account_of(str(row.get("user_id") or ""), self._prefix)
        return read_subscription(row)

    def _summary(self, row: Row) -> Summary:
        account_of(str(row.get("user_id") or ""), self._prefix)
        return read_summary(row)

    def _all(self, found: Material, source: Source, table: str, read: Callable[[Row], Read]) -> list[Read]:
        tried = (self._tried(found, source, table, row, read) for row in source.rows(table))
        return [one for one in tried if one is not None]

    def _tried(self, found: Material, source: Source, table: str, row: Row, read: Callable[[Row], Read]) -> Read | None:
        try:
            return read(row)
        except BadValueError as error:
            why = error.column, error.rule, error.message
        except ValidationError as error:
            first = field_errors(error, at_most=1)[0]
            why = first.field, first.rule, first.message
        broken = Broken(source.path, table, str(row.get("id", "")), *why)
        found.broken_count += 1
        if len(found.broken) < BROKEN_SHOWN_MAX:
            found.broken.append(broken)
        if table == TABLE:
            found.broken_rows[str(row.get("user_id")), str(row.get("billing_period"))] += 1
        return None

    def _taken_of(self, source: int) -> Callable[[Row], Taken]:
        def taken(row: Row) -> Taken:
            usage = read_usage(row, self._prefix, self._now)
            read = read_event(usage.body, "alwrity")
            if isinstance(read, Problem):
                # What the ledger's own validation refuses, in its words; the fields are those of the event.
                first = read.errors[0] if read.errors else None
                raise BadValueError(first.field if first else "", first.rule if first else read.code, read.detail)
            return Taken(usage, read, source)

        return taken

    def rows(self, sources: Sequence[Source]) -> Iterator[Taken]:
        """The sound log rows of all files, user by user. To be called after ``look_through``."""
        found = Material([])
        streams = []
        for number, source in enumerate(sources):
            taken = self._taken_of(number)
            rows = source.rows(TABLE, ("cast(user_id as text)", "timestamp", "id"))
            streams.append(self._sound(found, source, rows, taken))
        return heapq.merge(*streams, key=lambda one: one.usage.user_id.encode())

    def _sound(
        self, found: Material, source: Source, rows: Iterator[Row], taken: Callable[[Row], Taken]
    ) -> Iterator[Taken]:
        for row in rows:
            one = self._tried(found, source, TABLE, row, taken)
            if one is not None:
                yield one
