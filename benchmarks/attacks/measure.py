"""What an attack costs: memory, log lines, and what an ordinary client notices."""

import asyncio
import time
from typing import NamedTuple

import uvloop

from benchmarks.attacks.attacks import Planned
from benchmarks.attacks.target import OrdinaryClient, Target

SETTLING = 20.0
"""Seconds after the last session is over within which memory is given back, where it is at all."""
SETTLED = 10.0
"""MB above what a process had before that need no settling."""


class Cost(NamedTuple):
    """before, peak, after: MB. p50, p99: milliseconds of an ordinary message meanwhile, of `messages`.

    seconds: how long the attack took. emptied: seconds until its last session was over. lines: in the log.
    """

    before: float
    peak: float
    after: float
    p50: float
    p99: float
    messages: int
    seconds: float
    emptied: float
    lines: int


def measure(attack: Planned, size: int, target: Target, settling: float = SETTLING) -> Cost:
    """Attack a bridge. Raises BrokenError where it dies, keeps a session, logs a mistake of its own, or does
    not take the ordinary client's mail."""
    process = target.process
    known = target.logged()
    process.forget_peak()
    before = process.memory("VmRSS")
    ordinary = OrdinaryClient(target.smtp)
    try:
        begin = time.monotonic()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(attack.run(target, size))
        seconds = time.monotonic() - begin
        took = sorted(ordinary.stop())
    finally:
        ordinary.kill()
    process.check()
    emptied = target.wait_until_empty()
    logged = target.logged() - known
    if broken := {event for event in logged if event in ("raw", "session.error")}:
        raise process.broken(f"{', '.join(broken)} in its log")
    deadline = time.monotonic() + settling
    while process.memory("VmRSS") > before + SETTLED and time.monotonic() < deadline:
        time.sleep(0.5)
    return Cost(
        before=before,
        peak=process.memory("VmHWM"),
        after=process.memory("VmRSS"),
        p50=1000 * took[len(took) // 2],
        p99=1000 * took[len(took) * 99 // 100],
        messages=len(took),
        seconds=seconds,
        emptied=emptied,
        lines=logged.total(),
    )
