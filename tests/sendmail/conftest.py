"""Ways to run sendmail, and what comes of it."""

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from smtp2cf import sendmail as package
from smtp2cf.cli.install_sendmail import write_single_file
from tests.support.bridge import Bridge
from tests.support.forked import Forked
from tests.support.waiting import PATIENCE

PACKAGE = Path(package.__file__).parent
NAMES = ("sendmail", "mailq", "newaliases")
CONSOLE_SCRIPT = "#!{python}\nimport sys\nfrom smtp2cf.sendmail import main\nsys.exit(main())\n"
"""What pip makes of the entry point smtp2cf-sendmail."""
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@dataclass(frozen=True)
class Result:
    """What a call came to."""

    code: int
    stdout: str
    stderr: str

    @property
    def reason(self) -> str:
        """The first line on standard error, without the program's name."""
        return self.stderr.partition("\n")[0].partition(": ")[2]


@dataclass
class Sendmail:
    """A directory with sendmail, mailq and newaliases, and the environment to call them in.

    installed: what is called there is the installed command, which costs less as a fork than as a start of
    Python. test_callers.py starts the command itself, and the single file is started everywhere.
    """

    directory: Path
    env: dict[str, str]
    installed: bool = False
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return str(self.directory / "sendmail")

    @property
    def drop_directory(self) -> Path:
        return Path(self.env["SMTP2CF_SENDMAIL_DROP_DIR"])

    def with_drop_directory(self) -> "Sendmail":
        self.drop_directory.mkdir(exist_ok=True)
        self.drop_directory.chmod(0o3733)
        return self

    def __call__(
        self,
        *arguments: str | bytes,
        input: bytes = b"",  # noqa: A002 - as subprocess.run calls it
        name: str = "sendmail",
        env: Mapping[str, str] | None = None,
        **popen: object,
    ) -> Result:
        command = [str(self.directory / name), *arguments]
        environ = {**self.env, **(env or {})}
        if not self.installed or popen:
            done = subprocess.run(
                command, input=input, capture_output=True, env=environ, timeout=PATIENCE, **popen
            )
            return Result(done.returncode, done.stdout.decode(), done.stderr.decode())
        with Forked("smtp2cf.sendmail:main", command, env=environ, **PIPES) as process:
            try:
                stdout, stderr = process.communicate(input, timeout=PATIENCE)
            finally:
                process.kill()
        return Result(process.returncode, stdout.decode(), stderr.decode())


def links_to(command: Path, directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    for name in NAMES:
        (directory / name).symlink_to(command)
    return directory


def console_script(directory: Path) -> Path:
    """The installed command."""
    script = directory / "smtp2cf-sendmail"
    script.write_text(CONSOLE_SCRIPT.format(python=sys.executable))
    script.chmod(0o755)
    return script


def path_with(python: Path, directory: Path) -> str:
    """A PATH on which `python3` is that Python, for `#!/usr/bin/env python3`."""
    directory.mkdir(exist_ok=True)
    (directory / "python3").symlink_to(python)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


def single_file(directory: Path) -> Path:
    """The file of `make sendmail.pyz`."""
    (directory / "sendmail.pyz").write_bytes(_single_file())
    (directory / "sendmail.pyz").chmod(0o755)
    return directory / "sendmail.pyz"


@functools.cache
def _single_file() -> bytes:
    """It is the same every time, as test_alone.py shows."""
    with tempfile.TemporaryDirectory() as directory:
        write_single_file(Path(directory, "sendmail.pyz"))
        return Path(directory, "sendmail.pyz").read_bytes()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Settings of this test's own: nothing of this host, no drop directory until one is made."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("SMTP2CF_", "CLOUDFLARE_"))
    }
    # A bound port nobody listens on is closed for everybody else too.
    return kept | {
        "SMTP2CF_SENDMAIL_CONF": str(tmp_path / "sendmail.conf"),
        "SMTP2CF_SENDMAIL_ALIASES": str(tmp_path / "aliases"),
        "SMTP2CF_SENDMAIL_DROP_DIR": str(tmp_path / "drop"),
        "SMTP2CF_SENDMAIL_DOMAIN": "example.com",
        "SMTP2CF_SENDMAIL_HOST": f"unix:{tmp_path}/nobody",
        "SMTP2CF_ADMIN_LISTEN": f"unix:{tmp_path}/nobody",
        "TZ": "UTC",
    }


@pytest.fixture
def away(tmp_path: Path, environment: dict[str, str]) -> Sendmail:
    """sendmail with the bridge away."""
    return Sendmail(links_to(console_script(tmp_path), tmp_path / "bin"), environment, installed=True)


@pytest.fixture
def sendmail(bridge: Bridge, away: Sendmail) -> Sendmail:
    """sendmail with the bridge there."""
    return Sendmail(away.directory, away.env | bridge.env, installed=True)
