"""Reconciliation, rule by rule: given lines of an invoice and charges of ours, then these findings."""

from uuid import UUID

from contracts.adjustments import Adjustment, AdjustmentKind
from contracts.money import parse_nanos
from ledger_service.adjusting import refuse_wrong_fields
from ledger_service.domain.reconciliation import Charge, How, Item, Line, Status, Terms, line_ids, reconcile
from ledger_service.domain.reconciliation_proposals import Wanted, propose
from ledger_service.domain.reconciliation_report import Report, add_all
from ledger_service.domain.reconciliation_sums import Bucket, Sums

SECOND = 1_000_000
TERMS = Terms("wavespeed", 0, 10_000 * SECOND, 60 * SECOND)


def line(number: int, job_id: str | None = None, *, at: int = 100, amount: str = "0.03", model: str = "flux") -> Line:
    return Line(0, number, job_id, at * SECOND, model, "1", parse_nanos(amount))


def charge(
    number: int, *job_ids: str, at: int = 100, amount: str = "0.03", model: str = "flux", **fields: bool
) -> Charge:
    id_ = UUID(int=number)
    return Charge("acme", id_, "generate", job_ids, at * SECOND, model, 1, parse_nanos(amount), **fields)


def findings(lines: list[Line], charges: list[Charge], terms: Terms = TERMS) -> list[Item]:
    return list(reconcile(terms, lines, charges))


def told(items: list[Item]) -> list[tuple[str, str | None, list[int], int | None]]:
    """Status, how, the numbers of the lines, and that of the charge."""
    return [
        (one.status.value, one.how and one.how.value, [line.number for line in one.lines],
         one.charge.entry_id.int if one.charge else None)
        for one in items
    ]  # fmt: skip


def test_a_job_is_found_whenever_it_was_billed() -> None:
    items = findings([line(2, "j1", at=5_000)], [charge(1, "j1", at=100)])
    assert told(items) == [("matched", "job_id", [2], 1)]


def test_the_jobs_of_one_operation_are_billed_line_by_line() -> None:
    items = findings([line(2, "j1"), line(3, "j2")], [charge(1, "j1", "j2", amount="0.06")])
    assert told(items) == [("matched", "job_id", [2, 3], 1)]
    [item] = findings([line(2, "j1")], [charge(1, "j1", "j2", amount="0.06")])
    assert (item.status, item.difference) == (Status.PRICE_DIFFERENCE, -parse_nanos("0.03"))


def test_a_job_that_is_billed_twice_is_one_line_too_many() -> None:
    items = findings([line(2, "j1"), line(3, "j1")], [charge(1, "j1")])
    assert told(items) == [("duplicate", None, [3], None), ("matched", "job_id", [2], 1)]


def test_a_credit_for_the_line_too_many_makes_it_good() -> None:
    items = findings([line(2, "j1"), line(3, "j1"), line(4, "j1", amount="-0.03")], [charge(1, "j1")])
    assert told(items) == [("matched", "job_id", [2, 3, 4], 1)]


def test_parts_of_one_job_are_added_up() -> None:
    items = findings([line(2, "j1", amount="0.01"), line(3, "j1", amount="0.02")], [charge(1, "j1")])
    assert told(items) == [("matched", "job_id", [2, 3], 1)]


def test_without_a_job_the_nearest_of_the_same_model_and_amount_is_taken() -> None:
    lines = [line(2, at=100), line(3, at=130), line(4, at=131, amount="0.05")]
    charges = [charge(1, "ours", at=129), charge(2, at=101), charge(3, at=129, amount="0.05")]
    assert told(findings(lines, charges)) == [
        ("matched", "amount", [2], 2), ("matched", "amount", [3], 1), ("matched", "amount", [4], 3),
    ]  # fmt: skip


def test_beyond_the_tolerance_nothing_is_brought_together() -> None:
    assert told(findings([line(2, at=100)], [charge(1, at=160)])) == [("matched", "amount", [2], 1)]
    assert told(findings([line(2, at=100)], [charge(1, at=161)])) == [
        ("missing_with_us", None, [2], None), ("missing_with_them", None, [], 1),
    ]  # fmt: skip


def test_another_amount_at_the_same_time_is_a_price_difference() -> None:
    [item] = findings([line(2, amount="0.04")], [charge(1)])
    assert (item.status, item.how, item.difference) == (Status.PRICE_DIFFERENCE, How.TIME, parse_nanos("0.01"))


def test_two_that_name_different_jobs_are_two() -> None:
    assert told(findings([line(2, "theirs")], [charge(1, "ours")])) == [
        ("missing_with_us", None, [2], None), ("missing_with_them", None, [], 1),
    ]  # fmt: skip


def test_what_was_in_doubt_is_found_by_its_time_at_another_amount() -> None:
    doubtful = charge(1, amount="0.10", in_doubt=True)
    [found] = findings([line(2, "j9", at=110)], [doubtful])
    assert (found.status, found.how, found.theirs, found.ours) == (
        Status.IN_DOUBT_FOUND, How.TIME, parse_nanos("0.03"), parse_nanos("0.10"),
    )  # fmt: skip
    assert [one.status for one in findings([], [doubtful])] == [Status.IN_DOUBT_NOT_FOUND]


def test_lines_that_say_the_same_are_matched_as_often_as_there_are_charges() -> None:
    lines = [line(2), line(3), line(4)]
    assert told(findings(lines, [charge(1), charge(2)]))[2:] == [("duplicate", None, [4], None)]
    assert told(findings([line(2, "j1"), line(3, "j1")], [])) == [
        ("missing_with_us", None, [2], None), ("duplicate", None, [3], None),
    ]  # fmt: skip


def test_what_costs_nothing_is_missed_by_nobody() -> None:
    assert findings([line(2, "j1", amount="0")], [charge(1, "j2", amount="0")]) == []
    assert told(findings([line(2, "j1", amount="0")], [charge(1, "j1", amount="0")])) == [("matched", "job_id", [2], 1)]


def test_a_failure_that_they_bill_is_a_price_difference() -> None:
    [item] = findings([line(2, "j1")], [charge(1, "j1", amount="0")])
    assert (item.status, item.difference) == (Status.PRICE_DIFFERENCE, parse_nanos("0.03"))


def test_outside_the_range_only_counterparts_are_looked_for() -> None:
    terms = Terms("wavespeed", 100 * SECOND, 200 * SECOND, 60 * SECOND)
    lines = [line(2, at=99), line(3, at=150), line(4, at=90, amount="0.07")]
    charges = [charge(1, at=101), charge(2, at=199, amount="0.09"), charge(3, at=201, amount="0.08")]
    assert told(findings(lines, charges, terms)) == [
        ("matched", "amount", [2], 1),
        ("price_difference", "time", [3], 2),
    ]


def test_a_line_that_was_booked_is_known_by_the_id_of_its_adjustment() -> None:
    lines = [line(2, "j1", at=100), line(3, "j1", at=100)]
    ids = line_ids("wavespeed", lines, {lines[0].content})
    booked = charge(1, is_adjustment=True)._replace(entry_id=ids[lines[1]])
    items = findings(lines, [booked])
    assert told(items)[0][:3] == ("matched", "booked", [3])
    # The other line says the same, but nothing of ours stands for it.
    assert [one.status for one in items[1:]] == [Status.DUPLICATE]
    assert line_ids("stability", lines, {lines[0].content}) != ids


def test_totals_add_up_by_status_and_by_model() -> None:
    lines = [line(2, "j1"), line(3, "j2", amount="0.05", model="sd"), line(4, "j9", amount="0.11")]
    charges = [charge(1, "j1"), charge(2, "j2", amount="0.04", model="sd"), charge(3, "j3", amount="0.02")]
    report = add_all(Report(), findings(lines, charges))
    assert (report.total.theirs, report.total.ours) == (parse_nanos("0.19"), parse_nanos("0.09"))
    assert sum(one.difference for one in report.by_status.values()) == report.total.difference == parse_nanos("0.10")
    assert [(name, one.percent) for name, one in report.models()] == [("flux", "180.00"), ("sd", "25.00")]
    assert not report.agrees
    assert [one.difference for one in report.largest(1)] == [parse_nanos("0.11")]
    assert add_all(Report(), findings(lines[:1], charges[:1])).agrees


def test_sums_are_compared_bucket_by_bucket() -> None:
    sums = Sums()
    for bucket, theirs, ours in (
        (Bucket(0, "a"), [3, 4], [7]), (Bucket(0, "b"), [5], [4, 2]), (Bucket(1, "a"), [1], []),
        (Bucket(2, "a"), [], [9]),
    ):  # fmt: skip
        for amount in theirs:
            sums.add_line(bucket, amount)
        for amount in ours:
            sums.add_charge(bucket, amount)
    assert [(one.status, one.theirs, one.ours, one.line_count, one.charge_count) for one in sums.items()] == [
        (Status.MATCHED, 7, 7, 2, 1),
        (Status.PRICE_DIFFERENCE, 5, 6, 1, 2),
        (Status.MISSING_WITH_US, 1, 0, 1, 0),
        (Status.MISSING_WITH_THEM, 0, 9, 0, 1),
    ]


def test_a_credit_beyond_what_a_job_cost_is_proposed_as_what_the_ledger_takes() -> None:
    """No operation is rated below nothing: the file of proposals with such a line would be refused as a whole."""
    items = findings([line(1, "j1"), line(2, "j1", amount="-0.05")], [charge(1, "j1")])
    [proposed] = propose(Wanted("wavespeed", ["nov.csv"]), items, {})
    assert isinstance(proposed, Adjustment)
    refuse_wrong_fields(proposed)
    assert (proposed.kind, proposed.cost) == (AdjustmentKind.ADJUSTMENT, parse_nanos("-0.05"))
    assert proposed.reference is not None
    assert proposed.reference.operation_id == UUID(int=1)
