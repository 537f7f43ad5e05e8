"""Quotas of a bridge as it runs: over an end and a new start, and told where an operator looks."""

import json
import urllib.request
from pathlib import Path

from tests.access.hashes import line
from tests.process.metrics import metric
from tests.support.bridge import Bridge, running_bridge

MAIL = b"MAIL FROM:<shop@example.com>"


def let_through(bridge: Bridge) -> tuple[int, str]:
    """How many messages are accepted at MAIL before one is refused, and how it is."""
    with bridge.client() as client:
        client.ehlo()
        for number in range(10):
            code, text = client.docmd(MAIL.decode())
            if code != 250:
                return number, f"{code} {text.decode()}"
            client.rset()
    return 10, ""


def test_a_quota_outlives_the_bridge_and_refusals_are_counted(tmp_path: Path) -> None:
    settings = {"STATE_DIR": str(tmp_path / "state"), "SENDER_QUOTA": "5 messages/1d"}
    with running_bridge(tmp_path, CLIENT_QUOTA="3 messages/1h", **settings) as bridge:
        number, refusal = let_through(bridge)
        assert number == 3
        limit = "SMTP2CF_CLIENT_QUOTA=3 messages/1h"
        assert refusal.startswith(
            f"450 4.7.1 127.0.0.1 has sent 3 messages in 1h ({limit}): try again after 2"
        )
        assert metric(bridge, "smtp2cf_quota_refused_total", setting="SMTP2CF_CLIENT_QUOTA") == 1
        assert bridge.stop() == 0
    (tmp_path / "again").mkdir()
    users = tmp_path / "users"
    users.write_text(line("anna", "secret", ":quota=1 message/1d"))
    settings |= {"USERS_FILE": str(users), "AUTH_WITHOUT_TLS": "yes"}
    with running_bridge(tmp_path / "again", **settings) as bridge:
        number, refusal = let_through(bridge)
        assert number == 2
        assert "(SMTP2CF_SENDER_QUOTA=5 messages/1d)" in refusal
        scarce = bridge.wait_for_log("quota.scarce")
        assert (scarce["who"], scarce["used"]) == ("shop@example.com", 4)
        request = urllib.request.Request(bridge.admin_url, headers={"Accept": "application/json"})
        with urllib.request.urlopen(request) as answer:
            near = json.load(answer)["near a quota"]
        assert near == "shop@example.com, 5 messages/1d (SMTP2CF_SENDER_QUOTA)"
        with bridge.client() as client:
            client.login("anna", "secret")
            assert client.mail("anna@example.com")[0] == 250
            client.rset()
            code, text = client.mail("anna@example.com")
            assert (code, b"(SMTP2CF_USERS_FILE: quota=1 message/1d)" in text) == (450, True)
