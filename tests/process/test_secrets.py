"""Where the token could get out and doesn't: errors with the request in them, what others see of the
process, dumps, pages. That nothing else shows it is held against the whole run by tests.support.leaks."""

import os
import resource
import signal
import subprocess
import time
import traceback
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from smtp2cf.cloudflare import Client
from smtp2cf.reply import SendError
from tests.support.bridge import Bridge, running_bridge
from tests.support.command import smtp2cf
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN, shown_in

MAIL = b"Subject: x\r\n\r\nhello\r\n"


# ---- errors


def all_below(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from all_below(child)


def errors_of_httpx(request: httpx.Request) -> Iterator[BaseException]:
    kinds = {kind for kind in all_below(httpx.HTTPError) if kind is not httpx.HTTPStatusError}
    for kind in kinds:
        error: Any = kind("no")
        error.request = request
        yield error


class Storm(httpx.AsyncBaseTransport):
    """Fails with every kind of error there is, one a call."""

    def __init__(self) -> None:
        self.left: list[BaseException] | None = None
        self.raised: list[BaseException] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        if self.left is None:
            self.left = list(errors_of_httpx(request))
        self.raised.append(self.left.pop())
        raise self.raised[-1]


async def test_no_kind_of_error_shows_the_token() -> None:
    storm = Storm()
    client = Client(
        base_url="http://x/", account_id="1", token=TOKEN, timeout=1, concurrency=1, transport=storm
    )
    while storm.left is None or storm.left:
        with pytest.raises(SendError) as caught:
            await client.send("a@x", ["b@x"], MAIL, time.monotonic() + 10)
        error = caught.value
        shown = [str(error), repr(error), repr(error.reply), str(error.__cause__)]
        shown += traceback.format_exception(error)
        assert not shown_in("".join(shown)), type(storm.raised[-1])
    assert len(storm.raised) > 15


# ---- what others see of the process


@pytest.fixture
def core_allowed() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def test_it_is_in_no_command_line_and_there_is_no_child_to_inherit_it(bridge: Bridge) -> None:
    process = Path(f"/proc/{bridge.process.pid}")
    assert shown_in((process / "environ").read_bytes()) == ["TOKEN"], "where the operator put it"
    assert not shown_in((process / "cmdline").read_bytes())
    assert not shown_in((process / "comm").read_bytes())
    assert not "".join(file.read_text() for file in process.glob("task/*/children"))
    ps = ["ps", "-ww", "-o", "args", "-p", str(bridge.process.pid)]
    listed = subprocess.run(ps, capture_output=True, text=True, check=True).stdout
    assert "smtp2cf serve" in listed
    assert not shown_in(listed)


def test_a_dump_of_the_stacks_shows_no_values(tmp_path: Path, core_allowed: None) -> None:
    with running_sandbox(token=TOKEN) as (_, url):
        account = {"ACCOUNT_ID": "a1", "API_TOKEN": TOKEN, "API_BASE_URL": url, "STATE_DIR": str(tmp_path)}
        os.environ["PYTHONFAULTHANDLER"] = "1"
        try:
            with running_bridge(tmp_path, sandbox=False, **account) as bridge:
                with bridge.client() as smtp:
                    smtp.sendmail("a@example.com", ["b@example.net"], MAIL)
                assert bridge.stop(signal.SIGABRT) == -signal.SIGABRT
        finally:
            del os.environ["PYTHONFAULTHANDLER"]
    dump = bridge.log_path.read_text()
    assert "Fatal Python error: Aborted" in dump
    assert not shown_in(dump)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("core")]


def test_a_bridge_leaves_no_core(bridge: Bridge) -> None:
    """It would hold the token, and the mail that is under way."""
    limits = Path(f"/proc/{bridge.process.pid}/limits").read_text()
    (core,) = [line.split() for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core[4] == "0"


# ---- pages and commands


def test_it_is_on_no_page_and_in_no_line_at_debug(tmp_path: Path) -> None:
    with running_sandbox(token=TOKEN) as (sandbox, url):
        account = {"ACCOUNT_ID": "a1", "API_TOKEN": TOKEN, "API_BASE_URL": url, "LOG_LEVEL": "debug"}
        with running_bridge(tmp_path, sandbox=False, STATE_DIR=str(tmp_path), **account) as bridge:
            with bridge.client() as smtp:
                smtp.sendmail("a@example.com", ["b@example.net", "bounce@example.net"], MAIL)
                sandbox.token_status = "expired"
                smtp.sendmail("a@example.com", ["c@example.net"], MAIL)
            pages = [
                urllib.request.urlopen(f"{bridge.admin_url}{path}").read()
                for path in ("/", "/metrics", "/queue", "/livez")
            ]
            bridge.stop()
    assert b"c@example.net" in pages[2]
    assert not any(shown_in(page) for page in pages)
    assert not shown_in(bridge.log_path.read_bytes())


@pytest.mark.parametrize("token", [f"{TOKEN} {TOKEN}", f"{TOKEN}\u00e9", f"\x1b{TOKEN}"], ids=range(3))
@pytest.mark.parametrize(("command", "said"), [("check", "error: settings: "), ("serve", "smtp2cf: ")])
def test_a_token_that_can_be_none_is_not_repeated(command: str, said: str, token: str) -> None:
    done = smtp2cf(command, ACCOUNT_ID="a1", API_TOKEN=token, API_BASE_URL="http://127.0.0.1:1")
    assert done.status == os.EX_CONFIG
    assert (done.out + done.err).startswith(f"{said}SMTP2CF_API_TOKEN: its value is wrong: ")
    assert not shown_in(done.out + done.err)


def test_a_token_in_a_file_is_not_repeated_either(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n{TOKEN}\n")
    done = smtp2cf("check", ACCOUNT_ID="a1", API_TOKEN_FILE=str(tmp_path / "token"))
    assert done.status == os.EX_CONFIG
    assert not shown_in(done.out + done.err)


def test_a_refused_token_is_not_repeated_by_check() -> None:
    with running_sandbox(token="another") as (_, url):
        done = smtp2cf("check", ACCOUNT_ID="a1", API_TOKEN=TOKEN, API_BASE_URL=url)
    assert done.status == os.EX_CONFIG
    assert "SMTP2CF_API_TOKEN" in done.out
    assert not shown_in(done.out + done.err)


def test_the_settings_do_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from smtp2cf.settings import accounts, loading

    monkeypatch.setenv("SMTP2CF_API_TOKEN", TOKEN)
    monkeypatch.setenv("SMTP2CF_ACCOUNT_ID", "1")
    monkeypatch.setenv("SMTP2CF_SPOOL_URL", f"postgresql://u:{TOKEN}@h/d")
    settings = loading.load()
    account = accounts.named(settings)
    assert not shown_in(
        f"{settings!r} {settings} {settings.model_dump_json()} {account!r} {account.client!r} {account}"
    )
