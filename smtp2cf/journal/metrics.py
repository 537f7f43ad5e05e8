"""Counters and histograms for what every message passes through, in prometheus-client's form.

These are plain numbers that one thread counts and prometheus-client reads at a scrape. Its own counters are
made for many threads and processes and take locks: four of them cost as much as a message's way through
`relay`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import REGISTRY, Gauge, Info
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from smtp2cf import __version__


class Counters(Collector):
    """A counter for each of the values that a label may have: `counted[value] += 1`."""

    def __init__(self, name: str, text: str, label: str, values: Sequence[str]) -> None:
        self.counted = dict.fromkeys(values, 0)
        self._name, self._text, self._label = name, text, label
        REGISTRY.register(self)

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        family = CounterMetricFamily(self._name, self._text, labels=[self._label])
        for value, count in self.counted.items():
            family.add_metric([value], count)
        return [family]


class Histogram(Collector):
    """How many of the values observed were at most each of `buckets` (rising), and their sum."""

    def __init__(self, name: str, text: str, buckets: Sequence[float]) -> None:
        self._name, self._text, self._buckets = name, text, buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._buckets, value)] += 1
        self._sum += value

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        so_far = 0
        buckets = []
        for bound, count in zip([*self._buckets, float("inf")], self._counts, strict=True):
            so_far += count
            buckets.append((floatToGoString(bound), so_far))  # type: ignore[no-untyped-call]
        family = HistogramMetricFamily(self._name, self._text)
        family.add_metric([], buckets, self._sum)
        return [family]


def export(gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
    """Export gauges, and the version. gauges: by name, a text and what returns the value at each scrape."""
    for name, (text, value) in gauges.items():
        Gauge(name, text, registry=REGISTRY).set_function(value)
    Info("smtp2cf_build", "What runs").info({"version": __version__})
