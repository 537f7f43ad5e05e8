"""Changing the users file: one line changes, nothing else does, and nobody sees half of it."""

import os
import stat
import threading
from pathlib import Path

import pytest

from smtp2cf.access import edit
from smtp2cf.access.edit import NoSuchUserError, UserExistsError, delete_user, put_user
from smtp2cf.access.limit import Limit
from smtp2cf.access.logins import verify
from smtp2cf.access.users import UsersFileError, read_users
from tests.access.hashes import CHEAP, line

HASH = CHEAP.hash("new")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the users file is to be."""
    return tmp_path / "users"


def test_a_file_that_is_not_there_is_made_for_its_owner_alone(path: Path) -> None:
    assert put_user(path, "anna", HASH, ["example.com", "a@b"], replace=False) is False
    assert path.read_text() == f"anna:{HASH}:example.com,a@b\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["users"]


def test_comments_order_and_line_ends_stay(path: Path) -> None:
    head, tail = "\ufeff# the users\r\n\n" + line("anna", "a"), line("carl", "c") + "  # the end, \x0b\u2028"
    old = line("bert", "old", "bert@example.com").replace("\n", "\r\n")
    path.write_bytes((head + old + tail).encode())
    assert put_user(path, "bert", HASH, None, replace=True) is True
    assert path.read_bytes() == (head + f"bert:{HASH}:bert@example.com\r\n" + tail).encode()
    put_user(path, "bert", HASH, ["example.org"], replace=True)
    assert path.read_bytes() == (head + f"bert:{HASH}:example.org\r\n" + tail).encode()
    delete_user(path, "bert")
    assert path.read_bytes() == (head + tail).encode()
    put_user(path, "dora", HASH, [], replace=False)
    assert path.read_bytes() == (head + tail + f"\ndora:{HASH}\n").encode()


def test_a_quota_stays_unless_another_is_given(path: Path) -> None:
    put_user(path, "anna", HASH, None, (Limit(5, "messages", 3600),), replace=False)
    assert path.read_text() == f"anna:{HASH}::quota=5 messages/1h\n"
    put_user(path, "anna", HASH, ["example.com"], replace=True)
    assert path.read_text() == f"anna:{HASH}:example.com:quota=5 messages/1h\n"
    put_user(path, "anna", HASH, None, (), replace=True)
    assert path.read_text() == f"anna:{HASH}:example.com:quota=none\n"


def test_a_user_behind_a_byte_order_mark_can_be_deleted(path: Path) -> None:
    path.write_bytes(("\ufeff" + line("anna", "a") + line("bert", "b")).encode())
    delete_user(path, "anna")
    assert list(read_users(path)[0]) == ["bert"]


def test_a_user_who_is_there_is_not_changed_by_mistake(path: Path) -> None:
    path.write_text(line("anna", "old"))
    before = path.read_bytes()
    with pytest.raises(UserExistsError):
        put_user(path, "anna", HASH, None, replace=False)
    with pytest.raises(NoSuchUserError):
        delete_user(path, "bert")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["users"]


def test_mode_and_owner_stay(path: Path) -> None:
    path.write_text(line("anna", "a"))
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 4711, 4712)
    before = path.stat()
    put_user(path, "bert", HASH, None, replace=False)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino, "put in its place, whole"


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "real"
    real.write_text(line("anna", "a"))
    path.symlink_to(real)
    delete_user(path, "anna")
    assert path.is_symlink()
    assert real.read_bytes() == b""


def test_a_broken_file_is_not_touched_and_its_line_is_named(path: Path) -> None:
    path.write_text(line("anna", "a") + "bert:secret\n")
    before = path.read_bytes()
    with pytest.raises(UsersFileError, match=f"^{path}, line 2: no argon2id hash"):
        delete_user(path, "anna")
    assert path.read_bytes() == before


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no" / "users"
    expected = f"^{path} can't be changed: No such file or directory: make {path.parent} first$"
    with pytest.raises(UsersFileError, match=expected):
        put_user(path, "anna", HASH, None, replace=False)


def test_a_change_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(line("anna", "a"))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(edit.os, "fsync", full)
    with pytest.raises(UsersFileError, match="No space left on device"):
        put_user(path, "bert", HASH, None, replace=False)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["users"]


def test_changes_at_once_all_take_place(path: Path) -> None:
    names = [f"user{number}" for number in range(20)]
    threads = [
        threading.Thread(target=put_user, args=(path, name, HASH, None), kwargs={"replace": False})
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    users, _ = read_users(path)
    assert sorted(users) == sorted(names)
    assert verify(users["user7"].hash, b"new")
