"""JSON from callers: one meaning only. Where a member stands twice, readers differ on which one holds."""

import json
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from contracts.problems import MALFORMED_JSON, ProblemError, broken_rule, field_path, invalid

Model = TypeVar("Model", bound=BaseModel)


def read_json(model: type[Model], body: bytes) -> Model:
    """The body as a model. Raises ProblemError that names the fields which break a rule."""
    read = parse_json(model, body)
    refuse_repeated_members(body)
    return read


def parse_json(model: type[Model], body: bytes) -> Model:
    """The same, taking the last of members that stand twice: for the hot path, which looks for them in its own way."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None


def refuse_repeated_members(body: bytes) -> None:
    """Raises ProblemError that names the first member which stands twice in one object."""
    try:
        json.loads(body, object_pairs_hook=_once)
    except _RepeatedMemberError as error:
        raise broken_rule(field_path((error.name,)), "repeated_member", "stands twice in one object") from None
    except (ValueError, RecursionError) as error:
        raise ProblemError(MALFORMED_JSON, f"not JSON: {error}") from None


def refuse_repeats_in_json(body: bytes) -> None:
    """The same of bytes that are known to be JSON, for a third of the time. Raises as refuse_repeated_members()."""
    if not _says_each_once(body):
        refuse_repeated_members(body)


def _says_each_once(body: bytes) -> bool:
    """False where it may say something twice: written again, a member that stands twice is there once, and so are its
    quotes. Where something is escaped, quotes do not count members."""
    if b"\\" in body:
        return False
    try:
        again = orjson.dumps(orjson.loads(body))
    except orjson.JSONDecodeError:  # it has NaN, which others take
        return False
    return again.count(b'"') == body.count(b'"')


class _RepeatedMemberError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _once(members: list[tuple[str, object]]) -> dict[str, object]:
    read = dict(members)
    if len(read) < len(members):
        seen = set[str]()
        for name, _ in members:
            if name in seen:
                raise _RepeatedMemberError(name)
            seen.add(name)
    return read
