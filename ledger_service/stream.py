"""The JetStream side: the stream and its consumer as they must be, and the connection to them."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from contracts.access.nats_access import NatsAccess, close_client
from contracts.subjects import (
    INGEST_CONSUMER,
    NOTIFICATIONS,
    NOTIFICATIONS_STREAM,
    SEALS,
    SEALS_STREAM,
    STREAM,
    STREAM_SUBJECTS,
)
from ledger_service.domain.doctor.facts import Difference

log = structlog.get_logger()

CONNECT_SECONDS_MAX: Final = 5
SERVER_VERSION_MIN: Final = (2, 12)
#: How long after a crash of one ledger process its unfinished messages go to another, or to its successor.
ACK_WAIT_SECONDS: Final = 10
#: Delivered and not yet acknowledged, over all ledger processes.
ACK_PENDING_MAX: Final = 50_000
DUPLICATE_WINDOW_SECONDS: Final = 120
#: What a ledger reads back when it starts, and will not do without.
STREAM_SETTINGS: Final = ("retention", "discard", "storage", "deny_delete", "deny_purge", "max_age")
CONSUMER_SETTINGS: Final = ("deliver_policy", "ack_policy", "ack_wait", "max_deliver", "max_ack_pending")
NOTIFICATIONS_SECONDS_MAX: Final = 7 * 86_400
NOTIFICATIONS_BYTES_MAX: Final = 256 * 1024 * 1024


class StreamConfigError(Exception):
    """The NATS server, its stream or its consumer is not as the ledger needs it."""


def stream_config(replicas: int, name: str = STREAM, subjects: Sequence[str] = STREAM_SUBJECTS) -> StreamConfig:
    """Discard new: a full stream is an error that producers see, instead of old events vanishing."""
    return StreamConfig(
        name=name,
        subjects=list(subjects),
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        storage=StorageType.FILE,
        num_replicas=replicas,
        duplicate_window=DUPLICATE_WINDOW_SECONDS,
        deny_delete=True,
        deny_purge=True,
        max_age=0,
    )


def notifications_config(replicas: int) -> StreamConfig:
    """What was told, for readers that were away: the oldest go first, as the log and the webhooks have them too."""
    return StreamConfig(
        name=NOTIFICATIONS_STREAM,
        subjects=[f"{NOTIFICATIONS}.>"],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        num_replicas=replicas,
        duplicate_window=DUPLICATE_WINDOW_SECONDS,
        max_age=NOTIFICATIONS_SECONDS_MAX,
        max_bytes=NOTIFICATIONS_BYTES_MAX,
    )


def consumer_config() -> ConsumerConfig:
    """Redelivers for ever: poison goes to the dead letters in the ingest transaction, good events never do."""
    return ConsumerConfig(
        durable_name=INGEST_CONSUMER,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_SECONDS,
        max_deliver=-1,
        max_ack_pending=ACK_PENDING_MAX,
    )


async def connect_nats(access: NatsAccess, name: str) -> Client:
    """A connection that never gives up. Raises TimeoutError where no server answers, or lets us in, at first."""

    connection = Client()

    async def on_error(error: Exception) -> None:
        log.warning("nats_error", error=str(error) or type(error).__name__)

    try:
        # With endless reconnects, the first connect is tried endlessly too.
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            await connection.connect(name=name, error_cb=on_error, **access.options())
    except BaseException:
        await close_client(connection)
        raise
    return connection


async def create_stream(connection: Client, replicas: int) -> None:
    """Creates or updates the streams and the ingest consumer. For the deploy identity; see check_stream."""
    _check_server(connection)
    jetstream = connection.jetstream()
    for wanted in (
        stream_config(replicas),
        stream_config(replicas, SEALS_STREAM, [SEALS]),
        notifications_config(replicas),
    ):
        try:
            await jetstream.stream_info(str(wanted.name))
            await jetstream.update_stream(wanted)
        except NotFoundError:
            await jetstream.add_stream(wanted)
    await jetstream.add_consumer(STREAM, consumer_config())
    await check_stream(connection)
    await check_seals_stream(connection)


async def check_stream(connection: Client) -> None:
    """Reads the stream's and the consumer's settings back. Raises StreamConfigError that names what is wrong.

    Older servers silently drop settings that they do not know, so what was asked for proves nothing.
    """
    _check_server(connection)
    jetstream = connection.jetstream()
    await _check_stream_settings(jetstream, stream_config(replicas=1))
    await _check_consumer_settings(jetstream)


async def check_seals_stream(connection: Client) -> None:
    """The same of the stream of checkpoints, for ledgers that seal."""
    await _check_stream_settings(connection.jetstream(), stream_config(1, SEALS_STREAM, [SEALS]))


def stream_differences(
    actual: StreamConfig, wanted: StreamConfig, names: Sequence[str] = STREAM_SETTINGS
) -> list[Difference]:
    """Which of these settings, and the subjects, are not as they are wanted."""
    found = _differences(actual, wanted, names)
    if set(actual.subjects or ()) != set(wanted.subjects or ()):
        subjects = (", ".join(one.subjects or ()) or "none" for one in (actual, wanted))
        found.append(Difference("subjects", *subjects))
    return found


def consumer_differences(actual: ConsumerConfig) -> list[Difference]:
    """Where the ingest consumer is not as it must be."""
    found = _differences(actual, consumer_config(), CONSUMER_SETTINGS)
    # A filter would hide events from the ledger for ever.
    filters = ((name, getattr(actual, name)) for name in ("filter_subject", "filter_subjects"))
    return found + [Difference(name, str(value), "none") for name, value in filters if value]


def _differences(
    actual: StreamConfig | ConsumerConfig, wanted: StreamConfig | ConsumerConfig, names: Sequence[str]
) -> list[Difference]:
    pairs = ((name, getattr(actual, name), getattr(wanted, name)) for name in names)
    return [
        Difference(name, str(getattr(found, "value", found)), str(getattr(want, "value", want)))
        for name, found, want in pairs
        if found != want
    ]


async def _check_stream_settings(jetstream: JetStreamContext, wanted: StreamConfig) -> None:
    name = str(wanted.name)
    try:
        actual = (await jetstream.stream_info(name)).config
    except NotFoundError:
        raise StreamConfigError(f"there is no stream {name}: run `ledger migrate`") from None
    differing = [one.name for one in stream_differences(actual, wanted)]
    if differing:
        raise StreamConfigError(f"stream {name} differs in {', '.join(differing)}: run `ledger migrate`")


async def _check_consumer_settings(jetstream: JetStreamContext) -> None:
    try:
        actual = (await jetstream.consumer_info(STREAM, INGEST_CONSUMER)).config
    except NotFoundError:
        raise StreamConfigError(f"there is no consumer {INGEST_CONSUMER}: run `ledger migrate`") from None
    differing = [one.name for one in consumer_differences(actual)]
    if differing:
        raise StreamConfigError(f"consumer {INGEST_CONSUMER} differs in {', '.join(differing)}: run `ledger migrate`")


def _check_server(connection: Client) -> None:
    version = connection.connected_server_version
    if (version.major, version.minor) < SERVER_VERSION_MIN:
        raise StreamConfigError(
            f"NATS server {version} is too old: {SERVER_VERSION_MIN[0]}.{SERVER_VERSION_MIN[1]} or newer"
        )
