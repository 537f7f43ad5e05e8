"""Runs `smtp2cf …` as a process of its own, with nothing set but what a test sets."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple


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
    done = subprocess.run(
        [sys.executable, "-m", "smtp2cf", *arguments],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def running(*arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command, its standard output and error to be read; it is ended after."""
    with subprocess.Popen(
        [sys.executable, "-m", "smtp2cf", *arguments],
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
