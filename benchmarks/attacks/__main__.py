"""`python -m benchmarks.attacks [--quick] [--only WORDS]`: attack a bridge of one's own, print a table.

Each attack meets a bridge that was started for it. Exits 1 where one broke something: a message of the
ordinary client was not taken, a session stayed, a traceback is in the log, the bridge died.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

from benchmarks.attacks.attacks import ATTACKS
from benchmarks.attacks.measure import measure
from benchmarks.attacks.target import started
from benchmarks.processes import BrokenError


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
                with started(Path(directory) / str(number), attack.settings) as target:
                    cost = measure(attack, size, target)
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
