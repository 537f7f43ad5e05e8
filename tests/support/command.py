"""Runs `smtp2cf …` as a process of its own, with nothing set but what a test sets."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.support.forked import start_smtp2cf
from tests.support.waiting import PATIENCE


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment without settings of the person who runs the tests, and with these."""
    ours = ("SMTP2CF_", "CLOUDFLARE_", "STATE_DIRECTORY")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | dict(settings)


def smtp2cf(*arguments: str, **settings: str) -> Done:
    """Run a command to its end, with settings given as SMTP2CF_ variables without their prefix."""
    environ = clean_environment({f"SMTP2CF_{name}": value for name, value in settings.items()})
    return run(arguments, environ)


def run(arguments: Sequence[str], environ: Mapping[str, str], given: str = "", **popen: Any) -> Done:
    """Run a command to its end. given: on standard input. popen: other options of Popen."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start_smtp2cf(arguments, env=environ, text=True, **pipes | popen) as process:
        try:
            out, err = process.communicate(given, timeout=PATIENCE)
        finally:
            process.kill()
    return Done(process.returncode, out or "", err or "")


@contextlib.contextmanager
def running(*arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command, its standard output and error to be read; it is ended after."""
    with start_smtp2cf(
        arguments,
        env=clean_environment({f"SMTP2CF_{name}": value for name, value in settings.items()}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
