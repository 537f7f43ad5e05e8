"""A Postfix in front, with `transport = lmtp:`: everybody's true fate ends in its log and its queue."""

import os
import smtplib
from pathlib import Path

import pytest

from tests.support.bridge import running_bridge
from tests.support.needs import needs
from tests.support.postfix import DAEMONS, running_postfix
from tests.support.waiting import free_port

pytestmark = [
    needs("postfix", str(DAEMONS / "lmtp")),
    pytest.mark.skipif(os.geteuid() != 0, reason="Postfix starts as root only"),
    pytest.mark.slow,
]

SENDER = "app@example.com"
MESSAGE = b"From: app@example.com\r\nSubject: x\r\n\r\nhello\r\n.a dot\r\n"


@pytest.mark.parametrize("unix", [False, True], ids=["TCP", "unix socket"])
def test_every_recipient_has_their_own_fate(open_path: Path, unix: bool) -> None:
    (open_path / "postfix").mkdir()
    port, lmtp_port = free_port(), free_port()
    listen = f"unix:{open_path / 'lmtp'}" if unix else f"127.0.0.1:{lmtp_port}"
    transport = f"lmtp:unix:{open_path / 'lmtp'}" if unix else f"lmtp:inet:[127.0.0.1]:{lmtp_port}"
    settings = {
        "LMTP_LISTEN": listen,
        "SPOOL_URL": "none",
        "NULL_SENDER_ADDRESS": "mailer-daemon@example.com",
        "SOCKET_GROUP": "postfix",
    }
    main = f"default_transport = {transport}\n"
    with (
        running_bridge(open_path, **settings) as bridge,
        running_postfix(open_path / "postfix", port, main) as postfix,
    ):
        mixed = [f"{who}@example.net" for who in ("anna", "bounce", "queued", "suppressed", "bert")]
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.sendmail(SENDER, mixed, MESSAGE)
            postfix.fates(
                6
            )  # of all of these and of the report: with its token refused, the bridge defers all
            client.sendmail(SENDER, "auth@example.net", MESSAGE)
        fates = postfix.fates(7)
        assert {who.partition("@")[0]: status for who, (status, _) in fates.items()} == {
            "anna": "sent", "bounce": "bounced", "queued": "sent", "suppressed": "bounced", "bert": "sent",
            "auth": "deferred", "app": "sent",
        }  # fmt: skip
        assert fates["anna@example.net"][1].startswith("250 2.1.5")
        assert "550 5.1.1" in fates["bounce@example.net"][1]
        assert "suppress" in fates["suppressed@example.net"][1]
        assert "451 4.3.5" in fates["auth@example.net"][1]
        queue = postfix.queue()
        assert "auth@example.net" in queue
        assert "bounce@example.net" not in queue
        messages = bridge.messages()
    reached = {who: one for one in messages for who in one["recipients"]}
    assert reached["anna@example.net"]["mime_message"].endswith(b"\r\n\r\nhello\r\n.a dot\r\n")
    # Postfix tells the sender, once, and through the bridge; the bridge itself says nothing.
    (report,) = [one for one in messages if one["recipients"] == [SENDER]]
    assert b"Undelivered Mail Returned to Sender" in report["mime_message"]
    for who in ("bounce@example.net", "suppressed@example.net"):
        assert f"Final-Recipient: rfc822; {who}".encode() in report["mime_message"]
    assert b"anna@example.net" not in report["mime_message"]


def test_many_recipients_of_one_message_are_not_mixed_up(open_path: Path) -> None:
    (open_path / "postfix").mkdir()
    port, lmtp_port = free_port(), free_port()
    main = f"default_transport = lmtp:inet:[127.0.0.1]:{lmtp_port}\nlmtp_destination_recipient_limit = 200\n"
    with (
        running_bridge(open_path, LMTP_LISTEN=f"127.0.0.1:{lmtp_port}", SPOOL_URL="none"),
        running_postfix(open_path / "postfix", port, main) as postfix,
    ):
        many = [f"n{number}{'' if number % 10 else '+bounce'}@example.net" for number in range(120)]
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.sendmail(SENDER, many, MESSAGE)
        fates = postfix.fates(120)
    assert {who for who in many if fates[who][0] == "bounced"} == set(many[::10])
    assert {who for who in many if fates[who][0] == "sent"} == set(many) - set(many[::10])
