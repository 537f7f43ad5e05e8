"""Clients that people use deliver through the bridge: the same bytes, the same answers."""

from pathlib import Path

import pytest

from tests.clients import programs
from tests.clients.programs import Client
from tests.support.bridge import Bridge
from tests.support.needs import needs

CLIENTS = [
    pytest.param(programs.swaks, id="swaks", marks=needs("swaks")),
    pytest.param(programs.msmtp, id="msmtp", marks=needs("msmtp")),
    pytest.param(programs.curl, id="curl", marks=needs("curl")),
    pytest.param(programs.python_smtplib, id="smtplib"),
]
HEADER = b"From: App <app@example.com>\r\nTo: anna@example.net\r\nSubject: from a client\r\n"
MESSAGES = {
    "plain": HEADER + b"\r\nHello\r\n",
    "no body": HEADER,
    "lines that start with dots": HEADER + b"\r\n.\r\n..\r\n.a\r\n...b\r\n.\r\n",
    "UTF-8": HEADER + "Content-Transfer-Encoding: 8bit\r\n\r\ngrüße ☃\r\n".encode(),
    "a line of 100,000 octets": HEADER + b"\r\n" + b"x" * 100_000 + b"\r\n",
    "blank lines at the end": HEADER + b"\r\n trailing  \r\n\r\n\r\n",
    "a Bcc header": HEADER + b"Bcc: hidden@example.net\r\n\r\nHello\r\n",
}
SENDER = "app@example.com"


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("send", CLIENTS)
def test_arrives_byte_for_byte(bridge: Bridge, tmp_path: Path, send: Client, message: bytes) -> None:
    file = tmp_path / "message.eml"
    file.write_bytes(message)
    sent = send(bridge, file, SENDER, ["anna@example.net", "bert@example.org"])
    assert sent.status == 0, sent.said
    (arrived,) = bridge.messages()
    assert arrived["mime_message"] == message
    assert arrived["from"] == SENDER
    assert arrived["recipients"] == ["anna@example.net", "bert@example.org"]


@pytest.mark.parametrize(
    ("recipient", "answer"),
    [
        ("bounce@example.net", "550 5.1.1"),
        ("suppressed@example.net", "550 5.7.1"),
    ],
)
@pytest.mark.parametrize("send", CLIENTS)
def test_tells_its_user_that_a_recipient_is_refused(
    bridge: Bridge, tmp_path: Path, send: Client, recipient: str, answer: str
) -> None:
    file = tmp_path / "message.eml"
    file.write_bytes(MESSAGES["plain"])
    sent = send(bridge, file, SENDER, [recipient])
    assert sent.status != 0
    code, _, enhanced = answer.partition(" ")
    assert code in sent.said
    assert enhanced in sent.said


@pytest.mark.parametrize("send", CLIENTS)
def test_believes_that_queued_mail_is_on_its_way(bridge: Bridge, tmp_path: Path, send: Client) -> None:
    file = tmp_path / "message.eml"
    file.write_bytes(MESSAGES["plain"])
    sent = send(bridge, file, SENDER, ["queued@example.net"])
    assert sent.status == 0, sent.said
    (arrived,) = bridge.messages()
    assert arrived["queued"] == ["queued@example.net"]
