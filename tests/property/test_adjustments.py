"""Any sequence of corrections: what something comes to is the sum of all there is, and voids bring it to nothing."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.adjustments import AdjustmentKind
from contracts.identifiers import uuid7
from ledger_service.domain.adjustments import (
    Amounts,
    Chain,
    Entry,
    NotVoidableError,
    VoidedError,
    add,
    rerate,
    sum_of,
    void,
)

counts = st.integers(-5, 5)
costs = st.integers(0, 10**9)
operation_amounts = st.one_of(
    st.builds(Amounts, st.just(1), st.integers(1, 9), st.just(0), costs),
    st.builds(Amounts, st.just(0), st.just(0), st.just(1), costs),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("void"), st.integers(0, 9)),
        st.tuples(st.just("rerate"), costs),
        st.tuples(st.just("add"), st.builds(Amounts, counts, counts, counts, st.integers(-(10**9), 10**9))),
    ),
    max_size=12,
)


@given(operation_amounts, steps)
def test_what_is_recorded_adds_up_and_nothing_follows_a_void(
    used: Amounts, taken: list[tuple[str, int | Amounts]]
) -> None:
    root = Entry(UUID(int=0), None, used)
    chain, expected, gone = Chain(root), {root.entry_id: used}, set[UUID]()
    for number, (step, argument) in enumerate(taken, 1):
        targets = list(expected)
        target = targets[argument % len(targets)] if isinstance(argument, int) else root.entry_id
        refused = root.entry_id in gone or (step == "void" and target in gone)
        kind, voids = AdjustmentKind.ADJUSTMENT, None
        try:
            if step == "void":
                kind, voids, amounts = AdjustmentKind.VOID, target, void(chain, target)
            elif step == "rerate":
                assert isinstance(argument, int)
                kind, amounts = AdjustmentKind.RERATE, rerate(chain, argument)
            else:
                assert isinstance(argument, Amounts)
                amounts = add(chain, argument)
        except VoidedError:
            assert refused
            continue
        assert not refused
        entry = Entry(UUID(int=number), kind, amounts, voids)
        chain = chain._replace(corrections=(*chain.corrections, entry))
        if voids is not None:
            gone.add(voids)
        if kind is AdjustmentKind.ADJUSTMENT:
            expected[entry.entry_id] = amounts
        if step == "rerate":
            assert chain.current().cost_nanos == argument
            assert (amounts.calls, amounts.units, amounts.failures) == (0, 0, 0)
        if voids == root.entry_id:
            assert chain.current() == Amounts()
    assert chain.current() == sum_of(entry.amounts for entry in (root, *chain.corrections))


@given(operation_amounts, st.lists(costs, max_size=5), st.booleans())
def test_voids_and_ratings_alone_never_bring_anything_below_nothing(
    used: Amounts, rated: list[int], voided: bool
) -> None:
    chain = Chain(Entry(UUID(int=0), None, used))
    for number, cost in enumerate(rated, 1):
        amounts = rerate(chain, cost)
        chain = Chain(chain.root, (*chain.corrections, Entry(UUID(int=number), AdjustmentKind.RERATE, amounts)))
        assert min(chain.current()) >= 0
    if voided:
        assert sum_of([chain.current(), void(chain, chain.root.entry_id)]) == Amounts()


@pytest.mark.parametrize("kind", [AdjustmentKind.VOID, AdjustmentKind.RERATE])
def test_a_void_and_a_rating_are_not_taken_back_by_a_void(kind: AdjustmentKind) -> None:
    entry = Entry(uuid7(), kind, Amounts(cost_nanos=1))
    with pytest.raises(NotVoidableError):
        void(Chain(Entry(uuid7(), None, Amounts(1, 1, 0, 1)), (entry,)), entry.entry_id)
