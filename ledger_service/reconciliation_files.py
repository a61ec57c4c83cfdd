"""What a reconciliation leaves behind: findings as CSV and JSON lines, a summary, adjustments. A file is whole or not
there."""

import csv
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from contracts.adjustments import Adjustment
from contracts.money import format_nanos
from ledger_service.domain.reconciliation import Charge, Item, Line
from ledger_service.domain.reconciliation_proposals import TooLarge
from ledger_service.domain.reconciliation_report import Tally
from ledger_service.reconciling import Reconciliation, Sink

FINDINGS_CSV: Final = "findings.csv"
FINDINGS_JSON: Final = "findings.jsonl"
SUMMARY: Final = "summary.json"

_COLUMNS: Final = (
    "status", "how", "model", "at", "theirs", "ours", "difference", "line_count", "charge_count", "lines", "job_ids",
    "quantity", "account_id", "operation_id", "adjustment_id", "operation", "our_job_ids",
)  # fmt: skip
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: What a spreadsheet takes for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def moment_of(microseconds: int) -> str:
    """RFC 3339, in UTC."""
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")


def finding(item: Item, names: Sequence[str]) -> dict[str, object]:
    """As JSON has it. ``names``: of the files."""
    return {
        "status": item.status.value,
        "how": None if item.how is None else item.how.value,
        "model": item.model,
        "at": moment_of(item.at),
        "theirs": format_nanos(item.theirs),
        "ours": format_nanos(item.ours),
        "difference": format_nanos(item.difference),
        "line_count": item.line_count,
        "charge_count": item.charge_count,
        "lines": [_line(line, names) for line in item.lines],
        "charge": None if item.charge is None else _charge(item.charge),
    }


def _line(line: Line, names: Sequence[str]) -> dict[str, object]:
    return {
        "file": names[line.file],
        "line": line.number,
        "job_id": line.job_id,
        "at": moment_of(line.at),
        "model": line.model,
        "quantity": line.quantity,
        "amount": format_nanos(line.amount),
    }


def _charge(charge: Charge) -> dict[str, object]:
    return {
        "account_id": charge.account_id,
        "operation_id": None if charge.is_adjustment else str(charge.entry_id),
        "adjustment_id": str(charge.entry_id) if charge.is_adjustment else None,
        "operation": charge.operation,
        "job_ids": charge.job_ids,
        "at": moment_of(charge.at),
        "amount": format_nanos(charge.amount),
        "corrections": charge.corrections,
        "in_doubt": charge.in_doubt,
    }


def summary(done: Reconciliation) -> dict[str, object]:
    """Totals by status and model, of which each adds up to the whole. ``archived_before``: operations that began before
    that month could not be looked at. ``outside``: lines of other times than what was asked for, in no total.
    ``of_other_times``: operations of other times that have lines in it, in the totals."""
    report = done.report
    return {
        "provider": done.provider,
        "from": done.start.isoformat().replace("+00:00", "Z"),
        "to": done.end.isoformat().replace("+00:00", "Z"),
        "files": [
            {"file": file.name, "sha256": file.digest, "rows": file.rows, "skipped": file.skipped,
             "rounded": file.rounded}
            for file in done.files
        ],
        "archived_before": None if done.archived_before is None else f"{done.archived_before:%Y-%m}",
        "outside": {"lines": done.outside.lines, "theirs": format_nanos(done.outside.theirs)},
        "of_other_times": {
            "charges": done.of_other_times.charges, "ours": format_nanos(done.of_other_times.ours)
        },
        "agrees": report.agrees,
        "total": _tally(report.total),
        "by_status": {status.value: _tally(one) for status, one in report.by_status.items() if one.findings},
        "by_model": {model: _tally(one) for model, one in report.models()},
    }  # fmt: skip


def _tally(tally: Tally) -> dict[str, object]:
    return {
        "findings": tally.findings,
        "lines": tally.lines,
        "charges": tally.charges,
        "theirs": format_nanos(tally.theirs),
        "ours": format_nanos(tally.ours),
        "difference": format_nanos(tally.difference),
        "percent": tally.percent,
    }


class _Unfinished:
    """A file that takes its name once it is whole, over one that had it; until then it has another."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self.file = self._unfinished.open("w", encoding="utf-8", newline="")

    def keep(self) -> None:
        self.file.close()
        self._unfinished.replace(self._path)

    def drop(self) -> None:
        """Does nothing to one that is kept."""
        self.file.close()
        self._unfinished.unlink(missing_ok=True)


class Export:
    """Findings as they come; `finish` makes the files appear, all of them."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._names = names
        self._summary = _Unfinished(folder / SUMMARY)
        self._findings = _Unfinished(folder / FINDINGS_JSON)
        self._table = _Unfinished(folder / FINDINGS_CSV)
        self._csv = csv.writer(self._table.file, lineterminator="\n")
        self._csv.writerow(_COLUMNS)

    def add(self, item: Item) -> None:
        self._csv.writerow(_row(item, self._names))
        self._findings.file.write(_json(finding(item, self._names)))

    def finish(self, done: Reconciliation) -> None:
        self._summary.file.write(_json(summary(done)))
        for file in (self._table, self._findings, self._summary):
            file.keep()

    def give_up(self) -> None:
        """Leaves nothing behind of what is not finished."""
        for file in (self._table, self._findings, self._summary):
            file.drop()


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE).decode()


def both(*sinks: Sink | None) -> Sink:
    """One after the other."""
    some = [sink for sink in sinks if sink is not None]

    def every(item: Item) -> None:
        for sink in some:
            sink(item)

    return every


class Proposed(NamedTuple):
    """``adjustments``: how many were written. ``not_kept``: further findings, of which nothing is proposed."""

    adjustments: int
    too_large: Sequence[TooLarge]
    not_kept: int


def write_adjustments(path: Path, proposals: Iterator[Adjustment | TooLarge], not_kept: int) -> Proposed:
    """One a line, as POST /v1/adjustments and `ledger adjust-all` take them, without those that are too large."""
    count, too_large, written = 0, list[TooLarge](), _Unfinished(path)
    try:
        for one in proposals:
            if isinstance(one, TooLarge):
                too_large.append(one)
                continue
            written.file.write(one.model_dump_json(exclude_none=True) + "\n")
            count += 1
        written.keep()
    finally:
        written.drop()
    return Proposed(count, too_large, not_kept)


def proposed_view(proposed: Proposed) -> dict[str, object]:
    """As JSON has it."""
    return {
        "adjustments": proposed.adjustments,
        "too_large": [{**one._asdict(), "cost": format_nanos(one.cost)} for one in proposed.too_large],
        "not_kept": proposed.not_kept,
    }


def _row(item: Item, names: Sequence[str]) -> list[str | int]:
    charge = item.charge
    entry = "" if charge is None else str(charge.entry_id)
    adjusts = charge is not None and charge.is_adjustment
    return [
        item.status.value,
        "" if item.how is None else item.how.value,
        _text(item.model),
        moment_of(item.at),
        format_nanos(item.theirs),
        format_nanos(item.ours),
        format_nanos(item.difference),
        item.line_count,
        item.charge_count,
        _text("; ".join(f"{names[line.file]}:{line.number}" for line in item.lines)),
        _text("; ".join(line.job_id or "" for line in item.lines)),
        _text("; ".join(line.quantity for line in item.lines)),
        "" if charge is None else charge.account_id,
        "" if adjusts else entry,
        entry if adjusts else "",
        "" if charge is None else charge.operation,
        "" if charge is None else _text("; ".join(charge.job_ids)),
    ]


def _text(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
