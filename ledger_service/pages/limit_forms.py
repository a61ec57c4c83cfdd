"""Limits as fields of a form, and back: what was typed is what is sent, and the API says what is wrong with it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

from contracts.limits import Meter, Mode, Scope, Window
from contracts.problems import Problem
from contracts.web.own_api import Document

#: Of one limit, in the order of the form.
TEXTS: Final = (
    "limit_id",
    "meter",
    "scope",
    "window",
    "maximum",
    "mode",
    "operation",
    "provider",
    "model",
    "thresholds",
)
_SELECTORS: Final = ("operation", "provider", "model")
_IN_LIMITS: Final = re.compile(r"limits\[(\d+)\](?:\.selector)?\.?(\w*)")
#: What can be chosen, and in which words.
CHOICES: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "meter": [(Meter.CALLS, "operations"), (Meter.UNITS, "units"), (Meter.COST, "dollars")],
    "scope": [
        (Scope.ACCOUNT, "the account"),
        (Scope.USER, "each user"),
        (Scope.PROJECT, "each project"),
        (Scope.API_KEY, "each API key"),
    ],
    "window": [
        (Window.MINUTE, "minute"),
        (Window.HOUR, "hour"),
        (Window.DAY, "day"),
        (Window.MONTH, "month"),
        (Window.BILLING_PERIOD, "billing period"),
        (Window.LIFETIME, "for ever"),
    ],
    "mode": [(Mode.HARD, "deny"), (Mode.SOFT, "only warn")],
}
Fields = dict[str, str]
EMPTY: Final[Fields] = {
    **dict.fromkeys(TEXTS, ""),
    "meter": Meter.CALLS,
    "scope": Scope.ACCOUNT,
    "window": Window.MONTH,
    "mode": Mode.HARD,
    "credit": "",
}


def fields_of(limit: Document) -> Fields:
    """A limit of the API's as it stands in the form."""
    fields = {name: str(limit[name]) for name in ("limit_id", "meter", "scope", "window", "mode")}
    fields["maximum"] = amount_text(limit["maximum"])
    fields |= {name: ", ".join(limit["selector"][name]) for name in _SELECTORS}
    return {
        **fields,
        "thresholds": ", ".join(str(percent) for percent in limit["thresholds"]),
        "credit": "yes" if limit["credit"] else "",
    }


def amount_text(amount: int | str) -> str:
    """``"400.000000000"`` → ``400.00``: no digits that say nothing."""
    if isinstance(amount, int):
        return str(amount)
    value = Decimal(amount)
    return f"{value:.2f}" if value == round(value, 2) else f"{value.normalize():f}"


def read_rows(form: Mapping[str, Sequence[str]]) -> list[Fields]:
    """The limits of a sent form, in their order: fields are called ``limit-0-maximum``."""
    numbers = sorted({int(name.split("-")[1]) for name in form if re.fullmatch(r"limit-\d{1,4}-\w+", name)})
    return [
        {name: (form.get(f"limit-{number}-{name}") or [""])[-1].strip() for name in (*TEXTS, "credit")}
        for number in numbers
    ]


def limit_of(fields: Fields) -> Document:
    """As the API takes it. What is no number stays text, for the API to say so."""
    limit: Document = {name: fields[name] for name in ("limit_id", "meter", "scope", "window", "mode")}
    return {
        **limit,
        "maximum": amount_of(fields["meter"], fields["maximum"]),
        "selector": {name: listed(fields[name]) for name in _SELECTORS},
        "thresholds": [whole(text) for text in listed(fields["thresholds"].replace("%", ""))],
        "credit": bool(fields["credit"]),
    }


def amount_of(meter: str, text: str) -> int | str:
    """An amount as it is typed: with or without a dollar sign, and commas between thousands."""
    plain = text.replace(",", "").removeprefix("$").strip()
    return plain if meter == Meter.COST else whole(plain)


def listed(text: str) -> list[str]:
    """``"generate, edit"`` → both of them."""
    return [part for part in re.split(r"[,\s]+", text) if part]


def whole(text: str) -> int | str:
    """A number as JSON has it. What is none stays text, for the API to say so; so does one that is too long."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text


def wrong_fields(problem: Problem | None) -> set[str]:
    """Ids of the form's fields that the problem names: ``limit-0-maximum``, ``name``."""
    if problem is None:
        return set()
    return set(_ids(error.field or "" for error in problem.errors))


def _ids(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        if found := _IN_LIMITS.search(name):
            yield f"limit-{found[1]}-{found[2] or 'limit_id'}"
        else:
            yield name.rpartition(".")[2].partition("[")[0]
