"""Settings of the ledger service, read once from LEDGER_* in the environment."""

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.access.nats_access import NatsAccess
from contracts.access.service_tokens import BootstrapToken
from contracts.access.settings import AccessSettings, secrets_folder
from contracts.focus import BILLING_ACCOUNT_ID
from contracts.identifiers import NAME_PATTERN, ORIGIN_PATTERN
from contracts.subjects import LEDGER_INBOX
from contracts.tracing_settings import TracingSettings
from ledger_service.database_url import verified
from ledger_service.domain.webhook_schedule import RETRY_SECONDS

TTL_SECONDS_DEFAULT: Final = 300
LEASE_GRACE_SECONDS_DEFAULT: Final = 86_400
DIMENSION_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"


class Settings(AccessSettings, TracingSettings, BaseSettings):
    """Every setting has its unit in its name; defaults suit one machine."""

    model_config = SettingsConfigDict(env_prefix="LEDGER_", hide_input_in_errors=True, secrets_dir=secrets_folder())

    #: PostgreSQL, as the role that the ledger runs under.
    database_url: str = "postgresql://postgres@127.0.0.1:5432/ledger"
    #: For `ledger migrate` alone: the role that owns the tables. None: that of database_url, which then could rewrite
    #: the log. Given, the role of database_url only appends; it is made, where there is none, with that URL's password.
    owner_database_url: str | None = None
    #: Who vouches for PostgreSQL, PEM: then the URLs are sslmode=verify-full, unless they say so themselves.
    database_ca_file: Path | None = None
    #: NATS with JetStream; several servers of a cluster are set apart by commas.
    nats_url: str = "nats://127.0.0.1:4222"
    #: The seed of an nkey, where the URL carries no user and password.
    nats_nkey_file: Path | None = None
    #: Where NATS answers us; `ledger seals verify` as the auditor has its own.
    nats_inbox_prefix: str = LEDGER_INBOX
    #: Who vouches for a server with tls://, where the machine does not know.
    nats_ca_file: Path | None = None
    #: Where it listens for HTTP; 0.0.0.0 for all of the machine's addresses.
    host: str = "127.0.0.1"
    #: Where it listens for HTTP.
    port: int = 8001
    #: For how long a service token is believed without asking the database: how long a revocation takes to be heard of.
    token_seconds: float = Field(default=5.0, gt=0, le=300)
    #: What tokens are hashed with. None: a key that the ledger makes, and keeps in its database, in another table.
    token_hash_key: SecretStr | None = Field(default=None, min_length=32)
    #: Tokens that `ledger migrate` makes known, as JSON: [{"name": …, "scopes": […], "token": "ult_…"}].
    bootstrap_tokens: list[BootstrapToken] = []
    #: The plan of accounts that were never registered; none = they are denied as unknown_account.
    default_plan_id: str | None = None
    #: How long an allowed check holds its share, where it does not say so itself.
    reservation_ttl_seconds: int = Field(default=TTL_SECONDS_DEFAULT, ge=1)

    #: For how long after its end a lease stays held where it is not returned: its outcomes have to arrive by then.
    lease_grace_seconds: int = Field(default=LEASE_GRACE_SECONDS_DEFAULT, ge=0)

    #: HTTP connections at once, to this process; one more is refused.
    connections_max: int = Field(default=2_000, ge=1)
    #: A client that sends no whole headers, or hardly any of a body, for so long is given up.
    slow_client_seconds: float = Field(default=15.0, gt=0)
    #: One that takes nothing of an answer for so long is cut off: an export, which it can resume.
    slow_reader_seconds: float = Field(default=60.0, gt=0)

    #: Two overlap: while one waits for PostgreSQL, the other parses.
    ingest_writers: int = Field(default=2, ge=1, le=8)
    #: Of one transaction that takes events in.
    ingest_batch_events_max: int = Field(default=1000, ge=1, le=10_000)
    #: Two overlap under load: while one batch waits for its commit, the next is decided.
    check_writers: int = Field(default=2, ge=1, le=8)
    #: Of one transaction that decides.
    check_batch_max: int = Field(default=200, ge=1, le=1000)
    #: To PostgreSQL, for reads.
    read_connections_max: int = Field(default=8, ge=1)
    #: Keys of events' metadata by which usage may be grouped and filtered, as JSON: ["team", "environment"].
    metadata_dimensions: list[Annotated[str, StringConstraints(pattern=DIMENSION_PATTERN)]] = []
    #: How long an analytics query may read the usage log, or the rollups, before it is ended.
    analytics_seconds_max: float = Field(default=20.0, gt=0, le=3600)
    #: How often holds that are over are looked for.
    expiry_interval_seconds: float = Field(default=0.5, gt=0)
    #: How often sources that were active lately are confirmed again, for producers that missed it.
    confirm_interval_seconds: float = Field(default=5.0, gt=0)

    #: Who bills, in FOCUS exports: whoever runs this ledger, unlike those who run others.
    billing_account_id: str = Field(default=BILLING_ACCOUNT_ID, pattern=NAME_PATTERN)
    #: Of exports: read at once, twice over. More is faster, and takes more memory: a page, as CSV, several times.
    export_page_rows: int = Field(default=9_000, ge=1, le=100_000)

    #: The private key under seals, PEM: in this file, which is made where it is missing, or here. Without either the
    #: log is not sealed. All processes of one ledger have the same. See deploy/guides/seals.md.
    seals_key_file: Path | None = None
    #: Instead of the file: the key itself.
    seals_key: SecretStr | None = None
    #: Public keys that signed earlier checkpoints, as `ledger seals key` prints them; several are set apart by spaces.
    seals_trusted_keys: str = ""
    #: Checkpoints are appended here, too. Best on a disk that whoever runs the database cannot write to.
    seals_file: Path | None = None
    #: Names this ledger in its checkpoints. Another name begins another chain.
    seals_origin: str = Field(default="usage-ledger", pattern=ORIGIN_PATTERN)
    #: At most one checkpoint in so long, and more only while there is a backlog.
    seals_interval_seconds: float = Field(default=10.0, gt=0)

    #: Where `ledger archive` writes closed months of the usage log, and how many months it leaves in the database. It
    #: runs only when it is called.
    archive_folder: Path | None = None
    #: How many months stay, where `ledger archive` is not told before which they go.
    archive_keep_months: int | None = Field(default=None, ge=2)

    #: Hosts that webhooks may go to over http and in private networks, as JSON: names or addresses, or name:port.
    webhook_insecure_hosts: list[str] = []
    #: An endpoint that has not answered by then is tried again later.
    webhook_timeout_seconds: float = Field(default=15.0, gt=0, le=60)
    #: Before the second, third … try of a delivery, as JSON; after the last, later ones of its account go on.
    webhook_retry_seconds: list[Annotated[float, Field(gt=0)]] = Field(default=list(RETRY_SECONDS), max_length=50)
    #: An endpoint that took nothing for so long is disabled.
    webhook_disable_seconds: float = Field(default=5 * 86_400, gt=0)
    #: For how long deliveries are kept once they are over.
    webhook_keep_seconds: float = Field(default=30 * 86_400, gt=0)
    #: Sent at once by this process, to all endpoints together.
    webhooks_in_flight_max: int = Field(default=32, ge=1, le=1000)
    #: How often it is looked for something to tell, and for what is due to be sent.
    webhook_interval_seconds: float = Field(default=0.5, gt=0)
    #: Numbers of a source that are missing for so long, though later ones came, are told as a hole.
    hole_seconds: float = Field(default=300.0, ge=0)

    #: Of the streams that `ledger migrate` makes: on so many NATS servers.
    stream_replicas: int = Field(default=1, ge=1, le=5)

    @model_validator(mode="after")
    def _databases_are_verified(self) -> Self:
        if self.database_ca_file is not None:
            self.database_url = verified(self.database_url, self.database_ca_file)
            if self.owner_database_url is not None:
                self.owner_database_url = verified(self.owner_database_url, self.database_ca_file)
        return self

    @property
    def nats_access(self) -> NatsAccess:
        return NatsAccess(self.nats_url, self.nats_nkey_file, self.nats_ca_file, self.nats_inbox_prefix)
