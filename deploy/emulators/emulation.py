"""What the emulators of one process share, and what each of them has to say for itself."""

import asyncio
import hashlib
import secrets
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from deploy.emulators import media
from deploy.emulators.faults import OUTPUT_KINDS, Fault, FaultPlan, Hit, Kind
from deploy.emulators.jobs import Book, Job, Outcome, Output, Pace

#: Where the fault layer leaves what hits a request, for `accept` to find.
FAULT_STATE: Final = "emulators.fault"
LEAKS_MAX: Final = 1_000
HIT_STATE: Final = "emulators.hit"
#: Words in a prompt that make a job go wrong without any control endpoint: what a person can type.
REFUSED_WORD: Final = "[refused]"
FILTERED_WORD: Final = "[filtered]"
FAILS_WORD: Final = "[fails]"
_CLIENT_REQUEST_HEADERS: Final = ("x-client-request-id", "stability-client-request-id", "idempotency-key")


@dataclass
class Emulation:
    """Book, faults, pace, clock and ids. ``seed`` makes ids repeat; without one they are new in each process."""

    book: Book = field(default_factory=Book)
    plan: FaultPlan = field(default_factory=FaultPlan)
    pace: Pace = field(default_factory=Pace)
    clock: Callable[[], float] = time.monotonic
    seed: str = field(default_factory=lambda: secrets.token_hex(8))
    #: Addresses under which we are reached, once that is known.
    origin: str = "http://127.0.0.1"
    cdn_origin: str = "http://127.0.0.1"
    #: Instead of each provider's own default.
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Requests to the files that carried a credential: no provider's files need one, so each of them is a leak.
    leaks: deque[str] = field(default_factory=lambda: deque(maxlen=LEAKS_MAX))
    _drawn: int = 0

    def fresh(self, what: str, digits: int = 32) -> str:
        """A hexadecimal id that was not given before."""
        self._drawn += 1
        return hashlib.sha256(f"{self.seed}/{what}/{self._drawn}".encode()).hexdigest()[:digits]

    def file_url(self, job: Job, number: int) -> str:
        if job.output_url is not None:
            return job.output_url
        return f"{self.cdn_origin}/{job.provider}/{job.job_id}/{number}.{job.outputs[number].result.suffix}"


@dataclass(frozen=True)
class Work:
    """What a provider is asked to do, once it found nothing wrong with it."""

    model: str
    parameters: dict[str, object]
    amount_nanos: int
    results: Sequence[media.Result]
    prompt: str = ""
    #: What is billed where the job fails, and where the content filter holds the result back.
    failed_nanos: int = 0
    filtered_nanos: int = 0
    job_id: str | None = None
    #: How it ends, where the request itself says so.
    outcome: Outcome | None = None


class Provider(ABC):
    """One emulator: its routes below ``/{name}``, the keys it takes and how it words an error."""

    name: ClassVar[str]
    default_key: ClassVar[str]
    #: What it charges, for people and for price catalogues: by model, in dollars, with the unit.
    prices: ClassVar[Mapping[str, str]]

    def __init__(self, emulation: Emulation) -> None:
        self.emulation = emulation

    @abstractmethod
    def routes(self) -> Sequence[BaseRoute]: ...

    @abstractmethod
    def error(self, status: int, message: str, code: str | None = None) -> Response:
        """As the provider documents it. ``code`` where it has more than one for a status."""

    @property
    def keys(self) -> Sequence[str]:
        return self.emulation.keys.get(self.name, (self.default_key,))

    @property
    def url(self) -> str:
        """The base URL under which clients reach it."""
        return f"{self.emulation.origin}/{self.name}"

    def bearer(self, request: Request) -> str | None:
        """The key of a request, if it is one of ours."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key if scheme.lower() == "bearer" and key in self.keys else None

    def accept(self, request: Request, key: str, work: Work, *, waits: bool) -> Job:
        """Enter the job into the book: from here on it is billed. ``waits``: the client asks for the result later."""
        emulation = self.emulation
        fault: Fault | None = request.scope.get("state", {}).get(FAULT_STATE)
        hit: Hit | None = request.scope.get("state", {}).get(HIT_STATE)
        kind = fault.kind if fault else None
        outcome = work.outcome or _outcome(kind, work.prompt)
        results = [replace(result, blurred=outcome is Outcome.FILTERED) for result in work.results]
        job = Job(
            job_id=work.job_id or emulation.fresh(self.name),
            request_id=emulation.fresh(f"{self.name}/request"),
            client_request_id=next(
                (request.headers[name] for name in _CLIENT_REQUEST_HEADERS if name in request.headers), None
            ),
            provider=self.name,
            model=work.model,
            parameters=work.parameters,
            amount_nanos=_amount(work, outcome, fault),
            accepted_at=emulation.clock(),
            pace=emulation.pace if waits else Pace(),  # done at once, whatever the pace of others
            outcome=outcome,
            outputs=tuple(Output(result, fault if kind in OUTPUT_KINDS else None) for result in results),
            key=key,
            no_output=kind is Kind.NO_OUTPUT,
            output_url=fault.url if fault and kind is Kind.OUTPUT_URL else None,
        )
        if kind is Kind.DUPLICATE_ID:
            job.job_id = emulation.book.last_id(self.name) or job.job_id
        emulation.book.enter(job)
        if hit is not None:
            hit.job_id = job.job_id
        return job

    async def work_on(self, job: Job) -> Response | None:
        """What takes its time where the answer is the result; an answer instead where the job gets stuck."""
        if self.emulation.pace.answer:
            await asyncio.sleep(self.emulation.pace.answer)
        if job.outcome is Outcome.STUCK:
            await asyncio.sleep(self.emulation.pace.wait)
            return self.error(504, "The request took too long and was given up by a gateway.")
        return None


def _outcome(kind: Kind | None, prompt: str) -> Outcome:
    match kind:
        case Kind.JOB_FAILS:
            return Outcome.FAILED
        case Kind.JOB_STUCK:
            return Outcome.STUCK
        case Kind.JOB_FILTERED:
            return Outcome.FILTERED
        case Kind.JOB_FORGOTTEN:
            return Outcome.FORGOTTEN
    if FILTERED_WORD in prompt:
        return Outcome.FILTERED
    return Outcome.FAILED if FAILS_WORD in prompt else Outcome.COMPLETED


def _amount(work: Work, outcome: Outcome, fault: Fault | None) -> int:
    """By the provider's own rule, unless a fault says that it breaks it."""
    if fault is not None and fault.billed is not None:
        return work.amount_nanos if fault.billed else 0
    match outcome:
        case Outcome.FAILED:
            return work.failed_nanos
        case Outcome.FILTERED:
            return work.filtered_nanos
        case _:
            return work.amount_nanos


def dollars(text: str) -> int:
    """Nano-dollars of a price in dollars."""
    whole, _, part = text.partition(".")
    return int(whole + part.ljust(9, "0"))


def seed_of(*parts: object) -> str:
    """What two requests have in common that get the same result."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()
