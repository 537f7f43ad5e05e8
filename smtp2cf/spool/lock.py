"""The lock beside an SQLite spool: one process sends from it, and whoever comes second learns who.

It is flock(2) on a file that stays: the kernel lets go of it when its holder ends, however it ends.

Knows nothing of what is in the spool.
"""

import fcntl
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from smtp2cf.spool.protocol import SpoolError


class SpoolLock:
    """Held from the moment it is made until `release`.

    Raises SpoolError, naming the holder by pid, host and since when, where somebody has it.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolError(f"cannot open the spool's lock {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 500, 0).decode(errors="replace").strip()
            os.close(self._file)
            who = holder or "another process"
            raise SpoolError(f"the spool is in use by {who} (lock {path})") from error
        since = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"pid {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)

    def release(self) -> None:
        """Let the next one have it."""
        os.close(self._file)
