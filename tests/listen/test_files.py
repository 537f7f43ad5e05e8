"""Files that an operator names: what is no regular file is refused at once, and nothing is waited for."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from smtp2cf.listen.files import FileError, read, read_text


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbfanna\n")
    assert read(path) == b"\xef\xbb\xbfanna\n"
    assert read_text(path) == "anna\n"
    (tmp_path / "link").symlink_to(path)
    assert read_text(tmp_path / "link") == "anna\n"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, ": No such file or directory"),
        (Path.mkdir, " is a directory, not a regular file"),
        (os.mkfifo, " is a FIFO, not a regular file"),
        (_socket, ": No such device or address"),
        (lambda path: path.symlink_to("/dev/zero"), " is a device, not a regular file"),
        (lambda path: path.symlink_to(path), ": Too many levels of symbolic links"),
        (lambda path: path.write_bytes(b"x" * (1 << 20) + b"x"), " is larger than 1 MiB"),
    ],
    ids=["nothing", "directory", "FIFO", "socket", "device", "a link to itself", "large"],
)
def test_what_is_none_is_named(tmp_path: Path, make: Callable[[Path], object], why: str) -> None:
    path = tmp_path / "file"
    make(path)
    with pytest.raises(FileError) as error:
        read(path)
    assert str(error.value) == f"{path}{why}"


def test_text_that_is_not_utf8_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(FileError, match=f"^{path}, line 2: not UTF-8$"):
        read_text(path)


def test_a_path_that_can_be_none(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"embedded null (byte|character)"):
        read(tmp_path / "a\0b")
