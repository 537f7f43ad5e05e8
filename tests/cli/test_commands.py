"""The commands beside serve: send, --version, --help, and what `make run` shows."""

import os
import re
import smtplib
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtp2cf import __version__
from tests.support.command import clean_environment, run, running, smtp2cf
from tests.support.needs import needs
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An endpoint on which nobody listens, and nobody can while the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


# ---- each command as an operator starts it


@pytest.mark.parametrize(
    "arguments",
    [
        ("check",),
        ("install-sendmail", "--prefix", "/dev/null"),
        ("queue", "list"),
        ("sandbox", "--listen", "192.0.2.1:80"),
        ("send", "--to", "anna@example.net", "--from", "app@example.com"),
        ("serve", "--sandbox", "--sandbox-listen", "192.0.2.1:80"),
        ("suppressions", "list"),
        ("user", "list"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_nothing_has_to_be_imported_beforehand(
    arguments: tuple[str, ...], nowhere: str, tmp_path: Path
) -> None:
    """What other tests see of a command is forked from a process that has imported everything."""
    places = {"SMTP_LISTEN": nowhere, "ADMIN_LISTEN": "none", "STATE_DIR": str(tmp_path / "state")}
    env = clean_environment({f"SMTP2CF_{name}": value for name, value in places.items()})
    forked = run(arguments, env)
    assert forked.status != 0
    assert run(arguments, env, executed=True) == forked


# ---- help


def test_tells_its_version() -> None:
    assert smtp2cf("--version") == (0, f"smtp2cf {__version__}\n", "")


@pytest.mark.parametrize("arguments", [("--help",), ("-h",)])
def test_lists_its_commands(arguments: tuple[str, ...]) -> None:
    done = smtp2cf(*arguments)
    assert done.status == 0
    for command in ("serve", "sandbox", "check", "send", "queue", "user", "suppressions"):
        assert re.search(rf"^\W*{command} ", done.out, re.MULTILINE), command


@pytest.mark.parametrize("command", ["serve", "sandbox", "check", "send", "queue", "user"])
def test_explains_each_command(command: str) -> None:
    done = smtp2cf(command, "--help")
    assert done.status == 0
    assert re.search(rf"Usage: .*smtp2cf {command} ", done.out)


@pytest.mark.parametrize("option", ["--sandbox-listen", "--env-file"])
def test_a_wrong_option_is_explained(option: str) -> None:
    done = smtp2cf("serve", "--sandbox", option, "nonsense")
    assert done.status == {"--sandbox-listen": os.EX_USAGE, "--env-file": os.EX_CONFIG}[option]
    assert done.err.startswith("smtp2cf: ")
    assert "nonsense" in done.err
    assert done.err.count("\n") == 1


# ---- make run


@needs("make")
def test_make_run_starts_the_bridge_with_its_sandbox() -> None:
    printed = subprocess.run(
        ["make", "--no-print-directory", "-n", "run"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout.splitlines()[-1].endswith("/smtp2cf serve --sandbox")


def test_a_sandbox_run_shows_where_to_send_and_where_to_look() -> None:
    """What `make run` prints: places that work, and a line for each message with what became of it."""
    places = {"SMTP_LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0"}
    sandbox = ("--sandbox", "--sandbox-listen", "127.0.0.1:0", "--sandbox-tls-listen", "127.0.0.1:0")
    with running("serve", *sandbox, **places, LOG_FORMAT="console") as process:
        shown = "".join(process.stdout.readline() for _ in range(5))
        named = dict(re.findall(r"^  (send mail to|what went out|status) +(\S+)", shown, re.MULTILINE))
        host, _, port = named["send mail to"].partition(":")
        with smtplib.SMTP(host, int(port)) as client:
            client.sendmail("app@example.com", ["anna@example.net"], b"Subject: x\r\n\r\nHello\r\n")
        assert b"anna@example.net" in _get(named["what went out"])
        assert b"anna@example.net" in _get(named["status"])
        process.terminate()
        assert process.wait(PATIENCE) == 0
        (line,) = [line for line in process.stderr if "anna@example.net" in line]
    assert "status=sent" in line


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return answer.read()
