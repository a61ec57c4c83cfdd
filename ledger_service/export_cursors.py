"""Where a download of an export goes on: which export it is, its snapshot, and the last row that was taken."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import orjson
from pydantic import TypeAdapter, ValidationError

from contracts.identifiers import Name
from contracts.moments import Moment
from contracts.problems import broken_rule
from ledger_service.store.exports import Key, Selection
from ledger_service.store.usage import UsageLogFilter

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DIGEST_CHARACTERS: Final = 16
_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)
_MOMENT: Final[TypeAdapter[datetime]] = TypeAdapter(Moment)


class Cursor(NamedTuple):
    """``digest``: of what is exported, without its snapshot. ``after``: None at the beginning."""

    digest: str
    as_of: datetime
    after: Key | None


def digest_of(data_set: str, account_id: str | None, chosen: UsageLogFilter) -> str:
    """The same for the same export, whatever its format."""
    told = orjson.dumps([data_set, account_id, asdict(chosen)], option=orjson.OPT_UTC_Z)
    return hashlib.sha256(told).hexdigest()[:_DIGEST_CHARACTERS]


def encode(digest: str, selection: Selection, after: Key | None) -> str:
    """Opaque to callers."""
    place = [] if after is None else [after.account_id, _micros(after.occurred_at), after.operation_id.hex]
    return urlsafe_b64encode(orjson.dumps([digest, _micros(selection.as_of), *place])).decode().rstrip("=")


def decode(text: str, digest: str) -> Cursor:
    """Raises ProblemError where the text is no cursor of ours, or one of another export."""
    try:
        found, as_of, *place = orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        after = Key(_NAME.validate_python(place[0]), _moment(place[1]), UUID(place[2])) if place else None
        cursor = Cursor(str(found), _moment(as_of), after)
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError):
        raise broken_rule("query.cursor", "cursor", "not a cursor of an export") from None
    if cursor.digest != digest:
        message = "the cursor is of another export: the other parameters have to be those that it came with"
        raise broken_rule("query.cursor", "cursor", message)
    return cursor


def last_row(text: str) -> Key:
    """``account_id,occurred_at,operation_id`` of a row, as the export wrote it. Raises ProblemError."""
    try:
        account_id, occurred_at, operation_id = text.split(",")
        moment = _MOMENT.validate_python(occurred_at.replace(" ", "+"))
        return Key(_NAME.validate_python(account_id), moment.astimezone(UTC), UUID(operation_id))
    except (ValueError, ValidationError):
        message = "account_id, occurred_at and operation_id of the last row that came whole, set apart by commas"
        raise broken_rule("query.after", "row", message) from None


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(micros: object) -> datetime:
    if not isinstance(micros, int):
        raise TypeError(micros)
    return _EPOCH + timedelta(microseconds=micros)
