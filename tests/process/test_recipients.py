"""Recipients over SMTP, by a bridge with a map, lists and a listener with a list of its own."""

import os
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.bridge import Bridge, running_bridge
from tests.support.waiting import PATIENCE

TABLES = """
allowed_recipients = "example.com"
denied_recipients = "boss@example.com"

[recipients]
root = ["admin", "on-call@example.com"]
admin = "ops@example.com"
postmaster = "ops@example.com"
away = "anna@example.net"
"""

PRINTERS = """
[[listener]]
name = "printers"
listen = "127.0.0.1:0"
allowed_recipients = "ops@example.com"
"""


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    directory = tmp_path_factory.mktemp("recipients")
    config = directory / "smtp2cf.toml"
    config.write_text(TABLES + PRINTERS)
    aliases = directory / "aliases"
    aliases.write_text("cron: root\nroot: nobody@example.net\n")
    variables = {"CONFIG": str(config), "HOSTNAME": "web07", "RECIPIENTS_FILE": str(aliases)}
    with running_bridge(directory, **variables) as running:
        running.wait_for_log("serve.ready")
        yield running


def answers(client: smtplib.SMTP, *recipients: str) -> list[str]:
    """What RCPT is answered for each."""
    client.ehlo()
    client.mail("cron@example.com")
    return [
        f"{code} {text.decode()}" for code, text in (client.docmd(f"RCPT TO:<{who}>") for who in recipients)
    ]


def test_names_and_lists_decide_at_rcpt(bridge: Bridge) -> None:
    asked = {
        "root": "250",
        "cron": "250",
        "Postmaster": "250",
        "ROOT@web07": "250",
        "anna@example.com": "250",
        "boss@example.com": "550 5.7.1 mail to <boss@example.com> is not allowed: SMTP2CF_DENIED_RECIPIENTS",
        "anna@example.net": "550 5.7.1 mail to <anna@example.net> is not allowed: SMTP2CF_ALLOWED_RECIPIENTS",
        "away": "550 5.7.1 mail to <away>, which becomes <anna@example.net>, is not allowed",
        "nobody": "553 5.1.3 <nobody>: the address has no domain: [recipients]",
    }
    with bridge.client() as client:
        said = answers(client, *asked)
    assert [
        line for line, expected in zip(said, asked.values(), strict=True) if not line.startswith(expected)
    ] == []


def test_a_listener_has_a_list_of_its_own(bridge: Bridge) -> None:
    (printers,) = bridge.wait_for_log("serve.ready")["listeners"]["printers"]
    with smtplib.SMTP("127.0.0.1", int(printers.rpartition(":")[2]), timeout=PATIENCE) as client:
        ops, root = answers(client, "ops@example.com", "root")
    assert ops.startswith("250")
    assert "allowed_recipients of [[listener]] printers allows ops@example.com" in root


def test_a_changed_table_counts_without_a_restart_and_a_broken_one_does_not(bridge: Bridge) -> None:
    config = bridge.log_path.with_name("smtp2cf.toml")
    before = config.read_text()
    try:
        for text, event in (
            (before + "broken", "settings.reload_failed"),
            (before.replace("away", "left"), ""),
        ):
            config.write_text(text)
            bridge.process.send_signal(signal.SIGHUP)
            bridge.wait_for_log(event or "settings.reloaded")
            with bridge.client() as client:
                left, root = answers(client, "left", "root")
            assert root.startswith("250")
            assert ("becomes <anna@example.net>" in left) == (not event)
    finally:
        config.write_text(before)


def test_mail_to_a_name_reaches_those_behind_it(bridge: Bridge) -> None:
    bridge.clear()
    with bridge.client() as client:
        answers(client, "root", "Postmaster")
        code, text = client.data(b"Subject: cron\r\n\r\nhello\r\n")
    assert code == 250
    assert b"<on-call@example.com> instead of <root>, <Postmaster>" in text
    assert [message["recipients"] for message in bridge.wait_for(1)] == [
        ["ops@example.com", "on-call@example.com"]
    ]


def test_sendmail_to_root_reaches_those_behind_it(bridge: Bridge) -> None:
    """As cron calls it, on a host whose own name is the domain that sendmail adds."""
    bridge.clear()
    command = [sys.executable, "-m", "smtp2cf.sendmail", "-i", "-f", "cron@example.com", "root"]
    env = {**os.environ, **bridge.env, "SMTP2CF_SENDMAIL_DOMAIN": "web07"}
    subprocess.run(command, input=b"Subject: cron\n\nhello\n", env=env, check=True, timeout=PATIENCE)
    (message,) = bridge.wait_for(1)
    assert message["recipients"] == ["ops@example.com", "on-call@example.com"]
