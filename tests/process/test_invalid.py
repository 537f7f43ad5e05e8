"""What Cloudflare calls invalid arrives repaired: by every front door, in both modes, without a spool too.
What Cloudflare takes arrives byte for byte."""

import json
import smtplib
from collections.abc import Callable, Iterator

import pytest

from tests.sendmail.conftest import Result, Sendmail, away, environment
from tests.support.bridge import Bridge, running_bridge
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN

__all__ = ["away", "environment"]

TRACES = b"Received: from a by b\r\nDKIM-Signature: v=1;\r\n b=x\r\n"
REST = b"Subject: x\r\nMIME-Version: 1.0\r\n\r\nReceived: in the body\r\n.\r\n"
INVALID = TRACES + b"From: Smith, John <a@example.com>\r\n" + REST
REPAIRED = b'From: "Smith, John" <a@example.com>\r\n' + REST
ODD = "two..dots@example.net"

WAYS = {
    "direct": {},
    "queue": {"MODE": "queue"},
    "without a spool": {"SPOOL_URL": "none"},
}


@pytest.fixture(scope="module", params=WAYS.values(), ids=WAYS)
def strict(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    directory = tmp_path_factory.mktemp("invalid")
    settings = {
        "LMTP_LISTEN": f"unix:{directory / 'lmtp'}",
        "SENDMAIL_DROP_DIR": str(directory / "drop"),
        **request.param,
    }
    (directory / "drop").mkdir()
    with running_bridge(directory, "--sandbox-strict", **settings) as bridge:
        yield bridge


def over_smtp(bridge: Bridge, recipient: str, message: bytes) -> None:
    with bridge.client() as client:
        client.sendmail("smtp@example.com", [recipient], message)


def over_bdat(bridge: Bridge, recipient: str, message: bytes) -> None:
    with bridge.client() as client:
        client.ehlo()
        client.mail("bdat@example.com")
        client.rcpt(recipient)
        client.send(b"BDAT %d LAST\r\n%b" % (len(message), message))
        assert client.getreply()[0] == 250


def over_lmtp(bridge: Bridge, recipient: str, message: bytes) -> None:
    with smtplib.LMTP(str(bridge.log_path.parent / "lmtp")) as client:
        client.sendmail("lmtp@example.com", [recipient], message)


def dropped(bridge: Bridge, recipient: str, message: bytes) -> None:
    head = {"version": 1, "size": len(message), "reverse_path": "drop@example.com", "body": "7BIT"}
    head["forward_paths"] = [recipient]
    drop = bridge.log_path.parent / "drop"
    part = drop / ".one.part"
    part.write_bytes(json.dumps(head).encode() + b"\n" + message)
    part.rename(drop / "A.drop")


DOORS = [over_smtp, over_bdat, over_lmtp, dropped]


@pytest.mark.parametrize("door", DOORS)
def test_it_arrives_repaired_and_what_is_valid_as_it_was(
    strict: Bridge, door: Callable[[Bridge, str, bytes], None]
) -> None:
    strict.clear()
    door(strict, "b@example.net", INVALID)
    (message,) = strict.wait_for(1)
    assert message["mime_message"] == REPAIRED
    line = strict.wait_for_log("mail.repaired", **{"from": message["from"]})
    assert line["changed"] == ["Received", "DKIM-Signature", "From"]
    door(strict, "b@example.net", REPAIRED)
    assert strict.wait_for(2)[1]["mime_message"] == REPAIRED


def test_who_is_to_blame_is_refused_and_the_others_get_it(strict: Bridge) -> None:
    strict.clear()
    with strict.client() as client:
        client.sendmail("blame@example.com", ["b@example.net", ODD, "c@example.net"], INVALID)
    messages = strict.wait_for(2)
    to = {
        who
        for message in messages[:3]
        for who in message["recipients"]
        if message["from"] == "blame@example.com"
    }
    assert to == {"b@example.net", "c@example.net"}
    assert strict.wait_for_log("mail.attempt", to=[ODD])["reply"].startswith("553 5.1.3")


def test_sendmail_without_a_bridge_repairs_too(away: Sendmail) -> None:
    mail = TRACES + b"From: John (Sales) <a@example.com>\r\n" + REST
    with running_sandbox(token=TOKEN, strict=True) as (sandbox, url):
        account = {"API_BASE_URL": url, "ACCOUNT_ID": "sandbox", "API_TOKEN": TOKEN, "SENDMAIL_DIRECT": "1"}
        env = {f"SMTP2CF_{name}": value for name, value in account.items()}
        done = away("-i", "-f", "a@example.com", "b@example.net", input=mail, env=env)
        assert done == Result(0, "", "")
        (message,) = sandbox.messages
    assert message.mime_message.startswith(b'From: "John (Sales)" <a@example.com>\r\nSubject: x\r\n')
