"""What has to run in one worker does, whatever pytest-xdist makes of it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from tests.support.nested import BARE
from tests.support.together import TOGETHER, Together

TESTS = """
import os, pathlib, pytest

@pytest.mark.parametrize("number", range(6))
def test_of_a_group(number):
    with pathlib.Path("workers").open("a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\\n")

@pytest.mark.parametrize("number", range(20))
def test_by_itself(number):
    pass
"""
CONFTEST = """
from tests.support import together
together.TOGETHER = ("test_some.py::test_of_a_group",)
from tests.support.together import pytest_xdist_make_scheduler
"""
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("group", TOGETHER)
def test_what_is_listed_is_there(group: str) -> None:
    path, _, name = group.partition("::")
    assert f"def {name or 'test_'}" in (ROOT / path).read_text(encoding="utf-8")


def run(directory: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """Those tests with three workers, as `make test` has it."""
    (directory / "test_some.py").write_text(tests)
    (directory / "conftest.py").write_text(CONFTEST)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "xdist",
        "-q",
        "-n",
        "3",
        "--dist",
        "loadgroup",
        f"--rootdir={directory}",
    ]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **BARE}
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, timeout=120)


def test_a_group_runs_in_one_worker(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS)
    assert done.returncode == 0, done.stdout
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 6
    assert len(set(workers)) == 1


def test_a_test_that_ends_its_worker_fails_and_is_not_run_again(tmp_path: Path) -> None:
    """Nor is any other left out: those that its worker was to run go to the others."""
    done = run(tmp_path, TESTS.replace("    pass\n", "    assert number != 7 or os._exit(1)\n"))
    assert "1 failed, 25 passed" in done.stdout
    assert "crashed while running 'test_some.py::test_by_itself[7]'" in done.stdout


def test_workers_that_replace_others_need_not_come_at_the_same_time() -> None:
    options: Any = MagicMock()
    options.getvalue.return_value = ["popen"]
    scheduler = Together(options)
    first, second, third = (MagicMock(shutting_down=False) for _ in range(3))
    tests = [f"test_some.py::test_{number}" for number in range(20)]
    scheduler.add_node(first)
    scheduler.add_node_collection(first, tests)
    scheduler.schedule()
    scheduler.add_node(second)
    scheduler.add_node(third)
    assert scheduler.remove_node(first) == tests[0]
    scheduler.add_node_collection(second, tests)
    scheduler.schedule()
    assert second.send_runtest_some.called
    assert not third.send_runtest_some.called
    scheduler.add_node_collection(third, tests)
    scheduler.schedule()
    assert third.send_runtest_some.called
