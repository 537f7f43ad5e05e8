"""Writing to the drop directory, where mail waits while the bridge is away.

docs/sendmail.md describes the format; smtp2cf/relay/drop_file.py reads it.
"""

from __future__ import annotations

import os
import time

from .envelope import Envelope
from .exit_codes import Away, why
from .message import Message
from .reply import Reply
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DROP_VERSION = 1


def drop(
    settings: Settings,
    envelope: Envelope,
    recipients: list[str],
    message: Message,
    refused: dict[str, Reply],
) -> str:
    """Write the message to the drop directory. Returns its path; raises Away if that fails.

    refused: recipients who get no mail, and whom the bridge reports to the sender. The file is written under
    a name that the bridge ignores, fsynced and renamed, so that the bridge sees it whole or not at all.
    """
    directory = settings.drop_directory
    name = drop_name()
    try:
        write_drop(directory, name, drop_head(envelope, recipients, message.size, refused), message)
    except OSError as error:
        raise Away(f"{directory}: {why(error)}") from error
    return os.path.join(directory, f"{name}.drop")


def drop_head(envelope: Envelope, recipients: list[str], size: int, refused: dict[str, Reply]) -> bytes:
    """The first line of a dropped file."""
    import json

    notify: Any = envelope.notify or None
    if envelope.notify_of:
        notify = {
            recipient: envelope.notify_of.get(recipient, envelope.notify or None) for recipient in recipients
        }
    head = {
        "version": DROP_VERSION,
        "size": size,
        "reverse_path": envelope.reverse_path,
        "forward_paths": recipients,
        "body": "8BITMIME" if envelope.eight_bit else "7BIT",
        "smtputf8": envelope.smtputf8,
        "ret": envelope.ret or None,
        "envid": envelope.envid or None,
        "notify": notify,
    }
    if envelope.orcpt_of:
        head["orcpt"] = envelope.orcpt_of
    if refused:
        head["refused"] = {
            recipient: "{} {} {}".format(*reply.parted()) for recipient, reply in refused.items()
        }
    return json.dumps(head).encode() + b"\n"


def write_drop(
    directory: str, name: str, head: bytes, message: Message, like: os.stat_result | None = None
) -> None:
    """Write a file whole or not at all. like: the file it replaces, whose age and owner it keeps."""
    part, whole = os.path.join(directory, f".{drop_name()}.part"), os.path.join(directory, f"{name}.drop")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
    try:
        if like is not None and os.geteuid() == 0:
            os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, 0o640)  # despite the umask: the bridge reads it through its group
        with open(descriptor, "wb", closefd=False) as file:
            file.write(head)
            file.writelines(message.blocks())
        if like is not None:
            os.utime(descriptor, ns=(like.st_mtime_ns, like.st_mtime_ns))
        os.fsync(descriptor)
        os.rename(part, whole)
        _sync_rename(directory, descriptor)
    except BaseException:
        try:
            os.unlink(part)
        except FileNotFoundError:
            pass  # already renamed
        raise
    finally:
        os.close(descriptor)


def _sync_rename(directory: str, descriptor: int) -> None:
    """Make the rename durable: fsync the directory if we may open it, else the file.

    On journaling file systems the latter commits the rename too.
    """
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        os.fsync(descriptor)
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def drop_name() -> str:
    """16 letters and digits that sort by time and can't be guessed."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    number = int(time.time() * 1_000_000) * 36**6 + int.from_bytes(os.urandom(8), "big") % 36**6
    letters = ""
    for _ in range(16):
        number, digit = divmod(number, 36)
        letters = digits[digit] + letters
    return letters
