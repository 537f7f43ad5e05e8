"""Sessions of every kind, made up by Hypothesis: whatever is sent, each answer is a reply, each message that
is taken is the one that was sent, and nothing is left behind.

The sessions are inputs of fuzz/session.py, which says what must hold: what is found here goes to its corpus.
"""

import base64
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.session import EVENT, EVENTS, FATES, SEPARATOR, session
from fuzz.wire import HANDSHAKE, PASSWORD, PROTOCOLS, USER

MAIL, RCPT, OTHER = (
    b"MAIL FROM:<anna@sender.example>",
    b"RCPT TO:<bert@one.example>",
    b"RCPT TO:<carla@two.example>",
)
PLAIN = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode())
_line_ends = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\r\n", b"\r\n\r\n", b"\x00\r\n", b""])
_words = st.sampled_from(
    [
        *(MAIL, RCPT, OTHER, MAIL + b" PRDR", MAIL + b" BODY=8BITMIME SMTPUTF8", MAIL + b" SIZE=99999999"),
        *(b"RCPT TO:<>", "RCPT TO:<jürgen@bücher.example>".encode(), b"RCPT TO:<x\x1b[31m@y.example>"),
        *(b"EHLO a", b"HELO a", b"LHLO a", b"EHLO \xff\x00\x1b", b"DATA", b"DATA x", b"RSET", b"RSET x"),
        *(b"NOOP", b"QUIT", b"HELP", b"HELP \xe2\x80\xae", b"VRFY x", b"EXPN x", b"STARTTLS", b"XCLIENT a"),
        *(b"BDAT 3", b"BDAT 3 LAST", b"BDAT 0 LAST", b"BDAT", b"BDAT x", b"BDAT -1", b"BDAT 99999999999999"),
        *(b"AUTH PLAIN " + PLAIN, b"AUTH PLAIN", PLAIN, b"AUTH LOGIN", b"AUTH LOGIN YW5uYQ==", b"c2VjcmV0"),
        *(b"AUTH PLAIN AAAA", b"AUTH X", b"*", b"=", b"\xff\xfe", b"GET / HTTP/1.1", b"\x16\x03\x01\x00"),
        *(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2", b"A" * 600, b"RCPT TO:<" + b"b" * 2100, b"C" * 13000, b"."),
    ]
)
_commands = st.builds(bytes.__add__, _words, _line_ends)
_pieces = st.sampled_from(
    [
        *(b"\r\n", b".", b"\r\n.", b"\r\n..", b"\r", b"\n", b"\n.\n", b"\n.\r\n", b"\r\n.\r", b"\r.\r\n"),
        *(b"\x00", b"word", b"\xff", b"x" * 700, MAIL + b"\r\n", b"BDAT 3 LAST\r\n", b"QUIT\r\n"),
    ]
)
_text = (
    st.lists(_pieces, max_size=8).map(b"".join).map(lambda text: text.replace(b"\r\n.\r\n", b"\r\n..\r\n"))
)
_data = _text.map(lambda text: b"DATA\r\n" + text + b"\r\n.\r\n")
_chunk = _text.map(lambda text: b"BDAT %d\r\n" % len(text) + text)
_last = _text.map(lambda text: b"BDAT %d LAST\r\n" % len(text) + text)
_messages = _data | _data | st.builds(bytes.__add__, st.lists(_chunk, max_size=2).map(b"".join), _last)
_transactions = st.tuples(
    st.sampled_from([MAIL, MAIL, MAIL + b" PRDR"]).map(lambda line: line + b"\r\n"),
    st.lists(st.sampled_from([RCPT, OTHER]).map(lambda line: line + b"\r\n"), min_size=1, max_size=6),
    _messages,
).map(lambda of: of[0] + b"".join(of[1]) + of[2])
_secured = st.builds(
    lambda ahead, auth: b"STARTTLS\r\n" + ahead + SEPARATOR + HANDSHAKE + b"EHLO a\r\n" + auth,
    st.sampled_from([b"", b"NOOP\r\n", MAIL + b"\r\n", HANDSHAKE]),
    st.sampled_from([b"", b"AUTH PLAIN " + PLAIN + b"\r\n"]),
)
_events = st.sampled_from([SEPARATOR + EVENT + event + SEPARATOR for event in EVENTS])
_anything = st.one_of(_commands, _commands, _text, _secured, _events)
_steps = st.one_of(_transactions, _transactions, _transactions, _anything)
_hello = st.sampled_from([b"EHLO a\r\nLHLO a\r\n"] * 9 + [b""])  # one of the two is refused, and that is all
_sessions = st.tuples(_hello, st.lists(_steps, min_size=2, max_size=10)).map(
    lambda of: of[0] + b"".join(of[1])
)


def _cut(octets: bytes, seed: int) -> bytes:
    """The same in more packets, cut anywhere."""
    chance = random.Random(seed)
    for at in sorted((chance.randint(0, len(octets)) for _ in range(seed % 7)), reverse=True):
        if octets[at - 1 : at] not in (SEPARATOR, EVENT):
            octets = octets[:at] + SEPARATOR + octets[at:]
    return octets


@settings(max_examples=400)
@given(choice=st.integers(0, len(PROTOCOLS) * len(FATES) - 1), steps=_sessions, seed=st.integers(0, 1 << 16))
def test_whatever_is_sent_the_session_holds(choice: int, steps: bytes, seed: int) -> None:
    session(bytes([choice]) + _cut(steps, seed))


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_noise_of_any_kind_does_not_break_a_session(octets: bytes) -> None:
    session(octets)


@pytest.mark.parametrize("listener", range(len(PROTOCOLS)))
def test_a_session_octet_by_octet(listener: int) -> None:
    hello = b"LHLO a\r\n" if PROTOCOLS[listener] == "lmtp" else b"EHLO a\r\n"
    whole = hello + MAIL + b" PRDR\r\n" + RCPT + b"\r\n" + OTHER + b"\r\nDATA\r\n.\r\n.x\r\n.\r\nNOOP\r\n"
    whole += MAIL + b"\r\n" + RCPT + b"\r\nBDAT 5\r\n\r\n.\r\nBDAT 2 LAST\r\n\r\nQUIT\r\n"
    session(bytes([listener]) + SEPARATOR.join(bytes([octet]) for octet in whole))
