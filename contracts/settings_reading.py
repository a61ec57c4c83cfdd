"""Settings from the environment; what is wrong with them is said by the names of the variables."""

import re
from typing import Final, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from contracts.problems import field_errors

_Settings = TypeVar("_Settings", bound=BaseSettings)
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


def _problem(prefix: str, path: str, message: str) -> str:
    name = re.match(r"\w*", path)[0]  # type: ignore[index]  # matches always
    return f"{prefix}{name.upper() or '*'}{path[len(name) :]}: {message.removeprefix('Value error, ')}"
