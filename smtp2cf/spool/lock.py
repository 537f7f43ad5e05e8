"""The lock beside an SQLite spool: one process sends from it, and a second one is told which.

It is flock(2) on a file that stays: the kernel releases it when its holder ends, however it ends.

Knows nothing of what is in the spool.
"""

import contextlib
import fcntl
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from smtp2cf.spool.permissions import permissions
from smtp2cf.spool.protocol import SpoolError

NOTE = 512
"""Bytes of the note in the lock."""
TRIES = 4
PAUSE = 0.05
"""Seconds between two tries to get the lock."""


class SpoolLock:
    """Held from its creation until `release`.

    Raises SpoolError if another process holds it, with its pid, host and start time.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolError(
                f"cannot open the spool's lock {path}: {error.strerror}{permissions(path)}"
            ) from error
        try:
            self._lock()
        except OSError as error:
            who, _ = _read(self._file)
            os.close(self._file)
            raise SpoolError(
                f"the spool is in use by {who or 'another process'} (lock {path}): only one bridge may"
                " use it; stop that one, or give this one its own SMTP2CF_STATE_DIR"
            ) from error

    def note(self, identity: tuple[int, int]) -> None:
        """Write who has the lock, and which file it serves, into the lock.

        It overwrites the old note and never shrinks the file, so it needs no room on a full disk.
        """
        since = datetime.now(UTC).isoformat(timespec="seconds")
        who = f"pid {os.getpid()} on {socket.gethostname()} since {since}"
        with contextlib.suppress(OSError):
            os.pwrite(self._file, f"{who}\n{identity[0]}:{identity[1]}\n".encode().ljust(NOTE), 0)

    def _lock(self) -> None:
        """Raises OSError if another has it; a command that asks who serves holds it for a moment."""
        for _ in range(TRIES - 1):
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            time.sleep(PAUSE)
        return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Release the lock."""
        os.close(self._file)


class Served(NamedTuple):
    """Who has a lock, in words, and the file it serves, as device and inode."""

    who: str
    file: str


def served_by(path: Path) -> Served | None:
    """Who has the lock at `path`; None if nobody has.

    Raises OSError if that can't be found out.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(file)
    else:
        return None
    finally:
        os.close(file)


def _read(file: int) -> Served:
    who, _, identity = os.pread(file, NOTE, 0).decode(errors="replace").partition("\n")
    return Served(who.strip(), identity.strip())
