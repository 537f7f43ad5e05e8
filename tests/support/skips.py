"""What isn't installed: the tests that skip for it are listed at the end of a run, or fail.

A skip whose reason starts with "not installed: " (tests.support.needs) is listed by what is missing.
With SMTP2CF_TEST_NO_SKIP=1, as .ci/run sets it after installing everything, it is a failure instead.
"""

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
NOT_INSTALLED = "not installed: "
STRICT = bool(os.environ.get("SMTP2CF_TEST_NO_SKIP"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _fail_if_strict((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _fail_if_strict((yield))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each thing that is missing, with the number of tests that skipped for it."""
    missing: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        if what := _missing(report):
            missing[what] = missing.get(what, 0) + 1
    if missing:
        terminalreporter.section("not installed")
        for what, tests in sorted(missing.items()):
            terminalreporter.line(f"{what}: {tests} {'test' if tests == 1 else 'tests'} skipped")


def _fail_if_strict(report: Report) -> Report:
    if STRICT and report.skipped and (what := _missing(report)):
        report.outcome = "failed"
        report.longrepr = f"{NOT_INSTALLED}{what}; SMTP2CF_TEST_NO_SKIP lets no test skip for that"
    return report


def _missing(report: pytest.TestReport | pytest.CollectReport) -> str:
    """What a skipped test misses; "" where it skipped for another reason."""
    if hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple | list):
        return ""
    reason = report.longrepr[2].removeprefix("Skipped: ")
    return reason.removeprefix(NOT_INSTALLED) if reason.startswith(NOT_INSTALLED) else ""
