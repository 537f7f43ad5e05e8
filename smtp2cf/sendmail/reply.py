"""SMTP replies, and the exit codes they lead to."""

from __future__ import annotations

from .exit_codes import BAD_MESSAGE, NO_PERMISSION, NO_USER, OK, TEMPFAIL, UNAVAILABLE


class Reply:
    """An SMTP reply: its code, and the text of each line after the code."""

    __slots__ = ("code", "lines")

    def __init__(self, code: int, lines: list[str]) -> None:
        self.code = code
        self.lines = lines

    @property
    def status(self) -> str:
        """The enhanced status code (RFC 2034), "" if there is none."""
        first = self.lines[0].partition(" ")[0]
        return first if first[:2] == f"{self.code // 100}." and first.count(".") == 2 else ""

    def parted(self) -> tuple[int, str, str]:
        """Code, enhanced status code (x.0.0 if the reply has none), and text."""
        text = str(self)[4:]
        return self.code, self.status or f"{self.code // 100}.0.0", text[len(self.status) :].strip()

    def __str__(self) -> str:
        status = self.status
        rest = [line[len(status) :].strip() if line.startswith(status) else line for line in self.lines[1:]]
        return " ".join([str(self.code), self.lines[0], *rest])


class Outcome:
    """The reply for one recipient. stage: the command it answers, or "connect"."""

    __slots__ = ("recipient", "reply", "stage")

    def __init__(self, recipient: str, stage: str, reply: Reply) -> None:
        self.recipient = recipient
        self.stage = stage
        self.reply = reply

    @property
    def exit_code(self) -> int:
        return exit_code(self.stage, self.reply)


NOT_ALLOWED = (530, 534, 535, 538)
"""Replies that ask for a login, or refuse one (RFC 4954 §6)."""

EXIT_CODES = (
    # command, start of the enhanced status code, word in the text, exit code: the first row that matches
    ("connect", "", "", UNAVAILABLE),
    ("DATA", "5.7.1", "suppress", NO_USER),
    ("", "5.1.7", "", BAD_MESSAGE),  # the sender, not a recipient
    ("", "5.1.8", "", BAD_MESSAGE),
    ("", "5.7.", "", NO_PERMISSION),
    ("AUTH", "", "", NO_PERMISSION),
    ("RCPT", "", "", NO_USER),
    ("DATA", "5.1.", "", NO_USER),
    ("DATA", "5.2.", "", NO_USER),
    ("", "", "", BAD_MESSAGE),
)


def exit_code(stage: str, reply: Reply) -> int:
    if reply.code < 400:
        return OK
    if reply.code < 500:
        return TEMPFAIL
    if reply.code in NOT_ALLOWED:
        return NO_PERMISSION
    text = str(reply).lower()
    return next(
        code
        for command, status, word, code in EXIT_CODES
        if command in ("", stage) and reply.status.startswith(status) and word in text
    )


NO_ADDRESS = Reply(553, ["5.1.3 not an address"])
NOT_ASCII = Reply(553, ["5.6.7 Cloudflare takes only ASCII characters before the @"])


def refusal_of(source: str) -> Reply:
    """Why what somebody wrote as an address can't be used."""
    local, at, _ = source.rpartition("@")
    return NOT_ASCII if at and not local.rpartition("<")[2].isascii() else NO_ADDRESS
