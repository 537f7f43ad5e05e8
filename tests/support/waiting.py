"""Waits for what another process does, and finds a port that it can listen on. Everything here blocks."""

import socket
import time
from collections.abc import Callable

from benchmarks.processes import free_port as free_port

PATIENCE = 120.0
"""Seconds after which what a test waits for will never come, however busy the machine is."""


def accepts(port: int) -> bool:
    """Whether somebody listens on it."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(
    condition: Callable[[], object], what: str, timeout: float = PATIENCE, pause: float = 0.005
) -> None:
    """Ask again and again until it is so; `what` says in the failure what was waited for."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(pause)
