"""The OpenAPI documents by themselves; tests/integration/test_fuzz_http.py holds the services to them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from contracts.http_documents import document_problems
from contracts.problems import CONTENT_TYPE, NOT_FOUND
from image_service.config import Settings as ImageSettings
from image_service.main import create_app as create_image_service
from ledger_service.config import Settings
from ledger_service.main import create_app


@pytest.fixture(params=["ledger", "image service"])
def document(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    made = (
        create_app(Settings()) if request.param == "ledger" else create_image_service(ImageSettings(data_dir=tmp_path))
    )
    return made.openapi()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in set(references(document)):
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
        assert isinstance(node, dict)


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path.startswith("/v1/"):
                    assert list(response["content"]) == [CONTENT_TYPE], (path, status)
                    assert response["description"]
            if "requestBody" in operation:
                assert {"400", "413", "422"} <= set(operation["responses"]), path
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_answer_has_members(document: dict[str, Any]) -> None:
    """Programs are made from it: JSON of which nothing is said is of no use to them."""
    untyped = [
        (path, method, status, kind)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for status, response in operation["responses"].items()
        if status.startswith("2")
        for kind, content in response.get("content", {}).items()
        if kind.endswith(("/json", "+json")) and not _says_what(content.get("schema", {}))
    ]
    assert untyped == []


def _says_what(schema: dict[str, Any]) -> bool:
    """Whether any of its members has a name; NDJSON is lines of text."""
    if {"$ref", "properties", "anyOf", "oneOf", "allOf"} & set(schema):
        return True
    return schema.get("type") == "array" and _says_what(schema.get("items", {}))


def test_a_route_that_there_is_not_is_noticed() -> None:
    app = FastAPI()
    document_problems(app, own={("GET", "/gone"): (NOT_FOUND,)})
    with pytest.raises(LookupError, match="/gone"):
        app.openapi()
