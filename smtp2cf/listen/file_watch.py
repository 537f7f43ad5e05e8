"""File watch: notices when files change, by looking at them again and again.

For what is re-read while the bridge runs: the certificate, the users file, files with secrets. A file system
may be slow, so that the looking is done in a thread. Knows nothing of what is in the files.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")

Stamps = tuple[tuple[int, ...], ...]
"""What files look like: it changes when one of them does, or when a link points to another. () for none."""


class OffLoop(Protocol):
    """Calls a function where it may block, as asyncio.to_thread does."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """What it returns."""
        ...


class Rereadable(Protocol):
    """What was read from files, and is read again."""

    def watch(self) -> Coroutine[None, None, None]:
        """Re-read the files whenever they change, until cancelled."""
        ...

    def reread(self) -> Coroutine[None, None, object]:
        """Re-read the files now."""
        ...


class FileWatch:
    """Watches some files, which need not exist.

    every: seconds between two looks. steady: a change counts only once the files look the same at two looks,
    since several of them are replaced one after the other. off_loop: calls what looks at the files.
    """

    def __init__(
        self, *paths: Path, every: float, steady: bool = False, off_loop: OffLoop = asyncio.to_thread
    ) -> None:
        self.paths = paths
        """May be replaced; a difference counts as a change."""
        self._every = every
        self._steady = steady
        self._off_loop = off_loop
        self.read = self.stamps()
        """What the files looked like when they were last read: set by whoever reads them, before reading."""

    def stamps(self) -> Stamps:
        """What the files look like now. Blocks."""
        return tuple(_stamp(path) for path in self.paths)

    async def looks(self) -> AsyncIterator[float | None]:
        """After each look: None if there is nothing new to read, or for how many seconds there has been."""
        loop = asyncio.get_running_loop()
        seen, since = self.read, loop.time()
        while True:
            await asyncio.sleep(self._every)
            now = loop.time()
            stamps = await self._off_loop(self.stamps)
            is_steady = stamps == seen
            if not is_steady:
                seen, since = stamps, now
            is_new = stamps != self.read and (is_steady or not self._steady)
            yield now - since if is_new else None


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (
        found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode
    )  # fmt: skip
