"""JSON Schema as tables for people: field, type, rules, meaning."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from deploy.docs.markdown import code, table

Schema = Mapping[str, Any]  # JSON Schema, which has whatever it has
#: The Markdown for a reference to another schema, by its name.
Refer = Callable[[str], str]

FIELD_HEAD: Final = ("field", "type", "rules", "what")
_RULES: Final = (
    ("minimum", "≥ {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "≤ {}"),
    ("exclusiveMaximum", "< {}"),
    ("multipleOf", "a multiple of {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("minProperties", "at least {} members"),
    ("maxProperties", "at most {} members"),
)


def anchor(name: str) -> str:
    return "schema-" + "".join(one if one.isalnum() else "-" for one in name.lower())


def short(name: str) -> str:
    """Pydantic puts the module before the name, with ``__`` between, where two models have the same."""
    return name.rpartition("__")[2]


def refer_here(name: str) -> str:
    return f"[{short(name)}](#{anchor(name)})"


def type_of(schema: Schema, refer: Refer) -> str:
    if "$ref" in schema:
        return refer(schema["$ref"].rpartition("/")[2])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(type_of(one, refer) for one in schema[union]))
    if "allOf" in schema:
        return type_of(schema["allOf"][0], refer)
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(code(one) for one in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        items = schema.get("prefixItems", schema.get("items", {}))
        if isinstance(items, list):
            return f"list of exactly {', '.join(type_of(one, refer) for one in items)}"
        return f"list of {type_of(items, refer)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {type_of(schema['additionalProperties'], refer)}"
    shown = " or ".join(kind) if isinstance(kind, list) else str(kind)
    return f"{shown} ({schema['format']})" if "format" in schema else shown


def rules_of(schema: Schema) -> list[str]:
    """Bounds and patterns, also of what it may be one of."""
    found = [text.format(f"{schema[name]:,}") for name, text in _RULES if name in schema]
    if "pattern" in schema:
        found.append(f"matches {code(schema['pattern'])}")
    for one in (*schema.get("anyOf", ()), *([schema["items"]] if isinstance(schema.get("items"), Mapping) else [])):
        found += rules_of(one)
    return list(dict.fromkeys(found))


def field_rows(schema: Schema, refer: Refer) -> Iterator[tuple[str, str, str, str]]:
    required = set(schema.get("required", ()))
    for name, member in schema.get("properties", {}).items():
        rules = ["required"] if name in required else []
        if member.get("default") is not None:
            rules.append(f"default {code(member['default'])}")
        meaning = member.get("description", "")
        yield code(name), type_of(member, refer), "; ".join([*rules, *rules_of(member)]), meaning


def fields(schema: Schema, refer: Refer) -> str:
    """The table of an object's fields; one line for what is no object."""
    if "properties" in schema:
        return table(FIELD_HEAD, field_rows(schema, refer))
    rules = "; ".join(rules_of(schema))
    return f"{type_of(schema, refer)}{f': {rules}' if rules else ''}\n"


def definitions(schemas: Mapping[str, Schema], level: int = 3) -> str:
    """A heading, what it is, and its fields, of each."""
    parts = []
    for name, schema in sorted(schemas.items()):
        parts.append(f"{'#' * level} {short(name)} {{#{anchor(name)}}}\n")
        if "description" in schema:
            parts.append(schema["description"].strip() + "\n")
        parts.append(fields(schema, refer_here))
    return "\n".join(parts)
