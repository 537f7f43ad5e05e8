"""Senders that become others: by [senders], by a default, by one whose domain Cloudflare does not know."""

from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from smtp2cf.access.address_map import AddressMap
from smtp2cf.access.sender_rewriting import SenderRewriting
from smtp2cf.access.senders import SenderRules
from smtp2cf.access.senders import Senders as Allowed
from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.message.header import drop_headers
from smtp2cf.relay import BouncePolicy, MessagePolicy, Relay
from smtp2cf.relay.rewriting import Rewriting
from smtp2cf.relay.senders import Senders
from smtp2cf.reply import BOUNCED, DELIVERED, Reply, Scope, SendError
from tests.relay.world import Api, failure, world
from tests.spool.conftest import Backend
from tests.support.each import each

UNKNOWN = SendError(Reply(451, "4.3.5", "Cloudflare does not send for the sender's domain"), Scope.SENDER)
DEFAULT = "noreply@example.com"
TABLE = {"anna@brand.net": "anna@example.com", "cron": "cron@example.com", "*.brand.net": "web@example.org"}


def rewriting(default: str = DEFAULT, allowed: Sequence[str] = ("example.com",)) -> SenderRewriting:
    found = SenderRewriting(
        AddressMap(TABLE, ["web07"]), default, Allowed.parse(allowed), {"printers": "printer@example.com"}
    )
    found.use_default_of({"shop": "shop@example.com"}.get)  # type: ignore[arg-type]
    return found


ORDER = [
    # The sender, the user, the listener; and who is sent.
    ("x@example.com", "", "", "x@example.com"),
    ("anna@brand.net", "", "", "anna@example.com"),
    ("cron@web07", "", "", "cron@example.com"),
    ("cron", "", "", "cron@example.com"),
    ("x@a.brand.net", "", "", DEFAULT),  # what [senders] makes of it may not send
    ("x@other.net", "", "", DEFAULT),
    ("root", "", "", DEFAULT),
    ("root@3f2a1b", "", "printers", "printer@example.com"),
    ("root@3f2a1b", "shop", "printers", "shop@example.com"),
    ("root@3f2a1b", "nobody", "", DEFAULT),
    ("x@example.com", "shop", "printers", "x@example.com"),
    ("", "shop", "printers", ""),
]


@each(("sender", "user", "listener", "sent"), ORDER)
def test_the_map_comes_first_and_then_the_nearest_default(
    sender: str, user: str, listener: str, sent: str
) -> None:
    user = "" if user == "nobody" else user
    assert rewriting().becomes(sender, user, listener) == sent


def test_without_a_list_a_domain_that_only_its_network_knows_may_not_send() -> None:
    anybody = rewriting(allowed=())
    sent = {
        who: anybody.becomes(who) for who in ("x@other.net", "x@nas.local", "x@3f2a1b", "x@localhost", "x")
    }
    assert sent == dict.fromkeys(sent, DEFAULT) | {"x@other.net": "x@other.net"}


@each(
    ("sender", "default", "refused"),
    [
        ("x@other.net", "", "550 5.7.1 sending as <x@other.net> is not allowed"),
        (
            "x@a.brand.net",
            "",
            "550 5.7.1 sending as <web@example.org>, which <x@a.brand.net> becomes, is not",
        ),
        ("root", "", "553 5.1.3 <root>: the address has no domain: no pattern of [senders] matches it"),
        ("anna@brand.net", "", ""),
        ("x@other.net", DEFAULT, ""),
        ("root", DEFAULT, ""),
        ("@", DEFAULT, "550 5.7.1"),
    ],
)
def test_the_list_for_everybody_is_held_against_what_is_sent(sender: str, default: str, refused: str) -> None:
    table = SenderRewriting(AddressMap(TABLE), default, Allowed.parse(["example.com"]))
    reply = SenderRules(Allowed.parse(["example.com"]), becomes=table.becomes).refusal("", sender)
    assert str(reply or "").startswith(refused)
    assert (reply is None) == (not refused)


def test_a_user_s_own_list_is_held_against_what_the_client_says() -> None:
    rules = SenderRules(senders_of={"shop": Allowed.parse(["example.com"])}.get, becomes=rewriting().becomes)
    assert rules.refusal("shop", "root@3f2a1b") is not None
    assert rules.refusal("shop", "x@example.com") is None


class Cloudflare:
    """send_raw that knows some domains; the senders and the headers of its calls."""

    def __init__(self, *knows: str) -> None:
        self.knows = knows
        self.senders: list[str] = []
        self.headers: list[str] = []

    async def __call__(self, sender: str, recipients: Sequence[str], *, message: bytes, **_: Any) -> Sent:
        self.senders.append(sender)
        self.headers.append(drop_headers(message, frozenset({"subject"})).decode().partition("\r\n\r\n")[0])
        if sender.rpartition("@")[2] not in self.knows:
            raise UNKNOWN
        return Sent(dict.fromkeys(recipients, DELIVERED), "<1@cf>")


def relay_to(api: Cloudflare, table: SenderRewriting) -> Relay:
    senders = Senders(table)
    return Relay(api, MessagePolicy(), rewriting=Rewriting(senders.rewrite), senders=senders)


async def send(relay: Relay, sender: str, header: str, **fields: Any) -> Verdict:
    envelope = Envelope(reverse_path=sender, forward_paths=("b@example.net",), **fields)
    return await relay.accept(envelope, f"Subject: x\r\n{header}\r\n\r\nhello\r\n".encode())


HEADERS = [
    # MAIL FROM and the header; what goes out.
    ("root@3f2a1b", "From: root@3f2a1b", DEFAULT, f'From: "root@3f2a1b" <{DEFAULT}>'),
    ("root@3f2a1b", "From: Cron <ROOT@3f2a1b>", DEFAULT, f"From: Cron <{DEFAULT}>"),
    (
        "root@3f2a1b",
        "From: W <w@localhost>\r\nSender: a@example.com",
        DEFAULT,
        (f"From: W <{DEFAULT}>\r\nSender: a@example.com"),
    ),
    (
        "anna@brand.net",
        "From: Anna <anna@brand.net>",
        "anna@example.com",
        ("From: Anna <anna@example.com>\r\nReply-To: anna@brand.net"),
    ),
    ("b@example.com", "From: cron@web07", "b@example.com", 'From: "cron@web07" <cron@example.com>'),
    ("b@example.com", "From: Ben <b@example.com>", "b@example.com", "From: Ben <b@example.com>"),
]


@pytest.mark.parametrize(("sender", "header", "sent", "expected"), HEADERS)
async def test_the_header_says_who_is_sent(sender: str, header: str, sent: str, expected: str) -> None:
    api = Cloudflare("example.com")
    verdict = await send(relay_to(api, rewriting()), sender, header)
    assert (api.senders, api.headers) == ([sent], [expected])
    assert (f"sent as <{sent}> instead of <{sender}>" in verdict.reply.text) is (sent != sender)


REPLY_TO = {
    "anna@brand.net": True,
    "anna+tag/x='y'@mail.brand.net": True,
    "a..b@brand.net": True,  # some have such an address
    '"a b"@brand.net': True,
    '"a\\"b"@brand.net': True,
    "anna@localhost": False,
    "a@b@brand.net": False,
    "a(b)@brand.net": False,
    "a[b]@brand.net": False,
    "anna@brand..net": False,
    '"anna@brand.net': False,
    '""@brand.net': False,
}


@pytest.mark.parametrize("sender", REPLY_TO)
async def test_replies_go_to_an_address_that_a_field_can_hold_and_mail_gets_to(sender: str) -> None:
    api = Cloudflare("example.com")
    await send(relay_to(api, rewriting()), sender, f"From: Anna <{sender}>")
    assert (f"\r\nReply-To: {sender}" in api.headers[0]) is REPLY_TO[sender]


async def test_nothing_is_rewritten_that_nobody_asks_for() -> None:
    """A table whose patterns match nothing, and a users file without defaults."""
    for table in (SenderRewriting(AddressMap({"x": DEFAULT})), SenderRewriting()):
        api = Cloudflare("example.com")
        await send(relay_to(api, table), "b@example.com", "From: root@web07", auth_user="shop")
        assert (api.senders, api.headers) == (["b@example.com"], ["From: root@web07"])


STAYS = [
    # A From that the check reads and rewriting leaves as it is.
    "From: boss@other.net <boss@other.net> (hello)",
    f'From: "{"A" * 1000}" <boss@other.net>',
    "From: root@3f2a1b, boss@other.net <boss@other.net> (hello)",
]


@pytest.mark.parametrize("spool", [False, True])
@pytest.mark.parametrize("header", STAYS)
async def test_no_address_passes_for_its_default_that_does_not_become_it(
    sqlite: Backend, header: str, spool: bool
) -> None:
    api, table = Cloudflare("example.com"), rewriting()
    senders = Senders(table)
    relay = Relay(
        api,
        MessagePolicy(check_header_from=True),
        spool=await sqlite.open() if spool else None,
        sender_refusal=SenderRules(Allowed.parse(("example.com",)), becomes=table.becomes).refusal,
        rewriting=Rewriting(senders.rewrite),
        senders=senders,
    )
    verdict = await send(relay, "root@3f2a1b", header)
    assert (verdict.reply[:2], api.senders) == ((550, "5.7.1"), [])
    assert "sending as <boss@other.net> is not allowed" in verdict.reply.text
    assert (await send(relay, "root@3f2a1b", "From: Boss <boss@other.net>")).reply.code == 250
    assert api.headers == [f"From: Boss <{DEFAULT}>\r\nReply-To: boss@other.net"]


async def test_a_dsn_about_mail_without_a_session_goes_where_one_about_the_same_mail_would() -> None:
    """The sender as the client wrote it may be no address: sendmail writes a mere name."""
    api, senders = Cloudflare("example.com"), Senders(rewriting())
    bounce = BouncePolicy(hostname="relay.example.com", postmaster="post@example.com")
    relay = Relay(api, MessagePolicy(), bounce=bounce, rewriting=Rewriting(senders.rewrite), senders=senders)
    told = []
    for sender in ("root", "root@3f2a1b", "a@other.net"):
        envelope = Envelope(reverse_path=sender, forward_paths=("b@example.net",))
        with capture_logs() as lines:
            await relay.bounce(envelope, b"Subject: x\r\n\r\n", {"b@example.net": BOUNCED})
        told += [line["to"] for line in lines if line["event"] == "mail.dsn"]
    assert told == [["post@example.com"], ["post@example.com"], ["a@other.net"]]


async def test_a_signature_that_this_breaks_is_named() -> None:
    relay = relay_to(Cloudflare("example.com"), rewriting())
    with capture_logs() as lines:
        await send(relay, "a@other.net", "DKIM-Signature: v=1; d=other.net; b=x\r\nFrom: a@other.net")
    (line,) = [line for line in lines if line["event"] == "mail.rewritten"]
    assert (line["log_level"], line["breaks_signature_of"]) == ("warning", ["other.net"])
    assert (line["from"], line["orig_from"], line["changed"]) == (
        DEFAULT,
        "a@other.net",
        ["From", "Reply-To"],
    )


async def test_a_domain_that_was_never_set_up_is_replaced_at_once_and_known_from_then_on() -> None:
    api = Cloudflare("example.com")
    relay = relay_to(api, rewriting(allowed=()))
    with capture_logs() as lines:
        verdict = await send(relay, "a@other.net", "From: A <a@other.net>")
    assert api.senders == ["a@other.net", DEFAULT]
    assert api.headers[1] == f"From: A <{DEFAULT}>\r\nReply-To: a@other.net"
    assert verdict.reply.code == 250
    assert f"sent as <{DEFAULT}> instead of <a@other.net>" in verdict.reply.text
    (line,) = [line for line in lines if line["event"] == "mail.attempt"]
    assert (line["from"], line["orig_from"]) == (DEFAULT, "a@other.net")
    (line,) = [line for line in lines if line["event"] == "sender.not_configured"]
    assert (line["domain"], line["sent_as"]) == ("other.net", DEFAULT)
    assert relay.sender_domains.summary().startswith(f"other.net: mail is sent as <{DEFAULT}> instead (")
    await send(relay, "b@other.net", "From: b@other.net")
    assert api.senders[2:] == [DEFAULT]


async def test_where_nobody_stands_in_the_refusal_stays() -> None:
    for default in ("", "noreply@other.net", "noreply@another.net"):
        api = Cloudflare("example.com")
        verdict = await send(relay_to(api, rewriting(default, ())), "a@other.net", "From: a@other.net")
        assert verdict.reply[:2] == (550, "5.7.1")
        assert len(api.senders) == (2 if "another" in default else 1)


async def test_waiting_mail_is_sent_from_the_default_too(sqlite: Backend, api: Api) -> None:
    async with world(await sqlite.open(), api, mode="queue") as here:
        unknown = failure(403, 10203, "email.sending_disabled")
        delivered = api.answer

        async def answer(call: Any) -> Any:
            return await (delivered if call.sender == DEFAULT else unknown)(call)

        api.answer = answer
        here.sender_rewriting.use_default(DEFAULT)
        await here.accept(reverse_path="a@other.net")
        await here.until_empty()
    assert [call.sender for call in api.calls] == ["a@other.net", DEFAULT]
