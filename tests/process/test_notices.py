"""A bridge with an operator: who is told by mail of what nobody else can be told of."""

from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.support.bridge import Bridge, running_bridge

OPERATOR = "ops@example.com"


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    directory: Path = tmp_path_factory.mktemp("notices")
    at_once = {"smtp2cf.relay.notices:GATHER": 0.0}
    with running_bridge(directory, constants=at_once, OPERATOR=OPERATOR) as running:
        yield running


def send(bridge: Bridge, sender: str, *recipients: str) -> None:
    with bridge.client() as client:
        client.sendmail(sender, recipients, b"Subject: an invoice\r\n\r\nhello\r\n")


def to_operator(bridge: Bridge) -> list[str]:
    """What the operator got, each as text."""
    messages = [message_from_bytes(each["mime_message"]) for each in bridge.messages()]
    return [" ".join(str(each.get_payload()).split()) for each in messages if each["To"] == OPERATOR]


def test_a_double_bounce_is_told_once_an_hour(bridge: Bridge) -> None:
    for number in range(3):
        # The DSN about the second recipient bounces as well.
        send(bridge, f"{number}+bounce@example.com", "anna@example.net", "bounce@example.net")
        bridge.wait_for_log("mail.dsn_undeliverable", to=[f"{number}+bounce@example.com"])
    line = bridge.wait_for_log("mail.notice", about="mail.dsn_undeliverable")
    assert line["to"] == [OPERATOR]
    bridge.wait_for_log("mail.attempt", queue_id=line["queue_id"], status="sent")
    (told,) = to_operator(bridge)
    assert (
        "mail from <> could not be delivered to <0+bounce@example.com>, and there is nobody to tell" in told
    )
