"""Verbatim, from end to end: what a client sends over SMTP is what send_raw is handed.

Every message of the corpus goes through a bridge of its own process to the sandbox. All that has CRLF
line ends and is UTF-8 arrives with the same sha256; the rest arrives as what Python's email reads the
same text and attachments from.
"""

import hashlib
import re
import smtplib
from email.policy import Policy

import pytest

from smtp2cf.message.newlines import normalize_newlines
from tests.corpus import Sample, is_verbatim, more_messages, samples
from tests.message.reading import POLICIES, leaves, read, structure
from tests.support.bridge import Bridge, running_bridge

EVERYTHING = {
    sample.name: sample
    for sample in (*samples(), *(Sample(name, message) for name, message in more_messages()))
}
REFUSED = {
    "shape/empty": "554 5.6.0",  # by Cloudflare
    "field/received-loop": "554 5.4.6",
    "size/4mb-latin1": "552 5.3.4",  # by Cloudflare: quoted-printable makes it larger than its limit
}
VERBATIM = [
    name for name, sample in EVERYTHING.items() if is_verbatim(sample.message) and name not in REFUSED
]
CONVERTED = [name for name in EVERYTHING if name not in VERBATIM and name not in REFUSED]


def _as_sent(message: bytes) -> bytes:
    """SMTP carries whole lines."""
    return message if message[-2:] in (b"", b"\r\n") else message + b"\r\n"


def _send(client: smtplib.SMTP, recipient: str, message: bytes) -> tuple[int, bytes]:
    """One message as it is: smtplib's own sendmail would mend its line ends."""
    assert client.docmd("MAIL", "FROM:<anna@example.com>")[0] == 250
    assert client.docmd("RCPT", f"TO:<{recipient}>")[0] == 250
    assert client.docmd("DATA")[0] == 354
    client.send(re.sub(rb"(?:(?<=\r\n)|\A)\.", b"..", message) + b".\r\n")
    return client.getreply()


class Arrived:
    """What the sandbox was handed of every message, and the bridge's replies, by name."""

    def __init__(self) -> None:
        self.messages: dict[str, bytes] = {}
        self.replies: dict[str, str] = {}


@pytest.fixture(scope="module")
def arrived(tmp_path_factory: pytest.TempPathFactory) -> Arrived:
    found = Arrived()
    names = {f"m{number}@example.net": name for number, name in enumerate(EVERYTHING)}
    with running_bridge(tmp_path_factory.mktemp("verbatim"), MAX_MESSAGE_SIZE=str(8 << 20)) as bridge:
        with bridge.client() as client:
            client.ehlo()
            for recipient, name in names.items():
                code, text = _send(client, recipient, _as_sent(EVERYTHING[name].message))
                found.replies[name] = f"{code} {text.decode()}"
        for message in bridge.messages():
            (recipient,) = message["recipients"]
            assert names[recipient] not in found.messages
            found.messages[names[recipient]] = message["mime_message"]
    return found


@pytest.mark.parametrize("name", VERBATIM)
def test_what_is_crlf_and_utf8_arrives_octet_for_octet(arrived: Arrived, name: str) -> None:
    sent = EVERYTHING[name].message
    assert hashlib.sha256(arrived.messages[name]).hexdigest() == hashlib.sha256(sent).hexdigest()


@pytest.mark.parametrize("policy", POLICIES, ids=["compat32", "default"])
@pytest.mark.parametrize("name", CONVERTED)
def test_what_is_not_reads_the_same(arrived: Arrived, name: str, policy: Policy) -> None:
    sent = normalize_newlines(_as_sent(EVERYTHING[name].message))
    assert arrived.messages[name].decode()
    assert b"\n" not in arrived.messages[name].replace(b"\r\n", b"")
    assert structure(arrived.messages[name], policy) == structure(sent, policy)
    if not EVERYTHING[name].salvaged:
        assert leaves(arrived.messages[name], policy) == leaves(sent, policy)


@pytest.mark.parametrize("name", [name for name in CONVERTED if EVERYTHING[name].headers])
def test_converted_headers_say_what_they_said(arrived: Arrived, name: str) -> None:
    message = read(arrived.messages[name])
    headers = EVERYTHING[name].headers
    assert {field: str(message[field]) for field in headers} == headers


def test_most_messages_of_both_kinds_are_sent() -> None:
    """A mistake in the selection would leave the tests above with nothing to look at."""
    own = {sample.name for sample in samples()}
    assert len(own & set(VERBATIM)) > 50
    assert len(own & set(CONVERTED)) > 100
    assert {*VERBATIM, *CONVERTED, *REFUSED} == set(EVERYTHING)


@pytest.mark.parametrize(
    "name", ["shape/leading-dots", "shape/only-dots", "size/line-1mb", "shape/header-only"]
)
def test_smtplib_sends_verbatim_by_itself(bridge: Bridge, name: str) -> None:
    sent = EVERYTHING[name].message
    with bridge.client() as client:
        client.sendmail("anna@example.com", ["bert@example.net"], sent)
    (message,) = bridge.messages()
    assert hashlib.sha256(message["mime_message"]).hexdigest() == hashlib.sha256(sent).hexdigest()


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_arrive_is_refused(arrived: Arrived, name: str) -> None:
    assert arrived.replies[name].startswith(REFUSED[name])
    assert name not in arrived.messages


def test_what_was_taken_arrives_and_nothing_else(arrived: Arrived) -> None:
    taken = {name for name, reply in arrived.replies.items() if reply.startswith("250 2.0.0")}
    assert taken == set(arrived.messages) == {*VERBATIM, *CONVERTED}
