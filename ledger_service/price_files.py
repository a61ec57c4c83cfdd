"""Price files: reviewed YAML → prices. All of a file or nothing, and every problem names its line, entry and field.

Of YAML little is taken (yaml_documents.py). A price without quotes is a number, and refused: money is never a float.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from contracts.prices import Price, PriceKey
from contracts.problems import FieldError, field_errors
from ledger_service.domain.price_versions import Put
from ledger_service.domain.rating import Key
from ledger_service.yaml_documents import Value, YamlDocument, YamlError, placed

BYTES_MAX: Final = 8 * 1024 * 1024
ENTRIES_MAX: Final = 10_000
SHIPPED: Final = "list_prices.yaml"
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_KEY_FIELDS: Final = tuple(PriceKey.model_fields)
#: What an entry must have beside what a price must have: whoever reviews it looks there.
_REVIEWED: Final = ("source", "read_on")

Model = TypeVar("Model", bound=BaseModel)


class PriceFileError(Exception):
    """The file cannot be taken; ``errors`` name every broken rule with its line, entry and field."""

    def __init__(self, name: str, errors: list[FieldError]) -> None:
        super().__init__(f"{name}: {len(errors)} problem{'s' if len(errors) > 1 else ''}")
        self.errors = errors


@dataclass(frozen=True)
class PriceFile:
    """A file's prices, in its order. No two are of one version."""

    name: str
    puts: list[Put]
    lines: Mapping[str, int]

    def error(self, entry: int, field: str, rule: str, message: str) -> FieldError:
        """A rule that an entry breaks, where it stands."""
        return placed(FieldError(field=f"prices[{entry}].{field}", rule=rule, message=message), self.lines)


def shipped_text() -> str:
    """The file with the list prices that come with this version."""
    return files("ledger_service").joinpath("prices", SHIPPED).read_text(encoding="utf-8")


def read_shipped() -> PriceFile:
    """The list prices that come with this version."""
    return parse_prices(shipped_text(), SHIPPED, shipped=True)


def read_file(path: Path) -> PriceFile:
    """The prices of a file. Raises PriceFileError, and OSError where it cannot be read."""
    with path.open("rb") as file:
        content = file.read(BYTES_MAX + 1)
    if len(content) > BYTES_MAX:
        raise PriceFileError(path.name, [_whole("too_large", f"at most {BYTES_MAX} bytes")])
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise PriceFileError(path.name, [_whole("utf8", f"not UTF-8: {error}")]) from None
    return parse_prices(text, path.name)


def parse_prices(text: str, name: str, *, shipped: bool = False) -> PriceFile:
    """The prices in a file's text. Dates begin at 0:00 UTC. Raises PriceFileError."""
    document = YamlDocument()
    try:
        value = document.read(text)
    except YamlError as error:
        raise PriceFileError(name, [error.error]) from None
    entries = _entries(value)
    if isinstance(entries, FieldError):
        raise PriceFileError(name, [placed(entries, document.lines)])
    puts: list[Put] = []
    errors: list[FieldError] = []
    for index, entry in enumerate(entries):
        read = _read_entry(entry, shipped)
        if isinstance(read, Put):
            puts.append(read)
        else:
            errors += [_within(f"prices[{index}]", error) for error in read]
    if not errors:
        errors = list(_said_twice(puts))
    if errors:
        raise PriceFileError(name, [placed(error, document.lines) for error in errors])
    return PriceFile(name, puts, document.lines)


def _entries(value: Value) -> list[Value] | FieldError:
    if not isinstance(value, dict) or "prices" not in value:
        return FieldError(field="prices", rule="missing", message="the file is a mapping with the list prices")
    extra = next((key for key in value if key != "prices"), None)
    if extra is not None:
        return FieldError(field=extra, rule="extra_forbidden", message="only prices stands at the top")
    entries = value["prices"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= ENTRIES_MAX:
        return FieldError(field="prices", rule="list", message=f"a list of 1 to {ENTRIES_MAX} prices")
    return entries


def _read_entry(entry: Value, shipped: bool) -> Put | list[FieldError]:
    if not isinstance(entry, dict):
        return [FieldError(field="", rule="mapping", message="a price is a mapping: provider, operation, model, …")]
    body = {name: value for name, value in entry.items() if name not in _KEY_FIELDS}
    for name in ("valid_from", "valid_until"):
        day = body.get(name)
        if isinstance(day, str) and _DATE.fullmatch(day):
            body[name] = f"{day}T00:00:00Z"
    key = _read(PriceKey, {name: entry[name] for name in _KEY_FIELDS if name in entry})
    price = _read(Price, body)
    errors = [error for read in (key, price) if isinstance(read, list) for error in read]
    errors += [
        FieldError(field=name, rule="missing", message="a reviewed price says where it stands, and when it was read")
        for name in _REVIEWED
        if body.get(name) in (None, "")
    ]
    if errors or isinstance(key, list) or isinstance(price, list):
        return errors
    return Put((key.provider, key.operation, key.model), price, shipped)


def _read(model: type[Model], value: dict[str, Value]) -> Model | list[FieldError]:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        return field_errors(error)


def _said_twice(puts: list[Put]) -> Iterator[FieldError]:
    seen: dict[tuple[Key, datetime], int] = {}
    for index, put in enumerate(puts):
        earlier = seen.setdefault((put.key, put.price.valid_from), index)
        if earlier != index:
            yield FieldError(
                field=f"prices[{index}].valid_from",
                rule="price_twice",
                message=f"the same version as prices[{earlier}]",
            )


def _whole(rule: str, message: str) -> FieldError:
    return FieldError(field="", rule=rule, message=message)


def _within(place: str, error: FieldError) -> FieldError:
    return error.model_copy(update={"field": f"{place}.{error.field}" if error.field else place})
