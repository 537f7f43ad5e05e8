"""LMTP (RFC 2033) and PRDR (draft-hall-prdr): a reply for each recipient, in the order of RCPT."""

import asyncio

import pytest

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd import MailProtocol
from tests.smtpd.conftest import TAKEN, Service, Start
from tests.smtpd.dialog import dotted

SENT = Reply(250, "2.0.0", "delivered")
BOUNCED = Reply(550, "5.1.1", "no such mailbox")
LATER = Reply(451, "4.7.1", "later")
FATES = {"bounce": BOUNCED, "later": LATER}
TWO = ("anna@example.net", "bounce@example.net")


async def by_name(envelope: Envelope, _: bytes) -> Verdict:
    """A recipient's local part is its fate."""
    outcomes = {who: FATES.get(who.partition("@")[0], SENT) for who in envelope.forward_paths}
    overall = SENT if SENT in outcomes.values() else next(iter(outcomes.values()))
    return Verdict(overall, outcomes)


def to_data(*recipients: str, parameters: str = "", verb: str = "LHLO") -> bytes:
    lines = [f"{verb} client.example", f"MAIL FROM:<sender@example.com>{parameters}"]
    lines += [f"RCPT TO:<{who}>" for who in recipients]
    return "".join(f"{line}\r\n" for line in [*lines, "DATA"]).encode()


async def answers(service: Service, octets: bytes) -> list[str]:
    """The replies to all of a session, sent at once, but for the greeting and what is offered."""
    client = await service.connect()
    await client.send(octets + b"QUIT\r\n")
    replies = (await client.everything()).splitlines()
    assert replies.pop().startswith("221")
    return [line for line in replies[1:] if not line.startswith(("250-", "250 HELP"))]


# ---- LMTP


@pytest.mark.parametrize("unix", [False, True])
async def test_the_greeting_and_what_is_offered(start: Start, unix: bool) -> None:
    service = await start(protocol="lmtp", unix=unix)
    await service.play("""
        S: 220 bridge.example LMTP
        C: LHLO client.example
        S: 250-bridge.example
        S: 250-PIPELINING
        S: 250-SIZE 1048576
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-ENHANCEDSTATUSCODES
        S: 250-DSN
        S: 250-CHUNKING
        S: 250-LIMITS RCPTMAX=1000
        S: 250 HELP
        C: MAIL FROM:<anna@example.com>
        S: 250 2.1.0
        C: RCPT TO:<bert@example.net>
        S: 250 2.1.5
        C: DATA
        S: 354
        C: .
        S: 250 2.1.5 taken
        C: QUIT
        S: 221
        S: <closed>
    """)
    assert service.envelope.per_recipient


async def test_each_listener_has_its_own_hello(start: Start) -> None:
    lmtp, smtp = await start(protocol="lmtp"), await start()
    await lmtp.play("""
        S: 220
        C: EHLO a
        S: 500 5.5.1 this is LMTP: send LHLO
        C: HELO a
        S: 500 5.5.1 this is LMTP: send LHLO
        C: MAIL FROM:<anna@example.com>
        S: 503 5.5.1
        C: LHLO
        S: 501 5.5.4 syntax: LHLO hostname
        C: HELP LHLO
        S: 214 2.0.0 syntax: LHLO hostname
        C: HELP EHLO
        S: 504 5.5.4
    """)
    await smtp.play("S: 220\nC: LHLO a\nS: 500 5.5.1 this is SMTP: send EHLO or HELO")


async def test_every_recipient_has_its_answer_in_the_order_of_rcpt(start: Start) -> None:
    service = await start(by_name, protocol="lmtp")
    await service.play("""
        S: 220
        C: LHLO a
        S: 250-
        S: 250-
        S: 250-
        S: 250-
        S: 250-
        S: 250-
        S: 250-
        S: 250-
        S: 250-
        S: 250 HELP
        C: MAIL FROM:<sender@example.com>
        S: 250 2.1.0
        C: RCPT TO:<bounce@example.net>
        S: 250 2.1.5
        C: RCPT TO:<nonsense>
        S: 553 5.1.3
        C: RCPT TO:<anna@example.net>
        S: 250 2.1.5
        C: RCPT TO:<bounce@example.net>
        S: 250 2.1.5
        C: RCPT TO:<>
        S: 553 5.1.3
        C: RCPT TO:<later@example.net>
        S: 250 2.1.5
        C: RCPT TO:<anna@example.net>
        S: 250 2.1.5
        C: DATA
        S: 354
        C: x
        C: .
        S: 550 5.1.1 no such mailbox
        S: 250 2.1.5 delivered
        S: 550 5.1.1 no such mailbox
        S: 451 4.7.1 later
        S: 250 2.1.5 delivered
        C: NOOP
        S: 250 2.0.0 OK
    """)


async def test_a_whole_session_in_one_packet(start: Start) -> None:
    service = await start(by_name, protocol="lmtp")
    session = to_data(*TWO) + dotted(b"one\r\n") + to_data("later@example.net") + dotted(b"two\r\n")
    assert [line[:9] for line in await answers(service, session)] == [
        "250 2.1.0", "250 2.1.5", "250 2.1.5", "354 end w", "250 2.1.5", "550 5.1.1",
        "250 2.1.0", "250 2.1.5", "354 end w", "451 4.7.1",
    ]  # fmt: skip


async def test_bdat_has_as_many_answers(start: Start) -> None:
    service = await start(by_name, protocol="lmtp")
    session = to_data(*TWO).removesuffix(b"DATA\r\n") + b"BDAT 3\r\none" + b"BDAT 3 LAST\r\ntwo"
    # The first chunk has one answer, and so has a chunk that nobody asked for.
    session += b"BDAT 4 LAST\r\nxxxx"
    assert [line[:9] for line in await answers(service, session)][3:] == [
        "250 2.0.0", "250 2.1.5", "550 5.1.1", "503 5.5.1",
    ]  # fmt: skip


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_message_that_is_too_big_is_refused_for_each(start: Start, chunked: bool) -> None:
    service = await start(by_name, protocol="lmtp", max_message_size=100)
    message = b"x" * 200 + b"\r\n"
    session = to_data(*TWO)
    if chunked:
        session = session.removesuffix(b"DATA\r\n") + b"BDAT 202 LAST\r\n" + message
    else:
        session += dotted(message)
    heard = await answers(service, session + b"NOOP\r\n")
    assert [line[:9] for line in heard[-3:]] == ["552 5.3.4", "552 5.3.4", "250 2.0.0"]


async def test_a_mistake_of_ours_is_answered_for_each(start: Start, logged: list) -> None:
    async def fail(*_: object) -> Verdict:
        raise RuntimeError("broken")

    service = await start(fail, protocol="lmtp")
    heard = await answers(service, to_data(*TWO) + dotted(b"x\r\n") + b"NOOP\r\n")
    assert [line[:9] for line in heard[-3:]] == ["451 4.3.0", "451 4.3.0", "250 2.0.0"]
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["session.error"]


@pytest.mark.parametrize(
    ("broken", "chunked"),
    [
        ("transaction.Transaction.complete", False),
        ("transaction.Transaction.complete", True),
        ("replies.for_recipient", False),
        ("replies.for_recipient", True),
        ("data.DataReader.message", False),
        ("chunks.Chunks.message", True),
    ],
)
async def test_a_mistake_anywhere_around_a_message_is_answered_for_each(
    start: Start, logged: list, monkeypatch: pytest.MonkeyPatch, broken: str, chunked: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("broken")

    monkeypatch.setattr(f"smtp2cf.smtpd.{broken}", fail)
    service = await start(protocol="lmtp")
    session = to_data(*TWO)
    if chunked:
        session = session.removesuffix(b"DATA\r\n") + b"BDAT 3 LAST\r\nx\r\n"
    else:
        session += dotted(b"x\r\n")
    heard = await answers(service, session + b"NOOP\r\n")
    assert [line[:9] for line in heard[-3:]] == ["451 4.3.0", "451 4.3.0", "250 2.0.0"]
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["session.error"]
    # Where the mail was taken, its client does not have the answer to it.
    assert [received for _, received in service.confirmed] == [False] * len(service.taken)


async def test_a_recipient_without_an_outcome_has_the_answer_to_the_message(start: Start) -> None:
    async def forgetful(envelope: Envelope, _: bytes) -> Verdict:
        return Verdict(LATER, {envelope.forward_paths[0]: SENT})

    service = await start(forgetful, protocol="lmtp")
    heard = await answers(service, to_data(*TWO) + dotted(b"x\r\n"))
    assert heard[-2:] == ["250 2.1.5 delivered", "451 4.7.1 later"]


async def test_without_recipients_there_is_one_answer(start: Start) -> None:
    """RFC 2033 §4.2: DATA is refused where no RCPT was taken."""
    service = await start(by_name, protocol="lmtp")
    heard = await answers(service, to_data("nonsense") + b"NOOP\r\n")
    assert [line[:9] for line in heard] == ["250 2.1.0", "553 5.1.3", "503 5.5.1", "250 2.0.0"]


async def test_the_answers_are_in_utf_8_where_the_client_takes_that(start: Start) -> None:
    async def named(envelope: Envelope, _: bytes) -> Verdict:
        outcomes = {
            who: Reply(550, "5.1.1", f"<{who}> is not there\r\n250 injected")
            for who in envelope.forward_paths
        }
        return Verdict(outcomes[envelope.forward_paths[0]], outcomes)

    service = await start(named, protocol="lmtp")
    who = "anna@gr\u00fcn.example"
    (plain,) = (await answers(service, to_data(who) + dotted(b"x\r\n")))[-1:]
    (utf8,) = (await answers(service, to_data(who, parameters=" SMTPUTF8") + dotted(b"x\r\n")))[-1:]
    assert plain == "550 5.1.1 <anna@gr\\xfcn.example> is not there 250 injected"
    assert utf8 == "550 5.1.1 <anna@gr\u00fcn.example> is not there 250 injected"


async def test_an_answer_of_many_words_has_several_lines_and_is_still_one(start: Start) -> None:
    async def wordy(envelope: Envelope, _: bytes) -> Verdict:
        outcomes = {who: Reply(451, "4.3.0", f"{who} " + "word " * 200) for who in envelope.forward_paths}
        return Verdict(LATER, outcomes)

    client = await (await start(wordy, protocol="lmtp")).greeted()
    await client.send(to_data(*TWO) + dotted(b"x\r\n"))
    for _ in range(5):
        await client.reply()
    for who in TWO:
        reply = await client.reply()
        assert reply.startswith(f"451-4.3.0 {who}")
        assert reply.count("word") == 200


async def test_the_limit_of_recipients_holds(start: Start) -> None:
    service = await start(by_name, protocol="lmtp", max_recipients=2)
    heard = await answers(service, to_data(*TWO, "carla@example.net") + dotted(b"x\r\n"))
    assert [line[:9] for line in heard[1:]] == [
        "250 2.1.5", "250 2.1.5", "452 4.5.3", "354 end w", "250 2.1.5", "550 5.1.1",
    ]  # fmt: skip


# ---- PRDR

PRDR = " PRDR"


async def test_prdr_answers_each_and_then_the_message(start: Start) -> None:
    service = await start(by_name)
    session = to_data(*TWO, "later@example.net", parameters=PRDR, verb="EHLO") + dotted(b"x\r\n")
    assert (await answers(service, session + b"NOOP\r\n"))[5:] == [
        "353 each recipient's answer follows, then one for all",
        "250 2.1.5 delivered",
        "550 5.1.1 no such mailbox",
        "451 4.7.1 later",
        "250 2.0.0 delivered",
        "250 2.0.0 OK",
    ]


async def test_prdr_with_bdat(start: Start) -> None:
    service = await start(by_name)
    session = to_data(*TWO, parameters=PRDR, verb="EHLO").removesuffix(b"DATA\r\n")
    heard = await answers(service, session + b"BDAT 3\r\none" + b"BDAT 0 LAST\r\n")
    assert [line[:9] for line in heard[3:]] == [
        "250 2.0.0", "353 each ", "250 2.1.5", "550 5.1.1", "250 2.0.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("recipients", "parameters"),
    [(("anna@example.net",), PRDR), (("anna@example.net", "nonsense"), PRDR), (TWO, "")],
    ids=["one recipient", "one that was taken", "nobody asked"],
)
async def test_where_there_is_one_answer(start: Start, recipients: tuple[str, ...], parameters: str) -> None:
    seen: list[bool] = []

    async def accept(envelope: Envelope, message: bytes) -> Verdict:
        seen.append(envelope.per_recipient)
        return await by_name(envelope, message)

    service = await start(accept)
    heard = await answers(
        service, to_data(*recipients, parameters=parameters, verb="EHLO") + dotted(b"x\r\n")
    )
    assert heard[len(recipients) + 2 :] == ["250 2.0.0 delivered"]
    assert seen == [False]


async def test_prdr_is_for_one_message(start: Start) -> None:
    service = await start(by_name)
    session = to_data(*TWO, parameters=PRDR, verb="EHLO") + dotted(b"x\r\n")
    heard = await answers(service, session + to_data(*TWO, verb="EHLO") + dotted(b"x\r\n"))
    assert heard[-2:] == ["354 end with <CRLF>.<CRLF>", "250 2.0.0 delivered"]


@pytest.mark.parametrize(
    ("recipients", "overall"),
    [
        (("bounce@a.example", "bounce@b.example"), "550 5.1.1"),
        (("later@a.example", "bounce@b.example"), "451"),
    ],
)
async def test_where_nobody_got_it_the_message_is_refused(
    start: Start, recipients: tuple[str, ...], overall: str
) -> None:
    service = await start(by_name)
    heard = await answers(service, to_data(*recipients, parameters=PRDR, verb="EHLO") + dotted(b"x\r\n"))
    assert heard[-1].startswith(overall)


@pytest.mark.parametrize(
    ("protocol", "wire"), [("lmtp", ["552", "552"]), ("smtp", ["353", "552", "552", "552"])]
)
async def test_what_is_too_big_too(start: Start, protocol: MailProtocol, wire: list[str]) -> None:
    service = await start(by_name, max_message_size=10, protocol=protocol)
    verb, parameters = ("LHLO", "") if protocol == "lmtp" else ("EHLO", PRDR)
    heard = await answers(
        service, to_data(*TWO, parameters=parameters, verb=verb) + dotted(b"x" * 20 + b"\r\n")
    )
    assert [line[:3] for line in heard[4:]] == wire


async def test_an_answer_counts_as_received_as_it_does_in_smtp(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nor does anybody look at what TCP has acknowledged meanwhile.
    monkeypatch.setattr("smtp2cf.smtpd.reply_arrival.LOOK_EVERY", 60.0)
    service = await start(protocol="lmtp")
    client = await service.greeted()
    await client.send(to_data(*TWO) + dotted(b"x\r\n"))
    for _ in range(7):
        await client.reply()
    assert service.confirmed == []
    await client.ask("NOOP")
    assert [received for _, received in service.confirmed] == [True]


async def test_answers_wait_for_the_message_before_the_next_begins(start: Start) -> None:
    opened = asyncio.Event()

    async def accept(envelope: Envelope, _: bytes) -> Verdict:
        await opened.wait()
        return Verdict(TAKEN, dict.fromkeys(envelope.forward_paths, TAKEN))

    client = await (await start(accept, protocol="lmtp")).greeted()
    await client.send(to_data(*TWO) + dotted(b"x\r\n") + to_data(*TWO) + dotted(b"y\r\n"))
    for _ in range(5):
        await client.reply()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.reader.readline()
    opened.set()
    codes = [(await client.reply())[:9] for _ in range(9)]
    assert codes[:2] == codes[-2:] == ["250 2.1.5"] * 2
