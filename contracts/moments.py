"""Times in contracts: RFC 3339, within bounds. By themselves, as commands that handle no event read them, too."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field
from pydantic_core import PydanticCustomError

_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _from_rfc3339(value: object) -> object:
    # pydantic also takes Unix seconds in a string, a space for the T, and offsets without a colon.
    if isinstance(value, datetime):
        return value
    try:
        if isinstance(value, str) and _RFC3339.fullmatch(value):
            return datetime.fromisoformat(value.upper())
    except ValueError:
        pass  # the thirtieth of February
    raise PydanticCustomError("time_rfc3339", "not an RFC 3339 time with an offset")


#: RFC 3339 with an offset. The bounds keep every period computable.
Moment = Annotated[
    AwareDatetime,
    Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC)),
    BeforeValidator(_from_rfc3339),
]
#: The same, turned to UTC: equal moments are written alike.
UtcMoment = Annotated[Moment, AfterValidator(lambda moment: moment.astimezone(UTC))]
