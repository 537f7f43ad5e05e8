"""Several accounts in one bridge, from its TOML file to its pages; and the commands that name them."""

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from smtp2cf.sandbox import Sandbox
from tests.process.metrics import metric, wait_for_metric
from tests.support.bridge import Bridge, running_bridge
from tests.support.command import smtp2cf
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN
from tests.support.waiting import wait_until

MAIL = b"Subject: x\r\n\r\nhello\r\n"
TABLES = """\
[[account]]
name = "shoes"
account_id = "b2"
api_token_file = "{token}"
sender_domains = "{domains}"
"""


class World(NamedTuple):
    """A bridge whose account for shoes.example has a token that Cloudflare refuses at first."""

    bridge: Bridge
    sandbox: Sandbox
    api: str
    toml: Path
    token: Path

    def send(self, sender: str) -> None:
        with self.bridge.client() as client:
            client.sendmail(sender, ["b@example.net"], MAIL)

    def senders(self) -> list[str]:
        return [message.from_ for message in self.sandbox.messages]

    def read(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.bridge.admin_url}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("accounts")
    token, toml = directory / "token", directory / "smtp2cf.toml"
    token.write_text("dead")
    toml.write_text(TABLES.format(token=token, domains="shoes.example"))
    with (
        running_sandbox(token=TOKEN) as (sandbox, api),
        running_bridge(
            directory,
            sandbox=False,
            ACCOUNT_ID="a1",
            API_BASE_URL=api,
            STATE_DIR=str(directory),
            CONFIG=str(toml),
            POSTMASTER="postmaster@default.example",
        ) as bridge,
    ):
        yield World(bridge, sandbox, api, toml, token)


def test_a_dead_token_holds_up_its_own_mail_only_and_everything_names_it(world: World) -> None:
    for _ in range(5):
        world.send("a@shoes.example")
    world.send("a@default.example")
    assert world.senders() == ["a@default.example"]
    refused = world.bridge.wait_for_log("api.token_refused", account="shoes")
    assert "([[account]] shoes: api_token_file)" in refused["reason"]
    lines = [line for line in world.bridge.log() if line["event"] == "mail.attempt"]
    assert {(line["account"], line["status"]) for line in lines} == {
        ("shoes", "deferred"),
        ("default", "sent"),
    }
    assert metric(world.bridge, "smtp2cf_api_up", account="shoes") == 0
    assert metric(world.bridge, "smtp2cf_api_up", account="default") == 1
    assert metric(world.bridge, "smtp2cf_api_calls_total", account="default", outcome="success") == 1
    assert metric(world.bridge, "smtp2cf_api_calls_total", account="shoes", outcome="token_refused") >= 1
    assert metric(world.bridge, "smtp2cf_recipients_total", account="default", status="sent") == 1
    assert metric(world.bridge, "smtp2cf_deferrals_total", account="shoes", reason="account") >= 1
    assert metric(world.bridge, "smtp2cf_last_success_timestamp_seconds", account="default") > 0
    status, text = world.read("/readyz?sending")
    assert (status, "account shoes" in text) == (200, True)
    page = world.read("/")[1]
    for row in ("shoes: sends for", "shoes.example", "default: sends for", "all others", "token refused for"):
        assert row in page


def test_commands_name_the_account(world: World) -> None:
    given = {"ACCOUNT_ID": "a1", "API_TOKEN": TOKEN, "API_BASE_URL": world.api, "CONFIG": str(world.toml)}
    quota = smtp2cf("quota", "--json", **given)
    assert [json.loads(line)["account"] for line in quota.out.splitlines()] == ["default"]
    assert quota.err.startswith("smtp2cf: shoes: Cloudflare refuses the API token")
    assert quota.status == 77
    assert smtp2cf("suppressions", "list", **given).out == "no address is suppressed\n"
    assert smtp2cf("suppressions", "--account", "shoes", "list", **given).status == 77
    unknown = smtp2cf("suppressions", "--account", "hats", "list", **given)
    assert (unknown.status, "name one of default, shoes" in unknown.err) == (78, True)
    wrong = smtp2cf("suppressions", "list", "--account", "shoes", **given)
    assert "say smtp2cf suppressions --account shoes list" in wrong.err
    findings = smtp2cf("check", "--json", **given, STATE_DIR=str(world.toml.parent / "other")).out
    found = {(line["check"], line["status"], line["text"]) for line in map(json.loads, findings.splitlines())}
    assert ("token", "ok", "account default: active") in found
    assert any(
        (check, status) == ("token", "error") and text.startswith("account shoes: ")
        for check, status, text in found
    )


def reloads(world: World) -> int:
    """How many times the accounts were read again and used."""
    return sum(line["event"] == "settings.reloaded" for line in world.bridge.log())


def test_a_new_token_and_new_domains_are_used_at_once_and_a_new_account_after_a_restart(world: World) -> None:
    """The last of these tests, which leaves a good token behind."""
    for _ in range(3):
        world.send("a@shoes.example")
    assert "a@shoes.example" not in world.senders()
    world.token.write_text(TOKEN)
    wait_until(lambda: world.senders().count("a@shoes.example") >= 3, "the waiting mail goes out")
    wait_until(lambda: not world.read("/queue")[1].strip(), "all of it")
    wait_for_metric(world.bridge, "smtp2cf_api_up", 1, account="shoes")
    world.toml.write_text(TABLES.format(token=world.token, domains="boots.example"))
    world.bridge.process.send_signal(signal.SIGHUP)
    wait_until(lambda: reloads(world) == 2, "the domains are used, after the token was")
    for domain in ("shoes", "boots"):
        world.send(f"a@{domain}.example")
    lines = [line for line in world.bridge.log() if line["event"] == "mail.attempt"]
    assert [(line["from"], line["account"]) for line in lines[-2:]] == [
        ("a@shoes.example", "default"),
        ("a@boots.example", "shoes"),
    ]
    another = TABLES.format(token=world.token, domains="hats.example").replace('"shoes"', '"hats"')
    world.toml.write_text(TABLES.format(token=world.token, domains="boots.example") + another)
    world.bridge.process.send_signal(signal.SIGHUP)
    world.bridge.wait_for_log("settings.restart_needed", settings=["[[account]]"])


def test_a_sandbox_needs_no_account_and_gets_all_mail(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("real")
    toml = tmp_path / "smtp2cf.toml"
    toml.write_text(TABLES.format(token=tmp_path / "token", domains="shoes.example"))
    with running_bridge(tmp_path, CONFIG=str(toml), POSTMASTER="p@shoes.example") as bridge:
        with bridge.client() as client:
            client.sendmail("a@shoes.example", ["b@example.net"], MAIL)
            assert client.mail("a@unknown.example")[0] == 250
            client.rcpt("b@example.net")
            code, answer = client.data(MAIL)
        assert (code, b"[[account]]" in answer) == (550, True), "as the bridge would answer without --sandbox"
        assert [message["from"] for message in bridge.messages()] == ["a@shoes.example"]
