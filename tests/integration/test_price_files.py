"""Price files: what is taken of YAML, `ledger prices …`, and the list prices that come with a fresh stack."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from contracts.prices import Price, PriceKey
from ledger_service.domain.price_versions import Change, outcomes_of
from ledger_service.price_changes import change_price
from ledger_service.price_files import PriceFile, PriceFileError, parse_prices, read_file, read_shipped, shipped_text
from ledger_service.price_loading import follow_shipped, load_prices
from ledger_service.store.prices import PriceFilter, list_prices
from tests.builders import at
from tests.commands import run_ledger

Database = asyncpg.Connection
KEY = PriceKey(provider="openai", operation="generate", model="dall-e-3")


def entry(**fields: str | None) -> str:
    """One entry, each value as it stands in the file; None leaves a field out."""
    lines = {
        "provider": "openai",
        "model": "dall-e-3",
        "operation": "generate",
        "unit": "image",
        "valid_from": '"2023-11-06"',
        "source": "https://example.org/prices",
        "read_on": '"2026-11-22"',
        "variants": '[{when: {size: "1024x1024"}, price: "0.040"}]',
        **fields,
    }
    said = [f"{name}: {value}" for name, value in lines.items() if value is not None]
    return "\n    ".join([f"  - {said[0]}", *said[1:]]) + "\n"


def text(*entries: str) -> str:
    return "prices:\n" + "".join(entries or [entry()])


def variants(price: str = '"0.04"', when: str = "{}") -> str:
    return f"[{{when: {when}, price: {price}}}]"


def one(content: str) -> Price:
    [put] = parse_prices(content, "prices.yaml").puts
    return put.price


# --- what is taken of YAML ---


def test_an_entry_is_a_price_from_the_beginning_of_its_day() -> None:
    content = text(
        entry(as_of='"2025-09-01"', valid_until='"2026-01-01"'), entry(valid_from='"2026-01-01T12:00:00+02:00"')
    )
    first, second = parse_prices(content, "prices.yaml").puts
    assert first.key == ("openai", "generate", "dall-e-3")
    assert (first.price.valid_from, first.price.valid_until) == (at("2023-11-06"), at("2026-01-01"))
    assert (str(first.price.read_on), str(first.price.as_of)) == ("2026-11-22", "2025-09-01")
    assert first.price.source == "https://example.org/prices"
    assert [(one.when, one.price) for one in first.price.variants] == [({"size": "1024x1024"}, 40_000_000)]
    assert second.price.valid_from == at("2026-01-01 10:00")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("16:9", "16:9"), ("no", "no"), ("on", "on"), ("2026-11-01", "2026-11-01"), ("1_000", "1_000"), ("0x10", "0x10"),
     ("12:30:45", "12:30:45"), ("hd", "hd"), ('"30"', "30"), ("30", 30), ("[1, a]", [1, "a"]), ("'n'", "n")],
)  # fmt: skip
def test_texts_that_yaml_often_takes_for_something_else(written: str, meant: Any) -> None:
    assert one(text(entry(variants=variants(when=f"{{ratio: {written}}}")))).variants[0].when == {"ratio": meant}


def test_dates_may_stand_without_quotes() -> None:
    quoted = one(text())
    assert one(text(entry(valid_from="2023-11-06", read_on="2026-11-22"))) == quoted


BROKEN: dict[str, tuple[str, str, str, int]] = {
    # content: field, rule, line
    "a float": (text(entry(variants=variants("0.04"))), "prices[0].variants[0].price", "money_string", 9),
    "a whole number": (text(entry(variants=variants("4"))), "prices[0].variants[0].price", "money_string", 9),
    "a float by its tag": (
        text(entry(variants=variants('!!float "0.04"'))), "prices[0].variants[0].price", "money_string", 9),
    "not a number": (text(entry(variants=variants(".nan"))), "prices[0].variants[0].price", "money_string", 9),
    "an exponent": (text(entry(variants=variants("1e-2"))), "prices[0].variants[0].price", "money_string", 9),
    "leading zeros": (text(entry(variants=variants("007"))), "prices[0].variants[0].price", "money_string", 9),
    "underscores": (text(entry(variants=variants("1_0"))), "prices[0].variants[0].price", "money_decimal", 9),
    "negative": (text(entry(variants=variants('"-1"'))), "prices[0].variants[0].price", "greater_than_equal", 9),
    "ten decimals": (text(entry(variants=variants('"1.0000000001"'))), "prices[0].variants[0].price", "money_decimals",
                     9),
    "a truth": (text(entry(variants=variants(when="{hd: true}"))), "prices[0].variants[0].when.hd", "condition_type",
                9),
    "a fraction": (text(entry(variants=variants(when="{s: 1.5}"))), "prices[0].variants[0].when.s", "condition_type",
                   9),
    "no price": (text(entry(variants="[{when: {}}]")), "prices[0].variants[0].price", "missing", 9),
    "no variants": (text(entry(variants=None)), "prices[0].variants", "missing", 2),
    "no provider": (text(entry(), entry(provider=None, valid_from="2024-01-01")), "prices[1].provider", "missing", 10),
    "no source": (text(entry(source=None)), "prices[0].source", "missing", 2),
    "an empty source": (text(entry(source='""')), "prices[0].source", "missing", 7),
    "no day of reading": (text(entry(read_on=None)), "prices[0].read_on", "missing", 2),
    "a day that is none": (text(entry(read_on='"2026-02-30"')), "prices[0].read_on", "date_from_datetime_parsing", 8),
    "a beginning that is none": (text(entry(valid_from='"2026-13-01"')), "prices[0].valid_from",
                                 "time_rfc3339", 6),
    "a beginning without offset": (text(entry(valid_from='"2026-01-01T00:00:00"')), "prices[0].valid_from",
                                   "time_rfc3339", 6),
    "a year": (text(entry(valid_from="2026")), "prices[0].valid_from", "time_rfc3339", 6),
    "an end before the beginning": (text(entry(valid_until='"2023-11-05"')), "prices[0].valid_until", "validity", 10),
    "a provider that is a number": (text(entry(provider="5")), "prices[0].provider", "string_type", 2),
    "a model with blanks": (text(entry(model="dall e")), "prices[0].model", "string_pattern_mismatch", 3),
    "a misspelt field": (text(entry(vaild_until='"2027-01-01"')), "prices[0].vaild_until", "extra_forbidden", 10),
    "a key twice": (text(entry(variants='[{price: "1", price: "2"}]')), "prices[0].variants[0].price", "yaml_key_twice",
                    9),
    "an entry twice": (text(entry(), entry()), "prices[1].valid_from", "price_twice", 14),
    "the same day in another zone": (text(entry(), entry(valid_from='"2023-11-06T01:00:00+01:00"')),
                                     "prices[1].valid_from", "price_twice", 14),
    "an alias": (text(entry(variants='[{when: {a: &x [q], b: *x}, price: "1"}]')), "prices[0].variants[0].when.b",
                 "yaml_alias", 9),
    "an unknown tag": (text(entry(source="!!python/object:os.system {}")), "prices[0].source", "yaml_tag", 7),
    "a set": (text(entry(source="!!set {a}")), "prices[0].source", "yaml_tag", 7),
    "a key that is a number": (text(entry(variants='[{when: {1: a}, price: "1"}]')), "prices[0].variants[0].when",
                               "yaml_key", 9),
    "an entry that is a text": ("prices:\n  - openai\n", "prices[0]", "mapping", 2),
    "no entries": ("prices: []\n", "prices", "list", 1),
    "entries that are none": ("prices: {}\n", "prices", "list", 1),
    "nothing": ("", "prices", "missing", 1),
    "a list": ("- a\n", "prices", "missing", 1),
    "something beside": (text() + "other: 1\n", "other", "extra_forbidden", 10),
    "no YAML": ("prices: {\n", "", "yaml", 2),
    "two documents": (text() + "---\nprices: []\n", "", "yaml", 10),
    "a control character": (text(entry(source="a\x01b")), "", "yaml", 1),
    "too deep": ("prices: " + "[" * 100 + "]" * 100, "prices" + "[0]" * 20, "yaml_depth", 1),
    "far too deep": ("prices:\n  " + "[" * 100_000, "", "yaml_depth", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named_with_its_line_entry_and_field(name: str) -> None:
    content, field, rule, line = BROKEN[name]
    with pytest.raises(PriceFileError) as caught:
        parse_prices(content, "prices.yaml")
    [error] = caught.value.errors
    assert (error.field, error.rule) == (field, rule)
    assert error.message.startswith(f"line {line}: ")


def test_all_that_is_broken_is_named_at_once() -> None:
    content = text(entry(provider="5", variants=variants("0.04")), entry(model=None))
    with pytest.raises(PriceFileError, match="3 problems") as caught:
        parse_prices(content, "prices.yaml")
    assert [error.field for error in caught.value.errors] == [
        "prices[0].provider", "prices[0].variants[0].price", "prices[1].model",
    ]  # fmt: skip


def test_a_file_that_is_no_text_or_too_large(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    for content, rule in ((b"\xff\xfe", "utf8"), (b"#" * (8 * 1024 * 1024 + 1), "too_large")):
        file.write_bytes(content)
        with pytest.raises(PriceFileError) as caught:
            read_file(file)
        assert [error.rule for error in caught.value.errors] == [rule]


# --- the file that is shipped ---


def test_every_shipped_entry_is_a_price_that_says_where_it_stands() -> None:
    puts = read_shipped().puts
    assert {"generate", "edit", "upscale"} <= {operation for _, operation, _ in (put.key for put in puts)}
    assert len(puts) >= 20
    for put in puts:
        assert put.shipped
        assert put.price.source, put.key
        assert put.price.read_on is not None, put.key
        assert put.price.as_of is None or put.price.as_of <= put.price.read_on, put.key
        assert all(variant.price > 0 for variant in put.price.variants), put.key


def test_shipped_prices_do_not_overlap() -> None:
    assert [one.overlap for one in outcomes_of({}, read_shipped().puts, at("2026-11-22")) if one.overlap] == []


def test_the_shipped_file_reads_the_same_by_usual_yaml() -> None:
    """Nothing in it means something else to other readers: each price, each date and each attribute."""
    entries = yaml.safe_load(shipped_text())["prices"]
    puts = read_shipped().puts
    assert len(entries) == len(puts)
    for plain, put in zip(entries, puts, strict=True):
        assert (plain["provider"], plain["operation"], plain["model"]) == put.key
        for said, read in zip(plain["variants"], put.price.variants, strict=True):
            assert isinstance(said["price"], str)
            assert read.model_dump(exclude_none=True)["when"] == said.get("when", {})


# --- loading ---


async def prices(database: "Database[asyncpg.Record]") -> dict[tuple[str, str], tuple[int, bool, int]]:
    """(model, valid_from) → price of the first variant in thousandths of a cent, shipped, version."""
    return {
        (one.model, f"{one.valid_from:%Y-%m-%d}"): (one.variants[0].price // 10**4, one.shipped, one.version)
        for one in await list_prices(database, PriceFilter(), None, 1000)
    }


def file_of(*entries: str, shipped: bool = False) -> PriceFile:
    return parse_prices(text(*entries), "prices.yaml", shipped=shipped)


async def load(database: "Database[asyncpg.Record]", *entries: str, **options: Any) -> list[Change]:
    return [outcome.change for outcome in await load_prices(database, file_of(*entries), **options)]


async def test_a_file_is_loaded_and_loaded_again_changes_nothing(database: "Database[asyncpg.Record]") -> None:
    entries = [entry(), entry(valid_from='"2026-01-01"', variants=variants('"0.03"')), entry(model="dall-e-2")]
    assert await load(database, *entries) == [Change.NEW] * 3
    assert await load(database, *entries) == [Change.UNCHANGED] * 3
    assert await load(database, entries[0], entry(model="dall-e-2", variants=variants('"0.02"'))) == [
        Change.UNCHANGED, Change.CHANGED,
    ]  # fmt: skip
    assert await prices(database) == {
        ("dall-e-3", "2023-11-06"): (4000, False, 1),
        ("dall-e-3", "2026-01-01"): (3000, False, 1),
        ("dall-e-2", "2023-11-06"): (2000, False, 2),
    }
    logged = await database.fetchval("select count(*) from event_log where type = 'ledger.price.changed.v1'")
    assert (logged, await database.fetchval("select version from price_catalogue")) == (4, 2)


async def test_a_dry_run_tells_the_same_and_changes_nothing(database: "Database[asyncpg.Record]") -> None:
    assert await load(database, entry(), dry_run=True) == [Change.NEW]
    assert await prices(database) == {}
    assert await database.fetchval("select count(*) from event_log") == 0


async def test_one_entry_that_overlaps_keeps_the_whole_file_out(database: "Database[asyncpg.Record]") -> None:
    await load(database, entry(valid_from='"2026-06-01"'))
    with pytest.raises(PriceFileError) as caught:
        await load(database, entry(model="dall-e-2"), entry(valid_until='"2026-07-01"'))
    [error] = caught.value.errors
    assert (error.field, error.rule) == ("prices[1].valid_until", "overlap")
    assert error.message.startswith("line 18: reaches past 2026-06-01")
    assert set(await prices(database)) == {("dall-e-3", "2026-06-01")}


async def test_entries_of_one_file_may_not_overlap(database: "Database[asyncpg.Record]") -> None:
    with pytest.raises(PriceFileError, match="2 problems"):
        await load(database, entry(valid_until='"2026-07-01"'), entry(valid_from='"2026-06-01"'))
    assert await prices(database) == {}


# --- the shipped file, followed at each start ---


def ship(monkeypatch: pytest.MonkeyPatch, *entries: str) -> None:
    monkeypatch.setattr("ledger_service.price_loading.shipped_text", lambda: text(*entries))


async def put(database: "Database[asyncpg.Record]", amount: str, valid_from: str, key: PriceKey = KEY) -> None:
    body = {"valid_from": f"{valid_from}T00:00:00Z", "variants": [{"price": amount}]}
    await change_price(database, key, Price.model_validate(body))


async def test_a_fresh_database_follows_the_shipped_file_and_a_corrected_one(
    database: "Database[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(monkeypatch, entry())
    assert [one.change for one in await follow_shipped(database)] == [Change.NEW]
    assert await follow_shipped(database) == [], "the same file again is not even read"
    ship(monkeypatch, entry(variants=variants('"0.05"')), entry(valid_from='"2026-01-01"'))
    assert [one.change for one in await follow_shipped(database)] == [Change.CHANGED, Change.NEW]
    assert await prices(database) == {
        ("dall-e-3", "2023-11-06"): (5000, True, 2),
        ("dall-e-3", "2026-01-01"): (4000, True, 1),
    }


async def test_what_an_administrator_has_put_is_left_alone_with_all_its_versions(
    database: "Database[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(monkeypatch, entry(), entry(model="dall-e-2"))
    await follow_shipped(database)
    await put(database, "0.01", "2023-11-06")
    ship(monkeypatch, entry(variants=variants('"9"')), entry(valid_from='"2026-01-01"'), entry(model="dall-e-2"),
         entry(model="dall-e-4"))  # fmt: skip
    changes = [one.change for one in await follow_shipped(database)]
    assert changes == [Change.KEPT, Change.KEPT, Change.UNCHANGED, Change.NEW]
    assert await prices(database) == {
        ("dall-e-3", "2023-11-06"): (1000, False, 2),
        ("dall-e-2", "2023-11-06"): (4000, True, 1),
        ("dall-e-4", "2023-11-06"): (4000, True, 1),
    }


async def test_a_price_put_before_the_first_start_is_left_alone(
    database: "Database[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(database, "0.01", "2026-05-01")
    ship(monkeypatch, entry(), entry(valid_from='"2026-09-01"'))
    assert [one.change for one in await follow_shipped(database)] == [Change.KEPT] * 2
    assert await prices(database) == {("dall-e-3", "2026-05-01"): (1000, False, 1)}


async def test_several_that_start_at_once_follow_once(database: "Database[asyncpg.Record]", database_url: str) -> None:
    others = [await asyncpg.connect(database_url) for _ in range(3)]
    try:
        await asyncio.gather(*(follow_shipped(one) for one in others))
    finally:
        await asyncio.gather(*(one.close() for one in others))
    assert {version for _, _, version in (await prices(database)).values()} == {1}
    logged = await database.fetchval("select count(*) from event_log where type = 'ledger.price.changed.v1'")
    assert logged == len(read_shipped().puts)


# --- the command ---


def test_the_command_loads_a_file_and_shows_what_changed(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text(entry(), entry(model="dall-e-2")))
    dry = run_ledger(database_url, "prices", "load", str(file), "--dry-run")
    assert (dry.exit_code, "2 new; nothing was changed" in dry.stderr) == (0, True), dry.stderr
    assert "openai" in dry.stdout
    assert run_ledger(database_url, "prices", "load", str(file)).stderr.strip() == "own.yaml: 2 new"
    file.write_text(text(entry(variants=variants('"0.05"')), entry(model="dall-e-2")))
    again = run_ledger(database_url, "prices", "load", str(file))
    assert again.stderr.strip() == "own.yaml: 1 changed, 1 unchanged"
    [row] = [line.split() for line in again.stdout.splitlines() if "openai" in line]
    assert [cell for cell in row if cell != "│"] == [
        "changed", "openai", "generate", "dall-e-3", "2023-11-06", "0.05", "0.04", "2",
    ]  # fmt: skip
    shown = run_ledger(database_url, "prices", "list", "--provider", "openai", "--at", "2026-11-01").stdout
    assert shown.count("administrator") == 2
    assert "openai" not in run_ledger(database_url, "prices", "list", "--at", "2023-11-05").stdout


def test_the_command_loads_the_shipped_file_unless_told_otherwise(database_url: str) -> None:
    count = len(read_shipped().puts)
    assert run_ledger(database_url, "prices", "load").stderr.strip() == f"list_prices.yaml: {count} new"
    assert run_ledger(database_url, "prices", "load").stderr.strip() == f"list_prices.yaml: {count} unchanged"
    assert run_ledger(database_url, "prices", "list").stdout.count("shipped file") == count


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (text(entry(variants=variants("0.04"))), "prices[0].variants[0].price: line 9: money is a decimal string"),
        (text(entry(valid_until='"2026-07-01"'), entry(valid_from='"2026-06-01"')), "prices[0].valid_until: line 10: "),
        ("prices: {\n", "file: line 2: "),
    ],
)
def test_the_command_names_what_is_broken_and_loads_nothing(
    database_url: str, tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(content)
    ended = run_ledger(database_url, "prices", "load", str(file))
    assert ended.exit_code == 1
    assert said in ended.stderr
    assert "nothing was loaded" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "openai" not in run_ledger(database_url, "prices", "list").stdout


def test_the_command_says_what_it_cannot_reach_or_read(
    empty_database_url: str, database_url: str, tmp_path: Path
) -> None:
    for url, arguments, said in (
        (database_url, ["prices", "load", str(tmp_path / "none.yaml")], "cannot read"),
        (database_url, ["prices", "load", str(tmp_path)], "cannot read"),
        (empty_database_url, ["prices", "load"], "run `ledger migrate`"),
        ("postgresql://127.0.0.1:9/none", ["prices", "list"], "cannot reach the database"),
        (f"{database_url}_none", ["prices", "list"], "cannot reach the database"),
    ):
        ended = run_ledger(url, *arguments)
        assert (ended.exit_code, said in ended.stderr) == (1, True), ended.stderr
        assert "Traceback" not in ended.stderr
    assert run_ledger(database_url, "prices", "list", "--at", "yesterday").exit_code == 2


def test_the_command_says_that_a_database_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ended = run_ledger(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x", "prices", "list")
    assert (ended.exit_code, "cannot reach the database: no answer in time" in ended.stderr) == (1, True), ended.stderr


def test_migrate_brings_the_shipped_prices_where_asked(database_url: str) -> None:
    assert "shipped prices" not in run_ledger(database_url, "migrate", "--database-only").stderr
    told = run_ledger(database_url, "migrate", "--database-only", "--shipped-prices")
    assert f"shipped prices new: {len(read_shipped().puts)}" in told.stderr
    assert "shipped prices" not in run_ledger(database_url, "migrate", "--database-only", "--shipped-prices").stderr
