"""Reconciliation beside oracles that try everything: nearest pairs, findings that add up, in any order."""

import itertools
from collections import Counter
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.adjustments import Adjustment, AdjustmentKind
from ledger_service.domain.nearest import nearest
from ledger_service.domain.reconciliation import Charge, How, Item, Line, Status, Terms, reconcile
from ledger_service.domain.reconciliation_proposals import Wanted, propose
from ledger_service.domain.reconciliation_shares import Correction, corrections_by_provider

moments = st.lists(st.integers(0, 30), max_size=4).map(sorted)
EVERYTHING = Terms("wavespeed", 0, 10**9, 10)


def cost(theirs: list[int], ours: list[int], pairs: list[tuple[int, int]], tolerance: int) -> tuple[int, int]:
    """Twice the distances, and the tolerance for each that is alone; of those that cost the same, more pairs."""
    alone = len(theirs) + len(ours) - 2 * len(pairs)
    return (sum(2 * abs(theirs[i] - ours[j]) for i, j in pairs) + alone * tolerance, -len(pairs))


def every_assignment(theirs: list[int], ours: list[int]) -> list[list[tuple[int, int]]]:
    return [
        list(zip(some, others, strict=True))
        for size in range(min(len(theirs), len(ours)) + 1)
        for some in itertools.combinations(range(len(theirs)), size)
        for others in itertools.permutations(range(len(ours)), size)
    ]


@settings(max_examples=150)
@given(theirs=moments, ours=moments, tolerance=st.integers(0, 12))
def test_no_assignment_is_better(theirs: list[int], ours: list[int], tolerance: int) -> None:
    pairs = nearest(theirs, ours, tolerance)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(abs(theirs[i] - ours[j]) <= tolerance for i, j in pairs)
    best = min(cost(theirs, ours, one, tolerance) for one in every_assignment(theirs, ours))
    assert cost(theirs, ours, pairs, tolerance) == best


def test_a_busy_hour_leaves_over_what_is_missing_and_nothing_else() -> None:
    ours = [1_000_000 * second for second in range(5_000)]
    theirs = [at + 300_000 for at in ours if at != 2_345_000_000]
    pairs = nearest(theirs, ours, 300_000_000)
    assert {j for _, j in pairs} == set(range(5_000)) - {2_345}
    assert all(theirs[i] - ours[j] == 300_000 for i, j in pairs)


# --- whole reconciliations


@st.composite
def books(draw: st.DrawFn) -> tuple[list[Line], list[Charge]]:
    """Theirs and ours, out of few names, moments and amounts, so that all kinds of findings come about."""
    names = st.sampled_from(["a", "b", "c", None])
    lines = [
        Line(
            0, number, draw(names), draw(st.integers(0, 40)), draw(st.sampled_from("mn")), "1", draw(st.integers(-1, 3))
        )
        for number in range(draw(st.integers(0, 6)))
    ]  # fmt: skip
    charges = []
    for number in range(draw(st.integers(0, 6))):
        job_ids = tuple(draw(st.lists(st.sampled_from("abcd"), max_size=2, unique=True)))
        adjusts = draw(st.sampled_from([False, False, True]))
        charges.append(
            Charge(
                "acme", UUID(int=number), "generate", () if adjusts else job_ids, draw(st.integers(0, 40)),
                draw(st.sampled_from("mn")), 1, draw(st.integers(-1 if adjusts else 0, 3)),
                in_doubt=not adjusts and draw(st.booleans()), is_adjustment=adjusts,
            )
        )  # fmt: skip
    return lines, charges


@settings(max_examples=100)
@given(books=books(), chance=st.randoms(use_true_random=False))
def test_findings_add_up_name_each_once_and_do_not_depend_on_order(
    books: tuple[list[Line], list[Charge]], chance: "object"
) -> None:
    lines, charges = books
    items = list(reconcile(EVERYTHING, lines, charges))
    named = Counter(line for item in items for line in item.lines)
    used = Counter(item.charge for item in items if item.charge)
    assert set(named.values()) <= {1}
    assert set(used.values()) <= {1}
    # What is in no finding costs nothing.
    assert all(not line.amount for line in lines if line not in named)
    assert all(not charge.amount for charge in charges if charge not in used)
    assert sum(item.theirs for item in items) == sum(line.amount for line in lines)
    assert sum(item.ours for item in items) == sum(charge.amount for charge in charges)
    for item in items:
        assert item.theirs == sum(line.amount for line in item.lines)
        assert item.ours == (item.charge.amount if item.charge else 0)
        assert_it_may_be(item)
    mixed_lines, mixed_charges = list(lines), list(charges)
    chance.shuffle(mixed_lines)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    chance.shuffle(mixed_charges)  # type: ignore[attr-defined]  # the same
    assert list(reconcile(EVERYTHING, mixed_lines, mixed_charges)) == items


def assert_it_may_be(item: Item) -> None:
    charge = item.charge
    match item.how:
        case How.JOB_ID:
            assert charge is not None
            assert {line.job_id for line in item.lines} <= set(charge.job_ids)
        case How.AMOUNT | How.TIME:
            assert charge is not None
            [line] = item.lines
            assert line.job_id is None or not charge.job_ids
            assert line.model == charge.model
            assert abs(line.at - charge.at) <= EVERYTHING.tolerance
            assert (line.amount == charge.amount) or item.how is How.TIME
        case _:
            assert (charge is None) != (item.lines == ())
    if item.status is Status.MATCHED:
        assert item.theirs == item.ours
        assert not (charge and charge.in_doubt)
    if item.status in (Status.IN_DOUBT_FOUND, Status.IN_DOUBT_NOT_FOUND):
        assert charge is not None
        assert charge.in_doubt
    if item.status is Status.PRICE_DIFFERENCE:
        assert item.difference


@settings(max_examples=100)
@given(books=books())
def test_nothing_that_could_have_been_matched_is_missing_on_both_sides(books: tuple[list[Line], list[Charge]]) -> None:
    """The oracle of what is left over: no line and charge of one job, or of one model, amount and moment."""
    items = list(reconcile(EVERYTHING, *books))
    lines = [line for item in items if item.status is Status.MISSING_WITH_US for line in item.lines]
    left = (Status.MISSING_WITH_THEM, Status.IN_DOUBT_NOT_FOUND)
    charges = [item.charge for item in items if item.status in left and item.charge]
    for line, charge in itertools.product(lines, charges):
        assert line.job_id not in charge.job_ids
        same = line.model == charge.model and line.amount == charge.amount and line.at == charge.at
        assert not same or (line.job_id is not None and charge.job_ids)


# --- bills of several providers for one operation

OPERATION = UUID(int=1)
amounts = st.integers(0, 50)


@settings(max_examples=200)
@given(
    billed=st.fixed_dictionaries({"one": amounts, "two": amounts, "last": amounts}),
    bills=st.fixed_dictionaries({"one": amounts, "two": amounts, "last": amounts}),
    turns=st.lists(st.tuples(st.sampled_from(["one", "two", "last"]), st.booleans()), max_size=8),
    by_hand=st.lists(st.integers(-3, 3), max_size=3),
)
def test_each_bill_of_an_operation_is_settled_once_in_whatever_order_they_come(
    billed: dict[str, int], bills: dict[str, int], turns: list[tuple[str, bool]], by_hand: list[int]
) -> None:
    corrections: list[Correction] = []
    waiting: list[Adjustment] = []

    def total() -> int:
        return sum(billed.values()) + sum(one.cost for one in corrections)

    def apply(one: Adjustment) -> None:
        if one.adjustment_id not in {correction.entry_id for correction in corrections}:
            assert one.cost is not None
            added = one.cost - total() if one.kind is AdjustmentKind.RERATE else one.cost
            corrections.append(Correction(one.adjustment_id, added))

    def proposed(provider: str) -> list[Adjustment]:
        share = billed[provider] + sum(corrections_by_provider(OPERATION, "last", billed, corrections)[provider])
        charge = Charge(
            "acme", OPERATION, "generate", ("j",), 5, "m", 1, share, total() - share, corrections=len(corrections)
        )
        line = Line(0, 2, "j", 5, "m", "1", bills[provider])
        [item] = reconcile(Terms(provider, 0, 10**9, 10), [line], [charge])
        return [one for one in propose(Wanted(provider, ["f"]), [item], {}) if isinstance(one, Adjustment)]

    for provider, at_once in turns:
        found = proposed(provider)
        for one in found if at_once else ():
            apply(one)
        waiting += () if at_once else found
    for one in waiting:  # made before some of the others were recorded
        apply(one)
    for number, amount in enumerate(by_hand):
        corrections.append(Correction(UUID(int=2 + number), amount))
    for _ in range(2):
        for provider in bills:
            for one in proposed(provider):
                apply(one)
    assert all(proposed(provider) == [] for provider in bills)
    assert total() == sum(bills.values())
