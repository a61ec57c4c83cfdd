"""Windows of time: ``start`` belongs to one, ``end`` does not."""

from datetime import datetime

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError


def after_start(end: datetime, info: ValidationInfo) -> datetime:
    """Of a model's ``end``, where ``start`` stands before it. Raises PydanticCustomError."""
    start = info.data.get("start")
    if start is not None and end <= start:
        raise PydanticCustomError("window_order", "to is later than from")
    return end
