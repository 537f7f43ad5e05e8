"""The TOML file, changed while a bridge runs: what is used, what needs a restart, what is wrong."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from smtp2cf.settings import loading
from smtp2cf.settings.reread import Loaded, Reread, SettingsFile
from tests.support.bridge import running_bridge
from tests.support.sandbox import running_sandbox
from tests.support.waiting import PATIENCE, wait_until

NOTE = "restart the bridge to use them"
STAYS = "the previous ones stay in use"


class Running:
    """A file of settings that is read again, and what came of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.used: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        taken = {name: self._taker(name) for name in ("api_token", "senders", "accounts")}
        uses = {**taken, "spool_url": self._refuse}
        self.reread = Reread(SettingsFile(path, self._load, self._load()), uses, every=0.005)

    @staticmethod
    def _load() -> Loaded:
        return Loaded(loading.load(), loading.files_of_secrets())

    def _taker(self, name: str) -> Callable[[Any], None]:
        return lambda value: self.used.put_nowait((name, value))

    @staticmethod
    def _refuse(_secret: str) -> None:
        raise ValueError("another database")

    async def after(self, text: str) -> list[Any]:
        """The log lines once this text is in the file, and it has been read."""
        self.path.write_text(text)
        with structlog.testing.capture_logs() as lines:
            await self.reread.reread()
        assert "s3cret" not in str(lines)
        return lines


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Running:
    for name in os.environ:
        if name.startswith(("SMTP2CF_", "CLOUDFLARE_")):
            monkeypatch.delenv(name)
    path, token = tmp_path / "smtp2cf.toml", tmp_path / "token"
    token.write_text("s3cret")
    monkeypatch.setenv("SMTP2CF_CONFIG", str(path))
    path.write_text('api_token = "s3cret1"\nmode = "direct"\n')
    return Running(path)


async def test_a_new_token_is_used_at_once(running: Running) -> None:
    lines = await running.after('api_token = "s3cret2"\n')
    used = {"event": "settings.reloaded", "log_level": "info", "settings": ["api_token"]}
    assert lines == [{**used, "file": str(running.path)}]
    assert running.used.get_nowait() == ("api_token", "s3cret2")
    assert not await running.after('api_token = "s3cret2"\n')
    assert running.used.empty()


async def test_what_a_table_says_is_used_at_once_or_named(running: Running) -> None:
    top = 'api_token = "s3cret1"\n'
    (line,) = await running.after(f'{top}[senders]\nroot = "a@example.com"\n')
    assert (line["event"], line["settings"]) == ("settings.reloaded", ["[senders]"])
    assert running.used.get_nowait() == ("senders", {"root": "a@example.com"})
    (line,) = await running.after(f'{top}[senders]\nroot = "a"\n')
    assert (line["event"], line["note"]) == ("settings.reload_failed", STAYS)
    assert "[senders] root" in line["reason"]
    used, waits = await running.after(f'{top}[[listener]]\nname = "a"\nlisten = ":1"\n')
    assert (used["settings"], waits["settings"]) == (["[senders]"], ["[[listener]]"])
    assert running.used.get_nowait() == ("senders", {})


async def test_the_file_of_an_accounts_token_is_watched_too(running: Running) -> None:
    token = running.path.with_name("token")
    account = f'[[account]]\nname = "a"\naccount_id = "a1"\napi_token_file = "{token}"\n'
    await running.after(f'api_token = "s3cret1"\n{account}')
    assert running.used.get_nowait()[1][0].api_token.get_secret_value() == "s3cret"
    watching = asyncio.create_task(running.reread.watch())
    token.write_text("s3cret2")
    async with asyncio.timeout(PATIENCE):
        name, (account,) = await running.used.get()
    assert (name, account.api_token.get_secret_value()) == ("accounts", "s3cret2")
    watching.cancel()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('api_token = "s3cret1"\nmode = "queue"\nmax_sessions = 9', ["max_sessions", "mode"]),
        ('api_token = "s3cret1"\nspool_url = "postgresql://me:s3cret@h/d"', ["spool_url"]),
        ('api_token_file = "{}/token"', ["api_token_file"]),
    ],
)
async def test_what_needs_a_restart_is_named_and_forgotten_when_it_is_undone(
    running: Running, text: str, names: list[str]
) -> None:
    (line,) = await running.after(text.replace("{}", str(running.path.parent)))
    waits = {"event": "settings.restart_needed", "log_level": "warning", "note": NOTE}
    assert line == {**waits, "settings": names}
    assert not await running.after('api_token = "s3cret1"\n')
    assert running.used.empty()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('api_token = "s3cret2', "SMTP2CF_CONFIG: {} is not valid TOML: "),
        (
            'api_token = "s3cret2"\nmode = "fast"',
            "{}, line 2: mode: 'fast' is wrong: it must be 'direct' or 'queue'",
        ),
        ('api_token = "s3cret 2"', "{}, line 1: api_token: its value is wrong: an API token is one word"),
    ],
)
async def test_a_broken_file_changes_nothing_and_is_told(running: Running, text: str, reason: str) -> None:
    (line,) = await running.after(text)
    assert (line["event"], line["log_level"], line["note"]) == ("settings.reload_failed", "error", STAYS)
    assert line["reason"].startswith(reason.replace("{}", str(running.path)))
    assert running.used.empty()
    assert await running.after('api_token = "s3cret2"\n')
    assert running.used.get_nowait() == ("api_token", "s3cret2")


@pytest.mark.parametrize("text", ["", " \n\t\n"])
async def test_a_file_that_becomes_empty_or_goes_changes_nothing_and_is_told(
    running: Running, text: str
) -> None:
    """It is being written, or the disk is full: nobody takes back every rule like that."""
    top = '[senders]\nroot = "a@example.com"\n'
    await running.after(f'api_token = "s3cret1"\n{top}')
    running.used = asyncio.Queue()
    (line,) = await running.after(text)
    assert (line["event"], line["note"]) == ("settings.reload_failed", STAYS)
    assert line["reason"] == f"{running.path} is empty now: to set nothing, leave a comment in it"
    running.path.unlink()
    with structlog.testing.capture_logs() as lines:
        await running.reread.reread()
    assert [line["event"] for line in lines] == ["settings.reload_failed"]
    assert "No such file" in lines[0]["reason"]
    assert running.used.empty()
    await running.after('api_token = "s3cret1"  # and nothing else\n')
    assert running.used.get_nowait() == ("senders", {})


async def test_the_usual_file_that_goes_changes_nothing_either(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMTP2CF_CONFIG")
    monkeypatch.setattr("smtp2cf.settings.toml_file.DEFAULT", running.path)
    running.path.write_text('[senders]\nroot = "a@example.com"\n')
    usual = Running(running.path)
    usual.path.unlink()
    with structlog.testing.capture_logs() as lines:
        await usual.reread.reread()
    assert [line["event"] for line in lines] == ["settings.reload_failed"]
    assert usual.used.empty()


async def test_a_change_is_noticed_without_a_signal(running: Running) -> None:
    watching = asyncio.create_task(running.reread.watch())
    running.path.write_text('api_token = "s3cret2"\n')
    async with asyncio.timeout(PATIENCE):
        assert await running.used.get() == ("api_token", "s3cret2")
    watching.cancel()


def test_a_bridge_goes_on_with_another_token_and_with_the_old_one_if_the_file_is_broken(
    tmp_path: Path,
) -> None:
    file = tmp_path / "smtp2cf.toml"
    file.write_text('api_token = "expired"\n')
    with (
        running_sandbox(token="fresh") as (sandbox, api),
        running_bridge(
            tmp_path, sandbox=False, ACCOUNT_ID="a1", API_TOKEN="", API_BASE_URL=api, CONFIG=str(file)
        ) as bridge,
    ):
        file.write_text("api_token = ")
        bridge.process.send_signal(signal.SIGHUP)
        assert "is not valid TOML" in bridge.wait_for_log("settings.reload_failed")["reason"]
        file.write_text('api_token = "fresh"\n')
        bridge.wait_for_log("settings.reloaded")
        assert not [line for line in bridge.log() if line["event"] == "settings.not_reread"]
        with bridge.client() as client:
            client.sendmail("a@example.com", ["b@example.net"], b"Subject: x\r\n\r\nhello\r\n")
        wait_until(lambda: len(sandbox.messages) == 1, "the mail goes out")
        log = bridge.log_path.read_text()
    assert "expired" not in log
    assert "fresh" not in log
