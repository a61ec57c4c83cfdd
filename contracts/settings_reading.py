"""Settings from the environment; what is wrong with them is said by the names of the variables."""

import os
import re
from typing import Final, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from contracts.problems import field_errors

_Settings = TypeVar("_Settings", bound=BaseSettings)
#: What it sets for a Service that has the prefix for its name.
_OF_KUBERNETES: Final = re.compile(r"_(SERVICE_(HOST|PORT)|PORT_\d)")
_NAMED: Final = re.compile(r'field "(\w+)"')


class WrongSettingsError(Exception):
    """``problems``: each begins with a variable's name. What it was set to is in none of them: it may be a secret."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def read_settings(kind: type[_Settings]) -> _Settings:
    """The settings as the environment has them. Raises WrongSettingsError."""
    prefix = str(kind.model_config["env_prefix"])
    try:
        return kind()
    except ValidationError as error:
        raise WrongSettingsError(
            tuple(_problem(prefix, one.field, one.message) for one in field_errors(error))
        ) from None
    except SettingsError as error:  # before its rules are looked at: lists and the like are JSON
        named = _NAMED.search(str(error))
        raise WrongSettingsError(
            (_problem(prefix, named[1] if named else "", f"no JSON: {error.__cause__}"),)
        ) from None


def unknown_variables(kind: type[BaseSettings]) -> list[str]:
    """Variables of the environment by the prefix of these settings that none of them reads: typing errors, mostly."""
    prefix = str(kind.model_config["env_prefix"])
    return sorted(
        name
        for name in os.environ
        if name.startswith(prefix)
        and name.removeprefix(prefix).lower() not in kind.model_fields
        and not _OF_KUBERNETES.search(name)
    )


def _problem(prefix: str, path: str, message: str) -> str:
    name = re.match(r"\w*", path)[0]  # type: ignore[index]  # matches always
    return f"{prefix}{name.upper() or '*'}{path[len(name) :]}: {message.removeprefix('Value error, ')}"
