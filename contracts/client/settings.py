"""What a service says once of its ledger. No environment is read here: that is the service's own config."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator

from contracts.access.nats_access import INBOX_PREFIX, NatsAccess
from contracts.identifiers import Name
from contracts.limits import TTL_SECONDS_MAX

_Seconds = Annotated[float, Field(gt=0, le=86_400 * 366)]
_HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")]
_NatsUrl = Annotated[str, StringConstraints(pattern=r"^[^\s]+$")]

_InboxPrefix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=100)]

Transport = Literal["http", "nats"]


class ClientSettings(BaseModel):
    """Times in seconds, sizes in bytes.

    A client needs the transport that its checks use; the other one, where it is given as well, is a second way for
    events. Without ``journal_path`` events go out at once, and what cannot be delivered is the caller's to keep.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: The service's name, in every event that it sends. With a journal, the journal's own id is added.
    source: Name
    #: The ledger over HTTP.
    ledger_url: _HttpUrl | None = None
    #: NATS; several servers of a cluster are set apart by commas.
    nats_url: _NatsUrl | None = None
    #: See contracts.access.nats_access: who we are, whom we trust, and where our answers come to.
    nats_nkey_path: Path | None = None
    #: Who vouches for a server with tls://, where the machine does not know.
    nats_ca_path: Path | None = None
    #: Where answers come to; the server's permissions say it.
    nats_inbox_prefix: _InboxPrefix = INBOX_PREFIX
    #: What the ledger knows this service by over HTTP: a service token with the scopes limits:check and events:write.
    token: SecretStr | None = None
    #: What limit checks go over.
    check_transport: Transport = "http"
    #: A SQLite file that belongs to one running client at a time.
    journal_path: Path | None = None

    #: What an operation is held for, where it does not say otherwise. The call has to end, or be extended, before.
    hold_seconds: Annotated[int, Field(ge=1, le=TTL_SECONDS_MAX)] = 300
    #: For a connection to the ledger.
    connect_timeout_seconds: _Seconds = 1.0
    #: For one question to the ledger, its retries included.
    timeout_seconds: _Seconds = 10.0
    #: For one event, its retries included, where there is no journal.
    delivery_timeout_seconds: _Seconds = 15.0
    #: On closing: for what still runs in the background, and then for the ledger to confirm what is in the journal.
    #: What it does not confirm in time stays in the journal, and goes out when that is opened again.
    drain_seconds: Annotated[float, Field(ge=0)] = 5.0
    #: The second of these two.
    flush_seconds: Annotated[float, Field(ge=0)] = 5.0

    #: Journalled events whose oldest the ledger does not confirm for so long go over HTTP as well as over NATS. Well
    #: within the hold.
    http_delivery_after_seconds: _Seconds = 15.0
    #: An event published on NATS that the ledger does not confirm for so long is published again.
    confirm_after_seconds: _Seconds = 30.0
    #: A NATS connection on which nothing is acknowledged for so long, though it should be, is replaced.
    nats_stall_seconds: _Seconds = 15.0
    #: New operations are refused while the journal holds so much that the ledger has not confirmed.
    journal_bytes_max: Annotated[int, Field(ge=1)] = 4 * 1024 * 1024 * 1024
    #: Of the journal's disk, kept for the outcomes of operations that run when it fills up; new ones are refused then.
    journal_reserve_bytes: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024

    @model_validator(mode="after")
    def _checks_have_their_transport(self) -> Self:
        if self.check_transport == "http" and self.ledger_url is None:
            raise ValueError("check_transport http needs ledger_url")
        if self.check_transport == "nats" and self.nats_url is None:
            raise ValueError("check_transport nats needs nats_url")
        return self

    @property
    def nats_access(self) -> NatsAccess | None:
        """None where there is no NATS."""
        if self.nats_url is None:
            return None
        return NatsAccess(self.nats_url, self.nats_nkey_path, self.nats_ca_path, self.nats_inbox_prefix)
