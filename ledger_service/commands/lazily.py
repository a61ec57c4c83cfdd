"""A command's module is imported when it is called, or when help is to list it; a shell gets names without."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group


def lazy_group(commands: Mapping[str, str]) -> type[TyperGroup]:
    """A group that also has these: by name, the module in this package and what in it is the command, as
    ``module:function`` or ``module:app``."""

    class LazyGroup(TyperGroup):
        _completes_names = False

        def list_commands(self, ctx: Any) -> list[str]:  # Any: typer has click's types under private names only
            return sorted([*super().list_commands(ctx), *commands])

        def get_command(self, ctx: Any, cmd_name: str) -> Any:  # Any: as above
            place = commands.get(cmd_name)
            if place is None:
                return super().get_command(ctx, cmd_name)
            return TyperCommand(cmd_name) if self._completes_names else _load(cmd_name, place)

        def shell_complete(self, ctx: Any, incomplete: str) -> Any:  # Any: as above
            # To show the commands' names, a shell waits for all that this program is made of: more than a second.
            self._completes_names = True
            try:
                return super().shell_complete(ctx, incomplete)
            finally:
                self._completes_names = False

    return LazyGroup


def _load(name: str, place: str) -> Any:  # Any: as above
    module, _, attribute = place.partition(":")
    found: typer.Typer | Callable[..., None] = getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
    holder = typer.Typer(add_completion=False)
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name)
    else:
        holder.command(name)(found)
    return get_group(holder).commands[name]
