"""That the comparison at the end of a rolling restart finds what it is there to find. Runs without an engine."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.containers.load import Told, differences

TOLD = [
    Told("request-0", "roomy", 200, "operation-0", Decimal("0.01"), 0, 0.1),
    Told("request-1", "roomy", 200, "operation-1", Decimal("0.01"), 3, 0.9),
    Told("request-2", "roomy", 429, "operation-2", Decimal(0), 0, 0.1),
]
ROWS: list[dict[str, Any]] = [
    {"operation_id": one.operation_id, "user_id": one.user_id, "account_id": one.account_id, "cost": "0.010000000"}
    for one in TOLD[:2]
]


def test_a_record_that_agrees_has_no_differences() -> None:
    assert differences(TOLD, ROWS) == []


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (ROWS[:1], ["lost"]),
        ([*ROWS, ROWS[0]], ["twice in the usage log", "charged 2 times"]),
        ([*ROWS, {**ROWS[0], "operation_id": "another"}], ["charged 2 times", "nobody was told"]),
        ([*ROWS, {**ROWS[0], "operation_id": "operation-2", "user_id": "request-2"}], ["nobody was told"]),
        ([ROWS[0], {**ROWS[1], "cost": "0.020000000"}], ["told"]),
        ([ROWS[0], {**ROWS[1], "account_id": "tight"}], ["told"]),
    ],
    ids=["lost", "row twice", "paid twice", "denied and done", "another cost", "another account"],
)
def test_each_difference_is_named(rows: list[dict[str, Any]], found: list[str]) -> None:
    assert [one.split(":")[0] for one in map(_shortened, differences(TOLD, rows))] == found


def _shortened(difference: str) -> str:
    return "told" if difference.startswith("told Told(") else difference


def test_an_answer_that_changes_its_operation_is_a_difference() -> None:
    told = [replace(TOLD[0], operation_id="operation-9"), *TOLD[1:]]
    assert [one.split(":")[0] for one in differences(told, ROWS)] == ["lost", "nobody was told"]
