"""Who may send as whom: the relay asks for the envelope, and for the header where that is to be checked."""

from collections.abc import Sequence
from typing import Any

import pytest

from smtp2cf.access.senders import SenderRules, Senders, also
from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.relay import MessagePolicy, Relay, checks
from smtp2cf.relay.checks import HEADER_FROM
from smtp2cf.reply import DELIVERED

USERS = {"anna": Senders.parse(["example.com"]), "root": Senders()}
RULES = SenderRules(senders_of=USERS.get)
EVERYBODY = SenderRules(Senders.parse(["example.com"]))


class Api:
    """send_raw, and the senders it was called with."""

    def __init__(self) -> None:
        self.senders: list[str] = []

    async def __call__(self, sender: str, recipients: Sequence[str], **_: Any) -> Sent:
        self.senders.append(sender)
        return Sent(dict.fromkeys(recipients, DELIVERED), "<1@cf>")


async def send(
    api: Api,
    rules: SenderRules | None,
    *,
    user: str = "",
    sender: str = "x@example.com",
    header: bytes = b"From: x@example.com\r\n",
    **policy: Any,
) -> Verdict:
    relay = Relay(api, MessagePolicy(**policy), sender_refusal=rules.refusal if rules else None)
    envelope = Envelope(reverse_path=sender, forward_paths=("b@example.net",), auth_user=user)
    return await relay.accept(envelope, b"Subject: x\r\n" + header + b"\r\nhello\r\n")


@pytest.mark.parametrize(
    ("user", "sender", "passes"),
    [
        ("anna", "x@example.com", True),
        ("anna", "x@example.org", False),
        ("root", "x@example.org", True),
        ("gone", "x@example.com", False),
        ("", "x@example.org", True),
    ],
)
async def test_the_reverse_path_is_held_against_what_the_user_may(
    user: str, sender: str, passes: bool
) -> None:
    api = Api()
    verdict = await send(api, RULES, user=user, sender=sender)
    assert verdict.reply.success is passes
    assert api.senders == [sender] * passes
    if not passes:
        assert verdict.reply[:2] == (550, "5.7.1")
        assert verdict.outcomes == {"b@example.net": verdict.reply}
        assert user in verdict.reply.text


async def test_what_holds_for_everybody_holds_for_mail_that_no_session_asked_about() -> None:
    """The drop directory, LMTP."""
    verdict = await send(Api(), EVERYBODY, sender="x@example.org")
    assert verdict.reply[:2] == (550, "5.7.1")
    assert "SMTP2CF_ALLOWED_SENDER_DOMAINS" in verdict.reply.text


async def test_the_null_reverse_path_passes_and_goes_out_as_its_stand_in() -> None:
    api = Api()
    verdict = await send(api, RULES, user="anna", sender="", null_sender_address="bounces@example.net")
    assert verdict.reply.success
    assert api.senders == ["bounces@example.net"]


async def test_the_header_may_say_anything_unless_it_is_to_be_checked() -> None:
    header = b"From: ceo@bank.example\r\n"
    assert (await send(Api(), RULES, user="anna", header=header)).reply.success
    verdict = await send(Api(), RULES, user="anna", header=header, check_header_from=True)
    assert verdict.reply[:2] == (550, "5.7.1")
    assert verdict.reply.text == (
        "in the header: user anna may not send as <ceo@bank.example>: SMTP2CF_USERS_FILE allows example.com"
        " (SMTP2CF_CHECK_HEADER_FROM)"
    )


ALLOWED = [
    b"From: x@example.com\r\n",
    b"From: Anna <y@EXAMPLE.com>\r\nSender: z@example.com\r\nReply-To: q@example.org\r\n",
    b'From: "y@example.com" <x@example.com>, y@example.com\r\n',
]
REFUSED = [
    b"From: x@example.org\r\n",
    b"From: x@example.com\r\nFrom: x@example.org\r\n",
    b"From: x@example.com\r\nSender: x@example.org\r\n",
    b"From: x@example.com, y@example.org\r\n",
    b'From: "ceo@bank.example" <x@example.com>\r\n',
    b"From: =?utf-8?q?ceo=40bank.example?= <x@example.com>\r\n",
    b"From: x@example.com.bank.example\r\n",
    "From: ceo\uff20bank.example <x@example.com>\r\n".encode(),
]
UNREADABLE = [
    b"",
    b"Sender: x@example.com\r\n",
    b"From: Anna\r\n",
    b"From : x@example.com\r\n",
    b"From: all: x@example.com;\r\n",
    b"From: x@example.com (\r\n",
    b"From: x@example.com\0\r\n",
    b"From: \xff\xfe \0 <x@example.com>\r\n",
    b"From: x@example.com\nFrom: x@example.org\r\n",
    b"From: x@example.com\rFrom: x@example.org\r\n",
    b"\n\rFrom: x@example.com\r\n",
]


@pytest.mark.parametrize("header", ALLOWED)
@pytest.mark.parametrize(("rules", "user"), [(RULES, "anna"), (EVERYBODY, "")], ids=["user", "everybody"])
async def test_a_header_that_names_allowed_senders_passes(
    rules: SenderRules, user: str, header: bytes
) -> None:
    assert (await send(Api(), rules, user=user, header=header, check_header_from=True)).reply.success


@pytest.mark.parametrize("header", REFUSED)
@pytest.mark.parametrize(("rules", "user"), [(RULES, "anna"), (EVERYBODY, "")], ids=["user", "everybody"])
async def test_every_address_that_the_header_shows_must_be_allowed(
    rules: SenderRules, user: str, header: bytes
) -> None:
    api = Api()
    reply = (await send(api, rules, user=user, header=header, check_header_from=True)).reply
    assert reply[:2] == (550, "5.7.1")
    assert reply.text.startswith("in the header: ")
    assert not api.senders


@pytest.mark.parametrize("header", UNREADABLE)
async def test_a_header_that_readers_may_not_agree_on_is_refused(header: bytes) -> None:
    assert (await send(Api(), RULES, user="anna", header=header, check_header_from=True)).reply == HEADER_FROM
    assert "SMTP2CF_CHECK_HEADER_FROM" in HEADER_FROM.text


@pytest.mark.parametrize("header", REFUSED + UNREADABLE)
async def test_who_may_send_as_anybody_may_write_any_header(header: bytes) -> None:
    assert (await send(Api(), RULES, user="root", header=header, check_header_from=True)).reply.success
    assert (await send(Api(), None, header=header, check_header_from=True)).reply.success


async def test_a_from_that_is_dropped_is_missing() -> None:
    verdict = await send(Api(), RULES, user="anna", check_header_from=True, drop_headers=frozenset({"from"}))
    assert verdict.reply == HEADER_FROM


async def test_no_header_is_read_where_nothing_is_to_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: bytes) -> None:
        raise AssertionError

    monkeypatch.setattr(checks, "originators", fail)
    assert (await send(Api(), RULES, user="anna")).reply.success
    assert (await send(Api(), RULES, user="root", check_header_from=True)).reply.success
    assert (await send(Api(), None, check_header_from=True)).reply.success


PRINTERS = also(None, Senders.parse(["printer@example.com"]), "[[listener]] printers")


@pytest.mark.parametrize(
    ("listener", "header", "passes"),
    [
        ("printers", b"From: Printer <printer@example.com>\r\n", True),
        ("printers", b"From: anna@example.com\r\n", False),
        ("", b"From: anna@example.com\r\n", True),
        ("elsewhere", b"From: anna@example.com\r\n", True),
    ],
)
async def test_the_header_is_held_against_what_the_listener_allows(
    listener: str, header: bytes, passes: bool
) -> None:
    relay = Relay(Api(), MessagePolicy(check_header_from=True), refusal_at={"printers": PRINTERS}.get)
    envelope = Envelope(
        reverse_path="printer@example.com", forward_paths=("b@example.net",), listener=listener
    )
    verdict = await relay.accept(envelope, b"Subject: x\r\n" + header + b"\r\nhello\r\n")
    assert verdict.reply.success is passes
    assert passes or "allowed_senders of [[listener]] printers" in verdict.reply.text
