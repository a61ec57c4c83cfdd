"""From an operation's parameters, as their JSON Schema, to the fields of a form and back. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from contracts.web.own_api import Document

#: Chosen by fields of their own.
_APART: Final = frozenset({"provider", "model"})
#: Texts that are longer than that are written in several lines.
_LINE_MAX: Final = 200
#: That is written as JSON; NaN is no number to it at all.
_LARGEST: Final = 2**63 - 1
#: What stands in a required field at first.
_EXAMPLES: Final[Mapping[str, str]] = {"width": "512", "height": "512"}

Kind = Literal["text", "lines", "number", "choice"]


@dataclass(frozen=True)
class FormField:
    """One parameter. ``initial``: what stands in it at first; ``choices``: what it may be, of a choice."""

    name: str
    label: str
    kind: Kind
    required: bool
    hint: str
    initial: str = ""
    choices: Sequence[str] = ()
    minimum: str = ""
    maximum: str = ""
    step: str = ""


def fields_of(schema: Document) -> list[FormField]:
    """The parameters' fields, required ones first."""
    required = frozenset(schema.get("required", ()))
    fields = [
        _field(name, described, name in required)
        for name, described in schema["properties"].items()
        if name not in _APART
    ]
    return sorted(fields, key=lambda one: not one.required)


def _field(name: str, described: Document, required: bool) -> FormField:
    [shape, *_] = [one for one in described.get("anyOf", [described]) if one.get("type") != "null"]
    default = described.get("default")
    initial = _EXAMPLES.get(name, "") if required else "" if default is None else str(default)
    kind: Kind = "text"
    if "enum" in shape:
        kind = "choice"
    elif shape.get("type") in ("integer", "number"):
        kind = "number"
    elif shape.get("maxLength", 0) > _LINE_MAX:
        kind = "lines"
    return FormField(
        name=name,
        label=name.replace("_", " ").capitalize(),
        kind=kind,
        required=required,
        hint=described.get("description") or shape.get("description") or "",
        initial=initial,
        choices=[str(choice) for choice in shape.get("enum", ())],
        minimum=_text(shape.get("minimum")),
        maximum=_text(shape.get("maximum")),
        step={"integer": "1", "number": "any"}.get(shape.get("type", ""), ""),
    )


def _text(number: int | float | None) -> str:
    return "" if number is None else f"{number:.12g}"


def typed(schema: Document, given: Mapping[str, str]) -> dict[str, str | int | float]:
    """What was typed, as the JSON of the API has it: numbers as such, where they are some. What is none stays the text
    that it is, for the API to say so."""
    found: dict[str, str | int | float] = {}
    for name, text in given.items():
        described = schema["properties"].get(name, {})
        types = {one.get("type") for one in described.get("anyOf", [described])}
        found[name] = _number(text, types) if types & {"integer", "number"} else text
    return found


def _number(text: str, types: set[str | None]) -> str | int | float:
    try:
        number = float(text) if "number" in types else int(text)
    except ValueError:
        return text
    return number if -_LARGEST <= number <= _LARGEST else text
