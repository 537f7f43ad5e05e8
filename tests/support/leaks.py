"""Secrets that got out: a run in which one can be read anywhere fails, naming the test whose output held it.

Looked through: each test's report (what it captured of standard output, error and logs, its warnings and
the traceback of a failure), what the processes wrote that it started and whose output it collected, and at
the end of the run every file the tests left, whose directory has the test's name: the logs of bridges,
spools, cores. Under xdist the workers do the first two and the controller the files.
"""

import contextlib
import os
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.support.secret import redacted, shown_in

NOT_LOOKED_AT = frozenset({"token", "users"})
"""Names of files in which tests hand a secret over: that is what they are for."""

_collect = subprocess.Popen.communicate
_of_this_test: set[str] = set()
_in_files: list[str] = []


class Leaks:
    """The plugin: registered by tests/conftest.py."""

    def pytest_configure(self) -> None:
        """What a test reads of a process comes through here, also by way of subprocess.run."""
        subprocess.Popen.communicate = _communicate  # type: ignore[method-assign]

    def pytest_unconfigure(self) -> None:
        subprocess.Popen.communicate = _collect  # type: ignore[method-assign]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        text = item.nodeid if report.longrepr is None else f"{item.nodeid}\n{report.longrepr}"
        shown = [text, *(captured for _, captured in report.sections)]
        found = _of_this_test.union(*map(shown_in, shown))
        _of_this_test.clear()
        if found:
            report.outcome = "failed"
            report.longrepr = redacted(f"{text}\nsecrets in this test's output: {', '.join(sorted(found))}")
            report.sections = [(title, redacted(captured)) for title, captured in report.sections]
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """The files, once all workers have ended."""
        if hasattr(session.config, "workerinput"):
            return
        base: Path = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        _in_files[:] = list(leaks_below(base))
        if _in_files:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if _in_files:
            terminalreporter.section("secrets in what the tests left", red=True)
            for line in _in_files:
                terminalreporter.line(line)


def leaks_below(directory: Path) -> Iterator[str]:
    """A line for each file that shows a secret; its directory is named like its test."""
    for folder, _, names in os.walk(directory):
        for name in sorted(set(names) - NOT_LOOKED_AT):
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                if found := _shown_in_file(path):
                    yield f"{path.relative_to(directory)} shows {', '.join(found)}"


def _shown_in_file(path: Path) -> list[str]:
    if not path.is_file() or path.is_symlink() or not path.stat().st_size:
        return []
    with path.open("rb") as file:
        return sorted({name for written in _written_to(file) for name in shown_in(written)})


def _written_to(file: BinaryIO) -> Iterator[bytes]:
    """What was written, without the room set aside: 16 MB for each SQLite spool, 8 GB in a run."""
    end = 0
    with contextlib.suppress(OSError):  # nothing was written beyond
        while True:
            start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield os.pread(file.fileno(), end - start, start)


def _communicate(process: subprocess.Popen[Any], *arguments: Any, **options: Any) -> tuple[Any, Any]:
    collected = _collect(process, *arguments, **options)
    for output in collected:
        if output:
            _of_this_test.update(shown_in(output))
    return collected
