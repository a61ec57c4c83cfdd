"""The operation types: one file each, named as in contracts.operations, each with an ``OPERATION`` in it."""

import importlib
from typing import Final

from contracts.operations import OPERATION_TYPES
from image_service.operations.base import AnyOperation, Operation


def _load(name: str) -> AnyOperation:
    module = importlib.import_module(f"{__name__}.{name}")
    operation: object = getattr(module, "OPERATION", None)
    if not isinstance(operation, Operation) or operation.name != name:
        raise TypeError(f"{module.__name__} has no OPERATION of that name")
    return operation


OPERATIONS: Final[dict[str, AnyOperation]] = {name: _load(name) for name in OPERATION_TYPES}
