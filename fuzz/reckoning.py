"""What a client makes of a session: its own octets held against the answers, command by command.

Written from the RFCs and not from smtp2cf.smtpd: slow, simple, and a second opinion. Where a message
ended, which answer belongs to which command, and what every answer must look like.
"""

import re
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

LINE_LIMIT = 512
"""Octets of a reply line with its CRLF (RFC 5321 §4.5.3.1.5)."""
_LINE = re.compile(rb"([2345]\d\d)([ -])([^\r\n]*)\r\n")
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3} .")
_WITHOUT_ENHANCED = {b"334", b"353", b"354"}
_HELLO = (b"HELO", b"EHLO", b"LHLO")
_SIMPLE_PATH = re.compile(rb"(?i)(?:MAIL FROM|RCPT TO):<([a-z]+@[a-z]+\.example)>")
_BDAT = re.compile(rb"\d+")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class Answer(NamedTuple):
    """One reply. lines: without code and CRLF."""

    code: int
    lines: list[str]

    @property
    def text(self) -> str:
        return " ".join(self.lines)


class Message(NamedTuple):
    """A message as its client sent it, and its answers: one, or one for each recipient.

    paths: reverse path and forward paths; None for those that are written in unusual ways.
    """

    octets: bytes
    paths: list[str | None]
    answers: list[Answer]


def answers(heard: bytes) -> list[Answer]:
    """The replies, each well-formed (RFC 5321 §4.2, RFC 2034). The last may not be whole: is not counted."""
    found: list[Answer] = []
    lines: list[str] = []
    code = b""
    at = 0
    while match := _LINE.match(heard, at):
        at = match.end()
        assert len(match[0]) <= LINE_LIMIT, "a reply line is too long"
        assert not lines or match[1] == code, "a reply changes its code"
        code = match[1]
        text = match[3].decode()  # UTF-8, or there is a mistake
        assert not _UNPRINTABLE.search(text), text
        lines.append(text)
        if match[2] == b" ":
            found.append(Answer(int(code), lines))
            lines = []
    assert at == len(heard), f"no reply: {heard[at : at + 100]!r}"
    assert not lines, "a reply does not end"
    return found


class Reckoning:
    """Follows a call: `messages` is what its client sent and got an answer to."""

    def __init__(self, said: bytes, heard: bytes, *, lmtp: bool, secured_at: list[tuple[int, int]]) -> None:
        self._said = said
        self._at = 0
        self._answers = deque(answers(heard))
        self._lmtp = lmtp
        self._secured_at = deque(secured_at)
        self._paths: list[str | None] = []
        self._chunks = b""
        self._responds = False
        self.messages: list[Message] = []
        self.unanswered: list[bytes] = []
        """Messages that were whole and have no answer: their session ended first."""
        assert self._answers.popleft().code in (220, 421)
        while self._answers and self._follow(self._answers.popleft()):
            pass
        self.left = list(self._answers)
        """Answers behind the last command: only a goodbye can be among them."""

    def _line(self) -> bytes | None:
        end = self._said.find(b"\n", self._at) + 1
        if not end:
            return None
        line, self._at = self._said[self._at : end], end
        return line

    def _follow(self, answer: Answer) -> bool:
        """One command and its answer; False where the session is over."""
        line = self._line()
        verb = (line or b"").strip().split(b" ")[0].upper()
        if answer.code == 421 or line is None:
            assert answer.code in (221, 421, 554, 501, 500), answer
            return False
        self._look_at(verb, answer)
        responds, self._responds = self._responds, answer.code == 334
        if responds:
            return True  # the line was no command, whatever it looks like
        if verb in (b"MAIL", b"RCPT") and answer.code == 250:
            match = _SIMPLE_PATH.fullmatch(line.strip())
            self._paths.append(match[1].decode() if match else None)
        elif verb in (*_HELLO, b"RSET") and answer.code == 250:
            self._forget()
        elif verb == b"STARTTLS" and answer.code == 220:
            self._forget()
            return self._secure()
        elif verb == b"DATA" and answer.code == 354:
            return self._data()
        elif verb == b"BDAT":
            return self._chunk(line, answer)
        return True

    def _look_at(self, verb: bytes, answer: Answer) -> None:
        if answer.code in (334, 353, 354) or (verb in _HELLO and answer.code == 250):
            return
        for text in answer.lines:
            assert _ENHANCED.match(text), f"no enhanced code: {answer}"
            assert int(text[0]) == answer.code // 100, answer

    def _forget(self) -> None:
        self._paths, self._chunks = [], b""

    def _secure(self) -> bool:
        while self._secured_at:
            begin, end = self._secured_at.popleft()
            if begin >= 0:
                self._at = end  # what came in clear before the handshake is nobody's
                return True
        return False

    def _data(self) -> bool:
        end = (b"\r\n" + self._said[self._at :]).find(b"\r\n.\r\n")
        if end < 0:
            return False
        wire = self._said[self._at : self._at + end]
        self._at += end + 3
        lines = wire.split(b"\r\n")
        self._end_message(b"\r\n".join(line[1:] if line[:1] == b"." else line for line in lines))
        return True

    def _chunk(self, line: bytes, answer: Answer) -> bool:
        size = _BDAT.search(line)
        if size is None or answer.code in (500, 501):
            return False
        chunk = self._said[self._at : self._at + int(size[0])]
        self._at += len(chunk)
        if answer.code == 503:
            return True
        self._chunks += chunk
        if line.upper().split()[-1] == b"LAST":
            self._answers.appendleft(answer)
            self._end_message(self._chunks)
        return True

    def _end_message(self, octets: bytes) -> None:
        found = list(self._message_answers())
        if found:
            self.messages.append(Message(octets, self._paths, found))
        else:
            self.unanswered.append(octets)
        self._forget()

    def _message_answers(self) -> Iterator[Answer]:
        if not self._answers:
            return
        first = self._answers.popleft()
        recipients = len(self._paths) - 1
        if first.code == 353:
            for _ in range(recipients + 1):
                yield self._answers.popleft()
            return
        yield first
        if self._lmtp:
            for _ in range(recipients - 1):
                yield self._answers.popleft()
