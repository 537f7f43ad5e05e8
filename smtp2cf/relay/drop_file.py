"""A dropped file: a line of JSON, then the message. It is not trusted, and rewritten as recipients are done.

docs/sendmail.md describes the format, sendmail/drop.py writes it. Addresses and parameters are not judged
here: they become the arguments that MAIL and RCPT would have had. Knows no relay.
"""

import errno
import json
import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from smtp2cf.envelope import Outcomes, new_queue_id
from smtp2cf.reply import Reply, one_line

VERSION: Final = 1
SUFFIX: Final = ".drop"
HEAD_LIMIT = 16 << 20
"""Octets of a file's first line: a list of 100,000 recipients is about three million."""
SHOWN_HEADER = 64 << 10
"""Octets read of a message that is too large: its header, for the DSN."""
NAME_LIMIT = 320
"""Characters of a refused address that are reported."""

NO_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV})
"""Errors of opening a link, a socket or a device. Any other error may pass."""

_REFUSAL = re.compile(r"(5[0-9][0-9]) (5\.[0-9]{1,3}\.[0-9]{1,3}) (.*)", re.DOTALL)


class BadDropError(Exception):
    """A file that can never become mail; its text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What a file says.

    mail: the sender, "" for the null one, and MAIL's parameters. recipients: each with RCPT's parameters.
    refused: recipients who were refused already, and whom the sender must still be told of. message: with
    CRLF line ends; only the header if it is larger than allowed. written_at: seconds since the epoch.
    """

    mail: tuple[str, str]
    recipients: tuple[tuple[str, str], ...]
    refused: Outcomes
    message: bytes
    written_at: float
    head: Mapping[str, Any]


def read_drop(path: Path, max_message_size: int) -> Dropped:
    """What a dropped file says.

    Raises BadDropError with the reason, FileNotFoundError if it is gone, another OSError if it can't be read
    now. Its owner could change it until now, so nothing about it is trusted: no link is followed, and its
    length must be what its first line says.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in NO_FILE:
            raise BadDropError(f"cannot be opened: {error.strerror}") from error
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise BadDropError("not a regular file")
        if found.st_nlink != 1:
            raise BadDropError("has another name elsewhere (a hard link)")
        if path.suffix != SUFFIX:
            raise BadDropError(f"its name does not end in {SUFFIX}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return _read(file, found, max_message_size)
    finally:
        os.close(descriptor)


def _read(file: BinaryIO, found: os.stat_result, max_message_size: int) -> Dropped:
    line = file.readline(HEAD_LIMIT)
    if not line.endswith(b"\n"):
        raise BadDropError("its first line has no end")
    head = _head(line)
    size = found.st_size - len(line)
    if head.get("size") != size:
        raise BadDropError(f"is incomplete: {size} octets of {head.get('size')!r:.80}")
    recipients, refused = _recipients(head), _refused(head)
    if not recipients and not head.get("refused"):
        raise BadDropError("no forward_paths")
    if size > max_message_size:
        message = file.read(SHOWN_HEADER).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    else:
        message = file.read(size + 1)
        if len(message) != size:
            raise BadDropError("changed while it was read")
    return Dropped(
        mail=_mail(head, size),
        recipients=recipients,
        refused=refused,
        message=message,
        written_at=min(found.st_mtime, time.time()),
        head=head,
    )


def _head(line: bytes) -> dict[str, Any]:
    try:
        head = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadDropError("its first line is not JSON") from error
    if not isinstance(head, dict):
        raise BadDropError("its first line is not a JSON object")
    if head.get("version") != VERSION:
        raise BadDropError(f"version {head.get('version')!r:.80}; this bridge reads version {VERSION}")
    return head


def _mail(head: Mapping[str, Any], size: int) -> tuple[str, str]:
    sender = head.get("reverse_path")
    if not isinstance(sender, str):
        raise BadDropError(f"reverse_path {sender!r:.80} is not text")
    parameters = [f"SIZE={size}", *(_parameter(head, name) for name in ("body", "ret", "envid"))]
    if head.get("smtputf8") is True:
        parameters.append("SMTPUTF8")
    return sender, " ".join(filter(None, parameters))


def _recipients(head: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    given = head.get("forward_paths")
    if not isinstance(given, list):
        raise BadDropError("no forward_paths")
    notify, orcpt = head.get("notify"), head.get("orcpt")
    paths = [who if isinstance(who, str) else json.dumps(who)[:NAME_LIMIT] for who in given]
    # Usually there are none, or the same for everybody.
    if not orcpt and not isinstance(notify, dict):
        parameter = _parameter(head, "notify")
        return tuple((who, parameter) for who in paths)
    each = notify if isinstance(notify, dict) else dict.fromkeys(paths, notify)
    orcpt = orcpt if isinstance(orcpt, dict) else {}
    values = ({"notify": each.get(who), "orcpt": orcpt.get(who)} for who in paths)
    return tuple(
        (who, " ".join(filter(None, (_parameter(value, name) for name in value))))
        for who, value in zip(paths, values, strict=True)
    )


def _parameter(head: Mapping[str, Any], name: str) -> str:
    """`NAME=value`, "" if there is none. Blanks would part parameters; "=" in their place is invalid."""
    value = head.get(name)
    return "" if value is None else f"{name.upper()}={'='.join(str(value).split()) or '='}"


def _refused(head: Mapping[str, Any]) -> Outcomes:
    """The recipients refused already, except where NOTIFY asks for no DSN about failures."""
    given, notify = head.get("refused"), head.get("notify")
    if not isinstance(given, dict):
        return {}
    refused = {}
    for who, text in given.items():
        asked = notify.get(who) if isinstance(notify, dict) else notify
        if asked is not None and "FAILURE" not in str(asked).upper():
            continue
        found = _REFUSAL.fullmatch(str(text))
        reply = Reply(int(found[1]), found[2], found[3]) if found else Reply(550, "5.0.0", str(text))
        refused[one_line(who, NAME_LIMIT)] = reply._replace(text=one_line(reply.text, 500))
    return refused


def write_drop(path: Path, mail: Dropped, recipients: Sequence[str], refused: Outcomes) -> None:
    """Rewrite a file, at once or not at all, with the recipients who are still open.

    refused: those whom the sender must still be told of.
    """
    head = {
        **mail.head,
        "forward_paths": recipients,
        "refused": {who: str(reply) for who, reply in refused.items()},
    }
    part = path.with_name(f".{new_queue_id()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(head).encode() + b"\n")
            file.write(mail.message)
            file.flush()
            os.utime(descriptor, (mail.written_at, mail.written_at))
            os.fsync(descriptor)
        part.rename(path)
        sync_directory(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync_directory(directory: Path) -> None:
    """Make renames and removals in it durable."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
