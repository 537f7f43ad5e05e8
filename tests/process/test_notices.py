"""A bridge with an operator: who is told by mail of what nobody else can be told of."""

from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.support.bridge import Bridge, running_bridge

OPERATOR = "ops@example.com"


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    directory: Path = tmp_path_factory.mktemp("notices")
    at_once = {"smtp2cf.relay.notices:GATHER": 0.0}
    settings = {"OPERATOR": OPERATOR, "OPERATOR_GETS_BOUNCES": "yes", "DSN_QUOTA": "5/1h"}
    with running_bridge(directory, constants=at_once, **settings) as running:
        yield running


def send(bridge: Bridge, sender: str, *recipients: str) -> None:
    with bridge.client() as client:
        client.sendmail(sender, recipients, b"Subject: an invoice\r\n\r\nhello\r\n")


def sent_to(bridge: Bridge, address: str) -> list[Message]:
    messages = [message_from_bytes(each["mime_message"]) for each in bridge.messages()]
    return [message for message in messages if message["To"] == address]


def notices(bridge: Bridge) -> list[str]:
    """What the operator was told of, each as text."""
    plain = [each for each in sent_to(bridge, OPERATOR) if each["Auto-Submitted"] == "auto-generated"]
    return [" ".join(str(each.get_payload()).split()) for each in plain]


def test_a_double_bounce_is_told_once_an_hour(bridge: Bridge) -> None:
    for number in range(3):
        # The DSN about the second recipient bounces as well.
        send(bridge, f"{number}+bounce@example.com", "anna@example.net", "bounce@example.net")
        bridge.wait_for_log("mail.dsn_undeliverable", to=[f"{number}+bounce@example.com"])
    line = bridge.wait_for_log("mail.notice", about="mail.dsn_undeliverable")
    assert line["to"] == [OPERATOR]
    bridge.wait_for_log("mail.attempt", queue_id=line["queue_id"], status="sent")
    (told,) = notices(bridge)
    about = bridge.wait_for_log("mail.dsn", to=["0+bounce@example.com", OPERATOR])["queue_id"]
    assert f"the report about {about} could not be delivered to <0+bounce@example.com>" in told


def test_the_operator_gets_copies_and_one_address_so_many_reports(bridge: Bridge) -> None:
    for number in range(7):
        send(bridge, "noreply@example.com", "anna@example.net", f"{number}+bounce@example.net")
    line = bridge.wait_for_log("mail.notice", about="dsn.over_quota")
    bridge.wait_for_log("mail.attempt", queue_id=line["queue_id"], status="sent")
    over = [line["to"] for line in bridge.log() if line["event"] == "dsn.over_quota"]
    assert sorted(over) == [["noreply@example.com"], [OPERATOR]], "the operator may have copies from before"
    copies = [each for each in sent_to(bridge, OPERATOR) if each.is_multipart()]
    assert len(copies) == 5
    assert "The message from <noreply@example.com>" in copies[-1].as_string()
    assert len(sent_to(bridge, "noreply@example.com")) == 5
    assert sum("too many delivery reports" in text.lower() for text in notices(bridge)) == 1
