"""What can be made to go wrong, on purpose or by lot.

A fault is waited for by one kind of request (``route``, a shell pattern over ``"POST /api/v3/…"``), hits the next
``times`` of them, and is then used up. Of several that fit, the one that was given first hits. A random mode draws
instead, the same ones for the same seed and the same order of requests.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from random import Random
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

REMEMBERED_MAX: Final = 10_000
QUEUED_MAX: Final = 1_000
OVERSIZED_BYTES: Final = 64 * 1024 * 1024
CDN: Final = "cdn"


class Kind(StrEnum):
    """Four groups: instead of the answer, to the answer, to the job, to the files that it makes."""

    STATUS = "status"  # an error as the provider words it, with `status`, and Retry-After where `retry_after` is given
    RESET = "reset"  # the connection is reset
    CLOSE = "close"  # the connection is closed without an answer
    HANG = "hang"  # no answer for `seconds`, then the connection is closed
    REDIRECT = "redirect"  # 307 to `url`
    MALFORMED_JSON = "malformed_json"
    WRONG_CONTENT_TYPE = "wrong_content_type"  # a web page that says 200
    EMPTY = "empty"  # 200 without a body

    DELAY = "delay"  # the answer comes after `seconds`
    TRUNCATE = "truncate"  # half of the answer, then the connection is closed
    DRIP = "drip"  # the answer comes in small pieces, over `seconds`

    JOB_FAILS = "job_fails"  # accepted, then failed; not billed unless `billed`
    JOB_STUCK = "job_stuck"  # accepted, then in progress for ever; billed unless `billed` is false
    JOB_FILTERED = "job_filtered"  # done, and held back by the provider's content filter
    JOB_FORGOTTEN = "job_forgotten"  # accepted and billed; asked for it, the provider does not know it
    DUPLICATE_ID = "duplicate_id"  # a new job under the id of the one before

    NO_OUTPUT = "no_output"  # completed, without what was made
    OUTPUT_URL = "output_url"  # the file is said to be at `url`
    OUTPUT_EMPTY = "output_empty"  # a file of no bytes
    OUTPUT_TRUNCATED = "output_truncated"  # half of the file, as if it were whole
    OUTPUT_OVERSIZED = "output_oversized"  # the file, and `size` bytes after it
    OUTPUT_GARBAGE = "output_garbage"  # no file of its kind
    OUTPUT_BOMB = "output_bomb"  # a small PNG that says to have 30,000 x 30,000 pixels
    BASE64_GARBAGE = "base64_garbage"  # where a file is sent as base64: something that is none


ANSWER_KINDS: Final = frozenset(
    {Kind.STATUS, Kind.RESET, Kind.CLOSE, Kind.HANG, Kind.REDIRECT}
    | {Kind.MALFORMED_JSON, Kind.WRONG_CONTENT_TYPE, Kind.EMPTY}
)
#: They need an answer to act on, so they come after the work.
AFTERWARDS: Final = frozenset({Kind.TRUNCATE, Kind.DRIP, Kind.DELAY})
OUTPUT_KINDS: Final = frozenset(
    {Kind.NO_OUTPUT, Kind.OUTPUT_URL, Kind.OUTPUT_EMPTY, Kind.OUTPUT_TRUNCATED, Kind.OUTPUT_OVERSIZED}
    | {Kind.OUTPUT_GARBAGE, Kind.OUTPUT_BOMB, Kind.BASE64_GARBAGE}
)
JOB_KINDS: Final = OUTPUT_KINDS | frozenset(
    {Kind.JOB_FAILS, Kind.JOB_STUCK, Kind.JOB_FILTERED, Kind.JOB_FORGOTTEN, Kind.DUPLICATE_ID}
)


class Fault(BaseModel):
    """One entry of the queue. ``at`` says whether the provider does and bills the work before the fault shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    #: A provider's name, or ``cdn``; all of them where it is left out.
    provider: str | None = None
    route: str = "*"
    at: Literal["before", "after"] = "before"
    times: int = Field(default=1, ge=1, le=1_000_000)
    #: So many requests that fit go through first.
    skip: int = Field(default=0, ge=0, le=1_000_000)
    status: int = Field(default=500, ge=400, le=599)
    retry_after: str | None = None
    seconds: float = Field(default=30.0, ge=0, le=3600)
    url: str | None = None
    size: int = Field(default=OVERSIZED_BYTES, ge=1, le=4 * 1024**3)
    billed: bool | None = None
    #: What a provider's error says, where it has more than one for a status: ``insufficient_quota``, for example.
    code: str | None = None

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if self.kind in (Kind.REDIRECT, Kind.OUTPUT_URL) and not self.url:
            raise ValueError(f"{self.kind} needs url: where it leads")
        return self

    @property
    def comes_after(self) -> bool:
        return self.kind in AFTERWARDS or (self.kind in ANSWER_KINDS and self.at == "after")

    def fits(self, provider: str, request: str) -> bool:
        return self.provider in (None, provider) and fnmatchcase(request, self.route)


class Chaos(BaseModel):
    """The random mode: ``rate`` of the requests are hit. Rate 0 ends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    rate: float = Field(ge=0, le=1)
    #: Left out: all that a provider's documentation allows for. A job that is billed although it failed is not drawn.
    kinds: list[Kind] | None = None
    #: How long what hangs, drips or is late takes.
    seconds: float = Field(default=1.0, ge=0, le=3600)


@dataclass
class _Waiting:
    fault: Fault
    skipped: int = 0
    hits: int = 0


@dataclass
class Hit:
    """One fault that happened."""

    provider: str
    request: str
    kind: Kind
    at: str
    by_chance: bool
    job_id: str | None = None


@dataclass
class FaultPlan:
    """Who is hit next."""

    waiting: list[_Waiting] = field(default_factory=list)
    hits: deque[Hit] = field(default_factory=lambda: deque(maxlen=REMEMBERED_MAX))
    chaos: Chaos | None = None
    _random: Random = field(default_factory=Random)

    def add(self, faults: list[Fault]) -> None:
        self.waiting += [_Waiting(fault) for fault in faults]

    def randomly(self, chaos: Chaos) -> None:
        self.chaos = chaos if chaos.rate else None
        self._random = Random(chaos.seed)  # noqa: S311 - repeatable on purpose

    def clear(self) -> None:
        self.waiting.clear()
        self.hits.clear()
        self.chaos = None

    def take(self, provider: str, request: str) -> tuple[Fault, Hit] | None:
        """The fault that hits this request (``"POST /path"``), noted as a hit."""
        fault, by_chance = self._scripted(provider, request), False
        if fault is None and self.chaos is not None:
            fault, by_chance = self._drawn(self.chaos, provider, request), True
        if fault is None:
            return None
        at = "after" if fault.comes_after else "job" if fault.kind in JOB_KINDS else "before"
        hit = Hit(provider, request, fault.kind, at, by_chance)
        self.hits.append(hit)
        return fault, hit

    def _scripted(self, provider: str, request: str) -> Fault | None:
        for waiting in self.waiting:
            if not waiting.fault.fits(provider, request):
                continue
            if waiting.skipped < waiting.fault.skip:
                waiting.skipped += 1
                continue
            waiting.hits += 1
            if waiting.hits >= waiting.fault.times:
                self.waiting.remove(waiting)
            return waiting.fault
        return None

    def _drawn(self, chaos: Chaos, provider: str, request: str) -> Fault | None:
        # Always two draws, so that one request more or less does not change what hits all that follow.
        hit, which = self._random.random(), self._random.random()
        if hit >= chaos.rate:
            return None
        possible = _possible(provider, request, chaos.seconds)
        if chaos.kinds is not None:
            possible = [fault for fault in possible if fault.kind in chaos.kinds]
        return possible[int(which * len(possible))] if possible else None


def _possible(provider: str, request: str, seconds: float) -> list[Fault]:
    """What may happen to a file's download, to a question about a job, and to a new job."""
    common = [
        Fault(kind=Kind.STATUS, status=500),
        Fault(kind=Kind.STATUS, status=503),
        Fault(kind=Kind.RESET),
        Fault(kind=Kind.CLOSE),
        Fault(kind=Kind.TRUNCATE),
        Fault(kind=Kind.DELAY, seconds=seconds),
        Fault(kind=Kind.DRIP, seconds=seconds),
        Fault(kind=Kind.HANG, seconds=seconds),
        Fault(kind=Kind.WRONG_CONTENT_TYPE),
        Fault(kind=Kind.EMPTY),
    ]
    if provider == CDN:
        return [*common, Fault(kind=Kind.STATUS, status=404)]
    limited = [Fault(kind=Kind.STATUS, status=429), Fault(kind=Kind.STATUS, status=429, retry_after="1")]
    malformed = Fault(kind=Kind.MALFORMED_JSON, at="after")
    if request.startswith("GET "):
        return [*common, *limited, malformed, Fault(kind=Kind.STATUS, status=404)]
    return [
        *common,
        *limited,
        malformed,
        Fault(kind=Kind.STATUS, status=500, at="after"),
        Fault(kind=Kind.STATUS, status=504, at="after"),
        Fault(kind=Kind.RESET, at="after"),
        Fault(kind=Kind.CLOSE, at="after"),
        Fault(kind=Kind.HANG, at="after", seconds=seconds),
        Fault(kind=Kind.EMPTY, at="after"),
        Fault(kind=Kind.JOB_FAILS),
        Fault(kind=Kind.JOB_STUCK),
        Fault(kind=Kind.JOB_FILTERED),
        Fault(kind=Kind.JOB_FORGOTTEN),
        Fault(kind=Kind.OUTPUT_TRUNCATED),
        Fault(kind=Kind.OUTPUT_EMPTY),
        Fault(kind=Kind.BASE64_GARBAGE),
        Fault(kind=Kind.OUTPUT_URL, url="http://169.254.169.254/latest/meta-data/"),
        Fault(kind=Kind.NO_OUTPUT),
    ]
