"""Metrics as both services tell them to Prometheus: declared once, counted for next to nothing, written when scraped.

prometheus_client's own instruments lock for each observation; these are for one event loop, and take a seventh of the
time: there are thousands of limit checks a second, at some 100 µs each. Writing is prometheus_client's work.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Literal, NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
#: Of one metric. What comes beyond is counted under OTHER: labels never grow with what callers or providers send.
SERIES_MAX: Final = 200
OTHER: Final = "other"

Labels: TypeAlias = tuple[str, ...]
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    """One metric as it is told. ``name`` ends in its unit; a counter's in ``_total`` after it. ``bounds``: the upper
    ends of a histogram's buckets, without the last, which is infinite."""

    name: str
    kind: Kind
    help: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()


class Tally:
    """A counter, for each combination of its labels."""

    def __init__(self, metric: Metric, *known: Labels) -> None:
        """``known``: series that are told from the start, as a metric without labels is. What Prometheus first sees
        when it is 1 has not increased: alerts on single events ask for that."""
        self.metric = metric
        self._sums: dict[Labels, float] = dict.fromkeys(known if metric.labels else [()], 0)

    def add(self, *labels: str, amount: float = 1) -> None:
        if labels not in self._sums and len(self._sums) >= SERIES_MAX:
            labels = (OTHER,) * len(labels)
        self._sums[labels] = self._sums.get(labels, 0) + amount

    def family(self) -> Family:
        family = CounterMetricFamily(self.metric.name, self.metric.help, labels=self.metric.labels)
        for labels, amount in self._sums.items():
            family.add_metric(labels, amount)
        return family


class _Buckets:
    __slots__ = ("counts", "total")

    def __init__(self, bounds: int) -> None:
        self.counts = [0] * (bounds + 1)
        self.total = 0.0


class Distribution:
    """A histogram, for each combination of its labels."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._series: dict[Labels, _Buckets] = {}
        if not metric.labels:
            self._buckets_of(())

    def observe(self, value: float, *labels: str) -> None:
        buckets = self._series.get(labels) or self._buckets_of(labels)
        buckets.counts[bisect_left(self.metric.bounds, value)] += 1
        buckets.total += value

    def observe_many(self, values: Iterable[float]) -> None:
        """Of a metric without labels."""
        bounds, buckets = self.metric.bounds, self._series[()]
        counts = buckets.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            buckets.total += value

    def family(self) -> Family:
        family = HistogramMetricFamily(self.metric.name, self.metric.help, labels=self.metric.labels)
        ends = [*map(_text, self.metric.bounds), "+Inf"]
        for labels, buckets in self._series.items():
            family.add_metric(labels, list(zip(ends, accumulate(buckets.counts), strict=True)), buckets.total)
        return family

    def _buckets_of(self, labels: Labels) -> _Buckets:
        if labels not in self._series and len(self._series) >= SERIES_MAX:
            labels = (OTHER,) * len(labels)
        return self._series.setdefault(labels, _Buckets(len(self.metric.bounds)))


#: Of a gauge: its value, or one for each combination of its labels; None: not known now, and therefore not told.
Reading: TypeAlias = float | Mapping[Labels, float] | None


def write(instruments: Sequence[Tally | Distribution], readings: Mapping[Metric, Reading]) -> bytes:
    """What Prometheus scrapes: what was counted, what was read just now, and the process's memory, CPU and files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Told(instruments, readings))
    return generate_latest(registry)


class _Told(Collector):
    def __init__(self, instruments: Sequence[Tally | Distribution], readings: Mapping[Metric, Reading]) -> None:
        self._instruments, self._readings = instruments, readings

    def collect(self) -> Iterator[Family]:
        for instrument in self._instruments:
            yield instrument.family()
        for metric, reading in self._readings.items():
            if reading is None:
                continue
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, value in reading.items() if isinstance(reading, Mapping) else [((), reading)]:
                family.add_metric(labels, value)
            yield family


def _text(bound: float) -> str:
    return repr(float(bound))
