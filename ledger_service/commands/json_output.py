"""`--json`: one option and one way to write for every command. Standard output then has JSON and nothing else."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, TypeAlias

import orjson
import typer
from pydantic import BaseModel

Answer: TypeAlias = BaseModel | Mapping[str, object] | Sequence[object]

AsJson = Annotated[bool, typer.Option("--json", help="The answer as one JSON object on standard output.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="The answer as JSON, one object a line.")]

_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


def write_json(answer: Answer) -> None:
    """One JSON value on a line of its own. Models write themselves, as they do over HTTP; money is decimal strings."""
    sys.stdout.write(orjson.dumps(answer, default=_plain, option=_OPTIONS).decode())


def write_json_lines(answers: Iterable[Answer]) -> None:
    for one in answers:
        write_json(one)


def _plain(value: object) -> object:
    """Of what orjson does not know."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)
