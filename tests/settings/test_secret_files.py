"""Secret files: every way to replace one is noticed, and one that can't be used changes nothing."""

# ruff: noqa: ASYNC240 - the files are on a local disk

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path, PosixPath
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from smtp2cf.settings.fields import Settings
from smtp2cf.settings.secret_files import SecretFile

OLD, NEW = "the-first-secret", "the-second-secret"
EVERY = 0.005
PATIENCE = 30.0


def write_in_place(path: Path) -> None:
    path.write_text(f"{NEW}\n")


def rename_over(path: Path) -> None:
    """As editors and configuration tools do; the same size and times as the old one."""
    found, other = path.stat(), path.with_name("other")
    other.write_text(f"{NEW}\n")
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.rename(path)


def point_the_link_elsewhere(path: Path) -> None:
    path.with_name("other").write_text(NEW)
    link = path.with_name("link")
    link.symlink_to("other")
    link.rename(path)


def swap_the_directory(path: Path) -> None:
    """Kubernetes: token → ..data/token, and ..data → a directory that is never written to again."""
    new = path.with_name("..2")
    new.mkdir()
    (new / "token").write_text(NEW)
    link = path.with_name("..data_tmp")
    link.symlink_to("..2")
    link.rename(path.with_name("..data"))


def remove_and_write(path: Path) -> None:
    path.unlink()
    path.write_text(NEW)


def as_kubernetes_mounts_it(path: Path) -> None:
    old = path.with_name("..1")
    old.mkdir()
    (old / "token").write_text(OLD)
    path.with_name("..data").symlink_to("..1")
    path.symlink_to("..data/token")


CHANGES: dict[str, Callable[[Path], None]] = {
    "written in place": write_in_place,
    "renamed over": rename_over,
    "a link": point_the_link_elsewhere,
    "Kubernetes": swap_the_directory,
    "removed and written": remove_and_write,
}
UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_text(" \n"), "is empty"),
    "gone": (lambda path: path.unlink(), "No such file"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "is a directory"),
    "a FIFO": (lambda path: (path.unlink(), os.mkfifo(path)), "is a FIFO"),
    "not UTF-8": (lambda path: path.write_bytes(b"\xff\xfe"), "line 1: not UTF-8"),
    "two words": (lambda path: path.write_text("Bearer x"), "is one word of ASCII letters"),
    "in quotes": (lambda path: path.write_text(f'"{OLD}"'), "is one word of ASCII letters"),
    "too long": (lambda path: path.write_text("x" * 2000), "is one word of ASCII letters"),
    "too large": (lambda path: path.write_text("x" * (1 << 20 | 1)), "is larger than 1 MiB"),
}


class LookedAt(PosixPath):
    """A file's name that counts how often somebody looks what is there."""

    looks = 0

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        self.looks += 1
        return super().stat(follow_symlinks=follow_symlinks)


class Secret:
    """A token file that is watched, and what came of it. lines: its log lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.looked_at = LookedAt(path)
        self.used: asyncio.Queue[str] = asyncio.Queue()
        self.refusal: ValueError | None = None
        settings = Settings(account_id="a1", api_token=SecretStr(OLD))
        self.file = SecretFile(settings, "api_token", self.looked_at, self._use, every=EVERY)
        self.lines: list[Any] = []

    def _use(self, secret: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.used.put_nowait(secret)

    async def next(self) -> str:
        async with asyncio.timeout(PATIENCE):
            return await self.used.get()

    async def line(self, number: int) -> Any:
        async with asyncio.timeout(PATIENCE):
            while len(self.lines) <= number:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(EVERY)
        return self.lines[number]

    async def many_looks(self) -> None:
        """The watch has looked several times since."""
        seen = self.looked_at.looks
        async with asyncio.timeout(PATIENCE):
            while self.looked_at.looks < seen + 5:  # noqa: ASYNC110 - a look has no event
                await asyncio.sleep(EVERY)


@contextlib.asynccontextmanager
async def watched(path: Path) -> AsyncIterator[Secret]:
    secret = Secret(path)
    with structlog.testing.capture_logs() as secret.lines:
        watching = asyncio.create_task(secret.file.watch())
        try:
            yield secret
        finally:
            watching.cancel()
    assert not any(word in str(secret.lines) for word in (OLD, NEW))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{OLD}\n")
    return path


@pytest.mark.parametrize("change", CHANGES)
async def test_whichever_way_it_is_replaced_the_new_one_is_used(tmp_path: Path, change: str) -> None:
    path = tmp_path / "token"
    if change == "Kubernetes":
        as_kubernetes_mounts_it(path)
    else:
        path.write_text(f"{OLD}\n")
    async with watched(path) as secret:
        await secret.many_looks()
        assert secret.used.empty()
        CHANGES[change](path)
        assert await secret.next() == NEW
        assert await secret.line(0) == {"event": "token.reloaded", "log_level": "info", "file": str(path)}
        await secret.many_looks()
        assert secret.used.empty()
        assert len(secret.lines) == 1


@pytest.mark.parametrize("how", UNUSABLE)
async def test_one_that_cannot_be_used_changes_nothing_and_is_told_once(path: Path, how: str) -> None:
    spoil, why = UNUSABLE[how]
    async with watched(path) as secret:
        spoil(path)
        line = await secret.line(0)
        assert (line["event"], line["log_level"]) == ("token.reload_failed", "error")
        assert line["reason"].startswith("SMTP2CF_API_TOKEN_FILE: ")
        assert str(path) in line["reason"]
        assert why in line["reason"]
        if path.is_file():
            spoil(path)  # it changes, but what is wrong with it stays
        await secret.many_looks()
        assert len(secret.lines) == 1
        assert secret.used.empty()
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_text(NEW)
        assert await secret.next() == NEW


async def test_what_changed_between_the_start_and_the_first_look_is_used(path: Path) -> None:
    path.write_text(NEW)
    async with watched(path) as secret:
        assert await secret.next() == NEW


async def test_the_same_secret_in_another_file_is_nothing_new(path: Path) -> None:
    async with watched(path) as secret:
        path.unlink()
        path.write_text(OLD)
        await secret.many_looks()
        assert secret.used.empty()
        assert not secret.lines


async def test_sighup_reads_it_at_once_and_says_again_what_is_wrong(path: Path) -> None:
    secret = Secret(path)
    with structlog.testing.capture_logs() as lines:
        path.write_text("")
        await secret.file.reread()
        await secret.file.reread()
        path.write_text(NEW)
        await secret.file.reread()
    assert [line["event"] for line in lines] == ["token.reload_failed"] * 2 + ["token.reloaded"]
    assert await secret.next() == NEW


async def test_one_that_needs_a_restart_is_told_once(path: Path) -> None:
    async with watched(path) as secret:
        secret.refusal = ValueError("restart the bridge")
        path.write_text(NEW)
        assert (await secret.line(0))["reason"].endswith("can't be used: restart the bridge")
        await secret.many_looks()
        assert len(secret.lines) == 1
