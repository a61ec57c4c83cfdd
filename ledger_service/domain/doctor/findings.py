"""A check is a declaration: a name, a page to read, and a function from the facts to a verdict."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from ledger_service.domain.doctor.facts import Facts, Unknown

Fact = TypeVar("Fact")


class Status(StrEnum):
    """From good to bad. ``skipped``: there is nothing to look at here. ``unknown``: there is, and it cannot be seen."""

    OK = "ok"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Verdict:
    """``found`` and ``expected`` are what a person compares, ``advice`` what that person does next."""

    status: Status
    found: str
    expected: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """``see``: the page of the repository that says more."""

    id: str
    judge: Callable[[Facts], Verdict]
    see: str


@dataclass(frozen=True)
class Finding:
    """A verdict, and which check it is of."""

    id: str
    status: Status
    found: str
    expected: str
    advice: str
    see: str


class UnknownFactError(Exception):
    """A check needs what could not be learnt; its text says why."""


def known(fact: Fact | Unknown) -> Fact:
    """Raises UnknownFactError, which ends a check as ``unknown``."""
    if isinstance(fact, Unknown):
        raise UnknownFactError(fact.why)
    return fact


def ok(found: str, expected: str = "") -> Verdict:
    return Verdict(Status.OK, found, expected)


def skipped(why: str, advice: str = "") -> Verdict:
    return Verdict(Status.SKIPPED, why, advice=advice)


def unknown(why: str, advice: str = "") -> Verdict:
    return Verdict(Status.UNKNOWN, why, advice=advice)


def warning(found: str, expected: str, advice: str) -> Verdict:
    return Verdict(Status.WARNING, found, expected, advice)


def failure(found: str, expected: str, advice: str) -> Verdict:
    return Verdict(Status.FAILURE, found, expected, advice)


def graded(value: float, *, warns: float, fails: float, found: str, expected: str, advice: str) -> Verdict:
    """By how much it is of something that ought to be little: above ``fails`` a failure, above ``warns`` a warning."""
    if value > fails:
        return failure(found, expected, advice)
    return warning(found, expected, advice) if value > warns else ok(found)


def examine(checks: Iterable[Check], facts: Facts, accepted: Collection[str] = ()) -> list[Finding]:
    """What every check finds; those that are accepted as they are, by id, are only named."""
    return [_finding(check, facts, check.id in accepted) for check in checks]


def worst(findings: Iterable[Finding]) -> Status:
    """Of all: ``skipped`` counts for nothing."""
    order = list(Status)
    return max((one.status for one in findings), key=order.index, default=Status.OK)


def _finding(check: Check, facts: Facts, is_accepted: bool) -> Finding:
    try:
        verdict = check.judge(facts)
    except UnknownFactError as error:
        verdict = unknown(str(error))
    if is_accepted and verdict.status is not Status.OK:
        verdict = skipped(f"accepted, though {verdict.status}: {verdict.found}")
    return Finding(check.id, verdict.status, verdict.found, verdict.expected, verdict.advice, check.see)
