"""A test that skips because something isn't installed is never overlooked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nested import BARE

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest
from tests.support.needs import needs

@needs("no-such-program", "sh")
def test_one(): pass

@needs("no-such-program")
def test_two(): pass

@pytest.mark.skip(reason="only on Tuesdays")
def test_three(): pass

@needs("sh")
def test_four(): pass
"""
AT_COLLECTION = 'import pytest; pytest.skip("not installed: no-such-module", allow_module_level=True)'


def run(directory: Path, source: str, *options: str, strict: bool) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(source)
    (directory / "pytest.ini").write_text("[pytest]\n")
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("SMTP2CF_", "PYTEST_"))
    }
    environ |= {"PYTHONPATH": str(ROOT), **BARE, **({"SMTP2CF_TEST_NO_SKIP": "1"} if strict else {})}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "xdist",
        "-p",
        "tests.support.skips",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["alone", "under xdist"])
def test_lists_what_is_missing_at_the_end(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, TESTS, *options, strict=False)
    assert done.returncode == 0
    assert "no-such-program: 2 tests skipped\n" in done.stdout
    assert "Tuesdays" not in done.stdout, "not missing, and pytest's own -ra tells of it"
    assert "1 passed, 3 skipped" in done.stdout


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["alone", "under xdist"])
def test_fails_where_everything_should_be_installed(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, TESTS, *options, strict=True)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "not installed: no-such-program; SMTP2CF_TEST_NO_SKIP lets no test skip" in done.stdout
    assert "1 passed, 1 skipped, 2 errors" in done.stdout


def test_fails_where_a_whole_file_skips(tmp_path: Path) -> None:
    assert run(tmp_path, AT_COLLECTION, strict=False).returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    assert run(tmp_path, AT_COLLECTION, strict=True).returncode == pytest.ExitCode.INTERRUPTED
