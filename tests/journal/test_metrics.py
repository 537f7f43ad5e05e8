"""Our own counters and histograms say what prometheus-client's would."""

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from smtp2cf.journal import metrics

BUCKETS = (0.01, 1, 3, 1e6, 2.5e7)


def text_of(*collectors: Collector) -> str:
    """What a scrape shows."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    text = generate_latest(registry).decode()
    assert "_created" not in text, "nobody asks when a counter was made"
    return text


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "REGISTRY", CollectorRegistry())


def test_counters_look_like_prometheus_clients() -> None:
    ours = metrics.Counters("x_total", "What it counts", "kind", ("a", "b"))
    theirs = prometheus_client.Counter("x_total", "What it counts", ["kind"], registry=None)
    theirs.labels("a")
    theirs.labels("b").inc(3)
    ours.counted["b"] += 3
    assert text_of(ours) == text_of(theirs)


def test_what_was_last_seen_is_left_out_until_it_is_and_has_its_account() -> None:
    last = metrics.Latest("x_seconds", "When it was")
    assert "x_seconds " not in text_of(last).replace("# HELP x_seconds ", "").replace("# TYPE x_seconds ", "")
    last.last["acme"] = 1.5
    assert 'x_seconds{account="acme"} 1.5\n' in text_of(last)


@given(values=st.lists(st.sampled_from([0.0, 0.01, 0.5, 1, 2.999, 3, 3.0001, 1e6, 2.5e7, 1e12, -1.0])))
def test_a_histogram_looks_like_prometheus_clients(values: list[float]) -> None:
    metrics.REGISTRY = CollectorRegistry()
    ours = metrics.Histogram("x_bytes", "What it measures", BUCKETS)
    theirs = prometheus_client.Histogram("x_bytes", "What it measures", buckets=BUCKETS, registry=None)
    for value in values:
        ours.observe(value)
        theirs.observe(value)
    assert text_of(ours) == text_of(theirs)
