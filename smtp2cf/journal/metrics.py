"""Counters and histograms for what every message passes through, in prometheus-client's form.

These are plain numbers that one thread counts and prometheus-client reads at a scrape. Its own counters are
made for many threads and processes and take locks: four of them cost as much as a message's way through
`relay`.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
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
        self._family, self._observed = (name, text), _Observed(buckets)
        REGISTRY.register(self)

    def observe(self, value: float) -> None:
        """Count one value."""
        self._observed.add(value)

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        family = HistogramMetricFamily(*self._family)
        family.add_metric([], *self._observed.for_scrape())
        return [family]


class Histograms(Collector):
    """A histogram for each of the values that a label may have."""

    def __init__(
        self, name: str, text: str, label: str, values: Sequence[str], buckets: Sequence[float]
    ) -> None:
        self._family, self._label = (name, text), label
        self._observed = {value: _Observed(buckets) for value in values}
        REGISTRY.register(self)

    def observe(self, label: str, value: float) -> None:
        """Count one value for one of the label's."""
        self._observed[label].add(value)

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        family = HistogramMetricFamily(*self._family, labels=[self._label])
        for label, observed in self._observed.items():
            family.add_metric([label], *observed.for_scrape())
        return [family]


class _Observed:
    """What was observed, by bucket."""

    def __init__(self, buckets: Sequence[float]) -> None:
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def for_scrape(self) -> tuple[list[tuple[str, float]], float]:
        """Each bucket's bound with how many were at most that, and the sum."""
        bounds = [floatToGoString(bound) for bound in (*self._bounds, float("inf"))]  # type: ignore[no-untyped-call]
        return list(zip(bounds, accumulate(map(float, self._counts)), strict=True)), self._sum


class _Gauge(Collector):
    """A value that is asked for at each scrape."""

    def __init__(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._name, self._text, self._value = name, text, value

    def describe(self) -> Iterable[Metric]:
        """What it is called, without asking."""
        return [GaugeMetricFamily(self._name, self._text)]

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        value = float(self._value())
        return [] if math.isnan(value) else [GaugeMetricFamily(self._name, self._text, value=value)]


def export(gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
    """Export gauges, and the version.

    gauges: by name, a text and what returns the value at each scrape; it is left out while it is no number.
    """
    for name, (text, value) in gauges.items():
        REGISTRY.register(_Gauge(name, text, value))
    Info("smtp2cf_build", "The version that is running").info({"version": __version__})
