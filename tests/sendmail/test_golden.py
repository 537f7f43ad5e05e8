"""Every row of the tables of callers and options: what reaches send_raw, and the exit code."""

import getpass
import os
import pwd
import re
import shutil
import subprocess
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.sendmail.cases import CALLERS, OPTIONS, Case
from tests.sendmail.conftest import Sendmail, links_to, path_with, single_file
from tests.support.bridge import Bridge

PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
DATE = re.compile(r"^Date: (.*)$", re.MULTILINE)
MESSAGE_ID = re.compile(r"^Message-ID: (<\d+\.[0-9a-f]{16}@[a-z.]+>)$", re.MULTILINE)


def oldest_python() -> str:
    """A Python 3.8, the oldest that the single file is for."""
    found = [str(path) for path in sorted(PYENV.glob("3.8.*/bin/python3"))]
    found += [path for path in [shutil.which("python3.8")] if path]
    return found[0] if found else ""


@pytest.fixture(params=["installed", "single file"])
def any_sendmail(request: pytest.FixtureRequest, sendmail: Sendmail, tmp_path: Path) -> Sendmail:
    """sendmail in each form that must behave alike; the single file on the oldest Python there is."""
    if request.param == "installed":
        return sendmail
    env = dict(sendmail.env)
    if oldest_python():
        env["PATH"] = path_with(Path(oldest_python()), tmp_path / "python")
    return Sendmail(links_to(single_file(tmp_path), tmp_path / "alone"), env)


@pytest.mark.parametrize("case", [*CALLERS, *OPTIONS], ids=lambda case: case.row)
def test_golden(case: Case, any_sendmail: Sendmail, bridge: Bridge) -> None:
    verbose = ("-v",) if case.wire else ()
    result = any_sendmail(*verbose, *case.arguments, input=case.input, name=case.name)

    assert (result.code, result.stderr if not (case.stderr or case.wire) else "") == (case.code, "")
    assert case.stderr in result.stderr
    for command in case.wire:
        assert re.search(rf"^>>> .*{re.escape(command)}", result.stderr, re.MULTILINE), result.stderr
    lines = iter(result.stdout.splitlines(keepends=True))
    for expected in case.stdout:
        assert any(line.startswith(expected) for line in lines), (expected, result.stdout)
    arrived = [
        (one["from"], tuple(one["recipients"]), without_made_up(one["mime_message"], case.message))
        for one in bridge.messages()
    ]
    assert arrived == ([(as_user(case.sender), case.recipients, case.message)] if case.message else [])


def as_user(address: str) -> str:
    return address.replace("root@example.com", f"{getpass.getuser()}@example.com")


def without_made_up(mime_message: bytes, expected: str) -> str:
    """The message with LF, and placeholders for the fields sendmail had to make up."""
    text = mime_message.decode()
    assert text.count("\n") == text.count("\r\n") == text.count("\r")
    text = text.replace("\r\n", "\n")
    if "{date}" in expected:
        date = DATE.search(text)
        assert date is not None
        assert parsedate_to_datetime(date[1]).utcoffset() is not None
        text = DATE.sub("Date: {date}", text)
    if "{id}" in expected:
        text = MESSAGE_ID.sub("Message-ID: {id}", text)
    if "{user}" in expected:
        user = pwd.getpwuid(os.getuid())
        name = user.pw_gecos.split(",")[0]
        text = text.replace(f"From: {name} <{user.pw_name}@example.com>", "From: {user}")
    return text


def test_single_file_works_on_every_python(sendmail: Sendmail, bridge: Bridge, tmp_path: Path) -> None:
    pythons = [path for minor in range(8, 14) for path in PYENV.glob(f"3.{minor}.*/bin/python3")]
    if not pythons:
        pytest.skip("not installed: pyenv with its Pythons")
    command = [single_file(tmp_path), "-i", "b@y.example"]
    for python in pythons:
        done = subprocess.run(
            [python, "-W", "error", *command],
            input=b"Subject: s\n\nhi\n",
            env=sendmail.env,
            capture_output=True,
        )
        assert (python, done.returncode, done.stderr) == (python, 0, b"")

    assert len(bridge.messages()) == len(pythons)
