"""Configuration: every variable of both services, from their settings, with default, unit, bounds and meaning."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson
from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from contracts.client.settings import ClientSettings
from deploy.docs.markdown import code, table
from deploy.docs.schema_tables import rules_of, type_of
from image_service.config import Settings as ImageSettings
from ledger_service.config import Settings as LedgerSettings

#: The prefix of each service's variables.
SERVICES: Final[Mapping[str, type[BaseModel]]] = {"LEDGER_": LedgerSettings, "IMAGE_": ImageSettings}
#: What a name's last words say about what its number counts.
UNITS: Final = (
    ("_per_second", "a second"),
    ("_seconds", "s"),
    ("_seconds_max", "s"),
    ("_bytes", "bytes"),
    ("_bytes_max", "bytes"),
    ("_pixels_max", "pixels"),
    ("pixels_max", "pixels"),
    ("_events_max", "events"),
    ("connections_max", "connections"),
    ("connections_per_address_max", "connections"),
    ("_rows", "rows"),
    ("_batch_max", "checks"),
    ("webhooks_in_flight_max", "deliveries"),
    ("_in_flight_max", "operations"),
    ("_writers", "writers"),
    ("_threads", "threads"),
    ("_replicas", "copies"),
    ("_burst", "requests"),
    ("_months", "months"),
    ("_ratio", "of 1"),
)
_HEAD: Final = ("variable", "default", "unit", "bounds", "what")


def variables() -> list[str]:
    """All of them, of both services."""
    return [
        _variable(prefix, name, field) for prefix, kind in SERVICES.items() for name, field in kind.model_fields.items()
    ]


def _variable(prefix: str, name: str, field: FieldInfo) -> str:
    """Some have names that other programs share."""
    alias = field.validation_alias
    shared = alias.choices[0] if isinstance(alias, AliasChoices) else alias
    return shared if isinstance(shared, str) else prefix + name.upper()


def page() -> str:
    parts = [
        "# Configuration\n",
        (
            "Read once, from the environment, when a process starts. One that breaks a rule stops it, and is named."
            " Lists and objects are JSON. The [guide to access](../how-to/access.md) explains what is about tokens.\n"
        ),
    ]
    for title, prefix in (("The ledger", "LEDGER_"), ("The image service", "IMAGE_")):
        kind = SERVICES[prefix]
        parts += [f"## {title}\n", table(_HEAD, _rows(kind, prefix))]
    parts += [
        "## The Python client\n",
        "Arguments of `ClientSettings`, see [the guide](../how-to/client.md). It reads no environment.\n",
        table(("argument", *_HEAD[1:]), _rows(ClientSettings, "")),
    ]
    return "\n".join(parts)


def _json(value: object) -> str:
    """As it would stand in the environment."""
    return code(value if isinstance(value, str) else orjson.dumps(value).decode()) or "empty"


def unit_of(name: str) -> str:
    return next((unit for ending, unit in UNITS if name.endswith(ending)), "")


def _rows(kind: type[BaseModel], prefix: str) -> Iterator[tuple[str, ...]]:
    properties = kind.model_json_schema(by_alias=False)["properties"]
    told = comments(kind)
    computed = _computed_defaults(kind)
    for name, field in kind.model_fields.items():
        schema: Mapping[str, Any] = properties[name]  # JSON Schema, which has whatever it has
        what = type_of(schema, str).replace(" or null", "")
        bounds = rules_of(schema)
        choices = [what] if "`" in what else []
        if field.is_required():
            default = "required"
        elif name in computed:
            default = code(computed[name])
        else:
            default = _json(schema["default"]) if schema.get("default") is not None else "none"
        shown = _variable(prefix, name, field) if prefix else name
        yield code(shown), default, unit_of(name), "; ".join([*choices, *bounds]) or what, told.get(name, "")


def comments(kind: type[BaseModel]) -> dict[str, str]:
    """What the ``#:`` lines above each field say, or the comment behind it; of base classes too."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not (issubclass(base, BaseModel) and base.__module__.split(".")[0] in _OURS):
            continue
        source = textwrap.dedent(inspect.getsource(base))
        lines = source.splitlines()
        for node in _fields(source):
            above: list[str] = []
            at = node.lineno - 2
            while at >= 0 and lines[at].lstrip().startswith("#:"):
                above.insert(0, lines[at].lstrip().removeprefix("#:").strip())
                at -= 1
            behind = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2]
            if above or behind:
                found[_name(node)] = " ".join([*above, behind[:1].upper() + behind[1:]]).strip()
    return found


_OURS: Final = frozenset({"contracts", "ledger_service", "image_service"})


def _computed_defaults(kind: type[BaseModel]) -> dict[str, str]:
    """Defaults that ask the machine, as they are written: their value here says nothing about elsewhere."""
    source = textwrap.dedent(inspect.getsource(kind))
    return {
        _name(node): ast.unparse(node.value)
        for node in _fields(source)
        if node.value is not None and "os." in ast.unparse(node.value)
    }


def _fields(source: str) -> Iterator[ast.AnnAssign]:
    made = ast.parse(source).body[0]
    assert isinstance(made, ast.ClassDef)
    for node in made.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node


def _name(node: ast.AnnAssign) -> str:
    assert isinstance(node.target, ast.Name)
    return node.target.id
