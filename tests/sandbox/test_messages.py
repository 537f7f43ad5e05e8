"""What people see of the accepted messages, and how many of them are kept."""

import hashlib
from datetime import UTC, datetime, timedelta
from email.header import Header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.sandbox import AcceptedMessage

from .conftest import MESSAGE, Running, Start


def with_subject(subject: bytes) -> AcceptedMessage:
    return AcceptedMessage(
        id="1",
        received_at=0.0,
        from_="a@example.com",
        recipients=(),
        mime_message=b"From: a@example.com\r\nSubject:" + subject + b"\r\n\r\nSubject: not this\r\n",
        message_id="",
        delivered=(),
        queued=(),
        permanent_bounces=(),
        suppressed_recipients=(),
    )


async def test_messages_are_listed_newest_first(running: Running) -> None:
    for number in range(3):
        await running.send("b@example.net", mime_message=f"Subject: number {number}\r\n\r\n")
    listing = (await running.http.get("/messages")).json()
    assert listing["count"] == 3
    assert [message["subject"] for message in listing["messages"]] == ["number 2", "number 1", "number 0"]
    limited = (await running.http.get("/messages", params={"limit": 1})).json()
    assert (limited["count"], len(limited["messages"])) == (3, 1)
    assert (await running.http.get("/messages", params={"limit": "x"})).status_code == 400


async def test_a_listed_message_says_everything_but_its_text(running: Running) -> None:
    recipients = ["b@x.example", "queued@x.example", "bounce@x.example", "dropped@x.example"]
    answer = await running.send(*recipients)
    (entry,) = (await running.http.get("/messages")).json()["messages"]
    received = datetime.fromisoformat(entry.pop("received_at"))
    assert abs(received - datetime.now(UTC)) < timedelta(minutes=1)
    assert entry == {
        "id": entry["id"],
        "from": "a@example.com",
        "recipients": recipients,
        "size": len(MESSAGE),
        "sha256": hashlib.sha256(MESSAGE.encode()).hexdigest(),
        "subject": "hello",
        "message_id": answer.message_id,
        "delivered": ["b@x.example"],
        "queued": ["queued@x.example"],
        "permanent_bounces": ["bounce@x.example"],
        "suppressed_recipients": ["dropped@x.example"],
    }


async def test_a_message_can_be_fetched_byte_for_byte(running: Running) -> None:
    await running.send("b@example.net", mime_message="Subject: ü\r\n\r\n\x00\r\n")
    (entry,) = (await running.http.get("/messages")).json()["messages"]
    answer = await running.http.get(f"/messages/{entry['id']}")
    assert answer.content == "Subject: ü\r\n\r\n\x00\r\n".encode()
    assert answer.headers["Content-Type"] == "message/rfc822"
    assert (await running.http.get("/messages/2")).status_code == 404


async def test_messages_can_be_forgotten(running: Running) -> None:
    await running.send("b@example.net")
    assert (await running.http.delete("/messages")).status_code == 204
    assert (await running.http.get("/messages")).json() == {"count": 1, "messages": []}
    await running.send("b@example.net")
    assert [message.id for message in running.sandbox.messages] == ["2"]


async def test_only_the_newest_messages_are_kept(start: Start) -> None:
    running = await start(keep=2)
    for _ in range(4):
        await running.send("b@example.net")
    listing = (await running.http.get("/messages")).json()
    assert (listing["count"], [message["id"] for message in listing["messages"]]) == (4, ["4", "3"])


async def test_only_so_many_octets_are_kept(start: Start) -> None:
    running = await start(keep_bytes=3 * len(MESSAGE))
    for _ in range(4):
        await running.send("b@example.net")
    assert [message.id for message in running.sandbox.messages] == ["2", "3", "4"]
    await running.send("b@example.net", mime_message=MESSAGE + "x" * len(MESSAGE))
    assert [message.id for message in running.sandbox.messages] == ["4", "5"]
    running.sandbox.messages.clear()
    for _ in range(3):
        await running.send("b@example.net")
    assert len(running.sandbox.messages) == 3, "a deque that was cleared starts afresh"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b" hello", "hello"),
        (b"", ""),
        (b" =?utf-8?q?gr=C3=BCn?=", "grün"),
        (b" =?utf-8?b?Z3LDvG4=?= =?iso-8859-1?q?_=E9?=", "grün é"),
        (b" folded\r\n over\r\n\tlines", "folded over lines"),
        ("\u00a0grün".encode(), "grün"),
        (b" =?utf-8?b?not base64!?=", "=?utf-8?b?not base64!?="),
        (b" =?no-such-charset?q?x?=", "=?no-such-charset?q?x?="),
        (b" =?zip?b?AAAA?=", "=?zip?b?AAAA?="),
        (b" =?utf-8?q?=1B[31m=0Abell=07?=", " [31m bell "),
        (b" =?utf-8?q?=ff?=", None),
        (b" =?utf-7?q?+2AA-?=", None),
        (b" =?raw-unicode-escape?q?\\ud800?=", None),
    ],
)
def test_the_subject_is_decoded_for_people(raw: bytes, expected: str | None) -> None:
    subject = with_subject(raw).subject
    subject.encode()
    if expected is not None:
        assert subject == expected


def test_a_long_encoded_subject_is_decoded_whole() -> None:
    text = "Über den Wolken, " * 20 + "Ende"
    assert with_subject(b" " + Header(text, "utf-8").encode(linesep="\r\n").encode()).subject == text


def test_a_message_without_a_subject_has_none() -> None:
    message = with_subject(b" x")
    bare = AcceptedMessage(**(message.__dict__ | {"mime_message": b"To: x\r\n\r\nSubject: body\r\n"}))
    assert bare.subject == ""


encoded_words = st.builds(
    "=?{}?{}?{}?=".format,
    st.sampled_from(
        ["utf-8", "utf-16", "utf-7", "idna", "punycode", "hz", "base64", "\x00", "us-ascii", "x"]
    ),
    st.sampled_from("qQbBx"),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
subjects = st.lists(encoded_words | st.text(max_size=10) | st.just("\r\n "), max_size=6).map(" ".join)


@given(subjects)
def test_no_subject_breaks_the_listing(subject: str) -> None:
    raw = subject.encode("utf-8", "replace")
    with_subject(raw).subject.encode()


@given(st.binary(max_size=200))
def test_no_bytes_break_the_listing(raw: bytes) -> None:
    with_subject(raw).subject.encode()
