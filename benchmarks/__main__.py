"""`python -m benchmarks`: measure, print the report. README.md says what and how.

Exit status 0 however slow, 1 where something is broken, with what and the log's last lines.
"""

import argparse
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import report
from benchmarks.api import FastApi
from benchmarks.contenders import BRIDGE, NODE, PLAIN, SINK
from benchmarks.load import Work
from benchmarks.measure import Comparison, compare, crowd, progress, start, with_settings
from benchmarks.processes import BrokenError, UnavailableError, program

COMPARISONS = (
    Comparison(
        title="The bridge, direct mode",
        contenders=(PLAIN, NODE, SINK, BRIDGE),
        subject=BRIDGE.name,
        works=(
            Work(
                name="4 KiB, 20 sessions kept open",
                sessions=20,
                size=4096,
                keep_open=True,
                warm_up=400,
                targets={"plain": 9, "node": 0.8},
            ),
            Work(
                name="4 KiB, a connection per message",
                sessions=20,
                size=4096,
                keep_open=False,
                warm_up=200,
                targets={"plain": 4.5, "node": 8},
            ),
            Work(
                name="4 MB, 4 sessions",
                sessions=4,
                size=4_000_000,
                keep_open=True,
                warm_up=12,
                targets={"plain": 7, "node": 1.5},
            ),
        ),
    ),
)

CROWD_SESSIONS = 1000
CROWD_DELAY = 1.0
CROWD_SETTINGS = {"SMTP2CF_API_CONCURRENCY": str(CROWD_SESSIONS), "SMTP2CF_MAX_SESSIONS": "1100"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each kind, of which the median counts")
    parser.add_argument("--seconds", type=float, default=1.5, help="about how long a run takes")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work at all?")
    parser.add_argument("--only", metavar="A,B", help="only these contenders: plain, node, sink, bridge")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.5
    if arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    known = {one.name for comparison in COMPARISONS for one in comparison.contenders}
    arguments.only = set(arguments.only.split(",")) if arguments.only else known
    if unknown := arguments.only - known:
        parser.error(f"--only: {', '.join(sorted(unknown))}: there are {', '.join(sorted(known))}")
    return arguments


def _measure(arguments: argparse.Namespace, directory: Path) -> Sequence[str]:
    """All of the report's parts."""
    parts = []
    with FastApi(directory) as api:
        for number, comparison in enumerate(COMPARISONS):
            chosen = [one for one in comparison.contenders if one.name in arguments.only]
            if chosen:
                compared = compare(
                    replace(comparison, contenders=chosen),
                    api,
                    directory / f"comparison-{number}",
                    rounds=arguments.rounds,
                    seconds=arguments.seconds,
                )
                parts.append(report.table(compared))
        if BRIDGE.name in arguments.only:
            progress("starts")
            times = 1 if arguments.quick else 3
            started = start(BRIDGE, api, directory / "start", times=times)
    if BRIDGE.name in arguments.only:
        progress(f"{CROWD_SESSIONS:,} sessions")
        crowded = crowd(
            with_settings(BRIDGE, **CROWD_SETTINGS),
            directory / "crowd",
            sessions=CROWD_SESSIONS,
            delay=CROWD_DELAY,
            turns=4 if arguments.quick else 12,
        )
        parts.append("\n".join([*report.crowd_lines(crowded), *report.start_lines(started)]))
    return parts


def main() -> int:
    """Returns the exit status."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        program("smtp-source")
        program("nginx")
    except UnavailableError as reason:
        print(f"{reason}: the benchmark needs Debian's postfix and nginx", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="smtp2cf-benchmark-") as directory:
        try:
            parts = _measure(arguments, Path(directory))
        except BrokenError as error:
            print(f"broken: {error}", file=sys.stderr)
            return 1
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.rounds} rounds\n")
    print("\n\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
