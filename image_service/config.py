"""All of the service's settings: read once, from the environment, at start."""

import json
import os
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BeforeValidator, Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contracts.access.nats_access import INBOX_PREFIX
from contracts.access.settings import AccessSettings, secrets_folder
from contracts.client.settings import Transport
from contracts.tracing_settings import TracingSettings
from image_service.routing import Route, Routes, read_routes

_HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")]
_Port = Annotated[int, Field(ge=1, le=65_535)]
_Seconds = Annotated[float, Field(gt=0, le=86_400 * 366)]
_Count = Annotated[int, Field(ge=1)]
_Key = Annotated[SecretStr, Field(min_length=1)]


def _split(text: object) -> object:
    if not isinstance(text, str) or text.lstrip().startswith("["):
        return json.loads(text) if isinstance(text, str) else text
    return tuple(part.strip() for part in text.split(",") if part.strip())


#: As "a.example, *.b.example", or a JSON list.
_Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(AccessSettings, TracingSettings, BaseSettings):
    """Environment variables are these names with the prefix ``IMAGE_``. Times in seconds, sizes in bytes or pixels."""

    model_config = SettingsConfigDict(
        env_prefix="IMAGE_", frozen=True, hide_input_in_errors=True, secrets_dir=secrets_folder()
    )

    #: Where it listens; 0.0.0.0 for all of the machine's addresses.
    host: str = "127.0.0.1"
    #: Where it listens.
    port: _Port = 8000
    #: NATS with JetStream; several servers of a cluster are set apart by commas.
    nats_url: str = "nats://127.0.0.1:4222"
    #: The seed of an nkey, where the URL carries no user and password.
    nats_nkey_file: Path | None = None
    #: Who vouches for a server with tls://, where the machine does not know.
    nats_ca_file: Path | None = None
    #: Where NATS answers us; the server lets nobody else listen there.
    nats_inbox_prefix: str = INBOX_PREFIX
    #: The ledger over HTTP.
    ledger_url: _HttpUrl = "http://127.0.0.1:8001"
    #: Our own token at the ledger, with the scopes limits:check and events:write, bound to no account.
    ledger_token: SecretStr | None = None
    #: For how long somebody else's service token is believed without asking the ledger: how long a revocation takes.
    token_seconds: _Seconds = 30.0
    #: The same while the ledger cannot be reached, beyond token_seconds: leases are for such times.
    token_away_seconds: Annotated[float, Field(ge=0, le=86_400)] = 3600.0
    #: What limit checks go over: http or nats.
    check_transport: Transport = "http"
    #: Holds journal.db and outcomes/; belongs to one running service at a time.
    data_dir: Path = Path(".data/image")

    #: For a connection to the ledger.
    ledger_connect_timeout_seconds: _Seconds = 1.0
    #: For one limit check, its retries included. A busy ledger is worth waiting for; one that is gone is noticed at
    #: once, by the refused connection.
    ledger_timeout_seconds: _Seconds = 10.0
    #: For one provider call. It has to end before the hold does.
    provider_timeout_seconds: _Seconds = 120.0
    #: What one call's share of each limit is held for.
    hold_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300
    #: How long a repeat waits for the first request with its key, where that still runs here.
    repeat_wait_seconds: _Seconds = 60.0
    #: For one call of a model that usually takes minutes (3D, video …); its hold is extended meanwhile.
    long_provider_timeout_seconds: _Seconds = 1_800.0
    #: A caller without other wishes waits for so long, and then gets 202.
    patience_seconds: _Seconds = 150.0
    #: What became of a call that nobody answers for is asked for so long, from the request on; then it is in doubt.
    doubt_seconds: _Seconds = 3_600.0
    #: How long results are to be had behind their URLs, and outcomes for repeats of a key.
    outcome_retention_seconds: _Seconds = 86_400.0
    #: Which providers serve what, with fallbacks: JSON here, or a YAML or JSON file. See image_service.routing.
    routes: tuple[Route, ...] = ()
    #: The same in a file; routes in the environment come before it.
    routes_file: Path | None = None
    #: Events whose oldest the ledger does not confirm for so long go over HTTP as well. Well within the hold.
    http_delivery_after_seconds: _Seconds = 15.0
    #: A published event that the ledger does not confirm for so long is published again.
    confirm_after_seconds: _Seconds = 30.0
    #: A NATS connection on which nothing is acknowledged for so long, though it should be, is replaced.
    nats_stall_seconds: _Seconds = 15.0
    #: On SIGTERM, running operations get so long to end.
    shutdown_seconds: _Seconds = 20.0

    #: Of one request.
    upload_bytes_max: _Count = 25 * 1024 * 1024
    #: Of an image that comes in and of one that goes out.
    pixels_max: _Count = 40_000_000
    edge_pixels_max: Annotated[int, Field(ge=16, le=16_383)] = 16_383  # what WebP can hold
    #: That run at once; one more is 503 ``overloaded``. As many bodies may come in at once; then the slowest gives way.
    operations_in_flight_max: _Count = 512
    #: Uploads held in memory at once; more wait, spooled to disk.
    upload_memory_bytes_max: _Count = 256 * 1024 * 1024
    #: New operations are refused while the journal holds so much that the ledger has not confirmed.
    journal_bytes_max: _Count = 4 * 1024 * 1024 * 1024
    #: Of the data folder's disk, kept for the outcomes of operations that run when it fills up; no new ones begin then.
    journal_reserve_bytes: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    #: HTTP connections at once; one more is refused.
    connections_max: _Count = 2_000
    #: A client that sends no whole headers, or hardly any of a body, for so long is given up.
    slow_client_seconds: _Seconds = 15.0
    #: Of the local provider, which draws with them.
    local_threads: _Count = os.cpu_count() or 2

    #: Providers are there once they have a key. Their URLs are those of their documentation.
    wavespeed_key: _Key | None = None
    #: Where WaveSpeed is.
    wavespeed_url: _HttpUrl = "https://api.wavespeed.ai"
    #: Stability's.
    stability_key: _Key | None = None
    #: Where Stability is.
    stability_url: _HttpUrl = "https://api.stability.ai"
    #: OpenAI's.
    openai_key: _Key | None = None
    #: Where OpenAI is.
    openai_url: _HttpUrl = "https://api.openai.com"
    #: Gemini's.
    gemini_key: _Key | None = None
    #: Where Gemini is.
    gemini_url: _HttpUrl = "https://generativelanguage.googleapis.com"
    #: Hugging Face's, for its router.
    huggingface_key: _Key | None = None
    #: Where that router is.
    huggingface_url: _HttpUrl = "https://router.huggingface.co"
    #: Hosts that results may be fetched from, beside those that a provider is known to use: names, or *.name.
    result_hosts: _Hosts = ()
    #: The same, over http and in private networks too: emulators on this machine. A name, or name:port.
    result_insecure_hosts: _Hosts = ()
    #: Of one result: an image, a 3D model, a clip.
    result_bytes_max: _Count = 256 * 1024 * 1024

    @model_validator(mode="after")
    def _calls_end_before_their_hold(self) -> Self:
        if self.provider_timeout_seconds >= self.hold_seconds:
            raise ValueError(
                "provider_timeout_seconds must be less than hold_seconds: a call has to end before its hold"
            )
        return self

    def all_routes(self) -> Routes:
        """Those of the environment before those of the file. Raises ValueError, naming the file and what is wrong."""
        if self.routes_file is None:
            return self.routes
        try:
            return (*self.routes, *read_routes(self.routes_file))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{self.routes_file}: {error}") from error

    #: The readable block per operation: always, never, or (unset) where stdout is a terminal.
    console: bool | None = None
