"""A sender that may not send, through a whole bridge: what its client and its operator see."""

import signal
import smtplib
import urllib.request
from pathlib import Path

import pytest

from tests.process.metrics import metric
from tests.support.bridge import Bridge, running_bridge
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN

MAIL = "Subject: x\r\n\r\nhello\r\n"


def send(bridge: Bridge, sender: str) -> None:
    with bridge.client() as client:
        client.sendmail(sender, ["ben@example.org"], MAIL)


def page(bridge: Bridge) -> str:
    with urllib.request.urlopen(f"{bridge.admin_url}/") as answer:
        return str(answer.read().decode())


def test_it_is_refused_named_counted_and_asked_for_again_when_it_is_set_up(tmp_path: Path) -> None:
    with (
        running_sandbox(token=TOKEN) as (sandbox, api),
        running_bridge(
            tmp_path,
            sandbox=False,
            STATE_DIR=str(tmp_path),
            ACCOUNT_ID="a1",
            API_TOKEN=TOKEN,
            API_BASE_URL=api,
        ) as bridge,
    ):
        sandbox.senders.configured = {"example.com"}
        assert "SMTP2CF_POSTMASTER" in bridge.wait_for_log("dsn.no_sender")["note"]
        for _ in range(2):
            with pytest.raises(smtplib.SMTPDataError, match=r"5\.7\.1 .*web1\.local") as refused:
                send(bridge, "root@web1.local")
            assert refused.value.smtp_code == 550
        send(bridge, "anna@example.com")
        (line,) = [line for line in bridge.log() if line["event"] == "sender.not_configured"]
        assert (line["level"], line["domain"]) == ("error", "web1.local")
        assert metric(bridge, "smtp2cf_sender_not_configured_total") == 2
        assert "web1.local: mail is refused" in page(bridge)

        sandbox.senders.configured.add("web1.local")
        bridge.process.send_signal(signal.SIGHUP)
        bridge.wait_for_log("sender.asked_again")
        send(bridge, "root@web1.local")
        assert "web1.local: mail" not in page(bridge)
        assert [message.from_ for message in sandbox.messages] == ["anna@example.com", "root@web1.local"]
