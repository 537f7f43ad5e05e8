"""What has to run in one worker does, whatever pytest-xdist makes of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.together import TOGETHER

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


def test_a_group_runs_in_one_worker(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "3",
        "--dist",
        "loadgroup",
        f"--rootdir={tmp_path}",
    ]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environ, check=True, capture_output=True, timeout=120)
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 6
    assert len(set(workers)) == 1
