"""AUTH: the server's side of PLAIN (RFC 4616) and LOGIN (RFC 4954). No I/O.

LOGIN was never a standard: its challenges are exactly `Username:` and `Password:`, which some clients
compare literally (Xerox printers hang up on aiosmtpd's `User Name` with a NUL after it). Knows no users:
the result is credentials, which somebody else has to check.
"""

import base64
import binascii
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from smtp2cf.reply import RefusedError, Reply
from smtp2cf.smtpd import replies

AUTH_USAGE = "AUTH PLAIN|LOGIN [initial-response]"

UNKNOWN_MECHANISM = Reply(504, "5.5.4", "unknown mechanism: use PLAIN or LOGIN")
CANCELLED = Reply(501, "5.7.0", "authentication cancelled")
NOT_BASE64 = Reply(501, "5.5.2", "the response is not base64")
NOT_TEXT = Reply(501, "5.5.2", "user name and password must be UTF-8")
NOT_PLAIN = Reply(501, "5.5.2", "PLAIN takes NUL, the user name, NUL and the password, in base64")
OTHER_IDENTITY = Reply(535, "5.7.8", "acting as another user is not supported: leave the first part empty")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a client says it is. The password is in no repr."""

    name: str
    password: str = field(repr=False)


Mechanism = Generator[bytes, bytes, Credentials]
"""Yields challenges and is sent responses, both without base64."""
Progress = bytes | Credentials | Reply
"""What an exchange has come to: a challenge as it goes on the wire, credentials, or a refusal."""


class Exchange:
    """One AUTH under way: takes what the client says until there are credentials or a refusal."""

    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism

    def begin(self) -> Progress:
        """The first challenge, or what an initial response comes to at once."""
        return self._go(lambda: next(self._mechanism))

    def answer(self, line: bytes) -> Progress:
        """Take a response, as it came without its CRLF."""
        if line == b"*":
            return CANCELLED
        response = _decoded(line)
        return NOT_BASE64 if response is None else self._go(lambda: self._mechanism.send(response))

    def _go(self, step: Callable[[], bytes]) -> Progress:
        try:
            return b"334 " + base64.b64encode(step()) + b"\r\n"
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except RefusedError as refused:
            return refused.reply
        except UnicodeDecodeError:
            return NOT_TEXT


def parse_auth(argument: str) -> Exchange | Reply:
    """Read AUTH's argument: the mechanism in any letter case, and an initial response where there is one."""
    words = argument.split()
    if not 1 <= len(words) <= 2:
        return replies.syntax(AUTH_USAGE)
    mechanism = MECHANISMS.get(words[0].upper())
    if mechanism is None:
        return UNKNOWN_MECHANISM
    if len(words) == 1:
        return Exchange(mechanism(None))
    # "=" stands for an empty response (RFC 4954 §4).
    initial = b"" if words[1] == "=" else _decoded(words[1].encode("utf-8", "surrogateescape"))
    return NOT_BASE64 if initial is None else Exchange(mechanism(initial))


def _plain(initial: bytes | None) -> Mechanism:
    response = initial if initial is not None else (yield b"")
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise RefusedError(NOT_PLAIN)
    identity, name, password = (part.decode() for part in parts)
    if identity not in ("", name):
        raise RefusedError(OTHER_IDENTITY)
    return Credentials(name, password)


def _login(initial: bytes | None) -> Mechanism:
    name = (initial if initial is not None else (yield b"Username:")).decode()
    return Credentials(name, (yield b"Password:").decode())


MECHANISMS: dict[str, Callable[[bytes | None], Mechanism]] = {"PLAIN": _plain, "LOGIN": _login}


def _decoded(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
