"""A disk of a test's own that can be filled: a tmpfs, which root alone may mount."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

STEPS = (2**20, 2**12, 1)


class SmallDisk:
    """A file system that holds little."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filling = path / "filling"

    @property
    def free(self) -> int:
        """Octets that may still be written."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take all that is free, but for `leave` octets."""
        with self._filling.open("ab", buffering=0) as file:
            for step in STEPS:
                with contextlib.suppress(OSError):  # it is full
                    while self.free >= leave + step or not leave:
                        file.write(bytes(step))

    def make_room(self) -> None:
        """Give back what `fill` took."""
        self._filling.unlink()


@contextlib.contextmanager
def small_disk(path: Path, mebibytes: int) -> Iterator[SmallDisk]:
    """Mount one at `path`, which is made; skips the test where that can't be done."""
    if shutil.which("mount") is None:
        pytest.skip("not installed: mount")
    if os.geteuid() != 0:
        pytest.skip("not root: cannot mount a disk that can be filled")
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a disk that can be filled: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=PATIENCE)
