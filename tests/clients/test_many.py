"""Many messages at once, from Postfix's smtp-source: each arrives exactly once."""

import subprocess
from collections import Counter

import pytest

from tests.support.bridge import Bridge
from tests.support.needs import needs
from tests.support.waiting import PATIENCE

MESSAGES, SESSIONS = 500, 20


@needs("smtp-source")
@pytest.mark.parametrize("connections", [(), ("-d",)], ids=["one for each message", "kept open"])
def test_each_message_arrives_exactly_once(bridge: Bridge, connections: tuple[str, ...]) -> None:
    # -N puts a number before each recipient, so that no two messages are alike.
    numbered = ["-N", "-f", "app@example.com", "-t", "anna@example.net"]
    load = ["-s", str(SESSIONS), "-m", str(MESSAGES), "-l", "4096", *connections]
    source = ["smtp-source", *load, *numbered, f"inet:{bridge.smtp_endpoint}"]
    done = subprocess.run(source, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    arrived = Counter(recipient for message in bridge.messages() for recipient in message["recipients"])
    assert arrived == {f"{number}anna@example.net": 1 for number in range(1, MESSAGES + 1)}
