"""Metrics are written as Prometheus reads them, and no label grows without end."""

from prometheus_client.parser import text_string_to_metric_families

from contracts.metrics import OTHER, SERIES_MAX, Distribution, Metric, Reading, Tally, write
from ledger_service.looks import Looks

SECONDS = Metric("some_seconds", "histogram", "How long.", bounds=(0.1, 1.0))
BY_NAME = Metric("some_things_total", "counter", "How many.", ("name",))
LEVEL = Metric("some_level_bytes", "gauge", "How much.")
LEVELS = Metric("some_levels_bytes", "gauge", "How much of each.", ("name",))


def read(written: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(written.decode())
    samples = [sample for family in families for sample in family.samples]
    return {(one.name, tuple(one.labels.values())): one.value for one in samples if one.name.startswith("some_")}


def test_buckets_are_cumulative_and_a_bound_is_within_its_own() -> None:
    seconds = Distribution(SECONDS)
    seconds.observe(0.05)
    seconds.observe_many([0.1, 0.5, 2.0])
    told = read(write([seconds], {}))
    assert [told["some_seconds_bucket", (end,)] for end in ("0.1", "1.0", "+Inf")] == [2, 3, 4]
    assert told["some_seconds_count", ()] == 4
    assert told["some_seconds_sum", ()] == 2.65


def test_what_was_never_counted_is_told_where_it_is_known() -> None:
    assert read(write([Distribution(SECONDS)], {}))["some_seconds_count", ()] == 0
    assert read(write([Tally(BY_NAME)], {})) == {}
    assert read(write([Tally(BY_NAME, ("a",))], {})) == {("some_things_total", ("a",)): 0}


def test_series_end_in_one_for_all_others() -> None:
    things = Tally(BY_NAME)
    for number in range(SERIES_MAX + 50):
        things.add(f"n{number}")
    things.add("n0", amount=2)
    told = read(write([things], {}))
    assert len(told) == SERIES_MAX + 1
    assert told["some_things_total", (OTHER,)] == 50
    assert told["some_things_total", ("n0",)] == 3
    each = Distribution(Metric("some_waits_seconds", "histogram", "Each.", ("name",), (1.0,)))
    for number in range(SERIES_MAX + 50):
        each.observe(0.5, f"n{number}")
    assert read(write([each], {}))["some_waits_seconds_count", (OTHER,)] == 50


def test_a_gauge_that_is_not_known_is_not_told() -> None:
    readings: dict[Metric, Reading] = {LEVEL: None, LEVELS: {("a",): 1.0, ('"quoted"\n',): 2.0}}
    assert read(write([], readings)) == {("some_levels_bytes", ("a",)): 1, ("some_levels_bytes", ('"quoted"\n',)): 2}


def test_how_far_behind_is_never_told_as_less_than_it_is_known_to_be() -> None:
    looks = Looks()
    assert (looks.behind, looks.seconds_behind(100)) == (None, None)
    looks.saw(100, last=50, done=10)
    looks.saw(110, last=70, done=40)
    assert (looks.behind, looks.seconds_behind(115)) == (30, 15), "at least since the first look"
    looks.saw(120, last=70, done=60)
    assert (looks.behind, looks.seconds_behind(125)) == (10, 25), "what there was at 100 is done"
    looks.saw(130, last=70, done=70)
    assert (looks.behind, looks.seconds_behind(130)) == (0, 0)
