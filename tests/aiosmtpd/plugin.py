"""The pytest plugin under which aiosmtpd's own tests run against our sessions; see test_aiosmtpd.py.

Puts the stand-ins in the place of aiosmtpd's classes before any test imports them, and writes what became
of each test to the file that SMTP2CF_TEST_RESULTS names.
"""

import importlib.resources
import json
import os
import socket
import sys
import types
from collections.abc import Generator
from pathlib import Path

import pytest
import structlog
from aiosmtpd import controller, lmtp, smtp

from tests.aiosmtpd import adapter
from tests.aiosmtpd.comparison import compare_codes

HANGING = 10.0
"""Seconds after which a client of a test gives up, which without it waits for ever."""


def _pkg_resources() -> types.ModuleType:
    """The one function that aiosmtpd's conftest takes from setuptools' old pkg_resources."""
    module = types.ModuleType("pkg_resources")
    module.resource_filename = lambda package, name: str(importlib.resources.files(package) / name)
    return module


sys.modules["pkg_resources"] = _pkg_resources()
socket.setdefaulttimeout(HANGING)
compare_codes()
smtp.SMTP = controller.SMTP = adapter.SMTP
lmtp.LMTP = adapter.LMTP
controller.InetMixin._create_server = adapter.listen_on_loopback
controller.UnixSocketMixin._create_server = adapter.listen_on_unix_socket
controller.InetMixin._trigger_server = controller.UnixSocketMixin._trigger_server = adapter.knock
# To where their tests look for passwords in the log.
structlog.configure(
    processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.stdlib.LoggerFactory()
)

_results: dict[str, dict[str, object]] = {}


def _name(nodeid: str) -> str:
    """A test's class and name, without the file, for which pytest has no good words here."""
    return nodeid.partition("::")[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Conversations through a mock end by themselves here, and may take the time they need."""
    for module in {item.module for item in items if isinstance(item, pytest.Function)}:
        if hasattr(module, "DEFAULT_AUTOCANCEL"):
            module.DEFAULT_AUTOCANCEL = HANGING


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    adapter.used.times = 0
    result = _results[_name(item.nodeid)] = {"passed": True, "ours": False, "why": ""}
    done = yield
    result["ours"] = adapter.used.times > 0
    return done


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One failing part of a test, its set-up included, and the test has failed."""
    if not report.passed:
        result = _results[_name(report.nodeid)]
        result["passed"] = False
        result["why"] = report.longreprtext


def pytest_sessionfinish() -> None:
    """Write the results, as JSON."""
    Path(os.environ["SMTP2CF_TEST_RESULTS"]).write_text(json.dumps(_results), encoding="utf-8")
