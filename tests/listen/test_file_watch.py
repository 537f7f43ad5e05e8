"""File watch: what counts as a change, and when it is told."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from smtp2cf.listen.file_watch import FileWatch

T = TypeVar("T")
CHANGES: dict[str, Callable[[Path], object]] = {
    "written": lambda path: path.write_text("other"),
    "replaced": lambda path: _replace(path),
    "removed": lambda path: path.unlink(),
    "permitted": lambda path: path.chmod(0o640),
    "linked": lambda path: (path.unlink(), path.symlink_to("elsewhere")),
}


def _replace(path: Path) -> None:
    """The same size and time, in another file."""
    found = path.stat()
    new = path.with_name("new")
    new.write_text(path.read_text()[::-1])
    os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))
    new.rename(path)


async def at_once(function: Callable[[], T]) -> T:
    return function()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is there, and one that a link may point to."""
    (tmp_path / "elsewhere").write_text("elsewhere")
    path = tmp_path / "file"
    path.write_text("first")
    path.chmod(0o600)
    return path


async def told(watch: FileWatch, looks: int, change: Callable[[int], Awaitable[None] | None]) -> list[bool]:
    """After each look, whether there was something new. change: called before each."""
    found: list[bool] = []
    change(0)
    async for new_for in watch.looks():
        found.append(new_for is not None)
        if len(found) == looks:
            break
        change(len(found))
    return found


@pytest.mark.parametrize("change", CHANGES)
async def test_every_kind_of_change_is_told_until_the_file_is_read(file: Path, change: str) -> None:
    watch = FileWatch(file, every=0.001)

    def act(look: int) -> None:
        if look == 1:
            CHANGES[change](file)
        if look == 3:
            watch.read = watch.stamps()

    assert await told(watch, 5, act) == [False, True, True, False, False]


async def test_what_is_being_replaced_is_told_once_it_is_steady(file: Path) -> None:
    other = file.with_name("other")
    watch = FileWatch(file, other, every=0.001, steady=True, off_loop=at_once)

    def act(look: int) -> None:
        if look == 1:
            file.write_text("its certificate")
        if look == 2:
            other.write_text("its key")

    assert await told(watch, 5, act) == [False, False, False, True, True]


async def test_a_file_that_is_not_there_is_no_change_until_it_is(tmp_path: Path) -> None:
    path = tmp_path / "later"
    watch = FileWatch(path, every=0.001)
    assert await told(watch, 3, lambda look: path.touch() if look == 2 else None) == [False, False, True]


async def test_it_tells_for_how_long(file: Path) -> None:
    watch = FileWatch(file, every=0.01)
    file.write_text("other")  # noqa: ASYNC240 - a test
    seconds: list[float] = []
    async for new_for in watch.looks():
        assert new_for is not None
        seconds.append(new_for)
        if len(seconds) == 3:
            break
        await asyncio.sleep(0)
    assert seconds[0] == 0.0
    assert seconds == sorted(seconds)
    assert seconds[-1] > 0
