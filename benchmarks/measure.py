"""What is measured: throughput side by side, a crowd of sessions before a slow API, and a start.

Every measurement raises BrokenError when a message is lost or a process dies, never for being slow.
"""

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.api import FastApi, get, wait_for_http
from benchmarks.contenders import Contender, Running
from benchmarks.load import Work, send
from benchmarks.processes import BrokenError, Process, UnavailableError, free_port

IDLE_SETTLING = 1.0
"""Seconds after the greeting at which an idle process's memory is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A table: contenders side by side on some kinds of work. subject: the name of the contender whose
    ratios to the others are shown."""

    title: str
    contenders: Sequence[Contender]
    works: Sequence[Work]
    subject: str


Rates = dict[tuple[str, str], list[float]]
"""Messages a second of every round, by (work, contender) names."""


class Compared(NamedTuple):
    """What came of a Comparison. skipped: why, by the titles of contenders that could not run."""

    comparison: Comparison
    rates: Rates
    skipped: dict[str, str]


def progress(text: str) -> None:
    """Tell whoever waits what is being done."""
    print(text, file=sys.stderr, flush=True)


def compare(
    comparison: Comparison, api: FastApi, directory: Path, *, rounds: int, seconds: float
) -> Compared:
    """Run every contender on every work, `rounds` times about `seconds` seconds each.

    All contenders stay up and take turns, one at a time, each round beginning with another one: what the
    machine does beside this meets them all alike.
    """
    skipped: dict[str, str] = {}
    rates: Rates = {}
    with contextlib.ExitStack() as stack:
        running: list[Running] = []
        for contender in comparison.contenders:
            try:
                running.append(stack.enter_context(contender.start(directory / contender.name, api.url)))
            except UnavailableError as reason:
                skipped[contender.title] = str(reason)
                progress(f"skipped {contender.title}: {reason}")
        for work in comparison.works:
            messages = {one.contender.name: _messages(one, work, api, seconds) for one in running}
            for turn in range(rounds):
                first = turn % len(running)
                for one in running[first:] + running[:first]:
                    name = one.contender.name
                    rate = _rate(one, work, messages[name], api)
                    rates.setdefault((work.name, name), []).append(rate)
                    progress(f"{work.name}, round {turn + 1}: {one.contender.title} {rate:,.0f}/s")
    return Compared(comparison, rates, skipped)


def _messages(one: Running, work: Work, api: FastApi, seconds: float) -> int:
    """How many messages take about `seconds` seconds, found out by runs that warm it up.

    The second run is as long as those that count: just-in-time compilers and allocators have settled.
    """
    messages = work.warm_up
    for _ in range(2):
        messages = max(2 * work.sessions, round(_rate(one, work, messages, api) * seconds))
    return messages


def _rate(one: Running, work: Work, messages: int, api: FastApi) -> float:
    """Messages a second of one run, all of them seen at the API."""
    taken = send(one, work, messages)
    if one.contender.calls_api:
        try:
            api.collect(messages, work.size, one.contender.patience)
        except BrokenError as error:
            raise one.process.broken(f"{work.name}: {error}") from error
    one.contender.drain(one.directory)
    return messages / taken


class Crowd(NamedTuple):
    """Many sessions at once before an API that takes its time. rate: messages a second between the ramp-up
    and the end. peak: the contender's memory in MB."""

    sessions: int
    delay: float
    messages: int
    rate: float
    peak: float


def crowd(contender: Contender, directory: Path, *, sessions: int, delay: float, turns: int) -> Crowd:
    """Let `sessions` sessions send `turns` messages each, on average, before an API that takes `delay`
    seconds for each. Raises BrokenError when not every message came to the API exactly once."""
    directory.mkdir()
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    work = Work(name=f"{sessions:,} sessions", sessions=sessions, size=4096, keep_open=True, warm_up=0)
    messages = sessions * turns
    command = [sys.executable, "-m", "benchmarks.slow_api", str(port), str(delay)]
    with Process("the slow API", command, directory / "api.log") as api:
        wait_for_http(api, origin)
        with contender.start(directory / contender.name, f"{origin}/client/v4") as one:
            send(one, work, messages)
            peak = one.process.memory("VmHWM")
            api.check()
            answers: list[float] = json.loads(get(f"{origin}/answers"))
            if len(answers) != messages:
                raise one.process.broken(f"{messages} messages were sent, {len(answers)} came to the API")
    return Crowd(sessions, delay, messages, steady_rate(answers, sessions), peak)


def steady_rate(answers: Sequence[float], sessions: int) -> float:
    """Answers a second between the ramp-up and the end.

    The answers come in waves, one for each session in each, so whole waves are counted: all but the first,
    which has the connecting in it, and the last, during which sessions go away.
    """
    return (len(answers) - 2 * sessions) / (answers[-sessions - 1] - answers[sessions - 1])


def with_settings(contender: Contender, **env: str) -> Contender:
    """The same contender with more settings in its environment."""
    return replace(contender, env={**contender.env, **env})


class Start(NamedTuple):
    """ready: seconds from the process's start to the greeting. idle: MB while nothing happens."""

    ready: float
    idle: float


def start(contender: Contender, api: FastApi, directory: Path, *, times: int) -> Start:
    """The medians of a few starts."""
    ready, idle = [], []
    for number in range(times):
        with contender.start(directory / f"{contender.name}-{number}", api.url) as one:
            time.sleep(IDLE_SETTLING)
            one.process.check()
            ready.append(one.ready)
            idle.append(one.process.memory("VmRSS"))
    return Start(statistics.median(ready), statistics.median(idle))
