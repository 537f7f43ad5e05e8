"""The bytes: line ends, the lone dot, what a header is, and how much memory it all takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.sendmail.header import Input, read_header
from smtp2cf.sendmail.message import BLOCK, IN_MEMORY, Message, dot_stuffed, unix_lines, until_lone_dot
from tests.sendmail.conftest import Sendmail
from tests.sendmail.scripted import scripted
from tests.support.bridge import Bridge
from tests.support.reach import kept_by

FIXED = b"From: a@x.example\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nMessage-ID: <1@x>\n"


def blocks(text: bytes, size: int) -> list[bytes]:
    return [text[place : place + size] for place in range(0, len(text), size)]


INPUTS = [
    ("LF", b"\nhi\n", b"\r\nhi\r\n"),
    ("CRLF", b"\r\nhi\r\n", b"\r\nhi\r\n"),
    ("a CR too many, as old PHP sent it", b"\r\nhi\r\r\nho\r\r\n", b"\r\nhi\r\nho\r\n"),
    ("mixed", b"\r\nhi\nho\r\n", b"\r\nhi\r\nho\r\n"),
    ("no end of the last line", b"\nhi", b"\r\nhi\r\n"),
    ("bare CR in the body", b"\n10%\r20%\rdone\n", b"\r\n10%\r\n20%\r\ndone\r\n"),
    ("bare CR before a dot", b"\na\r.\rb\n", b"\r\na\r\n.\r\nb\r\n"),
    ("bare CR at the end", b"\na\r", b"\r\na\r\n"),
    ("bare CR in a field", b"Subject: s\rBcc: evil@x\n\nhi\n", b"Subject: s Bcc: evil@x\r\n\r\nhi\r\n"),
    (
        "bare CRs in the header",
        b"X: s\r\rBcc: e@x\n\rCc: e@x\r\r\n\r\nhi\n",
        b"X: s  Bcc: e@x\r\n Cc: e@x\r\n\r\nhi\r\n",
    ),
    ("a bare CR ends no header", b"X: s\n\r\r\nhi\n", b"X: s\r\n\r\nhi\r\n"),
    ("a CR too many in the header", b"X: s\r\r\nY: t\r\r\n\r\r\nhi\r\r\n", b"X: s\r\nY: t\r\n\r\nhi\r\n"),
    ("no body", b"", b"\r\n"),
    ("empty body", b"\n", b"\r\n"),
    ("dots", b"\n.\n..\n...\n.x\n", b"\r\n.\r\n..\r\n...\r\n.x\r\n"),
    ("8 bit", "\nü\n".encode(), "\r\nü\r\n".encode()),
    ("NUL", b"\na\0b\n", b"\r\na\0b\r\n"),
    ("a first line that is no field", b"hello world\nTo: x\n", b"\r\nhello world\r\nTo: x\r\n"),
    ("space before the colon", b"Subject : s\n\nhi\n", b"Subject : s\r\n\r\nhi\r\n"),
    ("folded", b"Subject: a\n b\n\tc\n\nhi\n", b"Subject: a\r\n b\r\n\tc\r\n\r\nhi\r\n"),
    ("a megabyte without a line end", b"\n" + b"x" * 1_000_000, b"\r\n" + b"x" * 1_000_000 + b"\r\n"),
]


@pytest.mark.parametrize(("given_", "expected"), [row[1:] for row in INPUTS], ids=[row[0] for row in INPUTS])
def test_bytes_that_reach_send_raw(
    sendmail: Sendmail, bridge: Bridge, given_: bytes, expected: bytes
) -> None:
    assert sendmail("-i", "b@example.net", input=FIXED + given_).code == 0

    [arrived] = bridge.messages()
    assert arrived["mime_message"] == FIXED.replace(b"\n", b"\r\n") + expected


def test_bare_cr_behind_the_header_is_the_bridges_to_judge(away: Sendmail) -> None:
    """In the header of a part it would start a field; only who reads MIME can tell."""
    with scripted() as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        away("-i", "b@x.example", input=FIXED + b"\n--b\nX: a\rBcc: c\r\r\n\n1%\r2%\n", env=env)

    assert server.messages[0].endswith(b"\r\n\r\n--b\r\nX: a\rBcc: c\r\n\r\n1%\r2%\r\n")


def test_bytes_on_the_wire_are_dot_stuffed(away: Sendmail) -> None:
    with scripted() as server:
        away("-i", "b@x.example", input=FIXED + b"\n.\n.x\n", env={"SMTP2CF_SENDMAIL_HOST": server.endpoint})

    assert server.messages[0].endswith(b"\r\n\r\n..\r\n..x\r\n")


def test_latin1_stays_latin1_on_the_wire(away: Sendmail) -> None:
    with scripted() as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        away("-i", "b@x.example", input=FIXED + b"Subject: \xfc\n\n\xe4\n", env=env)

    assert server.messages[0].endswith(b"Subject: \xfc\r\n\r\n\xe4\r\n")


def test_present_fields_are_not_added_again(sendmail: Sendmail, bridge: Bridge) -> None:
    header = (
        FIXED.replace(b"From:", b"FROM :").replace(b"Date:", b"date:").replace(b"Message-ID", b"message-id")
    )

    assert sendmail("b@example.net", input=header + b"\nhi\n").code == 0
    assert bridge.messages()[0]["mime_message"] == (header + b"\nhi\n").replace(b"\n", b"\r\n")


def test_null_sender_makes_a_daemons_from(away: Sendmail) -> None:
    with scripted() as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        away("-f", "<>", "b@x.example", input=b"\nhi\n", env=env)

    assert server.messages[0].startswith(b"From: Mail Delivery System <MAILER-DAEMON@example.com>\r\n")


lines = st.lists(st.sampled_from([b"a", b".", b"..", b"", b"\r", b".a", b"To: x", b"\xff"]), max_size=12)


@given(lines, st.sampled_from([b"\n", b"\r\n", b"\r\r\n"]), st.integers(1, 9), st.booleans())
def test_any_cut_of_the_input_gives_the_same(parts: list[bytes], end: bytes, size: int, dot: bool) -> None:
    text = end.join(parts)

    def read(cut: list[bytes]) -> tuple[list[bytes], bytes]:
        found = unix_lines(cut)
        source = Input(iter(until_lone_dot(found) if dot else found))
        message = Message()
        fields = read_header(source)
        message.write_lines(source.rest())
        return fields, b"".join(message.blocks())

    assert read(blocks(text, size)) == read([text])


@given(st.lists(st.sampled_from([b"a\r\n", b".\r\n", b"..b\r\n", b"\r\n"]), max_size=10), st.integers(1, 7))
def test_dot_stuffing_in_any_blocks(parts: list[bytes], size: int) -> None:
    text = b"".join(parts)
    stuffed = b"".join(dot_stuffed(blocks(text, size)))

    assert stuffed == b"".join(b"." + line if line.startswith(b".") else line for line in parts)


@given(st.lists(st.sampled_from([b"a\n", b".\n", b"..\n", b"\n", b"x"]), max_size=10), st.integers(1, 7))
def test_lone_dot_ends_the_message_wherever_blocks_end(parts: list[bytes], size: int) -> None:
    text = b"".join(parts)
    kept = b"".join(until_lone_dot(blocks(text, size)))

    expected = []
    for line in text.splitlines(keepends=True):
        if line.rstrip(b"\n") == b".":
            break
        expected.append(line)
    assert kept == b"".join(expected)


def test_long_message_is_kept_in_a_file() -> None:
    message = Message()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        message.write(b"x" * 100_000)

    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert sum(len(kept) for kept in kept_by(message) if isinstance(kept, bytes)) < IN_MEMORY
    assert sum(map(len, message.blocks())) == message.size == 2_000_000
    assert max(map(len, message.blocks())) == BLOCK  # as they are read, not as they were written
    message.close()


def test_long_message_is_kept_in_memory_where_there_is_no_place_for_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smtp2cf.sendmail.message.temporary_file", lambda: None)
    message = Message()
    for _ in range(20):
        message.write(b"x" * 100_000)

    assert sum(map(len, message.blocks())) == 2_000_000


def test_endless_header_is_refused(away: Sendmail) -> None:
    result = away("b@x.example", input=b"X-Field: value\n" * 1_200_000)

    assert result.code == 65
    assert "header is longer" in result.reason


@pytest.mark.parametrize("where", ["to the bridge", "into the drop directory"])
def test_memory_does_not_grow_with_the_message(where: str, away: Sendmail, tmp_path: Path) -> None:
    """30 MB in, and less than 10 MB more than for a message of one line."""
    away.with_drop_directory()
    big = tmp_path / "big"
    big.write_bytes(FIXED + b"\n" + (b"x" * 75 + b"\n") * 400_000)
    small = tmp_path / "small"
    small.write_bytes(FIXED + b"\nhi\n")
    with scripted() as server:
        env = away.env | ({"SMTP2CF_SENDMAIL_HOST": server.endpoint} if "bridge" in where else {})
        peak = {file: peak_memory(file, env) for file in (big, small)}

    print({file.name: kilobytes for file, kilobytes in peak.items()})
    assert peak[big] - peak[small] < 10_000
    sent = (
        len(server.messages[0])
        if server.messages
        else sum(f.stat().st_size for f in away.drop_directory.iterdir())
    )
    assert sent > 30_000_000


def peak_memory(standard_input: Path, env: dict[str, str]) -> int:
    """Kilobytes, by /proc: wait4's figure includes that of the process that forked."""
    code = "import sys, pathlib; from smtp2cf.sendmail import main; "
    code += "sys.argv = ['sendmail', '-i', 'b@x.example']; "
    code += "assert main() == 0; print(pathlib.Path('/proc/self/status').read_text())"
    with standard_input.open("rb") as file:
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, stdin=file, env=env, capture_output=True, check=True)
    assert done.stderr == b""
    [peak] = [line for line in done.stdout.decode().splitlines() if line.startswith("VmHWM")]
    return int(peak.split()[1])
