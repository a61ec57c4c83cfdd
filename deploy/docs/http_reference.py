"""HTTP: every route of both services, from their OpenAPI documents and tables of access."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from contracts.access.rules import Rules
from deploy.docs.markdown import table
from deploy.docs.schema_tables import definitions, refer_here, rules_of, type_of
from image_service.access import RULES as IMAGE_RULES
from image_service.config import Settings as ImageSettings
from image_service.main import create_app as create_image_service
from ledger_service.api.access import RULES as LEDGER_RULES
from ledger_service.config import Settings as LedgerSettings
from ledger_service.main import create_app as create_ledger

Document = dict[str, Any]  # an OpenAPI document, or a piece of one
_METHODS: Final = ("get", "put", "post", "delete", "patch")


def ledger_document() -> Document:
    return create_ledger(LedgerSettings.model_construct()).openapi()


def image_document() -> Document:
    with tempfile.TemporaryDirectory() as folder:
        settings = ImageSettings.model_construct(data_dir=Path(folder))
        return create_image_service(settings).openapi()


def ledger_page(document: Document) -> str:
    return _page("The ledger over HTTP", "8001", document, LEDGER_RULES)


def image_page(document: Document) -> str:
    return _page("The image service over HTTP", "8000", document, IMAGE_RULES)


def routes(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, operations in sorted(document["paths"].items()):
        for method in _METHODS:
            if method in operations:
                yield method.upper(), path, operations[method]


def _page(title: str, port: str, document: Document, rules: Rules) -> str:
    listed = list(routes(document))
    parts = [
        f"# {title}\n",
        (
            f"A running service has the same at `http://localhost:{port}/docs`, to try out. Every error is a"
            " [problem](problems.md); who may do what is in the [guide to access](../how-to/access.md).\n"
        ),
        table(
            ("route", "what"),
            ((f"[`{method} {path}`](#{_anchor(method, path)})", _first_sentence(one)) for method, path, one in listed),
        ),
        "## Routes\n",
    ]
    for method, path, operation in listed:
        parts += _route(method, path, operation, rules)
    parts += ["## Bodies\n", definitions(document["components"]["schemas"])]
    return "\n".join(parts)


def _first_sentence(operation: Document) -> str:
    text = operation.get("description") or operation.get("summary", "")
    return str(text).partition("\n\n")[0].partition(". ")[0].rstrip(".:")


def _anchor(method: str, path: str) -> str:
    plain = "".join(one if one.isalnum() else "-" for one in path.lower())
    return f"{method.lower()}{plain}".rstrip("-")


def _route(method: str, path: str, operation: Document, rules: Rules) -> Iterator[str]:
    yield f"### `{method} {path}` {{#{_anchor(method, path)}}}\n"
    if operation.get("description"):
        yield operation["description"].strip() + "\n"
    rule = rules.get((method, path))
    if rule is not None and rule.scopes:
        yield "Scope: " + " or ".join(f"`{scope.value}`" for scope in sorted(rule.scopes)) + ".\n"
    yield table(("parameter", "in", "type", "rules", "what"), map(_parameter, operation.get("parameters", ())))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body, `{kind}`: {_type(content.get('schema', {}))}\n"
    yield table(("answer", "body", "what"), (_answer(*one) for one in sorted(operation["responses"].items())))


def _parameter(one: Document) -> tuple[str, ...]:
    schema = one.get("schema", {})
    rules = (["required"] if one.get("required") else []) + rules_of(schema)
    if schema.get("default") is not None:
        rules.append(f"default `{schema['default']}`")
    meaning = one.get("description") or schema.get("description", "")
    return f"`{one['name']}`", one["in"], _type(schema).replace(" or null", ""), "; ".join(rules), meaning


def _answer(status: str, response: Mapping[str, Any]) -> tuple[str, ...]:  # Any: a piece of an OpenAPI document
    bodies = [
        f"{_type(content['schema'])}" if content.get("schema") else f"`{kind}`"
        for kind, content in response.get("content", {}).items()
    ]
    headers = [f"header `{name}`: {one.get('description', '')}" for name, one in response.get("headers", {}).items()]
    return status, " or ".join(dict.fromkeys(bodies)), "; ".join([response.get("description", ""), *headers])


def _type(schema: Document) -> str:
    if "properties" in schema:
        return "an object with " + ", ".join(f"`{name}`" for name in schema["properties"])
    return type_of(schema, refer_here)
