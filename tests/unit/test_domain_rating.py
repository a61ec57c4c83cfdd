"""What chooses a price: attributes, versions, and what is assumed of a check that does not say."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from contracts.limits import LimitCheck
from contracts.money import format_nanos
from contracts.prices import Price
from ledger_service.domain.price_versions import (
    Change,
    Put,
    Version,
    find_overlap,
    in_force_until,
    outcomes_of,
    outcomes_where_nobody_put,
)
from ledger_service.domain.rating import Catalogue, CostTooLargeError, PriceVersion, worst_case
from tests.builders import Body, at, check

KEY = ("local", "generate", "render-1")
NOW = at("2026-11-20")
DOLLAR = 10**9


def variant(price: str, **when: Any) -> Body:
    return {"when": when, "price": price}


def price(*variants: Body, valid_from: str = "2026-01-01", valid_until: str | None = None, **fields: Any) -> Price:
    return Price.model_validate(
        {
            "valid_from": at(valid_from),
            "valid_until": None if valid_until is None else at(valid_until),
            "variants": list(variants) or [variant("1")],
            **fields,
        }
    )


def catalogue(*prices: Price) -> Catalogue:
    return Catalogue().with_versions([(KEY, PriceVersion(one, number)) for number, one in enumerate(prices, 1)])


def rate(of: Catalogue, quantity: int = 1, now: datetime = NOW, **attributes: Any) -> str | None:
    """What a check is held at, in dollars; None = unpriced."""
    rated = worst_case(of, LimitCheck.model_validate(check(quantity=quantity, attributes=attributes)), now)
    return None if rated is None else format_nanos(rated.cost_nanos).rstrip("0").rstrip(".")


SIZES = catalogue(
    price(
        variant("0.04", size="1024x1024", quality="standard"),
        variant("0.08", size="1024x1024", quality="hd"),
        variant("0.08", size=["1024x1792", "1792x1024"], quality="standard"),
        variant("0.12", size=["1024x1792", "1792x1024"], quality="hd"),
    )
)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"size": "1024x1024", "quality": "standard"}, "0.04"),
        ({"size": "1792x1024", "quality": "hd"}, "0.12"),
        ({"size": "1024x1024"}, "0.08"),
        ({"quality": "standard"}, "0.08"),
        ({}, "0.12"),
        ({"size": "1024x1024", "quality": "standard", "style": "vivid"}, "0.04"),
        ({"size": "512x512"}, None),
        ({"size": "1024x1024", "quality": "HD"}, None),
        ({"quality": "hd", "steps": 30}, "0.12"),
    ],
)
def test_the_dearest_variant_that_attributes_do_not_exclude(attributes: Body, expected: str | None) -> None:
    assert rate(SIZES, **attributes) == expected


def test_cost_is_the_unit_price_times_the_quantity() -> None:
    rated = worst_case(SIZES, LimitCheck.model_validate(check(quantity=7)), NOW)
    assert rated is not None
    assert (rated.unit_price_nanos, rated.cost_nanos) == (120_000_000, 840_000_000)
    assert (rated.version, rated.valid_from) == (1, at("2026-01-01"))


STEPS = catalogue(
    price(
        variant("1", steps={"at_most": 30}),
        variant("2", steps={"at_least": 31, "at_most": 50}),
        variant("5", steps={"at_least": 51}),
    )
)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        *[(0, "1"), (30, "1"), (31, "2"), (50, "2"), (51, "5"), (10**9, "5")],
        *[("30", "1"), ("031", "2"), ("51", "5")],
        *[("auto", "5"), ("30.5", "5"), ("-1", "5"), ("٣٠", "5")],
    ],
)
def test_both_ends_of_a_range_are_in_it_and_a_text_that_is_no_number_says_nothing(
    steps: str | int, expected: str
) -> None:
    assert rate(STEPS, steps=steps) == expected


@pytest.mark.parametrize(
    ("condition", "value", "fits"),
    [
        (30, "30", True),
        ("30", 30, True),
        ("030", "30", True),
        ([10, "20"], "20", True),
        ([10, "20"], 30, False),
        (30, "auto", True),
        ("auto", 30, True),
        (["auto", 30], 31, False),
        (["auto", 30], "fast", False),
        ("hd", "hd ", False),
        ({"at_least": 0}, 0, True),
    ],
)
def test_whole_numbers_are_numbers_also_as_texts_and_what_cannot_be_compared_excludes_nothing(
    condition: Any, value: str | int, fits: bool
) -> None:
    assert (rate(catalogue(price(variant("1", level=condition))), level=value) == "1") is fits


def test_a_variant_without_conditions_fits_all_and_the_dearest_of_several_that_fit_counts() -> None:
    mixed = catalogue(price(variant("3"), variant("1", size="small"), variant("9", size="large")))
    assert (rate(mixed, size="small"), rate(mixed, size="large"), rate(mixed, size="other")) == ("3", "9", "3")


def test_the_version_in_force_is_the_latest_that_has_begun() -> None:
    old, new = price(variant("1")), price(variant("2"), valid_from="2026-06-01")
    both = catalogue(old, new)
    change = at("2026-06-01")
    assert rate(both, now=at("2025-12-31")) is None
    assert rate(both, now=at("2026-01-01")) == "1"
    assert rate(both, now=change - timedelta(microseconds=1)) == "1"
    assert rate(both, now=change) == "2"


def test_a_version_that_ended_leaves_a_gap_until_the_next() -> None:
    ended = price(variant("1"), valid_until="2026-03-01")
    both = catalogue(ended, price(variant("2"), valid_from="2026-06-01"))
    moments = (at("2026-02-28"), at("2026-03-01"), at("2026-05-31"), at("2026-06-01"))
    assert [rate(both, now=moment) for moment in moments] == ["1", None, None, "2"]


@pytest.mark.parametrize(
    "other", [{"provider": "far"}, {"operation": "edit"}, {"model": "render-2"}, {"model": "Render-1"}]
)
def test_what_has_no_price_is_unpriced(other: Body) -> None:
    assert worst_case(SIZES, LimitCheck.model_validate(check(**other)), NOW) is None


def test_an_empty_catalogue_prices_nothing() -> None:
    assert worst_case(Catalogue(), LimitCheck.model_validate(check()), NOW) is None


def test_more_than_an_operation_may_cost_is_refused_with_its_numbers() -> None:
    dear = catalogue(price(variant("1000.000000001")))
    assert rate(dear, quantity=999) == "999000.000000999"
    with pytest.raises(CostTooLargeError, match=r"1000 units at \$1000\.000000001 cost more than one operation may"):
        rate(dear, quantity=1000)


def test_a_catalogue_is_never_changed_only_followed_by_another() -> None:
    before = catalogue(price(variant("1")))
    after = before.with_versions([(KEY, PriceVersion(price(variant("2")), 2))])
    assert (rate(before), rate(after)) == ("1", "2")
    with pytest.raises(TypeError):
        before.prices[KEY] = ()  # type: ignore[index]  # what a mapping proxy refuses


# --- versions that are put


def version(one: Price, number: int = 1, *, shipped: bool = False) -> Version:
    return Version(one, number, shipped, NOW)


def changes(standing: list[Version], *prices: Price, shipped: bool = False) -> list[Change]:
    puts = [Put(KEY, one, shipped) for one in prices]
    return [outcome.change for outcome in outcomes_of({KEY: standing}, puts, NOW)]


def test_a_put_is_new_changed_or_unchanged() -> None:
    stands = price(variant("1"))
    assert changes([], stands) == [Change.NEW]
    assert changes([version(stands)], stands) == [Change.UNCHANGED]
    [outcome] = outcomes_of({KEY: [version(stands, 4)]}, [Put(KEY, price(variant("2")))], NOW)
    assert (outcome.change, outcome.after and outcome.after.version) == (Change.CHANGED, 5)
    assert changes([version(stands)], price(variant("1"), source="elsewhere")) == [Change.CHANGED]
    assert changes([version(stands)], price(variant("1"), valid_from="2026-02-01")) == [Change.NEW]


def test_the_same_moment_in_another_zone_is_the_same_version() -> None:
    there = price(variant("1"), valid_from="2026-01-01")
    same = Price.model_validate({**there.model_dump(mode="json"), "valid_from": "2026-01-01T01:00:00+01:00"})
    assert changes([version(there)], same) == [Change.UNCHANGED]


OVERLAPS: dict[str, tuple[Price, Price, str | None]] = {
    "an end past the next beginning": (
        price(valid_from="2026-01-01", valid_until="2026-03-02"),
        price(valid_from="2026-03-01"),
        "valid_until",
    ),
    "an end at the next beginning": (
        price(valid_from="2026-01-01", valid_until="2026-03-01"),
        price(valid_from="2026-03-01"),
        None,
    ),
    "a beginning before the earlier end": (
        price(valid_from="2026-02-01"),
        price(valid_from="2026-01-01", valid_until="2026-03-01"),
        "valid_from",
    ),
    "a beginning at the earlier end": (
        price(valid_from="2026-03-01"),
        price(valid_from="2026-01-01", valid_until="2026-03-01"),
        None,
    ),
    "an open one gives way": (price(valid_from="2026-01-01"), price(valid_from="2026-03-01"), None),
    "an open one gives way to this": (price(valid_from="2026-03-01"), price(valid_from="2026-01-01"), None),
    "the version that it replaces": (
        price(valid_from="2026-01-01", valid_until="2026-03-01"),
        price(valid_from="2026-01-01", valid_until="2026-06-01"),
        None,
    ),
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_versions_do_not_overlap(name: str) -> None:
    put, other, field = OVERLAPS[name]
    found = find_overlap(put, [other])
    assert (found and found.field) == field
    if found:
        assert found.other == other
        named = other.valid_from if field == "valid_until" else other.valid_until
        assert named is not None
        assert named.isoformat() in found.message


def test_an_end_may_reach_to_the_next_version_but_not_to_one_between() -> None:
    first, last = price(valid_from="2026-01-01"), price(valid_from="2026-09-01")
    middle = price(valid_from="2026-03-01", valid_until="2026-06-01")
    assert find_overlap(price(valid_from="2026-01-01", valid_until="2026-03-01"), [last, middle, first]) is None
    assert find_overlap(price(valid_from="2026-01-01", valid_until="2026-04-01"), [last, middle, first]) is not None


def test_what_counts_is_how_versions_stand_in_the_end() -> None:
    """Both are put together: the first ends earlier than before, where the second begins."""
    stands = version(price(valid_from="2026-01-01", valid_until="2026-09-01"))
    shorter, later = price(valid_from="2026-01-01", valid_until="2026-06-01"), price(valid_from="2026-06-01")
    assert changes([stands], later) == [Change.OVERLAP]
    assert changes([stands], shorter, later) == [Change.CHANGED, Change.NEW]
    assert changes([stands], later, shorter) == [Change.NEW, Change.CHANGED]
    assert changes([], price(valid_until="2026-07-01"), later) == [Change.OVERLAP, Change.OVERLAP]


def test_a_version_is_in_force_until_its_end_or_the_next() -> None:
    one = price(valid_from="2026-01-01", valid_until="2026-03-01")
    opened, later = price(valid_from="2026-01-01"), price(valid_from="2026-05-01")
    assert in_force_until(one, [one, later]) == at("2026-03-01")
    assert in_force_until(opened, [opened, later]) == at("2026-05-01")
    assert in_force_until(later, [opened, later]) is None


def follow(standing: list[Version], *prices: Price) -> list[Change]:
    puts = [Put(KEY, one, shipped=True) for one in prices]
    return [outcome.change for outcome in outcomes_where_nobody_put({KEY: standing}, puts, NOW)]


def test_the_shipped_file_changes_its_own_prices_and_adds_to_them() -> None:
    stands = version(price(variant("1")), shipped=True)
    assert follow([stands], price(variant("2")), price(valid_from="2026-06-01")) == [Change.CHANGED, Change.NEW]
    assert follow([], price(variant("2"))) == [Change.NEW]
    assert follow([stands], price(variant("1"))) == [Change.UNCHANGED]


def test_the_shipped_file_leaves_a_price_alone_that_an_administrator_has_put() -> None:
    shipped, own = version(price(variant("1")), shipped=True), version(price(variant("2"), valid_from="2026-03-01"))
    new = (
        price(variant("9")),
        price(variant("9"), valid_from="2026-03-01"),
        price(variant("9"), valid_from="2026-06-01"),
    )
    assert follow([own], *new) == [Change.KEPT] * 3
    assert follow([shipped, own], *new) == [Change.KEPT] * 3
    assert follow([shipped, own], price(variant("1"))) == [Change.UNCHANGED]


def test_the_shipped_file_never_fails_on_an_overlap_with_what_an_earlier_one_said() -> None:
    stands = version(price(valid_from="2026-01-01", valid_until="2026-05-01"), shipped=True)
    assert follow([stands], price(valid_from="2026-04-01")) == [Change.KEPT]
