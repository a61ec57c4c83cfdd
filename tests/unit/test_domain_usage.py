"""Usage totals: sums over cells, in integers, whatever their order and grouping."""

from operator import attrgetter

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_service.domain.usage import SummaryCell, Totals, totals_by, totals_of

CELLS = [
    SummaryCell("generate", "local", "a", calls=3, units=12, cost_nanos=480_000_000, failures=1),
    SummaryCell("generate", "cloud", "b", calls=1, units=1, cost_nanos=1, failures=0),
    SummaryCell("edit", "local", "a", calls=0, units=0, cost_nanos=2_300_000, failures=2),
]

_CELL = st.builds(
    SummaryCell,
    operation=st.sampled_from(["generate", "edit"]),
    provider=st.sampled_from(["local", "cloud", ""]),
    model=st.sampled_from(["a", "b"]),
    calls=st.integers(0, 10**12),
    units=st.integers(0, 10**12),
    cost_nanos=st.integers(-(10**18), 10**18),
    failures=st.integers(0, 10**12),
)


def test_no_cells_are_no_usage() -> None:
    assert totals_of([]) == Totals(calls=0, units=0, cost_nanos=0, failures=0)
    assert totals_by([], attrgetter("operation")) == {}


def test_totals_add_up_every_cell() -> None:
    assert totals_of(CELLS) == Totals(calls=4, units=13, cost_nanos=482_300_001, failures=3)


def test_totals_by_one_dimension() -> None:
    assert totals_by(CELLS, attrgetter("operation")) == {
        "generate": Totals(calls=4, units=13, cost_nanos=480_000_001, failures=1),
        "edit": Totals(calls=0, units=0, cost_nanos=2_300_000, failures=2),
    }
    assert totals_by(CELLS, attrgetter("provider")) == {
        "local": Totals(calls=3, units=12, cost_nanos=482_300_000, failures=3),
        "cloud": Totals(calls=1, units=1, cost_nanos=1, failures=0),
    }


def test_totals_do_not_change_what_they_are_made_of() -> None:
    before = list(CELLS)
    totals_by(CELLS, attrgetter("model"))["a"].calls = 99
    assert before == CELLS
    assert totals_of(CELLS).calls == 4


@settings(max_examples=100)
@given(st.lists(_CELL), st.sampled_from(["operation", "provider", "model"]))
def test_groups_and_any_order_give_the_same_totals(cells: list[SummaryCell], dimension: str) -> None:
    total = totals_of(cells)
    assert total == Totals(
        sum(cell.calls for cell in cells),
        sum(cell.units for cell in cells),
        sum(cell.cost_nanos for cell in cells),
        sum(cell.failures for cell in cells),
    )
    groups = totals_by(cells, attrgetter(dimension))
    for name in ("calls", "units", "cost_nanos", "failures"):
        assert sum(getattr(group, name) for group in groups.values()) == getattr(total, name)
    assert totals_of(reversed(cells)) == total
    assert totals_by(reversed(cells), attrgetter(dimension)) == groups
