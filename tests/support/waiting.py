"""Waits for what another process does, and finds a port that it can listen on. Everything here blocks."""

import contextlib
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 60.0
"""Seconds after which what a test waits for will never come, however busy the machine is."""


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, and that the system gives to nobody who asks for any.

    Of the ports that it gives away, one may go to somebody else before the caller's server listens on it.
    """
    ours = range(10_000, _first_ephemeral_port())
    while True:
        port = random.SystemRandom().choice(ours)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _first_ephemeral_port() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


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
