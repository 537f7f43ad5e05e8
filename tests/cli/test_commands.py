"""The commands beside serve: check, send, --version, --help, and what `make run` shows."""

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
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN

ROOT = Path(__file__).parents[2]


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An endpoint on which nobody listens, and nobody can while the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


# ---- check


def check(url: str, token: str = TOKEN) -> tuple[int, str, str]:
    return smtp2cf("check", ACCOUNT_ID="a1", API_TOKEN=token, API_BASE_URL=url)


def test_check_is_content_with_a_good_token() -> None:
    with running_sandbox(token=TOKEN) as (_, url):
        status, out, err = check(url)
    assert status == 0
    assert out == f"settings: ok\nCloudflare: {url} answers\ntoken: active\n"
    assert err == ""


@pytest.mark.parametrize("state", ["disabled", "expired"])
def test_check_names_a_token_that_is_no_longer_good(state: str) -> None:
    with running_sandbox(token=TOKEN) as (sandbox, url):
        sandbox.token_status = state
        status, _, err = check(url)
    assert status == os.EX_CONFIG
    assert err == f"smtp2cf: token: Cloudflare says the token is {state}\n"


def test_check_names_a_token_that_is_refused() -> None:
    with running_sandbox(token="another") as (_, url):
        status, out, err = check(url)
    assert status == os.EX_CONFIG
    assert err.startswith("smtp2cf: token: ")
    assert "SMTP2CF_API_TOKEN" in err
    assert err.count("\n") == 1
    assert TOKEN not in out + err


def test_check_names_the_url_where_nobody_answers(nowhere: str) -> None:
    status, _, err = check(f"http://{nowhere}/client/v4")
    assert status == os.EX_CONFIG
    assert err.startswith("smtp2cf: Cloudflare: ")
    assert f"SMTP2CF_API_BASE_URL is http://{nowhere}/client/v4" in err
    assert err.count("\n") == 1


def test_check_wants_an_account() -> None:
    done = smtp2cf("check")
    assert done.status == os.EX_CONFIG
    assert done.err.startswith("smtp2cf: SMTP2CF_ACCOUNT_ID is not set")


def test_check_names_a_users_file_that_can_not_be_used(tmp_path: Path) -> None:
    done = smtp2cf("check", ACCOUNT_ID="a1", API_TOKEN=TOKEN, USERS_FILE=str(tmp_path / "users"))
    assert done.status == os.EX_CONFIG
    assert done.err == (f"smtp2cf: SMTP2CF_USERS_FILE: {tmp_path / 'users'}: No such file or directory\n")


def test_check_warns_of_a_variable_nobody_knows() -> None:
    with running_sandbox(token=TOKEN) as (_, url):
        done = smtp2cf("check", ACCOUNT_ID="a1", API_TOKEN=TOKEN, API_BASE_URL=url, MAX_SIZE="1MB")
    assert done.status == 0
    assert done.err == "warning: SMTP2CF_MAX_SIZE is not a setting: did you mean SMTP2CF_MAX_MESSAGE_SIZE?\n"


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
    assert forked.err.startswith("smtp2cf: ")
    assert run(arguments, env, executed=True) == forked


# ---- help


def test_tells_its_version() -> None:
    assert smtp2cf("--version") == (0, f"smtp2cf {__version__}\n", "")


@pytest.mark.parametrize("arguments", [("--help",), ("-h",)])
def test_lists_its_commands(arguments: tuple[str, ...]) -> None:
    done = smtp2cf(*arguments)
    assert done.status == 0
    for command in ("serve", "sandbox", "check", "send", "queue", "user"):
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
        assert process.wait(10) == 0
        (line,) = [line for line in process.stderr if "anna@example.net" in line]
    assert "status=sent" in line


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return answer.read()
