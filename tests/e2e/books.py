"""What must be true of a stack when all is quiet: the checker of the end-to-end tests and of the fault suite."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from typing import Final

from tests.builders import Body
from tests.e2e.driver import AccountClient, StackProcess, Told, Workload
from tests.oracle import Oracle, Terms, held_at, nanos

#: By status: the codes that a client may hear. None: the connection broke.
ANSWERS: Final[Mapping[int | None, frozenset[str | None]]] = {
    None: frozenset({None}),
    200: frozenset({None}),
    409: frozenset({"operation_in_progress"}),
    429: frozenset({"limit_exceeded"}),
    502: frozenset({"operation_failed"}),
    503: frozenset({"ledger_unavailable", "recording_unavailable", "overloaded"}),
}


class Books:
    """All that the ledger has of the accounts of a workload, read once, and compared with what clients were told.

    `wrong` lists in words whatever does not hold; empty = all is well.
    """

    def __init__(self, stack: StackProcess, workload: Workload) -> None:
        self._stack = stack
        self.workload = workload
        self._oracle = Oracle()
        self.wrong: list[str] = []
        self.rows: dict[str, Body] = {}
        self.requested: Counter[str] = Counter()
        #: Holds that expired before their operation's outcome came: their room was given away meanwhile.
        self.late: set[str] = set()

    @classmethod
    async def audit(
        cls,
        stack: StackProcess,
        workload: Workload,
        others: Sequence[AccountClient] = (),
        poison: Set[bytes] = frozenset(),
        poison_taken: Set[bytes] = frozenset(),
    ) -> "Books":
        """`others`: accounts with another record of theirs. `poison`: messages that were no events; those `taken` by
        NATS must be dead letters now, and nothing else may be one.
        """
        books = cls(stack, workload)
        own_accounts = {client.id for client in workload.accounts}
        for client in (*workload.accounts, *others):
            items = await client.usage_log()
            books._expect(len({item["operation_id"] for item in items}) == len(items), f"{client.id}: rows twice")
            books.rows |= {item["operation_id"]: item for item in items}
            await books._read_log(client)
            await books._summary_is_the_fold(client, items)
            await books._limits_are_the_fold(client)
        books._clients_were_told_the_truth()
        books._rows_lead_back_to_requests(own_accounts)
        await books._nothing_is_left_over(poison, poison_taken)
        return books

    def _expect(self, condition: object, otherwise: str) -> None:
        if not condition:
            self.wrong.append(otherwise)

    async def _read_log(self, client: AccountClient) -> None:
        """The account's events into the oracle, with the log's own checks."""
        query = "select type, body::text from event_log where account_id = $1 order by transaction_id, position"
        for kind, text in await self._stack.fetch(query, client.id):
            event = json.loads(text)
            data = event["data"]
            if kind in ("ledger.reservation.placed.v1", "ledger.reservation.moved.v1", "ledger.check.denied.v1"):
                decision = data["decision"]
                self._oracle.decided(held_at(data["check"], decision), decision["allowed"], decision["decided_at"])
                overdrawn = [one for one in decision["limits"] if str(one["available"]).startswith("-")]
                self._expect(not overdrawn or self.late, f"admitted past a limit: {decision}")
            elif kind in ("ledger.reservation.released.v1", "ledger.reservation.expired.v1"):
                self._oracle.closed(client.id, data["operation_id"], kind.split(".")[2])
            elif kind.startswith("usage.operation."):
                if self._oracle.operations[client.id, data["operation_id"]].closed and "requested" not in kind:
                    self.late.add(data["operation_id"])
                self.requested[data["operation_id"]] += kind == "usage.operation.requested.v1"
                self._expect(self._oracle.event(event) == "accepted", f"twice in the log: {text}")

    async def _summary_is_the_fold(self, client: AccountClient, items: list[Body]) -> None:
        events = {event["data"]["operation_id"] for event in self._oracle.usage_log(client.id)}
        self._expect(events == {item["operation_id"] for item in items}, f"{client.id}: usage log is not the log's")
        for period in {item["occurred_at"][:7] for item in items}:
            usage = await client.usage(period)
            groups: list[tuple[dict[str, str], Body]] = [({}, usage["totals"])]
            for name in ("operation", "provider", "model"):
                groups += [({name: value}, found) for value, found in usage[f"by_{name}"].items()]
            for only, found in groups:
                shown = {**found, "cost_nanos": nanos(found["cost"])}
                shown.pop("cost")
                wanted = self._oracle.totals(client.id, period, **only)
                self._expect(shown == wanted, f"{client.id} {period} {only}: {shown}, by the log {wanted}")

    async def _limits_are_the_fold(self, client: AccountClient) -> None:
        shown = {one["limit_id"]: one for one in (await client.usage())["limits"]}
        for limit_ in client.limits:
            settled, held, available = self._oracle.limit(limit_, client.id, "account", Terms(), datetime.now(UTC))
            is_cost = limit_["meter"] == "cost"
            found = [shown[limit_["limit_id"]][name] for name in ("settled", "held", "available")]
            found = [nanos(value) if is_cost else value for value in found]
            what = f"{client.id} {limit_['limit_id']}: settled, held, available"
            self._expect(
                found == [settled, held, available], f"{what} {found}, by the log {[settled, held, available]}"
            )
            self._expect(available >= 0 or self.late, f"{what} {found}: past a hard limit")

    def _clients_were_told_the_truth(self) -> None:
        outcomes: dict[int, set[tuple[str | None, ...]]] = defaultdict(set)
        for told in self.workload.told:
            self._expect(told.code in ANSWERS.get(told.status, ()), f"an answer like no other: {told}")
            self._expect(told.status not in (409, 503) or told.retry_after, f"does not say when to try again: {told}")
            row = self.rows.get(told.operation_id or "")
            if told.status == 200:
                outcomes[told.index].add((told.operation_id, told.images))
                self._expect(
                    row and (row["outcome"], row["cost"]) == ("completed", told.cost), f"{told}, recorded {row}"
                )
            elif told.status == 502:
                outcomes[told.index].add((told.operation_id, told.error_code))
                failure = row and (row["outcome"], row["cost"], row["error"]["code"])
                self._expect(failure == ("failed", "0.000000000", told.error_code), f"{told}, recorded {row}")
            elif told.status == 429:
                account_id = self.workload.account_of(told.index).id
                state = self._oracle.state(account_id, told.operation_id or "")
                self._expect(state == "denied", f"{told}, but the decision is {state}")
                started = row or self.requested[told.operation_id or ""]
                self._expect(not started, f"{told}, but it was done all the same: {row}")
            if row is not None:
                self._expect(row["user_id"] == f"r{told.index}", f"{told}, recorded for another request: {row}")
        for index, different in outcomes.items():
            self._expect(len(different) == 1, f"request {index} had several outcomes: {different}")

    def _rows_lead_back_to_requests(self, account_ids: Set[str]) -> None:
        heard: dict[str, list[Told]] = defaultdict(list)
        for told in self.workload.told:
            heard[f"r{told.index}"].append(told)
        rows = {key: row for key, row in self.rows.items() if row["account_id"] in account_ids}
        rows_of: Counter[str] = Counter(row["user_id"] for row in rows.values())
        for user_id, count in rows_of.items():
            self._expect(count == 1, f"request {user_id} was charged {count} times: {heard[user_id]}")
        for operation_id, row in rows.items():
            self._expect(self.requested[operation_id] == 1, f"no requested event: {row}")
            told_so = any(told.operation_id == operation_id for told in heard[row["user_id"]])
            # A connection that broke says nothing of what was done; with a key, neither does what was said later.
            died = any(told.status is None for told in heard[row["user_id"]])
            self._expect(told_so or died, f"nobody asked for it: {row}, told {heard[row['user_id']]}")
        for operation_id in self.requested:
            self._expect(operation_id in self.rows, f"operation {operation_id} was requested and has no outcome")

    async def _nothing_is_left_over(self, poison: Set[bytes], poison_taken: Set[bytes]) -> None:
        letters = await self._stack.fetch("select code, detail, body from dead_letters")
        good = [letter for letter in letters if bytes(letter["body"]) not in poison]
        self._expect(not good, f"dead letters: {good}")
        kept = {bytes(letter["body"]) for letter in letters}
        self._expect(poison_taken <= kept, f"neither events nor dead letters: {poison_taken - kept}")
        source, last = (self._stack.journal(f"select value from meta where name = '{name}'") for name in _META)
        recorded = await self._stack.fetch("select recorded::text as ranges from sources where source = $1", source)
        whole = [f"{{[1,{last + 1})}}"] if last else []
        self._expect([row["ranges"] for row in recorded] == whole, f"holes: {recorded} of {last} events")
        overdue = (
            "select * from decisions where state = 'held' and expires_at < clock_timestamp() - interval '3 seconds'"
        )
        self._expect(not await self._stack.fetch(overdue), "holds that outlive their time")


_META: Final = ("source", "last_sequence")
