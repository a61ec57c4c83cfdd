"""The book: every job that a provider took on, and what it bills for it. Money in nano-dollars."""

import base64
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Final

from contracts.money import format_nanos
from deploy.emulators import media
from deploy.emulators.faults import Fault, Kind

PIECE_BYTES: Final = 256 * 1024
BOMB_EDGE: Final = 30_000
GARBAGE: Final = b"<html><body>An image was here.</body></html>"
GARBAGE_BASE64: Final = "%%% this is no base64 %%%"


class Outcome(StrEnum):
    """How a job ends. ``STUCK`` never does, ``FORGOTTEN`` is not known any more."""

    COMPLETED = "completed"
    FAILED = "failed"
    FILTERED = "filtered"
    STUCK = "stuck"
    FORGOTTEN = "forgotten"


class State(StrEnum):
    """Where a job is now."""

    CREATED = "created"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    FILTERED = "filtered"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True)
class Pace:
    """How long things take, in seconds: an answer at once, and a job that is asked for again.

    ``wait`` is for how long a provider waits for a job on behalf of a client that wants the result at once.
    """

    answer: float = 0.0
    queue: float = 0.0
    run: float = 0.0
    wait: float = 5.0


@dataclass(frozen=True)
class Output:
    """A file of a job, as it is handed out: damaged, where a fault says so."""

    result: media.Result
    fault: Fault | None = None

    @property
    def size(self) -> int:
        if self._damage is Kind.OUTPUT_OVERSIZED and self.fault is not None:
            return len(media.make(self.result)) + self.fault.size
        return len(self.content())

    @property
    def _damage(self) -> Kind | None:
        return self.fault.kind if self.fault else None

    def content(self) -> bytes:
        """The bytes; of an oversized file those in front."""
        match self._damage:
            case Kind.OUTPUT_EMPTY:
                return b""
            case Kind.OUTPUT_GARBAGE:
                return GARBAGE
            case Kind.OUTPUT_BOMB:
                return bomb()
            case Kind.OUTPUT_TRUNCATED:
                whole = media.make(self.result)
                return whole[: len(whole) // 2]
            case _:
                return media.make(self.result)

    def pieces(self) -> Iterator[bytes]:
        """The bytes, padding of an oversized file included, never all at once."""
        content = self.content()
        yield content
        rest = self.size - len(content)
        while rest > 0:
            yield bytes(min(rest, PIECE_BYTES))
            rest -= PIECE_BYTES

    def base64(self) -> str:
        if self._damage is Kind.BASE64_GARBAGE:
            return GARBAGE_BASE64
        return base64.b64encode(b"".join(self.pieces())).decode()


@dataclass
class Job:
    """One accepted piece of work."""

    job_id: str
    request_id: str
    client_request_id: str | None
    provider: str
    model: str
    parameters: dict[str, object]
    amount_nanos: int
    accepted_at: float
    pace: Pace
    outcome: Outcome
    outputs: tuple[Output, ...]
    key: str
    no_output: bool = False
    output_url: str | None = None
    #: What the provider keeps beside it, to answer with later.
    memo: dict[str, object] = field(default_factory=dict)

    def state(self, now: float) -> State:
        age = now - self.accepted_at
        if self.outcome is Outcome.FORGOTTEN:
            return State.FORGOTTEN
        if age < self.pace.queue:
            return State.CREATED
        if age < self.pace.queue + self.pace.run or self.outcome is Outcome.STUCK:
            return State.PROCESSING
        return self.last_state

    @property
    def last_state(self) -> State:
        """That it is in once its time is over. Not to be had from `state` at that moment: times are floats."""
        return State.PROCESSING if self.outcome is Outcome.STUCK else State(self.outcome.value)

    def billed(self, now: float, today: datetime) -> dict[str, object]:
        """As the control endpoint lists it. Both are this moment: as the jobs are timed, and by the calendar."""
        accepted_at = today - timedelta(seconds=now - self.accepted_at)
        return {
            "job_id": self.job_id,
            "request_id": self.request_id,
            "client_request_id": self.client_request_id,
            "provider": self.provider,
            "model": self.model,
            "parameters": self.parameters,
            "accepted_at": accepted_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "amount": format_nanos(self.amount_nanos),
            "state": self.state(now),
        }


class Book:
    """All jobs of all providers, in the order in which they were accepted."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._by_id: dict[tuple[str, str], Job] = {}

    def enter(self, job: Job) -> None:
        """Of two jobs with one id, the first is found."""
        self.jobs.append(job)
        self._by_id.setdefault((job.provider, job.job_id), job)

    def find(self, provider: str, job_id: str) -> Job | None:
        return self._by_id.get((provider, job_id))

    def last_id(self, provider: str) -> str | None:
        return next((job.job_id for job in reversed(self.jobs) if job.provider == provider), None)

    def clear(self, provider: str | None = None) -> None:
        self.jobs = [job for job in self.jobs if provider not in (None, job.provider)]
        self._by_id = {}
        for job in self.jobs:
            self._by_id.setdefault((job.provider, job.job_id), job)


@cache
def bomb() -> bytes:
    """A valid PNG of 30,000 x 30,000 black pixels in about 110 kB; decoded as RGB it takes 2.7 GB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + BOMB_EDGE // 8)
    packed = b"".join(packer.compress(row) for _ in range(BOMB_EDGE)) + packer.flush()
    header = struct.pack(">IIBBBBB", BOMB_EDGE, BOMB_EDGE, 1, 0, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", packed), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
