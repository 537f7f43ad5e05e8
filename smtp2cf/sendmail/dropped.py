"""Reading the drop directory: for mailq, and for -q without a bridge."""

from __future__ import annotations

import os
import stat

from .drop import drop_head, write_drop
from .envelope import Envelope
from .exit_codes import why
from .header import MAX_HEADER
from .message import BLOCK, Message
from .output import complain
from .reply import Reply
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Dropped:
    """A dropped message that this user may read, through one descriptor that is opened and checked once.

    The file's owner may replace it, or put a link in its place, at any moment. Raises OSError,
    ValueError, KeyError, TypeError or AttributeError if the file is not a dropped message.
    """

    def __init__(self, directory: str, name: str) -> None:
        import json

        self.directory = directory
        self.path = os.path.join(directory, name)
        self.name = name[: -len(".drop")]
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        self._file = open(descriptor, "rb")  # noqa: SIM115 - close() ends it
        self.found = os.fstat(descriptor)
        try:
            line = self._file.readline(MAX_HEADER) if stat.S_ISREG(self.found.st_mode) else b""
            self._read_head(json.loads(line))
        except BaseException:
            self._file.close()
            raise
        self._now = (self.envelope.forward_paths, self.refused)
        self._offset = len(line)
        self.whole = self.found.st_nlink == 1 and self.size == self.found.st_size - len(line)

    def _read_head(self, head: dict[str, Any]) -> None:
        self.size = int(head["size"])
        self.envelope = Envelope(str(head["reverse_path"]), [str(path) for path in head["forward_paths"]])
        self.envelope.eight_bit, self.envelope.smtputf8 = head["body"] == "8BITMIME", bool(head["smtputf8"])
        self.envelope.ret, self.envelope.envid = str(head["ret"] or ""), str(head["envid"] or "")
        notify = head["notify"] or ""
        self.envelope.notify_of = (
            {str(k): str(v) for k, v in notify.items() if v} if isinstance(notify, dict) else {}
        )
        self.envelope.notify = "" if isinstance(notify, dict) else str(notify)
        self.envelope.orcpt_of = {str(k): str(v) for k, v in dict(head.get("orcpt") or {}).items()}
        refused = dict(head.get("refused") or {}).items()
        self.refused = {str(who): Reply(int(text[:3]), [text[4:]]) for who, text in refused}

    def message(self) -> Message:
        message = Message()
        self._file.seek(self._offset)
        left = self.size
        while left:
            block = self._file.read(min(BLOCK, left))
            if not block:
                raise OSError(f"{self.path} was truncated")
            message.write(block)
            left -= len(block)
        return message

    def claim(self) -> bool:
        """Lock it against other runs of sendmail -q. False if another one has it, or it is gone."""
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            now = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (self.found.st_dev, self.found.st_ino)

    def keep(self, left: list[str], refused: dict[str, Reply], message: Message) -> None:
        """Rewrite it for those left and those the sender must be told of; remove it if there are none."""
        if (left, refused) == self._now:
            return
        self._now = (left, refused)
        if left or refused:
            head = drop_head(self.envelope, left, message.size, refused)
            write_drop(self.directory, self.name, head, message, self.found)
        else:
            os.unlink(self.path)

    def set_aside(self, refused: dict[str, Reply], message: Message) -> None:
        """Move refused recipients, with no sender to tell, to where the bridge keeps its own."""
        aside = os.path.join(os.path.dirname(os.path.abspath(self.directory)), "refused")
        if not os.path.isdir(aside):
            os.mkdir(aside, 0o700)
        first = next(iter(refused.values()))
        name = f"{self.name}.{first.code}-{first.status or '5.0.0'}"
        write_drop(
            aside, name, drop_head(self.envelope, list(refused), message.size, {}), message, self.found
        )
        complain(f"{first}; kept as {os.path.join(aside, name)}.drop")

    def close(self) -> None:
        self._file.close()


def dropped(settings: Settings) -> Iterator[Dropped]:
    """The dropped messages, oldest first; none if this user may not list the directory."""
    directory = settings.drop_directory
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return  # no such directory, or not for this user
    for name in names:
        if name.startswith(".") or not name.endswith(".drop"):
            continue
        try:
            one = Dropped(directory, name)
        except FileNotFoundError:
            continue  # the bridge has just taken it
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            complain(f"{name}: not a dropped message: {why(error)}")
            continue
        if not one.whole:
            one.close()
            complain(f"{name}: not a dropped message: incomplete, or a hard link")
            continue
        try:
            yield one
        finally:
            one.close()
