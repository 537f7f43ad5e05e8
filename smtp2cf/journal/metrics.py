"""Counters and histograms for what every message passes through, in prometheus-client's form.

These are plain numbers that one thread counts and prometheus-client reads at a scrape. Its own counters are
made for many threads and processes and take locks: four of them cost as much as a message's way through
`relay`.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import REGISTRY, Info, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from smtp2cf import __version__

disable_created_metrics()  # type: ignore[no-untyped-call] # a series more for each, which nobody asks for


class Counters(Collector):
    """A counter for each of the values that a label may have: `counted[value] += 1`.

    `of(account)` are those of one of several accounts.
    """

    def __init__(self, name: str, text: str, label: str, values: Sequence[str]) -> None:
        self.counted = dict.fromkeys(values, 0)
        self._by_account = {"": self.counted}
        self._name, self._text, self._label = name, text, label
        REGISTRY.register(self)

    def of(self, account: str) -> dict[str, int]:
        """What is counted of an account, "" for the only one."""
        counted = self._by_account.get(account)
        if counted is None:
            counted = self._by_account[account] = dict.fromkeys(self.counted, 0)
        return counted

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        family = CounterMetricFamily(self._name, self._text)
        for account, counted in self._by_account.items():
            if account or len(self._by_account) == 1 or any(counted.values()):
                for value, count in counted.items():
                    family.add_sample(self._name, {**_of(account), self._label: value}, count)
        return [family]


class Latest(Collector):
    """What was last seen of each of several accounts: `last[account] = value`.

    "" is the only account. What was never seen is left out.
    """

    def __init__(self, name: str, text: str) -> None:
        self.last: dict[str, float] = {}
        self._name, self._text = name, text
        REGISTRY.register(self)

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        family = GaugeMetricFamily(self._name, self._text)
        for account, value in self.last.items():
            family.add_sample(self._name, _of(account), value)
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
    """A histogram for each of the values that a label may have; of each of several accounts."""

    def __init__(
        self, name: str, text: str, label: str, values: Sequence[str], buckets: Sequence[float]
    ) -> None:
        self._family, self._label, self._buckets = (name, text), label, buckets
        self._observed = {(value, ""): _Observed(buckets) for value in values}
        REGISTRY.register(self)

    def observe(self, label: str, value: float, account: str = "") -> None:
        """Count one value for one of the label's."""
        if (observed := self._observed.get((label, account))) is None:
            observed = self._observed[label, account] = _Observed(self._buckets)
        observed.add(value)

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        family = HistogramMetricFamily(*self._family)
        several = any(account for _, account in self._observed)
        for (label, account), observed in self._observed.items():
            buckets, total = observed.for_scrape()
            if several and not account and not buckets[-1][1]:
                continue
            labels, name = {**_of(account), self._label: label}, self._family[0]
            for bound, count in buckets:
                family.add_sample(f"{name}_bucket", {**labels, "le": bound}, count)
            family.add_sample(f"{name}_count", labels, buckets[-1][1])
            family.add_sample(f"{name}_sum", labels, total)
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


class Gauge(NamedTuple):
    """What is asked for at each scrape: a value for each account, or each other thing that the label names.

    The name is "" where there is only one. A value is left out while it is no number.
    """

    name: str
    text: str
    values: dict[str, Callable[[], float]]
    label: str = "account"


class _Asked(Collector):
    """Asks for a gauge at each scrape."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge

    def describe(self) -> Iterable[Metric]:
        """What it is called, without asking."""
        return [GaugeMetricFamily(self._gauge.name, self._gauge.text)]

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        family = GaugeMetricFamily(self._gauge.name, self._gauge.text)
        for name, ask in self._gauge.values.items():
            if not math.isnan(value := float(ask())):
                family.add_sample(self._gauge.name, {self._gauge.label: name} if name else {}, value)
        return [family] if family.samples else []


def _of(account: str) -> dict[str, str]:
    """The labels that say whose a value is."""
    return {"account": account} if account else {}


def export(gauges: Mapping[str, tuple[str, Callable[[], float]]], labelled: Iterable[Gauge] = ()) -> None:
    """Export gauges, and the version.

    gauges: by name, a text and what returns the value at each scrape; it is left out while it is no number.
    labelled: those with several values.
    """
    for name, (text, value) in gauges.items():
        REGISTRY.register(_Asked(Gauge(name, text, {"": value})))
    for gauge in labelled:
        REGISTRY.register(_Asked(gauge))
    Info("smtp2cf_build", "The version that is running").info({"version": __version__})
