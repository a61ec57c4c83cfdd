"""From when until when something holds: the one rule that its two ends must keep."""

from datetime import datetime

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError


def after_valid_from(end: datetime | None, info: ValidationInfo) -> datetime | None:
    """To be an AfterValidator of a field that stands behind ``valid_from``: its end is later, or open."""
    start = info.data.get("valid_from")
    if end is not None and start is not None and end <= start:
        raise PydanticCustomError("validity", "{field} is later than valid_from", {"field": info.field_name})
    return end
