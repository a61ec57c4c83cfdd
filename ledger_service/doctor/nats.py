"""What NATS tells: the stream, its consumer, its clock; and the newest checkpoint in the stream of seals.

Asked in JSON, as nats-py leaves out the server's clock, and waits in vain where permissions deny the question.
"""

import asyncio
import re
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import httpx
import nats.errors
import orjson
from nats.aio.client import Client
from nats.js.api import ConsumerInfo, StreamInfo

from contracts.access.http_connections import authorities
from contracts.access.nats_access import close_client
from contracts.subjects import INGEST_CONSUMER, SEALS, SEALS_STREAM, STREAM
from ledger_service.config import Settings
from ledger_service.doctor.seals import Published
from ledger_service.doctor.turns import Turns
from ledger_service.domain.doctor.facts import (
    Clock,
    Consumer,
    Difference,
    Nats,
    Reached,
    Storage,
    Stream,
    Trouble,
    Unknown,
)
from ledger_service.seal_publishing import CheckpointStream
from ledger_service.sealing import SealChain, SealsDivergedError
from ledger_service.stream import STREAM_SETTINGS, consumer_differences, stream_config, stream_differences

_CONNECT_SECONDS_MAX: Final = 5.0
_ANSWER_SECONDS_MAX: Final = 3.0
_NOT_FOUND: Final = 404
_UNAVAILABLE: Final = 503
#: More than a ledger insists on when it starts.
_SETTINGS: Final = (*STREAM_SETTINGS, "duplicate_window", "sealed", "mirror", "sources")
_NANOSECONDS: Final = re.compile(r"(\.\d{6})\d+")

Json = dict[str, Any]  # as servers write it


class _NoAnswerError(Exception):
    """A question that the server does not answer, or not to us; its text says why."""


async def gather(
    settings: Settings, chain: SealChain | None, monitoring_url: str | None, seconds_max: float, turns: Turns
) -> Nats:
    """Never raises for what a server does, or is."""
    try:
        found, turns.published["the stream SEALS"] = await _gather(settings, chain, monitoring_url, seconds_max, turns)
        return found
    finally:
        turns.published_read.set()


async def _gather(
    settings: Settings, chain: SealChain | None, monitoring_url: str | None, seconds_max: float, turns: Turns
) -> tuple[Nats, Published]:
    sync_interval = await _sync_interval(monitoring_url)
    place = ",".join(one.rpartition("@")[2].rpartition("/")[2] for one in settings.nats_url.split(","))
    server = _Server()
    try:
        trouble = await server.connect(settings)
        if trouble is not None:
            why = Unknown("NATS cannot be worked with: see nats.reachable")
            return nothing_known(why, Reached(place, *trouble), sync_interval), why
        async with asyncio.timeout(seconds_max):
            await turns.mark_read.wait()
            return await _ask_all(server, Reached(place), chain, sync_interval)
    except TimeoutError:
        why = Unknown(f"NATS took longer than {seconds_max:g} s to answer")
        return nothing_known(why, Reached(place, Trouble.SILENT), sync_interval), why
    finally:
        with suppress(AssertionError):  # of a client that was never connected
            await close_client(server.client)


async def _ask_all(
    server: "_Server", reached: Reached, chain: SealChain | None, sync_interval: str | Unknown
) -> tuple[Nats, Published]:
    version = server.client.connected_server_version
    try:
        begin = time.time()
        answer = await server.api(f"STREAM.INFO.{STREAM}")
        half = (time.time() - begin) / 2
    except _NoAnswerError as error:
        why = Unknown(str(error))
        told = nothing_known(why, reached, sync_interval)
        return replace(told, version=_numbers(version), has_jetstream=False if why.why == _NO_JETSTREAM else why), why
    clock: Clock | Unknown = Unknown("this server does not say what time it is")
    if "ts" in answer:
        clock = Clock(_time(answer["ts"]) - (begin + half), half)
    now = time.time() + (clock.ahead_seconds if isinstance(clock, Clock) else 0.0)
    found = Nats(
        reached=reached,
        version=_numbers(version),
        has_jetstream=True,
        clock=clock,
        stream=_stream(answer),
        consumer=await _consumer(server, answer, now),
        seals_stream=await _seals_stream(server),
        storage=await _storage(server),
        sync_interval=sync_interval,
    )
    return found, await _published(server, chain)


_NO_JETSTREAM: Final = "the server has no JetStream, or our account there has not"


class _Server:
    """One connection that is not tried again, and hears at once of what is denied."""

    def __init__(self) -> None:
        self.client = Client()
        self._errors: list[Exception] = []
        self._heard = asyncio.Event()

    async def connect(self, settings: Settings) -> tuple[Trouble, str] | None:
        """None: connected; else why not."""
        try:
            options = settings.nats_access.options() | {"allow_reconnect": False}
            async with asyncio.timeout(_CONNECT_SECONDS_MAX):
                connecting = asyncio.ensure_future(
                    self.client.connect(name="ledger-doctor", error_cb=self._on_error, **options)
                )
                # It would try again until the time is over, whatever the reason.
                failing = asyncio.ensure_future(self._failed(len(options["servers"])))
                try:
                    await asyncio.wait({connecting, failing}, return_when=asyncio.FIRST_COMPLETED)
                    if not connecting.done():
                        return _trouble(self._errors[-1])
                    connecting.result()
                finally:
                    for task in (connecting, failing):
                        task.cancel()
                    await asyncio.gather(connecting, failing, return_exceptions=True)
        except TimeoutError as error:
            return _trouble(self._errors[-1] if self._errors else error)
        except (OSError, ValueError, nats.errors.Error) as error:
            return _trouble(error)
        return None

    async def api(self, subject: str, question: bytes = b"") -> Json:
        """JetStream's answer; an empty one where what was asked for does not exist. Raises _NoAnswerError."""
        denied = f'publish to "$js.api.{subject}"'.lower()
        asking = asyncio.ensure_future(self.client.request(f"$JS.API.{subject}", question, timeout=_ANSWER_SECONDS_MAX))
        hearing = asyncio.ensure_future(self._hears_of(denied, "permissions violation for subscription"))
        try:
            await asyncio.wait({asking, hearing}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise _NoAnswerError(self._why_denied(denied, subject))
            answer: Json = orjson.loads(asking.result().data)
        except nats.errors.NoRespondersError:
            raise _NoAnswerError(_NO_JETSTREAM) from None
        except (OSError, TimeoutError, nats.errors.Error, ValueError) as error:
            raise _NoAnswerError(f"$JS.API.{subject}: {str(error) or 'no answer in time'}") from None
        finally:
            for task in (asking, hearing):
                task.cancel()
            await asyncio.gather(asking, hearing, return_exceptions=True)
        error_told = answer.get("error")
        if error_told is None:
            return answer
        if error_told.get("code") == _NOT_FOUND:
            return {}
        if error_told.get("code") == _UNAVAILABLE:
            raise _NoAnswerError(_NO_JETSTREAM)
        raise _NoAnswerError(str(error_told.get("description")))

    async def _on_error(self, error: Exception) -> None:
        self._errors.append(error)
        self._heard.set()

    async def _failed(self, servers: int) -> None:
        while len(self._errors) < servers:
            await self._next_error()

    def _why_denied(self, denied: str, subject: str) -> str:
        if any(denied in str(one).lower() for one in self._errors):
            return f"our identity may not ask $JS.API.{subject}"
        return "our identity may not listen for answers at LEDGER_NATS_INBOX_PREFIX"

    async def _hears_of(self, *words: str) -> None:
        while not any(one in str(error).lower() for error in self._errors for one in words):
            await self._next_error()

    async def _next_error(self) -> None:
        self._heard.clear()
        await self._heard.wait()


def _stream(answer: Json) -> Stream | None:
    if not answer:
        return None
    info = StreamInfo.from_response(orjson.loads(orjson.dumps(answer)))
    return Stream(
        differences=tuple(stream_differences(info.config, stream_config(1), _SETTINGS)),
        messages=info.state.messages,
        last_sequence=info.state.last_seq,
        bytes=info.state.bytes,
        bytes_max=info.config.max_bytes or -1,
        messages_max=info.config.max_msgs or -1,
        replicas=info.config.num_replicas or 1,
    )


async def _consumer(server: _Server, stream: Json, now: float) -> Consumer | Unknown | None:
    try:
        answer = await server.api(f"CONSUMER.INFO.{STREAM}.{INGEST_CONSUMER}")
        if not answer:
            return None
        info = ConsumerInfo.from_response(orjson.loads(orjson.dumps(answer)))
        acknowledged = info.ack_floor.stream_seq if info.ack_floor else 0
        behind = (info.num_pending or 0) + (info.num_ack_pending or 0)
        first = stream.get("state", {}).get("first_seq", 0) if stream else 0
        waits = await _seconds_since(server, max(acknowledged + 1, first), now) if behind else None
    except _NoAnswerError as error:
        return Unknown(str(error))
    return Consumer(tuple(consumer_differences(info.config)), behind, acknowledged, info.num_waiting or 0, waits)


async def _seconds_since(server: _Server, sequence: int, now: float) -> float:
    answer = await server.api(f"STREAM.MSG.GET.{STREAM}", orjson.dumps({"seq": sequence}))
    return max(0.0, now - _time(answer["message"]["time"])) if answer else 0.0


async def _seals_stream(server: _Server) -> tuple[Difference, ...] | Unknown | None:
    try:
        answer = await server.api(f"STREAM.INFO.{SEALS_STREAM}")
    except _NoAnswerError as error:
        return Unknown(str(error))
    if not answer:
        return None
    info = StreamInfo.from_response(answer)
    return tuple(stream_differences(info.config, stream_config(1, SEALS_STREAM, [SEALS])))


async def _storage(server: _Server) -> Storage | Unknown:
    try:
        answer = await server.api("INFO")
    except _NoAnswerError as error:
        return Unknown(str(error))
    limits = answer.get("limits", {})
    return Storage(int(answer.get("storage", 0)), int(limits.get("max_storage", -1)))


async def _published(server: _Server, chain: SealChain | None) -> Published:
    if chain is None:
        return Unknown("there is no key")
    try:
        if not await server.api(f"STREAM.INFO.{SEALS_STREAM}"):
            return Unknown("there is no stream SEALS")
        return await CheckpointStream(server.client, chain).head()
    except SealsDivergedError as error:
        return str(error)
    except (_NoAnswerError, OSError, TimeoutError, nats.errors.Error) as error:
        return Unknown(str(error) or type(error).__name__)


async def _sync_interval(monitoring_url: str | None) -> str | Unknown:
    if monitoring_url is None:
        return Unknown("servers tell only who monitors them (--nats-monitoring)")
    try:
        async with httpx.AsyncClient(timeout=_ANSWER_SECONDS_MAX, verify=authorities(), trust_env=False) as client:
            told = (await client.get(f"{monitoring_url.rstrip('/')}/jsz?config=true")).json()
        config = told["config"]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Unknown(f"{monitoring_url}: {str(error) or type(error).__name__}")
    except (ValueError, KeyError, TypeError):
        return Unknown(f"{monitoring_url}: what answers there is no monitoring of NATS with JetStream")
    return "always" if config.get("sync_always") else f"{int(config.get('sync_interval', 0)) / 10**9:g}s"


def _trouble(error: Exception) -> tuple[Trouble, str]:
    told = str(error) or type(error).__name__
    match error:
        case ssl.SSLError():
            return Trouble.TLS, told
        case socket.gaierror():
            return Trouble.NO_ADDRESS, told
        case ConnectionRefusedError():
            return Trouble.REFUSED, ""
        case TimeoutError():
            return Trouble.SILENT, ""
        case nats.errors.Error() if "authorization violation" in told.lower():
            return Trouble.WRONG_PASSWORD, told
        case OSError() if "Connect call failed" in told:
            return Trouble.REFUSED, ""
        case ValueError():
            return Trouble.OTHER, "LEDGER_NATS_URL, or the seed of LEDGER_NATS_NKEY_FILE, is none"
        case _:
            return Trouble.OTHER, told


def nothing_known(why: Unknown, reached: Reached | None = None, sync_interval: str | Unknown | None = None) -> Nats:
    names = (name for name in Nats.__dataclass_fields__ if name not in ("reached", "sync_interval"))
    return Nats(
        reached=reached or Reached("NATS", Trouble.OTHER, why.why),
        sync_interval=why if sync_interval is None else sync_interval,
        **dict.fromkeys(names, why),
    )


def _time(text: str) -> float:
    return datetime.fromisoformat(_NANOSECONDS.sub(r"\1", text)).timestamp()


def _numbers(version: Any) -> tuple[int, int, int]:  # Any: nats-py does not export its type
    return version.major, version.minor, version.patch
