"""Exports over HTTP: the same rows in three formats, resumed where they broke off, of one snapshot, and bounded."""

import asyncio
import csv
import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import httpx
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from contracts.exports import EXPORT_AS_OF, EXPORT_CURSOR, NEXT_CURSOR, ROWS_ESTIMATE, USAGE_LOG_COLUMNS
from ledger_service.store import moments
from tests.builders import ABSENT, Body, adjustment, at, completed, failed, new_id
from tests.conftest import StartLedger
from tests.servers import Ledger

COLUMNS = [column.name for column in USAGE_LOG_COLUMNS]
FORMATS = ("csv", "jsonl", "parquet")
ROUTE = "/v1/exports/usage-log"


async def export(ledger: Ledger, wanted: str = "jsonl", **query: Any) -> httpx.Response:
    answer = await ledger.http.get(ROUTE, params={"format": wanted, **query})
    assert answer.status_code == 200, answer.text
    return answer


def lines(answer: httpx.Response) -> list[Body]:
    return [json.loads(line) for line in answer.content.splitlines()]


def cells(answer: httpx.Response) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def table(answer: httpx.Response) -> pa.Table:
    return parquet.read_table(pa.BufferReader(answer.content))


async def refused(ledger: Ledger, field: str, wanted: str = "csv", **query: Any) -> None:
    answer = await ledger.http.get(ROUTE, params={"format": wanted, **query})
    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field], answer.text


@pytest.fixture(autouse=True)
def nothing_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever began is seen at once: nobody takes half a second between two instructions here."""
    monkeypatch.setattr(moments, "SETTLING", timedelta())


@pytest.fixture
async def small_pages(start_ledger: StartLedger) -> Ledger:
    """A ledger whose exports read three rows at a time."""
    return await start_ledger(export_page_rows=3)


AWKWARD = {"team": 'a "b", c', "nested": {"list": [1, 2.5, None]}, "newline": "x\ny\\z", "umlaut": "ü\u0000"}


def events() -> list[Body]:
    """Of three accounts, with everything that a row can have, and with all that needs quoting somewhere."""
    full = completed(
        time=at("2026-11-05 13:00:00.000001"), cost="12345.000000001", quantity=3, metadata=AWKWARD, project_id="p-1",
        api_key_id="k-1", endpoint='=cmd|"x"', duration_ms=0,
    )  # fmt: skip
    broken = failed(
        account_id="beta", time=at("2026-11-06"), cost="0.01", status_code=ABSENT,
        error={"code": "provider_error", "message": "@no,\r\n\"really\""},
    )  # fmt: skip
    return [full, broken, *(completed(account_id=f"c-{n}", time=at(f"2026-11-0{n + 1}")) for n in range(8))]


# --- formats ---


async def test_all_formats_hold_the_same_rows_and_every_number_exactly(small_pages: Ledger) -> None:
    sent = events()
    assert (await small_pages.send(*sent))["rejected"] == []
    void = adjustment("void", sent[0], reason="=was wrong")
    assert (await small_pages.http.post("/v1/adjustments", json=void)).status_code == 200

    of_json = lines(await export(small_pages))
    of_csv = cells(await export(small_pages, "csv"))
    of_parquet = table(await export(small_pages, "parquet")).to_pylist()

    assert [list(row) for row in of_json] == [COLUMNS] * 11
    assert [list(row) for row in of_csv] == [COLUMNS] * 11
    for one, two, three in zip(of_json, of_csv, of_parquet, strict=True):
        assert (one["operation_id"], one["cost"]) == (two["operation_id"], two["cost"])
        assert three["operation_id"] == one["operation_id"]
        assert three["cost"] == Decimal(one["cost"])
        for name in ("requested_at", "occurred_at", "counted_at", "recorded_at"):
            assert datetime.fromisoformat(one[name]) == datetime.fromisoformat(two[name]) == three[name]
        assert three["period"] == date(2026, 11, 1)
        for name in COLUMNS:
            if name in {"cost", "metadata", "period"} or name.endswith("_at"):
                continue
            assert three[name] == one[name], name
            shown = "" if one[name] is None else str(one[name])
            assert two[name] in (shown, f"'{shown}"), name
        assert one["metadata"] == (json.loads(two["metadata"]) if two["metadata"] else None)
        assert one["metadata"] == (json.loads(three["metadata"]) if three["metadata"] else None)
    full = next(row for row in of_json if row["operation_id"] == sent[0]["data"]["operation_id"])
    assert full["metadata"] == AWKWARD
    assert full["cost"] == "12345.000000001"
    voided = next(row for row in of_parquet if row["outcome"] == "adjustment")
    assert voided["corrects"] == full["operation_id"]
    assert (voided["adjustment_kind"], voided["adjustment_reason"]) == ("void", "=was wrong")
    assert (voided["cost"], voided["calls"], voided["units"]) == (Decimal("-12345.000000001"), -1, -3)


async def test_a_parquet_file_has_typed_columns(ledger: Ledger) -> None:
    await ledger.send(completed())
    schema = table(await export(ledger, "parquet")).schema
    assert schema.field("cost").type == pa.decimal128(38, 9)
    assert schema.field("occurred_at").type == pa.timestamp("us", "UTC")
    assert schema.field("quantity").type == pa.int64()
    assert schema.field("period").type == pa.date32()
    assert schema.field("metadata").type == pa.string()


async def test_what_is_exported_adds_up_to_the_usage_summary(ledger: Ledger) -> None:
    sent = [completed(quantity=n, cost=f"0.{n:09}") for n in range(1, 8)] + [failed(cost="0.000000001"), failed()]
    await ledger.send(*sent)
    rows = lines(await export(ledger, account_id="acme"))
    totals = (await ledger.usage())["totals"]
    assert {name: sum(row[name] for row in rows) for name in ("calls", "units", "failures")} == {
        name: totals[name] for name in ("calls", "units", "failures")
    }
    assert sum(Decimal(row["cost"]) for row in rows) == Decimal(totals["cost"])


@pytest.mark.parametrize("wanted", FORMATS)
async def test_an_empty_export_is_a_whole_file(ledger: Ledger, wanted: str) -> None:
    answer = await export(ledger, wanted, account_id="nobody")
    match wanted:
        case "csv":
            assert answer.text == ",".join(COLUMNS) + "\n"
        case "jsonl":
            assert answer.content == b""
        case _:
            assert table(answer).num_rows == 0
            assert table(answer).schema.names == COLUMNS


async def test_a_cell_that_a_spreadsheet_would_run_begins_with_an_apostrophe_in_csv_alone(ledger: Ledger) -> None:
    for text in ("=1+1", "+1", "-1", "@x", "\tx", "\rx", "harmless", ""):
        await ledger.send(failed(error={"code": "e", "message": text}, endpoint=text))
    of_csv = {row["operation_id"]: row for row in cells(await export(ledger, "csv"))}
    for row in lines(await export(ledger)):
        runs = row["error_message"] not in ("harmless", "")
        guarded = ("'" if runs else "") + row["error_message"]
        assert of_csv[row["operation_id"]]["error_message"] == guarded
        assert of_csv[row["operation_id"]]["endpoint"] == guarded


# --- what is selected ---


async def test_filters_select_as_those_of_the_usage_log_do(ledger: Ledger) -> None:
    rows = [
        completed(user_id=f"u{n % 2}", project_id=f"p{n % 3}", api_key_id=f"k{n % 4}",
                  operation=("edit", "generate")[n % 2],
                  provider=f"far{n % 3}", actual_provider=f"far{n % 3}", model=f"m{n % 2}", endpoint=f"/e{n % 2}",
                  time=at(f"2026-11-0{n + 1}"))
        for n in range(8)
    ] + [failed(time=at("2026-11-09"))]  # fmt: skip
    await ledger.send(*rows)
    for query in (
        {"user_id": "u1"}, {"project_id": "p2"}, {"api_key_id": "k3"}, {"operation": ["edit"]},
        {"operation": ["edit", "generate"]}, {"provider": ["far0", "far1"]}, {"model": ["m1"]}, {"outcome": "failed"},
        {"outcome": "adjustment"}, {"outcome": "counted"}, {"endpoint": "/e1"},
        {"from": "2026-11-03T00:00:00Z", "to": "2026-11-05T00:00:00Z"},
        {"recorded_to": "2026-01-01T00:00:00Z"}, {"recorded_from": "2026-01-01T00:00:00Z"},
        {"counted_from": "2026-11-03T00:00:00Z"}, {"user_id": "u1", "model": ["m0"]},
    ):  # fmt: skip
        listed = (await ledger.usage_log(**query))["items"]
        exported = lines(await export(ledger, account_id="acme", **query))
        assert [row["operation_id"] for row in reversed(exported)] == [row["operation_id"] for row in listed], query


# --- resumed, in parts, and of one moment ---


def last_of(row: Body) -> str:
    return f"{row['account_id']},{row['occurred_at']},{row['operation_id']}"


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 9, 10])
async def test_a_download_that_broke_off_goes_on_after_the_last_row_that_came(small_pages: Ledger, taken: int) -> None:
    await small_pages.send(*events())
    whole = await export(small_pages)
    rows = lines(whole)
    await small_pages.send(completed(account_id="beta"), completed(account_id="zz"))  # late: not of this snapshot

    query = {"cursor": whole.headers[EXPORT_CURSOR]}
    if taken:
        query["after"] = last_of(rows[taken - 1])
    rest = await export(small_pages, **query)

    assert rows[:taken] + lines(rest) == rows
    assert rest.headers[EXPORT_AS_OF] == whole.headers[EXPORT_AS_OF]
    as_csv = await export(small_pages, "csv", **query)
    head = (await export(small_pages, "csv", cursor=whole.headers[EXPORT_CURSOR])).content.splitlines(keepends=True)
    assert as_csv.content.splitlines(keepends=True)[-1:] == (head[-1:] if taken < len(rows) else [])
    assert as_csv.text.startswith("account_id,") is (taken == 0)


@pytest.mark.parametrize("wanted", FORMATS)
async def test_parts_together_are_the_whole(small_pages: Ledger, wanted: str) -> None:
    await small_pages.send(*events())
    rows = [row["operation_id"] for row in lines(await export(small_pages))]
    found: list[str] = []
    parts, query = 0, dict[str, str]()
    while True:
        part = await export(small_pages, wanted, rows_max=4, **query)
        read = {"csv": cells, "jsonl": lines, "parquet": lambda answer: table(answer).to_pylist()}[wanted](part)
        assert len(read) <= 4
        found += [row["operation_id"] for row in read]
        parts += 1
        if NEXT_CURSOR not in part.headers:
            break
        query = {"cursor": part.headers[NEXT_CURSOR]}
    assert (found, parts) == (rows, 3)


async def test_it_is_what_was_known_at_a_moment(ledger: Ledger) -> None:
    await ledger.send(completed(time=at("2026-11-05")))
    [first] = lines(await export(ledger))
    await ledger.send(completed(time=at("2026-11-01")))
    assert lines(await export(ledger, as_of=first["recorded_at"])) == [first]
    assert lines(await export(ledger, as_of="2026-01-01T00:00:00Z")) == []
    assert len(lines(await export(ledger))) == 2


async def test_a_snapshot_waits_for_what_is_being_recorded(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    """A row that becomes visible later, with a recorded_at before the snapshot's, would be missing in one half of a
    download and there in the other."""
    await ledger.send(completed())
    writer = await asyncpg.connect(database_url)
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute(
        "insert into usage_log select (json_populate_record(u, json_build_object("
        "'operation_id', gen_random_uuid(), 'recorded_at', now()))).* from usage_log u"
    )
    asked = asyncio.create_task(export(ledger))
    await asyncio.sleep(0.3)
    assert not asked.done()
    await transaction.commit()
    assert len(lines(await asked)) == 2
    await writer.close()


async def test_the_answer_says_about_how_many_rows_follow(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await ledger.send(*(completed() for _ in range(200)))
    await database.execute("analyze usage_log")
    assert 150 <= int((await export(ledger)).headers[ROWS_ESTIMATE]) <= 250


# --- bad input ---


async def test_bad_input_is_named(ledger: Ledger) -> None:
    await ledger.send(completed())
    cursor = (await export(ledger)).headers[EXPORT_CURSOR]
    [row] = lines(await export(ledger))
    await refused(ledger, "query.format", wanted="xlsx")
    await refused(ledger, "query.to", **{"from": "2026-11-02T00:00:00Z", "to": "2026-11-02T00:00:00Z"})
    await refused(ledger, "query.recorded_to", recorded_from="2026-11-02T00:00:00Z", recorded_to="2026-11-01T00:00:00Z")
    await refused(ledger, "query.counted_to", counted_from="2026-11-02T00:00:00Z", counted_to="2026-11-01T00:00:00Z")
    await refused(ledger, "query.from", **{"from": "yesterday"})
    await refused(ledger, "query.as_of", as_of="now")
    await refused(ledger, "query.as_of", as_of=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    await refused(ledger, "query.as_of", as_of=row["recorded_at"], cursor=cursor)
    await refused(ledger, "query.after", after=last_of(row))
    await refused(ledger, "query.rows_max", rows_max=0)
    await refused(ledger, "query.outcome", outcome="lost")
    for wrong in ("x", "bm90IGpzb24", cursor[:-4], "W10", "WzEsMl0", "é", "eyJhIjoxfQ", "W3RydWUsdHJ1ZV0"):
        await refused(ledger, "query.cursor", cursor=wrong)
    await refused(ledger, "query.cursor", cursor=cursor, account_id="acme")
    await refused(ledger, "query.cursor", cursor=cursor, model="other")
    day = "2026-11-05T00:00:00Z"
    for wrong in ("", "acme", f"acme,x,{new_id()}", f"acme,{day},1", f";drop,{day},{new_id()}"):
        await refused(ledger, "query.after", cursor=cursor, after=wrong)


async def test_a_cursor_is_of_the_same_export_however_its_moments_are_spelt(ledger: Ledger) -> None:
    await ledger.send(completed(time=at("2026-11-05")))
    begun = await export(ledger, **{"from": "2026-11-01T00:00:00Z"})
    query = {"from": "2026-11-01T01:00:00+01:00", "cursor": begun.headers[EXPORT_CURSOR]}
    assert lines(await export(ledger, **query)) == lines(begun) != []
    await refused(ledger, "query.cursor", **{**query, "from": "2026-11-01T01:00:00Z"})


@pytest.mark.parametrize(
    "name", ["account_id", "user_id", "project_id", "api_key_id", "provider", "model", "operation"]
)
@pytest.mark.asyncio(loop_scope="module")
async def test_no_parameter_is_read_as_sql(refusing: Ledger, name: str) -> None:
    for text in ("'; drop table usage_log; --", "$1", "x' or '1'='1", "\\'; select 1 --"):
        answer = await refusing.http.get(ROUTE, params={"format": "csv", name: text})
        assert answer.status_code == 422


async def test_an_endpoint_may_be_any_text_and_is_only_compared(ledger: Ledger) -> None:
    texts = ["'; drop table usage_log; --", "$1", "x' or '1'='1", "\\", "E'\\x41'", "%", "ü$22"]
    await ledger.send(*(completed(endpoint=text) for text in texts))
    for text in texts:
        assert [row["endpoint"] for row in lines(await export(ledger, endpoint=text))] == [text]
    assert (await ledger.http.get(ROUTE, params={"format": "csv", "endpoint": "\x00"})).status_code == 422
