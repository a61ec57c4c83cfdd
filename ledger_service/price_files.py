"""Price files: reviewed YAML → prices. All of a file or nothing, and every problem names its line, entry and field.

YAML as it is usually read hides traps, so little of it is taken: ``16:9``, ``2026-11-01`` and ``no`` are texts, a key
stands once, and there are no aliases. A price without quotes is a number, and refused: money is never a float.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from contracts.prices import Price, PriceKey
from contracts.problems import FieldError, field_errors, field_path
from ledger_service.domain.price_versions import Put
from ledger_service.domain.rating import Key

try:
    from yaml import CSafeLoader as _BaseLoader
except ImportError:  # a PyYAML without libyaml: the same, slower
    from yaml import SafeLoader as _BaseLoader  # type: ignore[assignment]  # the stubs know both

BYTES_MAX: Final = 8 * 1024 * 1024
ENTRIES_MAX: Final = 10_000
DEPTH_MAX: Final = 20
SHIPPED: Final = "list_prices.yaml"
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_KEY_FIELDS: Final = tuple(PriceKey.model_fields)
#: What an entry must have beside what a price must have: whoever reviews it looks there.
_REVIEWED: Final = ("source", "read_on")

Model = TypeVar("Model", bound=BaseModel)
#: Scalars, lists and mappings, as JSON has them.
Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"


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
        return _placed(FieldError(field=f"prices[{entry}].{field}", rule=rule, message=message), self.lines)


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
    document = _Document()
    try:
        value = document.read(text)
    except _YamlError as error:
        raise PriceFileError(name, [error.error]) from None
    entries = _entries(value)
    if isinstance(entries, FieldError):
        raise PriceFileError(name, [_placed(entries, document.lines)])
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
        raise PriceFileError(name, [_placed(error, document.lines) for error in errors])
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


def _placed(error: FieldError, lines: Mapping[str, int]) -> FieldError:
    """The error with the line in which its field stands, or what the field would be in."""
    field = error.field
    while field and field not in lines:
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return error.model_copy(update={"message": f"line {lines.get(field, 1)}: {error.message}"})


# --- YAML, and the little of it that is taken


class _Loader(_BaseLoader):
    """Knows null, true, false, whole numbers and floats (https://yaml.org/spec/1.2.2/#103-core-schema)."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way; add_implicit_resolver fills it


_TAG: Final = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"-?(?:0|[1-9][0-9]{0,17})", list("-0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"^(?:{_pattern})$"), _first)


class _YamlError(Exception):
    def __init__(self, rule: str, message: str, line: int, field: str = "") -> None:
        super().__init__(message)
        self.error = FieldError(field=field, rule=rule, message=f"line {line}: {message}")


class _Document:
    """A YAML document as plain values. ``lines``: where each of them stands, by its path (``prices[0].model``)."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self._seen: set[int] = set()

    def read(self, text: str) -> Value:
        """Raises _YamlError."""
        try:
            loader = _Loader(text)
            try:
                node = loader.get_single_node()
            finally:
                loader.dispose()
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = str(getattr(error, "problem", None) or error)
            raise _YamlError("yaml", problem, mark.line + 1 if mark else 1) from None
        return None if node is None else self._value(node, ())

    def _value(self, node: yaml.Node, location: tuple[int | str, ...]) -> Value:
        field, line = field_path(location), node.start_mark.line + 1
        if id(node) in self._seen:
            raise _YamlError("yaml_alias", "no aliases: a price says everything itself", line, field)
        if len(location) > DEPTH_MAX:
            raise _YamlError("yaml_depth", f"at most {DEPTH_MAX} levels", line, field)
        self._seen.add(id(node))
        self.lines[field] = line
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._value(child, (*location, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, field)
        raise _YamlError("yaml_tag", f"no values of the kind {node.tag}", line, field)

    def _mapping(self, node: yaml.MappingNode, location: tuple[int | str, ...]) -> Value:
        found: dict[str, Value] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                raise _YamlError("yaml_key", "a key is a text", line, field_path(location))
            name = str(key.value)
            if name in found:
                raise _YamlError("yaml_key_twice", "the key stands twice", line, field_path((*location, name)))
            found[name] = self._value(value, (*location, name))
        return found


def _scalar(node: yaml.ScalarNode, field: str) -> Value:
    text = str(node.value)
    try:
        match node.tag.removeprefix(_TAG):
            case "str":
                return text
            case "int":
                return int(text)
            case "float":
                return float(text.replace(".inf", "inf").replace(".nan", "nan"))
            case "bool":
                return text.lower() == "true"
            case "null":
                return None
    except ValueError:
        pass
    raise _YamlError("yaml_tag", f"not taken as {node.tag}: {text[:50]}", node.start_mark.line + 1, field)
