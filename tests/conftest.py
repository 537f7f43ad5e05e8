"""Fixtures that every room's tests share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support.bridge import Bridge, running_bridge
from tests.support.leaks import Leaks
from tests.support.skips import (  # noqa: F401 - hooks of every run
    pytest_make_collect_report,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)
from tests.support.together import pytest_xdist_make_scheduler  # noqa: F401 - as above

settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
"""The same examples on every run, however long they take. `make fuzz` draws new ones, and so does
`pytest --hypothesis-profile=random`."""
settings.register_profile("random", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    """No secret may be read in anything the run prints or leaves."""
    config.pluginmanager.register(Leaks(), "leaks")


@pytest.fixture(autouse=True)
def _log_is_nobodys() -> Iterator[None]:
    """What sets up the log of a process keeps the tests after it from seeing any line."""
    before = structlog.get_config()["logger_factory"]
    yield
    assert structlog.get_config()["logger_factory"] is before, "this test sets up the log of its process"


@pytest.fixture(scope="session")
def _shared_bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    with running_bridge(tmp_path_factory.mktemp("bridge"), executed=True) as bridge:
        yield bridge


@pytest.fixture
def bridge(_shared_bridge: Bridge) -> Bridge:
    """A running bridge with its sandbox, its messages forgotten; shared by the tests of a process."""
    _shared_bridge.clear()
    return _shared_bridge


@pytest.fixture
def open_path() -> Iterator[Path]:
    """As tmp_path, for a test in which other users have to get in: pytest closes its own directories to them
    whenever somebody starts another pytest."""
    with tempfile.TemporaryDirectory(prefix="smtp2cf-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def own_bridge_directory(tmp_path: Path) -> Path:
    """Where a test's own bridge keeps its log: `with running_bridge(own_bridge_directory, …)`."""
    return tmp_path
