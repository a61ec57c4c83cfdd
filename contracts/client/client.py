"""The one client of the ledger; see the package for an example."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Self
from uuid import UUID

import structlog
from pydantic import JsonValue

from contracts.access.service_tokens import Introspection
from contracts.client.asking import Transport
from contracts.client.background import Background, for_ever, stop
from contracts.client.checks import Checks
from contracts.client.delivery import EventDelivery, OverHttp, OverJetStream, Way
from contracts.client.errors import LedgerUnavailable, TokenRefused
from contracts.client.http_delivery import HttpDelivery
from contracts.client.http_transport import HttpTransport
from contracts.client.journal import Journal, JournalUnavailableError
from contracts.client.leases import Leases
from contracts.client.nats_link import NatsLink
from contracts.client.nats_transport import NatsTransport
from contracts.client.operation import Operation
from contracts.client.operation_context import OperationContext, Parts
from contracts.client.planning import plan_operation
from contracts.client.recording import DirectRecorder, JournalRecorder, ProblemOf, Recorder, recover_left, unknown
from contracts.client.recovery import Recover
from contracts.client.relay import Relay, RelaySettings
from contracts.client.releases import Releases
from contracts.client.repeats import Repeats
from contracts.client.settings import ClientSettings
from contracts.events import UsageEvent
from contracts.identifiers import uuid7
from contracts.limits import Decision, LimitCheck
from contracts.prices import RateAnswer, RateQuery
from contracts.problems import Problem

_log = structlog.stdlib.get_logger(__name__)


class LedgerClient:
    """Safe for any number of operations at once, on one event loop. Use `open`; or construct it (which opens the
    journal, and raises JournalUnavailableError), then `start`, then `close`.

    ``recover`` asks the provider what became of a call whose caller vanished: operations that a crash left behind,
    and those that end in doubt. Without it they are recorded at their estimate, as ``outcome_unknown``.
    """

    def __init__(
        self, settings: ClientSettings, recover: Recover | None = None, problem_of: ProblemOf | None = None
    ) -> None:
        self._settings = settings
        self._recover = recover
        self._background = Background()
        self._running: list[asyncio.Task[None]] = []
        self._returning: asyncio.Task[None] | None = None
        #: None where the settings name none. A service may keep its idempotency keys in it.
        self.journal = _open_journal(settings)
        self._http = _http_transport(settings)
        access = settings.nats_access
        self._link = None if access is None else NatsLink(access, settings.source)
        self._checks = Checks(_transport(settings, self._http, self._link), settings.timeout_seconds)
        self._delivery = EventDelivery(_ways(settings, self._http, self._link), settings.delivery_timeout_seconds)
        self._recorder: Recorder = (
            DirectRecorder(self._delivery, settings.source)
            if self.journal is None
            else JournalRecorder(self.journal, self._background, problem_of)
        )
        self._relay = None if self.journal is None else _relay(settings, self.journal)
        self._releases = Releases(self._checks, self._background)
        # What JetStream has, the ledger may not have yet.
        self._leases = Leases(self._checks, self._background, self.journal, committed_when_delivered=self._link is None)
        self._parts = Parts(
            self._checks, self._recorder, self._releases, self._leases, Repeats(), self._background, recover
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: ClientSettings, recover: Recover | None = None) -> AsyncIterator[Self]:
        """The client, from its start to its clean end. Raises JournalUnavailableError."""
        client = cls(settings, recover)
        try:
            await client.start()
            yield client
        finally:
            await client.close()

    async def start(self) -> None:
        """Begin to deliver what is in the journal, and to recover what a crash left in it."""
        await self._leases.load()
        self._returning = asyncio.create_task(for_ever("leases", self._leases.run))
        if self.journal is None:
            return
        # Read before the first operation: from then on there are intents that are not left over but running.
        left = await self.journal.unfinished()
        self._background.start(recover_left(left, self._recover or unknown, self._recorder))
        if self._relay is not None:
            self._running.append(asyncio.create_task(for_ever("relay", self._relay.run)))
        if self._http is not None:
            self._running.append(asyncio.create_task(self._deliver_over_http(self.journal, self._http)))

    async def close(self) -> None:
        """Wait for what runs, and for the ledger to have the journal's events, each for its bounded time. Cancelled
        meanwhile, it ends at once, and the journal is free for another process all the same."""
        try:
            await self._background.drain(self._settings.drain_seconds)
            if self.journal is not None and self._settings.flush_seconds:
                await self._flush(self.journal)
            await self._return_leases()
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        for task in filter(None, (self._returning, *self._running)):
            await stop(task)
        await self._checks.close()
        if self._http is not None:
            await self._http.close()
        if self._link is not None:
            await self._link.close()
        if self.journal is not None:
            await asyncio.to_thread(self.journal.close)

    async def _return_leases(self) -> None:
        if self._returning is not None:
            await stop(self._returning)
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._leases.close()
        except TimeoutError:
            _log.info("leases_stay_out")

    def operation(
        self,
        *,
        account_id: str,
        user_id: str,
        operation: str,
        provider: str,
        model: str,
        quantity: int = 1,
        estimated_cost: str | None = None,
        attributes: Mapping[str, str | int] | None = None,
        project_id: str | None = None,
        api_key_id: str | None = None,
        operation_id: UUID | None = None,
        ttl_seconds: int | None = None,
        endpoint: str | None = None,
        request_bytes: int = 0,
        metadata: Mapping[str, JsonValue] | None = None,
        doubtful: tuple[type[BaseException], ...] = (),
        release_if_lost: bool | None = None,
    ) -> AbstractAsyncContextManager[Operation]:
        """One paid operation within its limits; call the provider in the body, and say there how it ended.

        Entering it checks, holds and records the request. Where the ledger cannot be reached, and the plan's fail mode
        for the caller is ``lease``, what was leased beforehand admits it. Raises OperationDenied, LedgerUnavailable,
        RecordingUnavailable, or ProblemError for bad arguments: then nothing was started. LedgerRefused:
        ``operation_id`` came before with something else, its hold is over, or it has an outcome that was never checked.

        Leaving it records the outcome, also when the body is cancelled. What the body leaves unsaid:

        - it raises: failed, ``caller_error``, cost 0, or what ``billed`` said;
        - it is cancelled, runs out of time (TimeoutError) or raises one of ``doubtful``, such as your HTTP client's
          timeouts: the provider may have billed it. Recorded at the estimate, as ``in_doubt``;
        - it says nothing: in doubt as well, and RuntimeError.

        Without a journal OutcomeNotRecorded is raised where the ledger could not be told in time.

        An ``operation_id`` (UUIDv7) of your own makes asking again safe: after LedgerUnavailable the same id with the
        same arguments finds the hold that it may have. It is for one call of the provider. This client refuses one that
        has its outcome (operation_finished); to another process the ledger repeats its first answer, and a second
        outcome becomes a dead letter. Without one, or with ``release_if_lost``, a hold whose answer was lost is given
        back in the background.
        """
        fields = {
            "operation_id": operation_id or uuid7(),
            "account_id": account_id,
            "user_id": user_id,
            "operation": operation,
            "provider": provider,
            "model": model,
            "quantity": quantity,
            "estimated_cost": estimated_cost,
            "project_id": project_id,
            "api_key_id": api_key_id,
        }
        if attributes is not None:
            fields["attributes"] = dict(attributes)
        if estimated_cost is None:
            del fields["estimated_cost"]
        plan = plan_operation(
            fields,
            source=self._recorder.source,
            hold_seconds=self._settings.hold_seconds if ttl_seconds is None else ttl_seconds,
            endpoint=endpoint,
            request_bytes=request_bytes,
            metadata=metadata,
            doubtful=doubtful,
            release_if_lost=operation_id is None if release_if_lost is None else release_if_lost,
        )
        return OperationContext(plan, self._parts)

    async def check(self, check: LimitCheck) -> Decision:
        """The decision, allowed or not; an allowed one holds its share. Idempotent by ``operation_id``.

        Raises LedgerUnavailable within the client's timeout, and LedgerRefused.
        """
        return await self._checks.check(check)

    async def check_many(self, checks: Sequence[LimitCheck]) -> list[Decision | Problem]:
        """Up to 1,000 checks, each decided on its own; the answers in their order. Idempotent; raises as `check`."""
        return await self._checks.check_many(checks)

    async def release(self, operation_id: UUID, account_id: str | None = None) -> bool:
        """Give a hold back: nothing is owed. False where there is none (yet). Idempotent.

        Raises LedgerUnavailable; LedgerRefused where the operation has an outcome. Naming the account spares a search.
        """
        return await self._checks.release(operation_id, account_id)

    def release_later(self, operation_id: UUID, account_id: str) -> None:
        """Give a hold back in the background, patiently, for as long as it may last."""
        self._releases.start(operation_id, account_id, self._settings.hold_seconds)

    async def extend(self, operation_id: UUID, ttl_seconds: int, account_id: str | None = None) -> datetime:
        """Keep an open hold for so long from now; when it ends.

        Raises LedgerUnavailable; LedgerRefused where there is no such hold, or it is over.
        """
        return await self._checks.extend(operation_id, ttl_seconds, account_id)

    async def record_events(self, events: Sequence[UsageEvent]) -> None:
        """Hand over events that were made elsewhere, past the journal: returns when all of them are taken. Idempotent.

        Over HTTP that is when the ledger has committed them, over NATS when the stream has them. Raises
        LedgerUnavailable, and LedgerRefused, which names those that will never be taken.
        """
        await self._delivery.deliver(events)

    async def introspect(self, token: str) -> Introspection:
        """Whose service token it is that somebody sent us; needs ``ledger_url``. Raises LedgerUnavailable: within
        seconds, and TokenRefused where our own is not valid."""
        assert self._http is not None, "the settings name a ledger_url"
        return await self._http.introspect(token)

    async def rate(self, query: RateQuery) -> RateAnswer:
        """What the price catalogue has for an operation, or why it has nothing; needs ``ledger_url``. Holds nothing.

        Raises LedgerUnavailable within the client's timeout, and LedgerRefused.
        """
        assert self._http is not None, "the settings name a ledger_url"
        return await Checks(self._http, self._settings.timeout_seconds).rate(query)

    async def is_ready(self) -> bool:
        """Whether checks would be decided now."""
        return await self._checks.is_ready()

    async def token_refusal(self) -> str | None:
        """What the ledger has against our own token, over HTTP; None: nothing, or that cannot be found out now."""
        if self._http is None:
            return None
        own = "" if self._settings.token is None else self._settings.token.get_secret_value()
        try:
            await self._http.introspect(own)
        except TokenRefused as error:
            return error.problem.detail
        except LedgerUnavailable:
            return None
        return None

    @property
    def nats_connected(self) -> bool:
        """Whether journalled events can go over NATS at this moment."""
        return self._relay is not None and self._relay.is_connected

    @property
    def outcomes_waiting(self) -> frozenset[UUID]:
        """Operations whose outcome is known, and that the journal could not take yet: it is being tried again."""
        return self._recorder.waiting

    async def _deliver_over_http(self, journal: Journal, http: HttpTransport) -> None:
        delivery = HttpDelivery(journal, http)
        if self._relay is None:
            await for_ever("http_delivery", delivery.run_at_once)
        after_seconds = self._settings.http_delivery_after_seconds
        await for_ever("http_delivery", lambda: delivery.run_after(after_seconds))

    async def _flush(self, journal: Journal) -> None:
        try:
            async with asyncio.timeout(self._settings.flush_seconds):
                while True:
                    journal.outbox_shrank.clear()
                    if await journal.outbox_ends() == (0, 0):
                        return
                    await journal.outbox_shrank.wait()
        except TimeoutError:
            _log.info("unconfirmed_events_stay_in_the_journal")
        except JournalUnavailableError as error:
            _log.warning("journal_unavailable", reason=str(error))


def _open_journal(settings: ClientSettings) -> Journal | None:
    if settings.journal_path is None:
        return None
    return Journal(settings.journal_path, settings.journal_bytes_max, settings.source, settings.journal_reserve_bytes)


def _http_transport(settings: ClientSettings) -> HttpTransport | None:
    if settings.ledger_url is None:
        return None
    return HttpTransport(
        settings.ledger_url,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        # An attempt that hangs leaves time for another.
        attempt_seconds=settings.timeout_seconds / 2,
        token=settings.token,
    )


def _transport(settings: ClientSettings, http: HttpTransport | None, link: NatsLink | None) -> Transport:
    if settings.check_transport == "nats":
        assert link is not None, "the settings see to it"
        return NatsTransport(
            link,
            connect_timeout_seconds=settings.connect_timeout_seconds,
            attempt_seconds=settings.timeout_seconds / 2,
        )
    assert http is not None, "the settings see to it"
    return http


def _ways(settings: ClientSettings, http: HttpTransport | None, link: NatsLink | None) -> list[Way]:
    """For events that go out at once: first the way that the checks go."""
    ways: list[Way] = []
    if http is not None:
        ways.append(OverHttp(http))
    if link is not None:
        ways.append(OverJetStream(link))
    return ways[::-1] if settings.check_transport == "nats" else ways


def _relay(settings: ClientSettings, journal: Journal) -> Relay | None:
    access = settings.nats_access
    if access is None:
        return None
    return Relay(journal, RelaySettings(access, settings.confirm_after_seconds, settings.nats_stall_seconds))
