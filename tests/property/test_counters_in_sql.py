"""SQL and Python agree on which counters an operation touches: one holds, the other settles."""

from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from contracts.limits import Limit, LimitCheck, Meter, Plan, Scope, Window
from ledger_service.domain.counters import counted_by, scope_keys, shares_of
from ledger_service.domain.decide import claims_of
from ledger_service.domain.periods import BEGINNING, END_OF_TIME, Calendar, period_of
from ledger_service.domain.terms import Terms
from tests import builders

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
OPERATIONS = ["generate", "edit", "upscale"]
PROVIDERS = ["local", "far"]
MODELS = ["render-1", "stability-ai/sdxl"]

#: The counters of a set of limits in the order of $1, each with whether it is touched and by how much.
TOUCHED = """
select coalesce(selected(c, $2, $3, $4, $5) and c.scope_key = any (scope_keys($6, $7, $8)), false) as touched,
       meter_amount(c.meter, 1, $9, $10) as amount
from json_populate_recordset(null::counters, $1::json) as c
"""

selectors = st.fixed_dictionaries(
    {},
    optional={
        "operation": st.lists(st.sampled_from(OPERATIONS), max_size=2),
        "provider": st.lists(st.sampled_from(PROVIDERS), max_size=2),
        "model": st.lists(st.sampled_from(MODELS), max_size=2),
    },
)
limits = st.builds(
    lambda **fields: Limit.model_validate({**fields, "maximum": "5" if fields["meter"] == "cost" else 5}),
    limit_id=st.just("some"),
    meter=st.sampled_from([meter.value for meter in Meter]),
    scope=st.sampled_from([scope.value for scope in Scope]),
    selector=selectors,
    window=st.sampled_from([window.value for window in Window]),
)
checks = st.builds(
    lambda **fields: LimitCheck.model_validate_json(builders.to_bytes(builders.check(**fields))),
    user_id=st.sampled_from(["ada", "bob"]),
    project_id=st.sampled_from([None, "ada", "p1"]),
    api_key_id=st.sampled_from([None, "ada", "k1"]),
    operation=st.sampled_from(OPERATIONS),
    provider=st.sampled_from(PROVIDERS),
    model=st.sampled_from(MODELS),
    quantity=st.integers(1, 1000),
    estimated_cost=st.sampled_from(["0", "0.04", "12.000000001"]),
)
#: When it counts, seen from the first limit's period at NOW: inside, and on either side of each end.
EDGES = {
    "now": lambda period: NOW,
    "start": lambda period: period.start,
    "before the start": lambda period: period.start - timedelta(microseconds=1),
    "end": lambda period: period.end,
    "before the end": lambda period: period.end - timedelta(microseconds=1),
    "a month ago": lambda period: NOW - timedelta(days=31),
}
edges = st.sampled_from(["now", *EDGES])


@settings(max_examples=8 * settings().max_examples)  # each is one quick query
@given(st.lists(limits, min_size=1, max_size=5), checks, checks, edges)
async def test_sql_selects_the_counters_that_python_claims(
    database: "asyncpg.Connection[asyncpg.Record]",
    chosen: list[Limit],
    counted_for: LimitCheck,
    check: LimitCheck,
    edge: str,
) -> None:
    calendar = Calendar("Europe/Berlin")
    counted_at = EDGES[edge](period_of(chosen[0].window, NOW, calendar))
    assume(BEGINNING <= counted_at < END_OF_TIME)  # nothing that is ever counted lies outside of a lifetime
    rows, expected = [], []
    for limit in chosen:
        counted, period = counted_by(limit), period_of(limit.window, NOW, calendar)
        key = scope_keys(counted_for)[limit.scope]
        if key is None:
            continue
        rows.append(
            {
                "account_id": check.account_id,
                "scope_key": key,
                "period_end": period.end,
                "period_start": period.start,
                "counter_id": counted.counter_id,
                "meter": counted.meter,
                "operations": counted.operations or None,
                "providers": counted.providers or None,
                "models": counted.models or None,
                "settled": 0,
                "held": 0,
            }
        )
        touched = (
            scope_keys(check)[limit.scope] == key
            and counted.selects(check)
            and period_of(limit.window, counted_at, calendar) == period
        )
        expected.append((touched, shares_of(check)[limit.meter]))
    found = await database.fetch(
        TOUCHED,
        orjson.dumps(rows).decode(),
        check.operation,
        check.provider,
        check.model,
        counted_at,
        check.user_id,
        check.project_id,
        check.api_key_id,
        check.quantity,
        check.estimated_cost or 0,
    )
    assert [tuple(row) for row in found] == expected


@given(st.lists(limits, max_size=6, unique_by=lambda limit: counted_by(limit).counter_id), checks)
def test_claims_are_the_limits_that_concern_the_check(chosen: list[Limit], check: LimitCheck) -> None:
    named = [limit.model_copy(update={"limit_id": str(index)}) for index, limit in enumerate(chosen)]
    claims = claims_of(check, Terms("plan", Plan(name="Plan", limits=named), Calendar()), NOW)
    concerned = [
        limit.limit_id
        for limit in named
        if all(not wanted or getattr(check, name) in wanted for name, wanted in limit.selector.model_dump().items())
        and (limit.scope is Scope.ACCOUNT or getattr(check, f"{limit.scope.value}_id") is not None)
    ]
    assert [claim.limit.limit_id for claim in claims] == concerned
    assert len({claim.key for claim in claims}) == len(claims)
    assert all(claim.period.start <= NOW < claim.period.end for claim in claims)
