"""The load: smtp-source from Debian's postfix, and what it is told to send."""

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.api import RECIPIENT, SENDER
from benchmarks.contenders import Running
from benchmarks.processes import program

RUN_TIMEOUT = 300.0
"""Seconds after which a run counts as stuck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One kind of load, a row of a table.

    size: bytes of a message's body. keep_open: all messages over the same connections, rather than a
    connection for each. warm_up: messages of the first run, which does not count but tells about how
    many make a run of the wanted length. targets: the ratio aimed at, by the name of the reference.
    """

    name: str
    sessions: int
    size: int
    keep_open: bool
    warm_up: int
    targets: Mapping[str, float] = field(default_factory=dict)


def send(running: Running, work: Work, messages: int) -> float:
    """Send `messages` messages, return the seconds it took.

    smtp-source stops with an error at the first reply that is no success. Raises BrokenError.
    """
    command = [
        program("smtp-source"),
        *(["-d"] if work.keep_open else []),
        *("-s", str(min(work.sessions, messages))),
        *("-m", str(messages)),
        *("-l", str(work.size)),
        *("-f", SENDER),
        *("-t", RECIPIENT),
        *("-M", "bench.example.com"),
        f"127.0.0.1:{running.port}",
    ]
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=RUN_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise running.process.broken(f"{work.name}: not through after {RUN_TIMEOUT:.0f} s") from error
    seconds = time.monotonic() - start
    running.process.check()
    if done.returncode != 0 or done.stderr:
        raise running.process.broken(f"{work.name}: smtp-source says: {done.stderr.strip()[-500:]}")
    return seconds
