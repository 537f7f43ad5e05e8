"""Date, From and Message-ID, added where a message lacks them."""

from email import message_from_bytes
from email.policy import default

from smtp2cf.message.missing_fields import add_missing
from tests.support.each import each

AT = 1_795_694_400.0
WHOLE = b"Date: Thu, 26 Nov 2026 12:00:00 +0000\r\nFrom: a@x\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n"


def added(message: bytes, sender: str = "nas@example.com") -> bytes:
    return add_missing(message, sender=sender, received_at=AT, hostname="relay.example.com")


def test_a_message_that_lacks_nothing_is_the_same_object() -> None:
    assert added(WHOLE) is WHOLE


@each(
    ("message", "body"),
    [
        (b"Subject: s\r\n\r\nbody\r\n", "body\r\n"),
        (b"Subject: s\r\n", ""),
        (b"\r\nbody\r\n", "body\r\n"),
        (b"just text\r\nmore: text\r\n", "just text\r\nmore: text\r\n"),
        (b"", ""),
        (b"DATE: x\r\nfrom:y@x\r\n\r\nbody\r\n", "body\r\n"),
    ],
)
def test_what_is_missing_goes_in_front_and_nothing_else_changes(message: bytes, body: str) -> None:
    result = added(message)
    assert result.endswith(message)
    parsed = message_from_bytes(result, policy=default)
    assert parsed["Message-ID"].endswith("@example.com>")
    assert str(parsed["From"]) in ("nas@example.com", "y@x")
    assert str(parsed.get_payload()).replace("\n", "\r\n").replace("\r\r", "\r") == body
    assert [len(parsed.get_all(name, [])) for name in ("From", "Message-ID")] == [1, 1]
    assert added(result) is result


def test_a_sender_without_a_domain_is_named_as_it_is() -> None:
    """It becomes another before the mail goes out, and From with it."""
    assert b"\r\nFrom: root\r\n" in added(b"Subject: s\r\n\r\n", sender="root")
    assert b"From:" not in added(b"Subject: s\r\n\r\n", sender='"a b"')


def test_nobody_is_named_where_there_is_no_sender() -> None:
    parsed = message_from_bytes(added(b"Subject: s\r\n\r\n", sender=""), policy=default)
    assert parsed["From"] is None
    assert parsed["Message-ID"].endswith("@relay.example.com>")
    assert parsed["Date"] == "Thu, 26 Nov 2026 12:00:00 +0000"
    internationalized = added(b"\r\n", sender="anna@bücher.example")
    assert b"From: anna@xn--bcher-kva.example\r\n" in internationalized
