"""What a kind of notification says of itself."""

from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Feed(StrEnum):
    """Where its facts are: the log, the dead letters, or the holes of sources."""

    LOG = "log"
    LETTERS = "letters"
    HOLES = "holes"


class Audience(StrEnum):
    """Which endpoints may have it, beside those for all accounts: those of the account that it is about (ACCOUNT), of
    each account where it is about all (ACCOUNTS), or none (OPERATORS)."""

    ACCOUNT = "account"
    ACCOUNTS = "accounts"
    OPERATORS = "operators"


class Data(BaseModel):
    """The ``data`` of a notification, read from what a fact says: ``model_validate`` of that. More may come to it."""

    model_config = ConfigDict(extra="ignore", frozen=True)


@dataclass(frozen=True)
class Kind:
    """``name``: the ``type`` of payloads and subscriptions. ``event``: the type of the facts that it is made of."""

    name: str
    feed: Feed
    event: str
    audience: Audience
    data: type[Data]
