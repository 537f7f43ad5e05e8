"""A secret that gets out anywhere in a run fails it, and the test whose output held it is named."""

import base64
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.each import each
from tests.support.leaks import leaks_below
from tests.support.nested import BARE
from tests.support.secret import PASSWORD, TOKEN, redacted, shown_in

ROOT = Path(__file__).parents[2]
MIB = 2**20
HEAD = """
import logging, subprocess, sys, warnings
import pytest
from tests.support.secret import TOKEN
"""
PLANTED = """
def test_prints(): print(TOKEN)

@pytest.fixture
def loud_setup(): print(TOKEN)
def test_has_a_loud_setup(loud_setup): pass

@pytest.fixture
def loud_teardown():
    yield
    print(TOKEN)
def test_has_a_loud_teardown(loud_teardown): pass

def test_logs(): logging.getLogger("x").warning("%s", TOKEN)

def test_fails_with_it():
    got = TOKEN
    assert got == "x"

ECHO = [sys.executable, "-c", "import sys; sys.exit(sys.argv[1])", TOKEN]
def test_has_a_loud_child(): subprocess.run(ECHO, capture_output=True)

def test_has_a_loud_child_by_hand():
    with subprocess.Popen(ECHO, stderr=subprocess.PIPE, text=True) as child:
        child.communicate()
"""
LEFT = """
def test_leaves_a_log(tmp_path): (tmp_path / "bridge.log").write_text("x" * 9999 + TOKEN)

def test_leaves_a_database(tmp_path): (tmp_path / "x.sqlite3").write_bytes(b"\\0" + TOKEN.encode() + b"\\0")

@pytest.fixture(scope="session")
def shared(tmp_path_factory): (tmp_path_factory.mktemp("test_shares") / "log").write_text(TOKEN)
def test_shares(shared): pass
"""
HARMLESS = """
def test_is_careful(tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    print("token")
    subprocess.run(["true"], env={"TOKEN": TOKEN})
"""


def run(directory: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_planted.py").write_text(HEAD + source)
    (directory / "pytest.ini").write_text("[pytest]\n")
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("SMTP2CF_", "PYTEST_"))
    }
    (directory / "conftest.py").write_text(
        "from tests.support.leaks import Leaks\n"
        "def pytest_configure(config): config.pluginmanager.register(Leaks())\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "no:cacheprovider", "-ra", *options]
    command += [f"--basetemp={directory / 'base'}"]
    environ |= {"PYTHONPATH": str(ROOT), **BARE}
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False)
    shutil.rmtree(directory / "base")  # the run that runs this looks through its files, too
    return done


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["alone", "under xdist"])
def test_tests_that_show_a_secret_fail_and_are_named(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, PLANTED + HARMLESS, *options)
    planted = set(re.findall(r"def (test_\w+)", PLANTED))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert set(re.findall(r"^(?:FAILED|ERROR) test_planted.py::(\w+)", done.stdout, re.MULTILINE)) == planted
    assert done.stdout.count("\nsecrets in this test's output: TOKEN\n") >= len(planted)
    assert 'assert got == "x"' in done.stdout, "why it failed is still told"


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["alone", "under xdist"])
def test_a_secret_in_what_a_test_leaves_fails_the_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, LEFT, *options)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "3 passed" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.endswith(" shows TOKEN")]
    assert len(lines) == 3
    for name in ("test_leaves_a_log0/bridge.log", "test_leaves_a_database0/x.sqlite3", "test_shares0/log"):
        assert any(name in line for line in lines)


def test_what_shows_no_secret_passes(tmp_path: Path) -> None:
    done = run(tmp_path, HARMLESS)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("before", [b"", b"\0", b"\0u", b"user\0user\0"])
def test_a_secret_is_found_in_base64_as_auth_sends_it(before: bytes) -> None:
    sent = base64.b64encode(before + PASSWORD.encode() + b"behind")
    assert shown_in(b"AUTH PLAIN " + sent) == ["PASSWORD"]
    assert shown_in(redacted(sent.decode())) == []


@pytest.mark.parametrize(
    "form", [TOKEN, TOKEN.encode().hex(), f"Bearer {TOKEN}"], ids=["plain", "hex", "as a header"]
)
def test_a_secret_is_found_in_other_forms(form: str) -> None:
    assert shown_in(form) == ["TOKEN"]
    assert shown_in(redacted(form)) == []


@pytest.mark.parametrize("text", ["", "token", TOKEN[:-1], TOKEN.upper()], ids=range(4))
def test_what_is_no_secret_is_not_found(text: str) -> None:
    assert shown_in(text) == []


@each("set_aside", [False, True])
@each("before", [0, 1, MIB - 10, MIB, 2 * MIB - len(TOKEN)])
@each("behind", [0, 1, MIB, 3 * MIB + 1])
def test_a_secret_is_found_wherever_it_is_among_zeros(
    tmp_path: Path, before: int, behind: int, set_aside: bool
) -> None:
    path = tmp_path / "x.reserve"
    for secret in (TOKEN.encode(), b""):
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            if set_aside:
                os.posix_fallocate(file.fileno(), 0, before + len(secret) + behind + 1)
            else:
                file.write(bytes(before + len(secret) + behind + 1))
            file.seek(before)
            file.write(secret)
        assert list(leaks_below(tmp_path)) == (["x.reserve shows TOKEN"] if secret else [])
