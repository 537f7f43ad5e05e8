"""`python -m fuzz [--seconds N] [TARGET …]`: each target in a process of its own, one after the other.

libFuzzer's own lines tell of executions and findings; a finding ends its target, and the input is in
.fuzz/. Exits 1 where there was one. New inputs that reach new code are kept in .fuzz/ for the next time.
The model's scenarios are drawn by hypothesis instead.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from fuzz.targets import CORPUS, TARGETS

LONGEST_INPUT = 4096
SLOWEST_INPUT = 10
"""Seconds: what takes longer is a finding."""
WORK = Path(".fuzz")


def main() -> int:
    arguments = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    arguments.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    arguments.add_argument("--seconds", type=int, default=60, help="for each target")
    given = arguments.parse_args()
    if unknown := [name for name in given.targets if name not in TARGETS]:
        arguments.error(f"{unknown[0]} is none of {', '.join(TARGETS)}")
    failed = [name for name in given.targets or TARGETS if not _fuzz(name, given.seconds)]
    for name in failed:
        print(f"{name}: a finding; `python -m fuzz.replay {name} .fuzz/{name}-…` shows it once more")
    return 1 if failed else 0


def _fuzz(name: str, seconds: int) -> bool:
    print(f"==> {name}", flush=True)
    if name == "model":
        return subprocess.run([sys.executable, "-m", "fuzz.draw", str(seconds)], check=False).returncode == 0
    learned = WORK / name
    learned.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fuzz.run", name, f"-max_total_time={seconds}"]
    command += [f"-max_len={LONGEST_INPUT}", f"-timeout={SLOWEST_INPUT}", "-print_final_stats=1"]
    command += [f"-artifact_prefix={WORK / name}-", "-verbosity=1", str(learned), str(CORPUS / name)]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
