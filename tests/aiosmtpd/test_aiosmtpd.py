"""aiosmtpd's own tests, run against our sessions: what deviates is in deviations.txt, with its reason.

The tests are the files of aiosmtpd's source distribution, which its wheel brings along unchanged; the
requirements pin both by hash. What stands between them and us is in adapter.py, what is compared in
comparison.py. Not run: test_handlers, test_main, test_misc and most of test_server, which are about
aiosmtpd's handlers, its command line and its controllers, and have no session of ours in them.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiosmtpd
import pytest

from tests.support.nested import BARE

HERE = Path(__file__).parent
SOURCE = "1.4.6", "ac0f5f306fbb6a824346291b6b7da48f6896212dd78757a2095308fadb42141c"
"""Version and digest of the tests in its source distribution."""
PARTS = {
    "test_lmtp": [""],
    "test_proxyprotocol": [""],
    "test_server": ["::TestServer::test_smtp_utf8", "::TestUnixSocketController"],
    "test_smtp": [""],
    "test_smtps": [""],
    "test_smtpsmuggling": [""],
    "test_starttls": [""],
}
"""The files and what of them is run."""
TIME_LIMIT = 240
"""Seconds that the tests of a file may take."""


class Expected(NamedTuple):
    """What the table says of a file: how many tests pass, how many never speak to us, which deviate."""

    passing: int
    not_ours: int
    deviations: list[str]


def read_table() -> Iterator[tuple[str, Expected]]:
    """Sections begin with `[file] …`; a test that deviates stands indented under the reason for it."""
    table = (HERE / "deviations.txt").read_text(encoding="utf-8")
    for section in re.split(r"^(?=\[)", table, flags=re.MULTILINE)[1:]:
        heading = re.match(r"\[(\w+)\] (\d+) pass, (\d+) never speak to us, (\d+) deviate\n", section)
        assert heading is not None, section[:100]
        deviations = re.findall(r"^    (\S+)", section, flags=re.MULTILINE)
        assert len(deviations) == int(heading[4]), f"{heading[1]} lists {len(deviations)}"
        yield heading[1], Expected(int(heading[2]), int(heading[3]), deviations)


class Run:
    """A file's tests, in a process of their own."""

    def __init__(self, name: str, directory: Path) -> None:
        self._results = directory / f"{name}.json"
        self._output = directory / f"{name}.out"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        environment |= {
            "ASYNCIO_CATCHUP_DELAY": "0.3",
            "PYTHONPATH": str(HERE.parents[1]),
            "SMTP2CF_TEST_RESULTS": str(self._results),
            **BARE,
        }
        command = [sys.executable, "-m", "pytest", "-q", "-c", str(HERE / "settings.ini")]
        command += ["-p", "pytest_asyncio.plugin", "-p", "pytest_mock", "-p", "tests.aiosmtpd.plugin"]
        command += ["-p", "no:cacheprovider"]
        command += ["--pyargs", *(f"aiosmtpd.tests.{name}{node}" for node in PARTS[name])]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def results(self) -> dict[str, dict[str, Any]]:
        """Wait for its end; by test: passed, ours, why."""
        self.process.wait(TIME_LIMIT)
        assert self._results.exists(), self._output.read_text(encoding="utf-8", errors="replace")
        return json.loads(self._results.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All at the same time: they sleep for most of theirs."""
    directory = tmp_path_factory.mktemp("aiosmtpd")
    started = {name: Run(name, directory) for name in PARTS}
    yield started
    for run in started.values():
        run.process.kill()
        run.process.wait()


def test_they_are_those_of_the_source_distribution() -> None:
    version, digest = SOURCE
    assert aiosmtpd.__version__ == version, (
        "a new version: hold its tests against its source, renew the table"
    )
    found = hashlib.sha256()
    for file in sorted(Path(aiosmtpd.__file__).parent.glob("tests/*.py")):
        found.update(file.read_bytes())
    assert found.hexdigest() == digest


def test_the_table_names_every_file_that_is_run() -> None:
    assert dict(read_table()).keys() == PARTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_only_what_is_listed_deviates(name: str, runs: dict[str, Run]) -> None:
    expected = dict(read_table())[name]
    results = runs[name].results()
    failed = {test: result["why"] for test, result in results.items() if not result["passed"]}
    new = [
        f"{test} deviates, and is not listed:\n{why}"
        for test, why in failed.items()
        if test not in expected.deviations
    ]
    gone = [f"{test} passes: take it off the list" for test in expected.deviations if test not in failed]
    assert not new + gone, "\n".join(new + gone)
    ours = sum(result["passed"] and result["ours"] for result in results.values())
    assert (ours, len(results) - len(failed) - ours) == (expected.passing, expected.not_ours)
