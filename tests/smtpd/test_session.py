"""A session's values: a line in, a step out. No sockets, no loop."""

import ipaddress
from typing import Any

import pytest

from smtp2cf.envelope import Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd import Listener, MailProtocol, Policy, Rules, SessionLimits
from smtp2cf.smtpd.chunks import Chunks
from smtp2cf.smtpd.data import DataReader
from smtp2cf.smtpd.sasl import Credentials
from smtp2cf.smtpd.session import Session
from smtp2cf.smtpd.steps import CheckPassword, Close, Read, Relay, Say

TAKEN = Reply(250, "2.0.0", "taken")
ENVELOPE = ("EHLO a", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "RCPT TO:<e@f.example>")


async def _nobody(*_: str) -> Reply | None:
    return Reply(535, "5.7.8", "wrong")


def make(protocol: MailProtocol = "smtp", client: str = "127.0.0.1", **rules: Any) -> Session:
    policy = Policy(
        hostname="bridge.example",
        allow_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        max_message_size=100,
        max_recipients=2,
        session_timeout=60.0,
        auth_without_tls=True,
    )
    return Session(Listener(rules=Rules(policy, **rules), protocol=protocol), client)


def ask(session: Session, *lines: str) -> Any:
    """The step that the last of some commands leads to."""
    return [session.command(line.encode() + b"\r\n") for line in lines][-1]


def read(session: Session, message: bytes) -> Any:
    """The step after DATA and a message."""
    step = ask(session, "DATA")
    assert isinstance(step, Read)
    assert step.reader.feed(message + b".\r\n")
    return session.message_read(step.reader)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["NOOP"], 250),
        (["EHLO"], 501),
        (["MAIL FROM:<a@b.example>"], 503),
        (["EHLO a", "RCPT TO:<c@d.example>"], 503),
        (["EHLO a", "MAIL FROM:<a@b.example>"], 250),
        (["EHLO a", "MAIL FROM:<a@b.example>", "MAIL FROM:<a@b.example>"], 503),
        (["EHLO a", "MAIL FROM:<a@b.example>", "DATA"], 503),
        ([*ENVELOPE, "RCPT TO:<g@h.example>"], 452),
        ([*ENVELOPE, "RSET", "DATA"], 503),
        (["LHLO a"], 500),
        (["EXPN x"], 502),
        (["STARTTLS"], 502),
        (["FOO"], 500),
        (["NOOP " + "x" * 512], 500),
    ],
)
def test_what_commands_are_answered(lines: list[str], code: int) -> None:
    step = ask(make(), *lines)
    assert isinstance(step, Say)
    assert (step.code, step.wire[:4]) == (code, b"%d%c" % (code, step.wire[3]))


@pytest.mark.parametrize(
    ("line", "code"), [("QUIT", 221), ("GET / HTTP/1.1", 554), ("\x16\x03\x01", 554), ("BDAT", 501)]
)
def test_what_a_session_hangs_up_at(line: str, code: int) -> None:
    step = ask(make(), line)
    assert isinstance(step, Close)
    assert step.reply.code == code


def test_a_message_becomes_an_envelope_and_its_bytes() -> None:
    session = make()
    ask(session, *ENVELOPE)
    step = read(session, b"x\r\n..y\r\n")
    assert isinstance(step, Relay)
    assert step.message == b"x\r\n.y\r\n"
    assert step.envelope.forward_paths == ("c@d.example", "e@f.example")
    assert (step.envelope.client, step.envelope.helo) == ("127.0.0.1", "a")
    assert session.answers(Verdict(TAKEN, {})) == b"250 2.0.0 taken\r\n"
    assert session.transaction.mail_from is None


def test_a_message_has_its_queue_id_from_mail_on() -> None:
    session, drawn = make(), []
    for before in ((), ("MAIL FROM:<a@b.example>", "RSET")):
        ask(session, "EHLO a", *before, *ENVELOPE)
        drawn.append(session.transaction.queue_id)
        assert read(session, b"x\r\n").envelope.queue_id == drawn[-1]
        session.answers(Verdict(TAKEN, {}))
        assert not session.transaction.queue_id
    assert len(set(drawn)) == 2


def test_a_verdict_in_lmtp_is_a_reply_for_each_recipient() -> None:
    session = make("lmtp")
    ask(session, "LHLO a", *ENVELOPE[1:])
    assert isinstance(read(session, b"x\r\n"), Relay)
    gone = Reply(550, "5.1.1", "gone")
    wire = session.answers(Verdict(TAKEN, {"e@f.example": gone}))
    assert wire == b"250 2.1.5 taken\r\n550 5.1.1 gone\r\n"


def test_a_message_that_is_too_big_is_refused_and_logged() -> None:
    session = make()
    ask(session, *ENVELOPE)
    step = read(session, b"x" * 101 + b"\r\n")
    assert isinstance(step, Say)
    assert step.code == 552
    assert step.event is not None
    assert (step.event.name, step.event.about_message) == ("session.too_big", True)


def test_a_chunk_says_how_many_octets_belong_to_it() -> None:
    session = make()
    step = ask(session, *ENVELOPE, "BDAT 7")
    assert isinstance(step, Read)
    assert isinstance(step.reader, Chunks)
    assert (step.most, step.invitation) == (7, b"")
    assert step.reader.feed(b"1234567")
    taken = session.message_read(step.reader)
    assert taken == Say(b"250 2.0.0 7 octets taken\r\n", 250)
    last = ask(session, "BDAT 0 LAST")
    last.reader.feed(b"")
    assert session.message_read(last.reader).message == b"1234567"


def test_auth_asks_for_a_password_to_be_checked() -> None:
    session = make(client="192.0.2.1", authenticate=_nobody)
    step = ask(session, "EHLO a", "MAIL FROM:<a@b.example>")
    assert (step.code, step.event.name) == (530, "session.relaying_denied")
    assert ask(session, "AUTH LOGIN") == Say(b"334 VXNlcm5hbWU6\r\n", 334)
    step = ask(session, "YW5uYQ==", "c2VjcmV0")
    assert step == CheckPassword(Credentials("anna", "secret"))
    wrong = session.password_checked(step.credentials, Reply(535, "5.7.8", "wrong"))
    assert (wrong.code, session.user) == (535, "")
    right = session.password_checked(step.credentials, None)
    assert (right.code, session.user) == (235, "anna")
    assert ask(session, "MAIL FROM:<a@b.example>").code == 250


def test_a_user_with_too_many_sessions_is_hung_up_on() -> None:
    sessions = SessionLimits(user=1)
    one, other = (make(authenticate=_nobody, sessions=sessions) for _ in range(2))
    assert isinstance(one.password_checked(Credentials("anna", ""), None), Say)
    step = other.password_checked(Credentials("anna", ""), None)
    assert isinstance(step, Close)
    assert step.event is not None
    assert (step.reply.code, step.event.name) == (421, "session.refused")
    one.log_out()
    assert isinstance(other.password_checked(Credentials("anna", ""), None), Say)


def test_a_mistake_of_ours_ends_the_transaction() -> None:
    session = make()
    ask(session, *ENVELOPE)
    assert session.failed().code == 451
    assert session.transaction.mail_from is None


def test_a_reader_knows_what_it_holds() -> None:
    reader = DataReader(100)
    reader.feed(b"x" * 50)
    assert reader.held == 50
    reader.drop()
    assert (reader.held, reader.received) == (0, 50)
