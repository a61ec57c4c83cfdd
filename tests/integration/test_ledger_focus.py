"""The FOCUS data set beside the specification's own list of columns, and beside the usage summary."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import contracts.focus
from contracts.focus import FOCUS_COLUMNS
from ledger_service.store import moments
from tests.builders import Body, adjustment, at, completed, failed
from tests.integration.test_ledger_exports import cells, table
from tests.servers import Ledger

SPECIFICATION = json.loads(Path(contracts.focus.__file__).with_name("focus_1_2.json").read_text())
COLUMNS: dict[str, Body] = {column["column"]: column for column in SPECIFICATION["columns"]}
TYPES = {
    "Decimal": pa.decimal128(38, 9),
    "String": pa.string(),
    "Date/Time": pa.timestamp("us", "UTC"),
    "JSON": pa.string(),
}
#: Present where there is what they are about; there is not, here: see contracts/focus.py.
NOT_OURS = {
    "BillingAccountType", "CapacityReservationId", "CapacityReservationStatus", "CommitmentDiscountCategory",
    "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountQuantity", "CommitmentDiscountStatus",
    "CommitmentDiscountType", "CommitmentDiscountUnit", "ContractedUnitPrice", "ListUnitPrice", "PricingCurrency",
    "PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "RegionId",
    "RegionName", "SubAccountType",
}  # fmt: skip
NOT_KNOWN = {"AvailabilityZone", "InvoiceId"}
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
Row = dict[str, Any]


async def adjust(ledger: Ledger, body: Body) -> None:
    answer = await ledger.http.post("/v1/adjustments", json=body)
    assert answer.status_code == 200, answer.text


async def rows_of_every_kind(ledger: Ledger) -> None:
    """Usage, failures, corrections of each kind, before and after their month was closed, and what came late for it."""
    nested = {"team": "art", "nested": {"a": [1]}, "n": 1.50, "yes": True, "none": None, "zero": "\u0000"}
    sent = [
        completed(time=at("2026-09-05 23:59:59"), cost="0.333333333", quantity=3, metadata=nested),
        completed(time=at("2026-09-06"), cost="12.5", project_id="p", api_key_id="k", metadata={}),
        failed(time=at("2026-09-07"), cost="0.000000001", quantity=2),
        failed(time=at("2026-09-08")),
        completed(time=at("2026-09-09"), account_id="beta", provider="far", actual_provider="far", model="a/b"),
    ]
    assert (await ledger.send(*sent))["rejected"] == []
    await adjust(ledger, adjustment("rerate", sent[1], cost="12.4"))
    await adjust(ledger, adjustment(cost="-1", reason="-a gift", occurred_at="2026-09-10T00:00:00Z"))
    await adjust(ledger, adjustment(cost="-1", calls=1, occurred_at="2026-09-10T00:00:00Z"))
    closed = await ledger.http.put("/v1/periods/2026-09:close", json={"reason": "done"})
    assert closed.status_code == 200, closed.text
    await ledger.send(completed(time=at("2026-09-30 12:30:00"), cost="0.1"))
    await adjust(ledger, adjustment("void", sent[0], reason="=refund"))


@pytest.fixture(autouse=True)
def nothing_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever began is seen at once: nobody takes half a second between two instructions here."""
    monkeypatch.setattr(moments, "SETTLING", timedelta())


@pytest.fixture
async def focus(ledger: Ledger) -> Ledger:
    await rows_of_every_kind(ledger)
    return ledger


async def read(ledger: Ledger, **query: Any) -> Any:
    answer = await ledger.http.get("/v1/exports/focus", params=query)
    assert answer.status_code == 200, answer.text
    return answer


def test_the_list_of_columns_is_the_whole_of_the_specification() -> None:
    assert SPECIFICATION["version"] == contracts.focus.VERSION
    assert Counter(column["level"] for column in COLUMNS.values()) == {
        "Mandatory": 21, "Conditional": 32, "Recommended": 4,
    }  # fmt: skip


def test_every_column_that_has_to_be_there_is_and_ours_come_last() -> None:
    ours = [column.name for column in FOCUS_COLUMNS]
    of_focus = [name for name in ours if not name.startswith("x_")]
    assert ours[: len(of_focus)] == of_focus == sorted(of_focus)
    assert set(of_focus) == COLUMNS.keys() - NOT_OURS - NOT_KNOWN
    assert {COLUMNS[name]["level"] for name in NOT_OURS} == {"Conditional"}
    assert {COLUMNS[name]["level"] for name in NOT_KNOWN} == {"Recommended"}
    assert all(re.fullmatch(r"(x_)?([A-Z][a-z]+)+", name) and len(name) <= 50 for name in ours)


async def test_types_nulls_and_values_are_those_of_the_specification(focus: Ledger) -> None:
    found = table(await read(focus))
    assert found.schema.names == [column.name for column in FOCUS_COLUMNS]
    assert found.schema.metadata[b"focus_version"] == b"1.2"
    for name, column in COLUMNS.items():
        if name in NOT_OURS | NOT_KNOWN:
            continue
        assert found.schema.field(name).type == TYPES[column["type"]], name
        values = found.column(name).to_pylist()
        if not column["nulls"]:
            assert None not in values, name
        if "allowed" in column:
            assert {value for value in values if value is not None} <= set(column["allowed"]), name
        assert "" not in values, f"{name}: a null is null"
        if column["type"] == "JSON":
            for value in filter(None, values):
                tags = json.loads(value, object_pairs_hook=unique)
                assert not any(isinstance(one, dict | list) for one in tags.values())


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


async def test_rows_keep_the_rules_between_columns(focus: Ledger) -> None:
    rows = table(await read(focus)).to_pylist()
    assert len(rows) == 10
    for row in rows:
        assert list(broken(row)) == []
    assert Counter((row["ChargeCategory"], row["ChargeClass"]) for row in rows) == {
        ("Usage", None): 7,  # five operations, one that was late, and one rated anew while its month was open
        ("Credit", None): 1,
        ("Adjustment", None): 1,
        ("Usage", "Correction"): 1,
    }


def broken(row: Row) -> Iterator[str]:
    """The specification's rules that are about several columns, of those that we have."""
    usage, correction = row["ChargeCategory"] == "Usage", row["ChargeClass"] == "Correction"
    for name in ("PricingQuantity", "SkuId", "SkuPriceId", "ConsumedQuantity", "PricingCategory"):
        if usage and not correction and row[name] is None:
            yield f"{name} MUST NOT be null when ChargeCategory is Usage and ChargeClass is not Correction"
    if not usage and row["ConsumedQuantity"] is not None:
        yield "ConsumedQuantity MUST be null when ChargeCategory is not Usage"
    for one, other in (
        ("ConsumedQuantity", "ConsumedUnit"), ("PricingQuantity", "PricingUnit"), ("ResourceId", "ResourceType"),
        ("SubAccountId", "SubAccountName"), ("SkuId", "SkuMeter"),
    ):  # fmt: skip
        if (row[one] is None) != (row[other] is None):
            yield f"{other} MUST be null when {one} is null, and only then"
    for name in ("ListCost", "ContractedCost", "EffectiveCost"):  # there is no unit price, and no commitment
        if row[name] != row["BilledCost"]:
            yield f"{name} MUST match the BilledCost"
    if not row["ChargePeriodStart"] < row["ChargePeriodEnd"]:
        yield "ChargePeriodEnd is exclusive"
    if not row["ChargePeriodStart"] <= row["x_OccurredAt"] < row["ChargePeriodEnd"]:
        yield "ChargePeriod is when it occurred"
    if not row["BillingPeriodStart"] < row["BillingPeriodEnd"]:
        yield "BillingPeriodEnd is exclusive"
    if row["ServiceSubcategory"] not in ("Generative AI", "Other (Other)"):
        yield "ServiceSubcategory has one parent"


async def test_a_month_totals_to_the_usage_summary_to_the_nano_dollar(focus: Ledger) -> None:
    for period in ("2026-09", "2026-10"):
        for account_id in ("acme", "beta"):
            rows = table(await read(focus, account_id=account_id)).to_pylist()
            begin = datetime.fromisoformat(f"{period}-01").replace(tzinfo=UTC)
            mine = [row for row in rows if row["BillingPeriodStart"] == begin]
            totals = (await focus.usage(account_id, period=period))["totals"]
            assert sum((row["BilledCost"] for row in mine), Decimal()) == Decimal(totals["cost"])
            for column, name in (("x_Calls", "calls"), ("x_Units", "units"), ("x_Failures", "failures")):
                assert sum(row[column] for row in mine) == totals[name], (period, account_id, name)


async def test_csv_says_the_same_in_the_formats_of_the_specification(focus: Ledger) -> None:
    of_csv = cells(await read(focus, format="csv"))
    of_parquet = table(await read(focus)).to_pylist()
    for row, typed in zip(of_csv, of_parquet, strict=True):
        for column in FOCUS_COLUMNS:
            text, value = row[column.name], typed[column.name]
            assert not text.startswith(("=", "+", "@", "\t", "\r"))
            if value is None:
                assert text == ""
            elif isinstance(value, Decimal):
                assert NUMBER.fullmatch(text)
                assert Decimal(text) == value
            elif isinstance(value, datetime):
                assert column.name.startswith("x_") or MOMENT.fullmatch(text)
                assert datetime.fromisoformat(text) == value
            else:
                assert text == str(value)
                assert isinstance(value, int) or not text.startswith("-")


async def test_tags_are_what_the_operation_carried_and_flat(focus: Ledger) -> None:
    [tags] = {row["Tags"] for row in table(await read(focus)).to_pylist()} - {None}
    flat = {"team": "art", "nested": '{"a": [1]}', "n": 1.5, "yes": True, "none": None, "zero": "\u0000"}
    assert json.loads(tags) == flat


async def test_who_bills_is_a_setting(start_ledger: Any) -> None:
    ledger = await start_ledger(billing_account_id="studio-7")
    await ledger.send(completed())
    [row] = table(await read(ledger)).to_pylist()
    assert (row["BillingAccountId"], row["SubAccountId"]) == ("studio-7", "acme")


async def test_another_version_or_format_is_refused(ledger: Ledger) -> None:
    for query in ({"version": "1.0"}, {"format": "jsonl"}):
        answer = await ledger.http.get("/v1/exports/focus", params=query)
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [f"query.{next(iter(query))}"]
