"""`python -m benchmarks.attacks [--quick] [--only WORDS]`: attack a bridge of one's own, print a table.

Each attack meets a bridge that was started for it. Exits 1 where one broke something: a message of the
ordinary client was not taken, a session stayed, a traceback is in the log, the bridge died.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import uvloop

from benchmarks.attacks.attacks import ATTACKS, Planned
from benchmarks.attacks.target import OrdinaryClient, started
from benchmarks.processes import BrokenError

SETTLING = 1.0
"""Seconds after the last session is over until memory is read."""


class Cost(NamedTuple):
    """What an attack cost. before, peak, after: MB. p50, p99: milliseconds of an ordinary message meanwhile.

    seconds: how long it took. emptied: seconds until its last session was over. lines: log lines.
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


def measure(attack: Planned, size: int, directory: Path) -> Cost:
    """Attack a new bridge. Raises BrokenError."""
    with started(directory, attack.settings) as target:
        ordinary = OrdinaryClient(target.smtp)
        try:
            before = target.process.memory("VmRSS")
            begin = time.monotonic()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(attack.run(target, size))
            seconds = time.monotonic() - begin
            took = sorted(ordinary.stop())
        finally:
            ordinary.kill()
        target.process.check()
        emptied = target.wait_until_empty()
        time.sleep(SETTLING)
        logged = target.logged()
        if broken := {event for event in logged if event in ("raw", "session.error")}:
            raise target.process.broken(f"{', '.join(broken)} in its log")
        return Cost(
            before=before,
            peak=target.process.memory("VmHWM"),
            after=target.process.memory("VmRSS"),
            p50=1000 * took[len(took) // 2],
            p99=1000 * took[min(len(took) - 1, len(took) * 99 // 100)],
            messages=len(took),
            seconds=seconds,
            emptied=emptied,
            lines=logged.total(),
        )


def main() -> int:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="small ones")
    parser.add_argument(
        "--only", metavar="WORDS", default="", help="only those with these words in their name"
    )
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("| attack | | MB before → peak → after | ordinary message p50 / p99 ms (count) | s | log lines |")
    print("|---|---|---|---|---|---|", flush=True)
    broken = False
    with tempfile.TemporaryDirectory(prefix="smtp2cf-attacks-") as directory:
        for number, attack in enumerate(ATTACKS):
            if arguments.only not in attack.name:
                continue
            size = attack.quick if arguments.quick else attack.full
            row = f"| {attack.name} | {size:,} {attack.unit} |"
            try:
                cost = measure(attack, size, Path(directory) / str(number))
            except BrokenError as error:
                print(f"{row} broken | | | |\n{error}", flush=True)
                broken = True
                continue
            print(
                f"{row} {cost.before:.0f} → {cost.peak:.0f} → {cost.after:.0f}"
                f" | {cost.p50:.1f} / {cost.p99:.1f} ({cost.messages})"
                f" | {cost.seconds:.1f} + {cost.emptied:.1f} | {cost.lines} |",
                flush=True,
            )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
