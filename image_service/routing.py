"""Which providers serve an operation, in which order: rules that the service's operator sets."""

from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from contracts.identifiers import ModelName, Name

TARGETS_MAX: Final = 8


class Target(BaseModel):
    """A provider, and a model of it; without one, its first that does the operation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Name
    model: ModelName | None = None


class Route(BaseModel):
    """Requests for ``operation`` that name no provider go to the first target that is up; where a target is down or
    overloaded, to the next. ``kind`` and ``model`` narrow the rule; a ``model`` here is any name that callers use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operation: str
    kind: str | None = None
    model: ModelName | None = None
    to: Annotated[tuple[Target, ...], Field(min_length=1, max_length=TARGETS_MAX)]

    def fits(self, operation: str, kind: str | None, model: str | None) -> bool:
        """A rule without a model is for requests that name none."""
        return self.operation == operation and self.kind in (None, kind) and self.model == model


Routes = tuple[Route, ...]
_ROUTES: Final[TypeAdapter[Routes]] = TypeAdapter(Routes)


def read_routes(path: Path) -> Routes:
    """Rules from a YAML or JSON file: a list, or ``routes:`` with one. Raises OSError, yaml.YAMLError, and
    pydantic.ValidationError naming what is wrong."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return _ROUTES.validate_python(content.get("routes") if isinstance(content, dict) else content)
