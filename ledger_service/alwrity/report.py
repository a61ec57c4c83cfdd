"""What an import did, or would do: per user and period theirs and ours, and why they differ."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from contracts.money import format_nanos
from ledger_service.domain.alwrity.standing import Figures, Period


@dataclass
class TermsReport:
    """Plans, accounts and prices: ``done`` counts them by what became of them, ``lines`` say what was left alone."""

    plans: Counter[str] = field(default_factory=Counter)
    accounts: Counter[str] = field(default_factory=Counter)
    prices: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Log rows by what became of them: ``repeated`` ones stand in more than one of the files, ``wrapped`` ones are in
    an aggregated row that is counted already."""

    dry_run: bool
    files: list[str]
    rows: int = 0
    new: int = 0
    known: int = 0
    repeated: int = 0
    wrapped: int = 0
    conflicts: int = 0
    refused: int = 0
    broken: int = 0
    periods: list[Period] = field(default_factory=list)
    terms: TermsReport = field(default_factory=TermsReport)
    adjustments: int = 0
    alerts: Counter[str] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)
    conflict_lines: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "dry_run": self.dry_run,
            "files": self.files,
            "rows": {
                "read": self.rows,
                "new": self.new,
                "known": self.known,
                "repeated": self.repeated,
                "wrapped": self.wrapped,
                "conflicts": self.conflicts,
                "refused": self.refused,
                "broken": self.broken,
            },
            "adjustments": self.adjustments,
            "periods": [_period(one) for one in self.periods],
            "plans": dict(self.terms.plans),
            "accounts": dict(self.terms.accounts),
            "prices": dict(self.terms.prices),
            "alerts": dict(self.alerts),
            "conflicts": self.conflict_lines,
            "left_alone": self.terms.lines,
            "notices": self.notices,
        }


def _period(one: Period) -> dict[str, Any]:  # Any: JSON
    summary = one.summary
    return {
        "user_id": one.user_id,
        "account_id": one.account_id,
        "period": one.period,
        "theirs": {
            "summary": None
            if summary is None
            else {"calls": summary.calls, "cost": format_nanos(summary.cost_nanos), "tokens": summary.tokens},
            "log": _figures(one.log),
        },
        "ours": {
            **_figures(one.ours),
            "opening_balance": {"calls": one.opened.calls, "cost": format_nanos(one.opened.cost_nanos)},
        },
        "ledger_month": {
            "calls": one.ledger.calls,
            "failures": one.ledger.failures,
            "cost": format_nanos(one.ledger.cost_nanos),
        },
        "rows": {"new": one.new.rows, "known": one.known.rows, "conflicts": one.conflicts.rows, "broken": one.broken},
        "difference": {
            "calls": one.ours.calls - (summary.calls if summary else one.log.calls),
            "cost": format_nanos(one.ours.cost_nanos - (summary.cost_nanos if summary else one.log.cost_nanos)),
        },
        "reasons": [
            {"code": why.code, "calls": why.calls, "cost": format_nanos(why.cost_nanos), "text": why.text}
            for why in one.reasons()
        ],
        "remarks": one.remarks(),
    }


def _figures(figures: Figures) -> dict[str, Any]:  # Any: JSON
    return {
        "rows": figures.rows,
        "calls": figures.calls,
        "failures": figures.failures,
        "cost": format_nanos(figures.cost_nanos),
        "tokens": figures.tokens,
    }
