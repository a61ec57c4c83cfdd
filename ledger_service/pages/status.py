"""The state of the ledger, for whoever is on call: what waits, what is missing, what is overdue, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from contracts.access.principal import Scope
from contracts.web.own_api import Document
from contracts.web.pages import Page, Shown, View, Visit
from contracts.web.rendering import count, duration
from ledger_service.pages.groups import RUNNING

#: Whoever may look at the ledger as a whole.
OVERSEERS: Final = frozenset({Scope.USAGE_READ_ALL, Scope.ADMIN})

Tag = Literal["good", "warn", "bad"]


@dataclass(frozen=True)
class Figure:
    """One line: what it is about, how it stands in one word and in its number, and where to go on."""

    name: str
    tag: Tag
    word: str
    value: str
    meaning: str
    #: Of deploy/runbooks, without ``.md``.
    runbook: str
    page: str = ""


@dataclass(frozen=True)
class _Bound:
    """From where on it is to be looked at (``warn``), and from where on the alert of that name is raised (``bad``)."""

    warn: float
    bad: float


#: Above these; ``bad`` as in the rules of deploy/alerts/ledger.yaml, which a test compares.
BOUNDS: Final = {
    "IngestBehind": _Bound(10, 60),
    "TransactionHorizonStuck": _Bound(60, 600),
    "HoldsOverdue": _Bound(10, 60),
    "SealsBehind": _Bound(60, 600),
    "DeadLettersOpen": _Bound(0, 0),
    "EventsMissing": _Bound(0, 0),
}
_WORDS: Final[dict[Tag, str]] = {"good": "good", "warn": "look at it", "bad": "act"}


async def _show(visit: Visit) -> Shown:
    status = (await visit.api.get("/v1/status")).json
    figures = figures_of(status)
    return View("status.html", {"figures": figures, "overall": overall(figures), "read_at": status["read_at"]})


def overall(figures: Sequence[Figure]) -> Tag:
    """The worst of them."""
    tags = {figure.tag for figure in figures}
    return "bad" if "bad" in tags else "warn" if "warn" in tags else "good"


def figures_of(status: Document) -> list[Figure]:
    """What `GET /v1/status` says, judged."""
    letters, missing = status["dead_letters_open"], status["missing_events"]
    figures = [
        Figure(
            "NATS",
            *(("good", "connected") if status["nats_connected"] else ("bad", "not connected")),
            value="",
            meaning="Events and limit checks come over it; HTTP works without.",
            runbook="LedgerWithoutNats",
        ),
        _judged(
            "Ingest lag",
            "IngestBehind",
            status["ingest_lag_seconds"],
            _with(status["ingest_lag_events"], "events wait"),
            "How long ago all was recorded that the stream had then; about a second at rest.",
        ),
        _judged(
            "Dead letters open",
            "DeadLettersOpen",
            letters,
            "" if letters is None else count(letters),
            "Events that could not be recorded: their usage is not counted.",
            page="/dead-letters",
        ),
        _judged(
            "Events missing",
            "EventsMissing",
            missing,
            "" if missing is None else count(missing),
            "Numbers of producers' journals that did not come, though later ones did.",
            page="/sources",
        ),
        _judged(
            "Holds overdue",
            "HoldsOverdue",
            status["holds_overdue_seconds"],
            _with(status["holds_open"], "holds open"),
            "For how long the oldest open hold should have ended.",
            page="/in-doubt",
        ),
        _judged(
            "Oldest transaction",
            "TransactionHorizonStuck",
            status["transaction_horizon_age_seconds"],
            "",
            "How long a transaction has been open: nothing after it is sealed or shown live.",
        ),
    ]
    return [*figures, _seals(status)]


def _judged(name: str, alert: str, value: float | None, beside: str, meaning: str, page: str = "") -> Figure:
    if value is None:
        return Figure(name, "bad", "unknown", "", f"{meaning} It cannot be read now: is the database up?", alert, page)
    bound = BOUNDS[alert]
    tag: Tag = "bad" if value > bound.bad else "warn" if value > bound.warn else "good"
    shown = beside if isinstance(value, int) else ", ".join(filter(None, (duration(value), beside)))
    return Figure(name, tag, _WORDS[tag], shown, meaning, alert, page)


def _seals(status: Document) -> Figure:
    meaning = "For how long the oldest event has waited for its seal."
    if not status["is_sealed"]:
        off = "LEDGER_SEALS_KEY_FILE is not set: nobody could tell a log that was changed."
        return Figure("Seals", "warn", "off", "", off, "SealsBehind", "/seals")
    if status["seals_diverged"]:
        why = "What was published does not go on in this database: nothing is sealed."
        return Figure("Seals", "bad", "diverged", "", why, "SealsDiverged", "/seals")
    beside = _with(status["seals_lag_events"], "events unsealed")
    return _judged("Seals", "SealsBehind", status["seals_lag_seconds"], beside, meaning, "/seals")


def _with(number: int | None, what: str) -> str:
    return "" if number is None else f"{count(number)} {what}"


PAGE = Page("/status", "State of the ledger", _show, menu="State", group=RUNNING, scopes=OVERSEERS, for_all=True)
