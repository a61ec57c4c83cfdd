"""Commands: `ledger` and `usage-stack` with all that is under them, from the typer apps themselves."""

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

import typer
from typer.core import TyperArgument
from typer.main import get_command

from contracts.exit_codes import ExitCode
from deploy.docs.markdown import code, table
from deploy.local.cli import app as usage_stack
from ledger_service.cli import app as ledger

APPS: Final = {"ledger": ledger, "usage-stack": usage_stack}
_WORDS: Final = {str: "text", int: "whole number", float: "number", Path: "path"}
_STYLE: Final = re.compile(r"\[/?[a-z ]*\]")

# typer has click's types under private names only.
Command: TypeAlias = Any  # as above
Parameter: TypeAlias = Any  # as above


def walk() -> Iterator[tuple[str, Command]]:
    """Each command with its whole name, groups too."""
    for name, app in APPS.items():
        command = get_command(app)
        yield from _below(name, command, typer.Context(command, info_name=name))


def page() -> str:
    parts = [
        "# Commands\n",
        (
            "In `.venv/bin/` after `make`. Each tells its options with `--help`. With `--json`, standard output has"
            " JSON and nothing else; what is said beside it is on standard error. Shells complete commands, options and"
            " values, see [the guide](../how-to/command-line.md).\n"
        ),
        "All commands end with one of these:\n",
        table(("exit code", "what"), ((str(code.value), code.meaning) for code in ExitCode)),
    ]
    for name, command in walk():
        shown = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
        parts += [f"## `{name}`\n", _STYLE.sub("", _text(command)) + "\n"]
        parts.append(table(("option", "type", "default", "what"), map(_row, shown)))
    return "\n".join(parts)


def _below(name: str, command: Command, context: Any) -> Iterator[tuple[str, Command]]:  # Any: click's Context
    yield name, command
    if hasattr(command, "list_commands"):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            yield from _below(f"{name} {child}", found, typer.Context(found, info_name=child, parent=context))


def _text(command: Command) -> str:
    written = (command.help or "").replace("\b", "").strip()
    return "\n".join(line.rstrip() for line in written.splitlines())


def _row(one: Parameter) -> tuple[str, ...]:
    positional = isinstance(one, TyperArgument)
    names = code((one.metavar or one.name).upper()) if positional else ", ".join(map(code, _names(one)))
    default = "required" if one.required else _default(one)
    return names, _kind(one), default, one.help or ""


def _names(one: Parameter) -> tuple[str, ...]:
    return (*one.opts, *one.secondary_opts)


def _kind(one: Parameter) -> str:
    annotation = one.type_descriptor.annotation
    if getattr(one, "is_flag", False):
        shown = "flag"
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        shown = ", ".join(code(choice.value) for choice in annotation)
    else:
        [of] = get_args(annotation) or (annotation,)
        shown = _WORDS.get(of, getattr(of, "__name__", "text"))
    bounds = [f"{sign} {bound:,}" for sign, bound in (("≥", one.min), ("≤", one.max)) if bound is not None]
    return ", ".join([shown, *bounds, *(["several times"] if one.multiple else [])])


def _default(one: Parameter) -> str:
    value = one.default
    return "" if value in (None, False, [], ()) or callable(value) else code(getattr(value, "value", value))
