"""Reads the bridge's /metrics as a scraper does."""

import time
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.support.bridge import Bridge
from tests.support.waiting import PATIENCE


def metric(bridge: Bridge, name: str, **labels: str) -> float:
    """The value of one sample; 0 where there is none yet."""
    with urllib.request.urlopen(f"{bridge.admin_url}/metrics") as answer:
        text = answer.read().decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0


def wait_for_metric(
    bridge: Bridge, name: str, value: float, timeout: float = PATIENCE, **labels: str
) -> None:
    """Return as soon as the sample has that value."""
    deadline = time.monotonic() + timeout
    while (now := metric(bridge, name, **labels)) != value:
        if time.monotonic() > deadline:
            raise AssertionError(f"{name} is {now}, not {value}")
        time.sleep(0.01)
