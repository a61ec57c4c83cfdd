"""YAML files that people review: plain values, and the line of each.

YAML as it is usually read hides traps, so little of it is taken: ``16:9``, ``2026-11-01`` and ``no`` are texts, a key
stands once, and there are no aliases.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

import yaml

from contracts.problems import FieldError, field_path

try:
    from yaml import CSafeLoader as _BaseLoader
except ImportError:  # a PyYAML without libyaml: the same, slower
    from yaml import SafeLoader as _BaseLoader  # type: ignore[assignment]  # the stubs know both

DEPTH_MAX: Final = 20
#: What is no deeper is read, and told by its path where it is too deep.
_DEPTH_READ_MAX: Final = 200

#: Scalars, lists and mappings, as JSON has them.
Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"


def placed(error: FieldError, lines: Mapping[str, int]) -> FieldError:
    """The error with the line in which its field stands, or what the field would be in."""
    field = error.field
    while field and field not in lines:
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return error.model_copy(update={"message": f"line {lines.get(field, 1)}: {error.message}"})


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


class YamlError(Exception):
    """The text is not the YAML that is taken; ``error`` names the line and the field."""

    def __init__(self, rule: str, message: str, line: int, field: str = "") -> None:
        super().__init__(message)
        self.error = FieldError(field=field, rule=rule, message=f"line {line}: {message}")


class YamlDocument:
    """A YAML document as plain values. ``lines``: where each of them stands, by its path (``prices[0].model``)."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self._seen: set[int] = set()

    def read(self, text: str) -> Value:
        """Raises YamlError."""
        try:
            _refuse_deep(text)
            loader = _Loader(text)
            try:
                node = loader.get_single_node()
            finally:
                loader.dispose()
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = str(getattr(error, "problem", None) or error)
            raise YamlError("yaml", problem, mark.line + 1 if mark else 1) from None
        return None if node is None else self._value(node, ())

    def _value(self, node: yaml.Node, location: tuple[int | str, ...]) -> Value:
        field, line = field_path(location), node.start_mark.line + 1
        if id(node) in self._seen:
            raise YamlError("yaml_alias", "no aliases: every entry says everything itself", line, field)
        if len(location) > DEPTH_MAX:
            raise YamlError("yaml_depth", f"at most {DEPTH_MAX} levels", line, field)
        self._seen.add(id(node))
        self.lines[field] = line
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._value(child, (*location, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, field)
        raise YamlError("yaml_tag", f"no values of the kind {node.tag}", line, field)

    def _mapping(self, node: yaml.MappingNode, location: tuple[int | str, ...]) -> Value:
        found: dict[str, Value] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                raise YamlError("yaml_key", "a key is a text", line, field_path(location))
            name = str(key.value)
            if name in found:
                raise YamlError("yaml_key_twice", "the key stands twice", line, field_path((*location, name)))
            found[name] = self._value(value, (*location, name))
        return found


def _refuse_deep(text: str) -> None:
    """Before nodes are made of it: libyaml makes one within the other on the stack, and dies of some ten thousand."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH_READ_MAX:
            mark = event.start_mark
            raise YamlError("yaml_depth", f"at most {DEPTH_MAX} levels", mark.line + 1 if mark else 1)


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
    raise YamlError("yaml_tag", f"not taken as {node.tag}: {text[:50]}", node.start_mark.line + 1, field)
