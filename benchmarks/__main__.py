"""`python -m benchmarks`: measure, print the report. README.md says what and how.

Exit status 0 however slow, 1 where something is broken, with what and the log's last lines.
"""

import argparse
import asyncio
import contextlib
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import report, spool
from benchmarks.api import FastApi
from benchmarks.contenders import BRIDGE, NODE, PLAIN, POSTFIX, QUEUE, SINK, on_postgres
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

QUEUE_COMPARISON = Comparison(
    title="The bridge, queue mode: kept, fsynced, answered; and sent meanwhile",
    contenders=(POSTFIX, QUEUE, on_postgres("")),
    subject=QUEUE.name,
    works=tuple(
        Work(
            name=f"4 KiB, {sessions} sessions kept open",
            sessions=sessions,
            size=4096,
            keep_open=True,
            warm_up=300,
            targets={POSTFIX.name: 2.5},
        )
        for sessions in (20, 100)
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
    parser.add_argument("--only", metavar="A,B", help="only these contenders, such as plain,bridge or queue")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.5
    if arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    known = {one.name for comparison in (*COMPARISONS, QUEUE_COMPARISON) for one in comparison.contenders}
    arguments.only = set(arguments.only.split(",")) if arguments.only else known
    if unknown := arguments.only - known:
        parser.error(f"--only: {', '.join(sorted(unknown))}: there are {', '.join(sorted(known))}")
    return arguments


def _measure(arguments: argparse.Namespace, directory: Path) -> Sequence[str]:
    """All of the report's parts."""
    parts = []
    with FastApi(directory) as api, _postgres(arguments) as postgres_url:
        queues = replace(QUEUE_COMPARISON, contenders=(POSTFIX, QUEUE, on_postgres(postgres_url)))
        for number, comparison in enumerate((*COMPARISONS, queues)):
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
        if QUEUE.name in arguments.only:
            parts.append("\n".join(_measure_spool(arguments, api, directory, postgres_url)))
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


def _measure_spool(
    arguments: argparse.Namespace, api: FastApi, directory: Path, postgres_url: str
) -> Sequence[str]:
    progress(f"{spool.MANY:,} waiting messages")
    rounds = arguments.rounds * 3
    measured = {"SQLite": spool.rates(f"sqlite://{directory}/spool", rounds)}
    if postgres_url:
        measured["PostgreSQL"] = spool.rates(postgres_url, rounds)
    filled = f"sqlite://{directory}/filled"
    asyncio.run(spool.fill(filled))
    return report.spool_lines(measured, spool.full(QUEUE, api, directory / "memory", filled))


@contextlib.contextmanager
def _postgres(arguments: argparse.Namespace) -> Iterator[str]:
    """The URL of a PostgreSQL with its default durability, "" where there is none."""
    # The tests know how to start one.
    from tests.spool.postgres_server import PostgresServer

    if not {"queue", "postgres"} & arguments.only:
        yield ""
        return
    try:
        server = PostgresServer(durable=True)
    except LookupError as missing:
        progress(str(missing))
        yield ""
        return
    try:
        for schema in ("bench", "bench_few", "bench_many"):
            asyncio.run(_execute(server.url, f"CREATE SCHEMA {schema}"))
        yield f"{server.url}&search_path=bench"
    finally:
        server.close()


async def _execute(url: str, statement: str) -> None:
    import asyncpg  # type: ignore[import-untyped]

    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


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
