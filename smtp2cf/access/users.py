"""The users file: `name:hash[:allowed senders[:option=value …]]`, one line per user, re-read when it changes.

The hash is argon2id's (RFC 9106) in its usual form, which has no colon; `smtp2cf user add` writes it. Blank
lines and lines that start with # are comments. Names are compared exactly, in NFC (RFC 8265 §3.4). No error
and no repr contains a hash. Knows no session and no settings.
"""

import asyncio
import base64
import re
import stat
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from argon2 import Parameters, extract_parameters

from smtp2cf.access import limit
from smtp2cf.access.limit import Limit, Named, written
from smtp2cf.access.senders import ANY, PATTERN, Senders
from smtp2cf.envelope import sent_form
from smtp2cf.listen import files
from smtp2cf.listen.file_watch import FileWatch, Stamps
from smtp2cf.reply import UNPRINTABLE

QUOTA_SETTING = "SMTP2CF_USERS_FILE: quota"
"""What an operator looks for to change a user's own quota."""
NAME_LIMIT = 255
"""Characters of a user's name."""
FILE_LIMIT = 16 * 1024 * 1024
"""Bytes of a users file; a larger file is refused."""
LOOK_INTERVAL = 1.0
"""Seconds between two looks at whether the file has changed."""
COST_LIMITS = {"memory_cost": 256 * 1024, "time_cost": 50, "parallelism": 16}
"""The maximum cost of one hash: KiB, passes, threads. Every login would cost that much, even that of a
stranger who knows a name."""

_HASH = re.compile(
    r"\$argon2id\$v=(?:16|19)\$m=[0-9]{1,9},t=[0-9]{1,9},p=[0-9]{1,9}"
    r"\$(?P<salt>(?:[A-Za-z0-9+/]{4}){2,16}(?:[A-Za-z0-9+/]{2,3})?)"
    r"\$(?P<hash>(?:[A-Za-z0-9+/]{4}){5,21}(?:[A-Za-z0-9+/]{2,3})?)"
)

log = structlog.stdlib.get_logger("smtp2cf.access")


class UsersFileError(ValueError):
    """The users file can't be used; the text is for the operator and names the line."""


@dataclass(frozen=True, slots=True)
class User:
    """One line of the file.

    quota: what the user may send, None for what others may. sender_default: replaces the user's senders that
    may not send, "" for nobody. recipients: to whom the user's mail may go.
    """

    name: str
    hash: str = field(repr=False)
    senders: Senders = ANY
    quota: tuple[Limit, ...] | None = None
    sender_default: str = ""
    recipients: Senders = ANY

    @property
    def line(self) -> str:
        """The line, without its end."""
        options = [f"quota={written(self.quota)}"] if self.quota is not None else []
        options += [f"sender_default={self.sender_default}"] if self.sender_default else []
        options += [f"recipients={','.join(self.recipients.written)}"] if self.recipients.written else []
        senders = [",".join(self.senders.written)] if self.senders.written or options else []
        return ":".join([self.name, self.hash, *senders, *options])


class UsersFile:
    """The users of a file, as of at most two LOOK_INTERVALs ago while `watch` runs.

    Raises UsersFileError if the file can't be used at the start. If that happens later, the previous users
    are kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # While it is written in place, it looks as if it had no users, or only some.
        self._file = FileWatch(path, every=LOOK_INTERVAL, steady=True)
        self._users, mode = read_users(path)
        self._order: Sequence[User] = tuple(self._users.values())
        self._warn_of_readers(mode)

    @property
    def users(self) -> Sequence[User]:
        """All users, in the order of the file."""
        return self._order

    def find(self, name: str) -> User | None:
        """The user of this name in NFC; None if there is none."""
        return self._users.get(name)

    def senders_of(self, name: str) -> Senders | None:
        """What a user may send as; None if there is no such user."""
        user = self.find(name)
        return None if user is None else user.senders

    def quota_of(self, name: str) -> tuple[Named, ...] | None:
        """A user's own quota; None if the user has none."""
        user = self.find(name)
        if user is None or user.quota is None:
            return None
        return tuple(Named(limit, QUOTA_SETTING) for limit in user.quota)

    def sender_default_of(self, name: str) -> str:
        """What replaces a user's senders that may not send, "" for nothing of the user's own."""
        user = self.find(name)
        return "" if user is None else user.sender_default

    def recipients_of(self, name: str) -> Senders:
        """To whom a user's mail may go."""
        user = self.find(name)
        return ANY if user is None else user.recipients

    async def watch(self) -> None:
        """Re-read the file when it changes, until cancelled."""
        async for new_for in self._file.looks():
            if new_for is not None:
                self._take(*await asyncio.to_thread(self._read))

    async def reread(self) -> None:
        """Read the file now."""
        self._take(*await asyncio.to_thread(self._read))

    def look(self) -> None:
        """Re-read the file if it has changed. Blocks."""
        if self._file.stamps() != self._file.read:
            self._take(*self._read())

    def _read(self) -> "tuple[Stamps, _Found | UsersFileError]":
        """What the file looks like, and what is in it or wrong with it. Blocks."""
        stamps = self._file.stamps()
        try:
            return stamps, read_users(self._path)
        except UsersFileError as error:
            return stamps, error

    def _take(self, stamps: Stamps, found: "_Found | UsersFileError") -> None:
        # Whatever is in it, nothing more is said until it changes again.
        self._file.read = stamps
        if isinstance(found, UsersFileError):
            log.error("users.not_reread", reason=str(found), note="keeping the previous users")
            return
        self._users, mode = found
        self._order = tuple(self._users.values())
        self._warn_of_readers(mode)
        if self._order:
            log.info("users.reread", file=str(self._path), users=len(self._order))
        else:
            log.warning("users.reread", file=str(self._path), users=0, note="nobody can log in")

    def _warn_of_readers(self, mode: int) -> None:
        if mode & stat.S_IROTH:
            log.warning(
                "users.readable_by_all",
                file=str(self._path),
                note="every user of this host can read the hashes: chmod o-r",
            )


_Found = tuple[Mapping[str, User], int]


def read_users(path: Path) -> _Found:
    """The users of a file by name, and its mode. Raises UsersFileError."""
    try:
        content, found = files.read_with_status(path, FILE_LIMIT)
    except files.FileError as error:
        raise UsersFileError(str(error)) from None
    try:
        users = parse_users(content)
    except ValueError as error:
        raise UsersFileError(f"{path}, {error}") from None
    return users, found.st_mode


def parse_users(content: bytes) -> Mapping[str, User]:
    """The users by name. Raises ValueError that names the line, and never the hash."""
    users: dict[str, User] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            user = parse_line(line)
            if user is not None and user.name in users:
                raise ValueError(f"{user.name!r} is on an earlier line already")  # noqa: TRY301 - gets its number below
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if user is not None:
            users[user.name] = user
    return users


def parse_line(line: bytes) -> User | None:
    """The user of a line without its end, None for a comment. Raises ValueError without the hash in it."""
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if not text or text.startswith("#"):
        return None
    name, *rest = (part.strip() for part in text.split(":"))
    if not rest:
        raise ValueError("no colon: write name:hash or name:hash:allowed senders")
    name = checked_name(name)
    check_hash(rest[0])
    hashed, senders, *options = rest if len(rest) > 1 else (*rest, "")
    patterns = [pattern.strip() for pattern in senders.split(",")] if len(rest) == 2 or senders else []
    return User(name, hashed, Senders.parse(patterns), **_options(options))


def _options(given: Sequence[str]) -> dict[str, Any]:
    """The values of options, by name. Raises ValueError."""
    found: dict[str, Any] = {}
    for option in given:
        name, equals, value = (part.strip() for part in option.partition("="))
        if name not in OPTIONS or not equals:
            raise ValueError(
                f"{option!r} is not an option: there is {', '.join(f'{known}=…' for known in OPTIONS)}"
            )
        try:
            found[name] = OPTIONS[name](value)
        except ValueError as error:
            raise ValueError(f"{name}={value}: {error}") from None
    return found


def _address(text: str) -> str:
    found = PATTERN.fullmatch(text)
    if found is None or found["local"] in (None, "*") or found["subdomains"] or not text.isascii():
        raise ValueError("it must be an address such as printer@example.com")
    return sent_form(text)


def _patterns(text: str) -> Senders:
    return Senders.parse(pattern.strip() for pattern in text.split(","))


OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "quota": limit.parse,
    "sender_default": _address,
    "recipients": _patterns,
}
"""What may follow a user's senders, and how each is read."""


def checked_name(name: str) -> str:
    """The name in NFC; raises ValueError if it is invalid."""
    if not name:
        raise ValueError("the name is missing")
    if ":" in name or UNPRINTABLE.search(name) or name != name.strip() or name.startswith("#"):
        shown = ascii(name if len(name) <= 100 else name[:100] + "...")
        raise ValueError(
            f"{shown} is not a user name: it may not have a colon or a control character, begin with #, or"
            " begin or end with a space"
        )
    if len(name) > NAME_LIMIT:
        raise ValueError(f"the name is longer than {NAME_LIMIT} characters")
    return unicodedata.normalize("NFC", name)


def check_hash(written: str) -> Parameters:
    """The cost of a hash. Raises ValueError if argon2 can't verify it, or it costs too much."""
    found = _HASH.fullmatch(written)
    if found is None or not (_is_base64(found["salt"]) and _is_base64(found["hash"])):
        raise ValueError("no argon2id hash ($argon2id$v=19$…) after the name; `smtp2cf user add` writes one")
    parameters = extract_parameters(written)
    for what, most in COST_LIMITS.items():
        if not 1 <= getattr(parameters, what) <= most:
            raise ValueError(f"the hash's {what} must be from 1 to {most}")
    if parameters.memory_cost < 8 * parameters.parallelism:
        raise ValueError("the hash's memory_cost must be at least 8 times its parallelism")
    return parameters


def _is_base64(text: str) -> bool:
    """Whether it is canonical base64 without padding."""
    octets = base64.b64decode(text + "=" * (-len(text) % 4))
    return base64.b64encode(octets).decode().rstrip("=") == text
