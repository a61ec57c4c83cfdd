"""The calls that are served over HTTP and NATS alike: JSON in, JSON out, ProblemError for what is wrong."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import orjson
import structlog
from pydantic import ValidationError

from contracts.access.rules import not_your_account
from contracts.leases import LeaseRequest, LeaseReturn
from contracts.limits import CHECKS_PER_BATCH_MAX, LimitCheck, LimitCheckBatch
from contracts.problems import (
    INTERNAL,
    STORE_UNAVAILABLE,
    TOO_LARGE,
    Problem,
    ProblemError,
    broken_rule,
    invalid,
    problem,
)
from contracts.reservations import ReservationExtension, ReservationMove, ReservationRef
from contracts.strict_json import parse_json, read_json, refuse_repeated_members
from contracts.subjects import (
    LEASES_PLACE,
    LEASES_RETURN,
    LIMITS_CHECK,
    LIMITS_CHECK_BATCH,
    RESERVATIONS_EXTEND,
    RESERVATIONS_MOVE,
    RESERVATIONS_RELEASE,
)
from ledger_service.leases import Leases
from ledger_service.limit_checks import LimitChecks
from ledger_service.moves import Moves
from ledger_service.reservations import Reservations
from ledger_service.store.pool import UNAVAILABLE, StoreUnavailableError

log = structlog.get_logger()

#: What a caller is told of an error that is none of its own making.
STORE_ERRORS: Final[tuple[type[Exception], ...]] = (StoreUnavailableError, *UNAVAILABLE)

CHECK_BYTES_MAX: Final = 64 * 1024
BATCH_BYTES_MAX: Final = 1000 * 1024

Reference = TypeVar("Reference", bound=ReservationRef)

_NOT_TEXT: Final = frozenset({"quantity", "attributes", "ttl_seconds", "dry_run"})
_MAYBE_TEXT: Final = ("project_id", "api_key_id", "estimated_cost")


def store_unavailable(_: Exception) -> ProblemError:
    return ProblemError(STORE_UNAVAILABLE, "nothing was lost; try again with the same operation_id or event ids")


def problem_of(error: Exception) -> Problem:
    """What a caller is told of an error. One that nobody foresaw is logged, and told as no more than that."""
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, STORE_ERRORS):
        return store_unavailable(error).problem
    log.error("internal_error", exc_info=error)
    return problem(INTERNAL, "the error was logged")


class Calls:
    """One method a call; each takes the request's JSON and answers the response's.

    ``check`` is no coroutine: it begins at once, and with ten thousands a second a task for each would cost too much.

    ``only``: the account that the caller's token is bound to. What names another one is refused, what an id alone names
    is looked for in that account, and is elsewhere not known. None: all accounts, as over NATS, which its own
    permissions guard.
    """

    def __init__(self, limit_checks: LimitChecks, reservations: Reservations, moves: Moves, leases: Leases) -> None:
        self._limit_checks = limit_checks
        self._reservations = reservations
        self._moves = moves
        self._leases = leases

    def check(self, body: bytes, only: str | None = None) -> Awaitable[bytes]:
        """contracts.limits: LimitCheck → Decision."""
        check = parse_json(LimitCheck, _bounded(body, CHECK_BYTES_MAX))
        if body.count(b'"') != _quotes(check):
            refuse_repeated_members(body)
        if only is not None and check.account_id != only:
            raise not_your_account()
        return self._limit_checks.check(check)

    async def check_batch(self, body: bytes, only: str | None = None) -> bytes:
        """contracts.limits: LimitCheckBatch → LimitCheckBatchAnswer. What is wrong with one check is its own answer."""
        read = _read_checks(_bounded(body, BATCH_BYTES_MAX))
        if only is not None:
            read = [_own_check(one, only) for one in read]
        decided = iter(await self._limit_checks.check_many([one for one in read if isinstance(one, LimitCheck)]))
        answers = (next(decided) if isinstance(one, LimitCheck) else one for one in read)
        return b'{"results":[' + b",".join(map(_result, answers)) + b"]}"

    async def release(self, body: bytes, only: str | None = None) -> bytes:
        """contracts.reservations: ReservationRef → ReservationState."""
        ref = _own_reservation(read_json(ReservationRef, _bounded(body, CHECK_BYTES_MAX)), only)
        state = await self._reservations.release(ref)
        return state.model_dump_json(exclude_none=True).encode()

    async def extend(self, body: bytes, only: str | None = None) -> bytes:
        """contracts.reservations: ReservationExtension → ReservationState."""
        extension = _own_reservation(read_json(ReservationExtension, _bounded(body, CHECK_BYTES_MAX)), only)
        state = await self._reservations.extend(extension)
        return state.model_dump_json(exclude_none=True).encode()

    async def move(self, body: bytes, only: str | None = None) -> bytes:
        """contracts.reservations: ReservationMove → contracts.limits: Decision."""
        return await self._moves.move(
            _own_reservation(read_json(ReservationMove, _bounded(body, CHECK_BYTES_MAX)), only)
        )

    async def lease(self, body: bytes, only: str | None = None) -> bytes:
        """contracts.leases: LeaseRequest → Lease."""
        request = read_json(LeaseRequest, _bounded(body, CHECK_BYTES_MAX))
        if only is not None and request.account_id != only:
            raise not_your_account()
        lease = await self._leases.place(request)
        return lease.model_dump_json().encode()

    async def return_lease(self, body: bytes, only: str | None = None) -> bytes:
        """contracts.leases: LeaseReturn → LeaseReturned."""
        returned = await self._leases.give_back(read_json(LeaseReturn, _bounded(body, CHECK_BYTES_MAX)), only)
        return returned.model_dump_json().encode()


@dataclass(frozen=True)
class NatsEndpoint:
    """A call as a NATS service offers it."""

    name: str
    subject: str
    call: Callable[[Calls, bytes], Awaitable[bytes]]


#: The registry: a call that is to be had over NATS adds its line here.
NATS_ENDPOINTS: Final = (
    NatsEndpoint("limits-check", LIMITS_CHECK, Calls.check),
    NatsEndpoint("limits-check-batch", LIMITS_CHECK_BATCH, Calls.check_batch),
    NatsEndpoint("reservations-release", RESERVATIONS_RELEASE, Calls.release),
    NatsEndpoint("reservations-extend", RESERVATIONS_EXTEND, Calls.extend),
    NatsEndpoint("reservations-move", RESERVATIONS_MOVE, Calls.move),
    NatsEndpoint("leases-place", LEASES_PLACE, Calls.lease),
    NatsEndpoint("leases-return", LEASES_RETURN, Calls.return_lease),
)


def _bounded(body: bytes, bytes_max: int) -> bytes:
    if len(body) > bytes_max:
        raise ProblemError(TOO_LARGE, f"at most {bytes_max} bytes a request")
    return body


def _own_check(one: LimitCheck | ProblemError, only: str) -> LimitCheck | ProblemError:
    return not_your_account() if isinstance(one, LimitCheck) and one.account_id != only else one


def _own_reservation(ref: Reference, only: str | None) -> Reference:
    if only is None:
        return ref
    if ref.account_id not in (None, only):
        raise not_your_account()
    return ref.model_copy(update={"account_id": only})


def _quotes(check: LimitCheck) -> int:
    """How many quotes a check has as JSON, at least. One that has more is read again, in case a member stands twice:
    that costs a hundredth of always reading it so."""
    named = check.model_fields_set
    values = check.__dict__
    texts = len(named - _NOT_TEXT) - sum([values[name] is None for name in _MAYBE_TEXT if name in named])
    if check.attributes:
        texts += len(check.attributes) + sum(isinstance(value, str) for value in check.attributes.values())
    return 2 * (len(named) + texts)


def _read_checks(body: bytes) -> Sequence[LimitCheck | ProblemError]:
    try:
        read = LimitCheckBatch.model_validate_json(body).checks
    except ValidationError as error:
        refusal = invalid(error)
    else:
        if body.count(b'"') != 2 + sum(map(_quotes, read)):
            refuse_repeated_members(body)
        return read
    checks = _checks_in(body)
    if checks is None:
        raise refusal
    refuse_repeated_members(body)
    if len(checks) > CHECKS_PER_BATCH_MAX:
        raise broken_rule("checks", "too_long", f"at most {CHECKS_PER_BATCH_MAX} checks a batch, not {len(checks)}")
    return [_read_check(orjson.dumps(check)) for check in checks]


def _checks_in(body: bytes) -> list[object] | None:
    """The checks of a batch in which something is wrong; None where the batch itself is."""
    try:
        batch = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    checks = batch.get("checks") if isinstance(batch, dict) and len(batch) == 1 else None
    return checks if isinstance(checks, list) and checks else None


def _read_check(body: bytes) -> LimitCheck | ProblemError:
    try:
        return parse_json(LimitCheck, body)
    except ProblemError as error:
        return error


def _result(answer: bytes | Exception) -> bytes:
    if isinstance(answer, bytes):
        return b'{"decision":' + answer + b"}"
    # Whatever it is: the others' decisions stand, and are not to be lost with it.
    return b'{"problem":' + problem_of(answer).model_dump_json().encode() + b"}"
