"""What a session refuses before a message is relayed is counted by a few fixed reasons. No sockets."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.envelope import Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd import SessionLimits, replies
from smtp2cf.smtpd.refusals import REASONS, REFUSALS, reason_of
from smtp2cf.smtpd.sasl import Credentials
from smtp2cf.smtpd.steps import Read
from tests.smtpd.test_session import ENVELOPE, ask, make, read

HELLO = "EHLO a"
MAIL = "MAIL FROM:<a@b.example>"
QUOTA = Reply(450, "4.7.1", "3 of 3 messages (SMTP2CF_CLIENT_QUOTA=3/1m): try again after 50 s")
DENIED = Reply(550, "5.7.1", "mail to <x@y.example> is not allowed")
SPOOL_FULL = Reply(452, "4.3.1", "the spool takes no more mail: only 1 MiB are free")
SPOOL_AWAY = Reply(451, "4.3.0", "the spool can't be reached")


class Quotas:
    def message(self, *_: str) -> Reply | None:
        return None

    def recipient(self, *_: str) -> Reply | None:
        return QUOTA


def refuse_all(*_: str) -> Reply | None:
    return DENIED


async def nobody(*_: str) -> Reply | None:
    return Reply(535, "5.7.8", "wrong")


CASES: list[tuple[str, dict[str, Any], list[str], str]] = [
    ("a stranger", {"client": "192.0.2.1"}, [HELLO, MAIL], "relaying"),
    ("login first", {"client": "192.0.2.1", "authenticate": nobody}, [HELLO, MAIL], "relaying"),
    ("another's address", {"sender_refusal": refuse_all}, [HELLO, MAIL], "sender"),
    ("above a quota", {"quotas": Quotas()}, [HELLO, MAIL, "RCPT TO:<c@d.example>"], "quota"),
    ("a full spool", {"closed": lambda: SPOOL_FULL}, [HELLO, MAIL], "spool"),
    ("a spool that is away", {"closed": lambda: SPOOL_AWAY}, [HELLO, MAIL], "spool"),
    ("too big, as announced", {}, [HELLO, f"{MAIL} SIZE=1000"], "too_big"),
    ("one recipient too many", {}, [*ENVELOPE, "RCPT TO:<g@h.example>"], "too_many_recipients"),
    ("no address", {}, [HELLO, "MAIL FROM:<a b@c>"], "address"),
    ("no recipient", {}, [HELLO, MAIL, "RCPT TO:<>"], "address"),
    ("not yet", {}, [HELLO, "RCPT TO:<c@d.example>"], "command"),
    ("no command", {}, ["HELLO WORLD"], "command"),
    ("HTTP", {}, ["GET / HTTP/1.1"], ""),
]


def counted(before: dict[str, int]) -> dict[str, int]:
    return {reason: REFUSALS.counted[reason] - count for reason, count in before.items()}


def only(reason: str) -> dict[str, int]:
    return {each: int(each == reason) for each in REASONS}


@pytest.mark.parametrize(("name", "rules", "lines", "reason"), CASES, ids=[case[0] for case in CASES])
def test_each_refusal_is_counted_by_its_reason(
    name: str, rules: dict[str, Any], lines: list[str], reason: str
) -> None:
    """Those that end the session are counted by the connection, which hangs up."""
    before = dict(REFUSALS.counted)
    ask(make(**rules), *lines)
    assert counted(before) == only(reason)


def test_what_is_not_refused_and_what_the_relay_says_is_not_counted() -> None:
    before = dict(REFUSALS.counted)
    session = make()
    ask(session, *ENVELOPE)
    read(session, b"hello\r\n")
    session.answers(Verdict(Reply(554, "5.4.6", "a loop"), {}))
    ask(session, "NOOP", "RSET", "VRFY <a@b.example>", "QUIT")
    session.password_checked(Credentials("u", "p"), None)
    assert counted(before) == only("")


def test_a_message_that_is_too_big_or_has_no_room_is_counted() -> None:
    for content, drop, reason in ((b"x" * 200 + b"\r\n", False, "too_big"), (b"x\r\n", True, "memory")):
        before, session = dict(REFUSALS.counted), make()
        step = ask(session, *ENVELOPE, "DATA")
        assert isinstance(step, Read)
        if drop:
            step.reader.drop()
        assert step.reader.feed(content + b".\r\n")
        session.message_read(step.reader)
        assert counted(before) == only(reason)


def test_a_wrong_password_is_a_login_and_one_session_too_many_is_not() -> None:
    before, session = dict(REFUSALS.counted), make(authenticate=nobody, sessions=SessionLimits(user=1))
    ask(session, HELLO, "AUTH PLAIN AHUAcA==")
    session.password_checked(Credentials("u", "p"), Reply(535, "5.7.8", "wrong"))
    assert counted(before) == only("")


@pytest.mark.parametrize(
    ("reply", "event", "reason"),
    [
        (replies.TOO_MANY_SESSIONS, "", "sessions"),
        (replies.NO_FILES, "", "sessions"),
        (Reply(421, "4.7.1", "192.0.2.1 has 5 sessions already"), "", "sessions"),
        (replies.HTTP_CLIENT, "session.not_smtp", "not_smtp"),
        (replies.TLS_REQUIRED, "session.relaying_denied", "relaying"),
        (replies.INTERNAL_ERROR, "", "bridge"),
    ],
)
def test_so_are_sessions_that_are_turned_away(reply: Reply, event: str, reason: str) -> None:
    assert reason_of("", reply, event) == reason


def test_an_error_of_ours_is_not_the_spools() -> None:
    assert reason_of("MAIL", replies.INTERNAL_ERROR) == "bridge"
    assert reason_of("RCPT", DENIED) == "recipient"
    assert reason_of("MAIL", replies.TLS_REQUIRED) == "relaying"


@given(
    verb=st.sampled_from(["", "MAIL", "RCPT", "DATA", "BDAT", "NONSENSE"]),
    code=st.integers(400, 599),
    status=st.from_regex(r"[45]\.[0-7]\.\d{1,2}", fullmatch=True),
    event=st.sampled_from(["", "session.refused", "session.sender_refused", "session.something_new"]),
    text=st.text(),
)
def test_whatever_is_refused_has_one_of_the_reasons(
    verb: str, code: int, status: str, event: str, text: str
) -> None:
    reason = reason_of(verb, Reply(code, status, text), event)
    assert reason in REASONS
    assert reason == reason_of(verb, Reply(code, status, "other words"), event)
