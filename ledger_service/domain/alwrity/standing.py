"""What ALwrity's summaries say beside its log rows, what the ledger makes of both, and why the three differ."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

from contracts.adjustments import ADJUSTED_MAX
from contracts.money import COST_NANOS_MAX, format_nanos
from ledger_service.domain.alwrity.values import (
    BadValueError,
    Row,
    count,
    derived_id,
    enum_value,
    maybe_moment,
    money,
    month,
)

SUMMARIES: Final = "usage_summaries"
RENEWALS: Final = "subscription_renewal_history"
ALERTS: Final = "usage_alerts"
#: In its own order.
PROVIDERS: Final = (
    "gemini", "openai", "anthropic", "mistral", "wavespeed", "tavily", "serper", "metaphor", "firecrawl", "stability",
    "exa", "video", "image_edit", "audio",
)  # fmt: skip
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    SUMMARIES: (
        "id", "user_id", "billing_period", *(f"{one}_calls" for one in PROVIDERS),
        *(f"{one}_cost" for one in PROVIDERS), "total_calls", "total_tokens", "total_cost", "created_at", "updated_at",
    ),
    RENEWALS: ("id", "user_id", "renewal_type", "plan_name", "previous_plan_name", "new_period_start", "created_at"),
    ALERTS: ("id", "user_id", "alert_type", "billing_period"),
}  # fmt: skip
NEEDED: Final[dict[str, tuple[str, ...]]] = {
    SUMMARIES: ("user_id", "billing_period"),
    RENEWALS: ("user_id",),
    ALERTS: ("user_id",),
}
#: What an opening balance is recorded as, where an operation, a provider and a model would stand.
OPENING: Final = "opening_balance"
OPENING_PROVIDER: Final = "alwrity"
_YEARS: Final = (2000, 2200)


class Summary(NamedTuple):
    """A row of usage_summaries. ``calls`` and ``cost_nanos``: the larger of its total and of what its providers add up
    to, which ALwrity writes by different code; updates are lost there, and none is ever made up."""

    user_id: str
    period: str
    calls: int
    cost_nanos: int
    tokens: int
    total_calls: int
    provider_calls: int
    updated_at: datetime

    @property
    def key(self) -> tuple[str, str]:
        return self.user_id, self.period


class Renewal(NamedTuple):
    """At a renewal ALwrity sets the counters of the period to nothing."""

    user_id: str
    at: datetime | None
    said: str


def read_summary(row: Row) -> Summary:
    """Raises BadValueError."""
    period = month(row, "billing_period")
    total = count(row, "total_calls", ADJUSTED_MAX)
    parts = sum(count(row, f"{one}_calls", ADJUSTED_MAX) for one in PROVIDERS)
    cost = money(row, "total_cost").nanos
    part_costs = sum(money(row, f"{one}_cost").nanos for one in PROVIDERS)
    if max(total, parts) > ADJUSTED_MAX or max(cost, part_costs) > COST_NANOS_MAX:
        raise BadValueError("total_calls", "out_of_range", "is more than an opening balance may be")
    begins = datetime(int(period[:4]), int(period[5:]), 1, tzinfo=UTC)
    touched = [maybe_moment(row, "updated_at"), maybe_moment(row, "created_at")]
    within = [at for at in touched if at is not None and f"{at:%Y-%m}" == period]
    user_id = str(row.get("user_id") or "")
    return Summary(
        user_id, period, max(total, parts), max(cost, part_costs), count(row, "total_tokens", 10**15), total, parts,
        within[0] if within else begins,
    )  # fmt: skip


def read_renewal(row: Row) -> Renewal:
    """Raises BadValueError."""
    at = maybe_moment(row, "created_at") or maybe_moment(row, "new_period_start")
    before, after = row.get("previous_plan_name"), row.get("plan_name")
    plans = f"{before} → {after}" if before and before != after else str(after)
    return Renewal(str(row.get("user_id") or ""), at, f"{enum_value(row, 'renewal_type') or 'renewal'}: {plans}")


@dataclass(frozen=True, slots=True)
class Figures:
    """Calls are all calls, failed ones included, as ALwrity counts them. Costs in nano-dollars."""

    rows: int = 0
    calls: int = 0
    failures: int = 0
    cost_nanos: int = 0
    tokens: int = 0

    def plus(self, other: "Figures") -> "Figures":
        return Figures(
            self.rows + other.rows, self.calls + other.calls, self.failures + other.failures,
            self.cost_nanos + other.cost_nanos, self.tokens + other.tokens,
        )  # fmt: skip

    def minus(self, other: "Figures") -> "Figures":
        return Figures(
            self.rows - other.rows, self.calls - other.calls, self.failures - other.failures,
            self.cost_nanos - other.cost_nanos, self.tokens - other.tokens,
        )  # fmt: skip


NOTHING: Final = Figures()


class Reason(NamedTuple):
    """One part of the difference between what ALwrity's summary says and what the ledger counts."""

    code: str
    calls: int
    cost_nanos: int
    text: str


class Opening(NamedTuple):
    """An adjustment that says that summary and log disagree. Both amounts are 0 where the log has more: its rows are
    the evidence, and they stand."""

    adjustment_id: UUID
    user_id: str
    period: str
    occurred_at: datetime
    calls: int
    cost_nanos: int
    reason: str


def opening_of(summary: Summary, imported: Figures, opened: Figures, account_id: str) -> Opening | None:
    """What brings the ledger to the summary where that says more than the rows; None where they agree.

    ``imported``: what the ledger has of the period's rows, ``opened``: of earlier opening balances. Only the difference
    to those is opened now, so that it can be asked again as often as you like.
    """
    calls, cost = summary.calls - imported.calls, summary.cost_nanos - imported.cost_nanos
    if abs(cost) <= rounding_nanos(max(summary.calls, imported.calls)):
        cost = 0
    more = max(calls, 0) - opened.calls, max(cost, 0) - opened.cost_nanos
    agree = not calls and not cost
    if more == (0, 0) and (agree or opened.calls or opened.cost_nanos):
        return None
    said = (
        f"opening balance: ALwrity's summary of {summary.period} says {summary.calls} calls and "
        f"${format_nanos(summary.cost_nanos)}, its log rows {imported.calls} and ${format_nanos(imported.cost_nanos)}"
    )
    what = "the rows stand, and nothing is added" if more == (0, 0) else "the difference is added"
    figures = (summary.calls, summary.cost_nanos, imported.calls, imported.cost_nanos, opened.calls, opened.cost_nanos)
    id_ = derived_id(summary.updated_at, OPENING, account_id, summary.user_id, summary.period, *figures)
    return Opening(id_, summary.user_id, summary.period, summary.updated_at, *more, f"{said}: {what}")


def rounding_nanos(calls: int) -> int:
    """How far sums of floats may be from sums of decimals: a nano-dollar a call covers both roundings."""
    return calls + 1


@dataclass
class Period:
    """One user and billing period: theirs, ours, and why they differ.

    ``ours`` is what the ledger has of the rows and of opening balances; ``ledger`` is all that it has in that month
    (UTC) for the account.
    """

    user_id: str
    account_id: str
    period: str
    summary: Summary | None = None
    log: Figures = NOTHING
    new: Figures = NOTHING
    known: Figures = NOTHING
    conflicts: Figures = NOTHING
    refused: Figures = NOTHING
    imported: Figures = NOTHING
    opened: Figures = NOTHING
    opening: Opening | None = None
    elsewhere: Figures = NOTHING
    ledger: Figures = NOTHING
    aggregated: int = 0
    rounded: int = 0
    wrapped: int = 0
    #: Of aggregated rows, what the ledger had one by one already; an adjustment takes it off.
    unwrapped: Figures = NOTHING
    broken: int = 0
    renewals: list[Renewal] = field(default_factory=list)

    @property
    def ours(self) -> Figures:
        return self.imported.plus(replace(self.opened, rows=0))

    def reasons(self) -> list[Reason]:
        """Why ``ours`` is not what the summary says; where there is none, what its rows say. They add up to it."""
        found = [*self._about_rows()]
        if self.summary is None:
            theirs = self.log
        else:
            theirs = Figures(calls=self.summary.calls, cost_nanos=self.summary.cost_nanos)
            found += self._about_summary(self.summary)
        explained_calls = sum(one.calls for one in found)
        explained_cost = sum(one.cost_nanos for one in found)
        calls = self.ours.calls - theirs.calls - explained_calls
        cost = self.ours.cost_nanos - theirs.cost_nanos - explained_cost
        if calls or abs(cost) > rounding_nanos(self.ours.calls):
            found.append(Reason("unexplained", calls, cost, "recorded or corrected by somebody else meanwhile"))
        elif cost:
            found.append(Reason("rounding", 0, cost, "ALwrity adds floats up; the ledger adds decimals"))
        return found

    def _about_rows(self) -> Iterable[Reason]:
        if self.conflicts.rows:
            text = f"{self.conflicts.rows} rows came before with other content; the first stands"
            yield Reason("conflict", -self.conflicts.calls, -self.conflicts.cost_nanos, text)
        if self.refused.rows:
            text = f"{self.refused.rows} rows were refused by the ledger"
            yield Reason("refused", -self.refused.calls, -self.refused.cost_nanos, text)
        taken = self.log.minus(self.conflicts).minus(self.refused)
        earlier = self.imported.minus(taken)
        if earlier.calls or earlier.cost_nanos:
            text = "imported earlier from rows that are not in these files, or corrected since"
            yield Reason("earlier", earlier.calls, earlier.cost_nanos, text)

    def _about_summary(self, summary: Summary) -> Iterable[Reason]:
        calls, cost = self.log.calls - summary.calls, self.log.cost_nanos - summary.cost_nanos
        if abs(cost) <= rounding_nanos(max(self.log.calls, summary.calls)):
            cost = 0
        if calls > 0 or cost > 0:
            why = "it lost updates that came at once"
            if self.renewals:
                why = "its counters were set to nothing at a renewal, or it lost updates"
            text = f"the summary says less than its log: {why}; the rows stand"
            yield Reason("summary_behind", max(calls, 0), max(cost, 0), text)
        if calls < 0 or cost < 0:
            lacking = f"{-calls} calls" if calls < 0 else f"${format_nanos(-cost)}"
            text = f"the log lacks {lacking} that the summary has"
            yield Reason("rows_missing", min(calls, 0), min(cost, 0), text)
        if self.opened.calls or self.opened.cost_nanos:
            text = "opening balance: the adjustment that stands for what the log lacks"
            yield Reason("opening_balance", self.opened.calls, self.opened.cost_nanos, text)

    def remarks(self) -> list[str]:
        """What else is worth knowing of it."""
        found = []
        if self.summary is not None and self.summary.total_calls != self.summary.provider_calls:
            found.append(
                f"the summary's total is {self.summary.total_calls} calls, its providers add up to "
                f"{self.summary.provider_calls}: the larger was taken"
            )
        if self.aggregated:
            found.append(f"{self.aggregated} rows are [AGGREGATED], and count as what they stand for")
        if self.wrapped:
            found.append(f"{self.wrapped} rows are in an [AGGREGATED] row that is counted, and were left out")
        if self.unwrapped.rows:
            found.append(
                f"{self.unwrapped.rows} calls of an [AGGREGATED] row were imported one by one before: an adjustment "
                "takes them off it"
            )
        if self.rounded:
            found.append(f"{self.rounded} costs had more than nine decimals, and were rounded half to even")
        if self.broken:
            found.append(f"{self.broken} broken rows were left out")
        if self.elsewhere.rows:
            found.append(
                f"{self.elsewhere.calls} calls (${format_nanos(self.elsewhere.cost_nanos)}) happened in another month "
                "(UTC) than the one that ALwrity counted them in, and the ledger shows them there"
            )
        if (self.ledger.calls, self.ledger.cost_nanos) != (self.ours.calls, self.ours.cost_nanos):
            found.append(
                f"in the ledger's own month (UTC) are {self.ledger.calls} calls, "
                f"${format_nanos(self.ledger.cost_nanos)}: what happened in another month, came for a closed one, or "
                "was not imported makes the difference"
            )
        found += [f"{one.said} on {one.at:%Y-%m-%d}" for one in self.renewals if one.at is not None]
        return found
