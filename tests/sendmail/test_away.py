"""With the bridge away: what is dropped is whole, private and readable by the bridge alone."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sendmail.conftest import Sendmail, single_file
from tests.sendmail.front_door import read_drop
from tests.sendmail.scripted import HANG_UP, scripted
from tests.support.bridge import Bridge

MAIL = b"From: a@x.example\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nMessage-ID: <1@x>\n\nhi\n"


def test_dropped_mail_is_what_was_handed_over(away: Sendmail) -> None:
    away.with_drop_directory()
    options = ("-f", "s@x.example", "-N", "failure", "-R", "hdrs", "-V", "id=1")
    result = away(*options, "b@y.example", "c", input=MAIL)

    assert (result.code, result.stderr, result.stdout) == (0, "", "")
    [file] = away.drop_directory.iterdir()
    envelope, message = read_drop(file, 10_000)
    assert message == MAIL.replace(b"\n", b"\r\n")
    assert (envelope.reverse_path, envelope.forward_paths) == (
        "s@x.example",
        ("b@y.example", "c@example.com"),
    )
    assert (envelope.ret, envelope.envid, envelope.body) == ("HDRS", "id+3D1", "7BIT")
    assert envelope.notify == {"b@y.example": "FAILURE", "c@example.com": "FAILURE"}


def test_dropped_file_is_the_bridges_group_to_read_whatever_the_umask(away: Sendmail) -> None:
    away.with_drop_directory()
    os.chown(away.drop_directory, -1, 4242)
    old = os.umask(0o077)
    try:
        assert away("b@y.example", input=MAIL).code == 0
    finally:
        os.umask(old)

    [file] = away.drop_directory.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file.stat().st_gid == 4242


def test_without_a_drop_directory_the_caller_is_to_try_again(away: Sendmail) -> None:
    result = away("b@y.example", input=MAIL)

    assert result.code == 75
    assert "could not be kept" in result.reason


def test_directory_one_may_not_write_to_is_try_again(away: Sendmail) -> None:
    away.with_drop_directory().drop_directory.chmod(0o700)
    open_the_way_to(away.directory)
    result = as_nobody(away, "b@y.example")

    assert result.returncode == 75
    assert b"Permission denied" in result.stderr


def test_any_user_may_drop_and_none_may_look(away: Sendmail) -> None:
    away.with_drop_directory()
    open_the_way_to(away.directory)
    result = as_nobody(away, "-f", "n@x.example", "b@y.example")

    assert (result.returncode, result.stderr) == (0, b"")
    [file] = away.drop_directory.iterdir()
    assert (file.stat().st_uid, file.stat().st_gid) == (65534, away.drop_directory.stat().st_gid)
    listed = subprocess.run(
        ["ls", away.drop_directory], user=65534, group=65534, extra_groups=[], capture_output=True
    )
    assert listed.returncode != 0
    shown = as_nobody(away, "-bp")
    assert (shown.returncode, shown.stdout) == (69, b"")


def as_nobody(away: Sendmail, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    if os.getuid():
        pytest.skip("not root: cannot run as another user")
    command = ["/usr/bin/env", "python3", str(copied(away)), *arguments]
    env = {**away.env, "PATH": "/usr/bin:/bin"}
    who = {"user": 65534, "group": 65534, "extra_groups": []}
    return subprocess.run(command, input=MAIL, env=env, capture_output=True, cwd="/", **who)


def copied(away: Sendmail) -> Path:
    """The single file where every user may read it."""
    return single_file(away.directory)


def open_the_way_to(directory: Path) -> None:
    """pytest's directories are their owner's alone."""
    for parent in (directory, *directory.parents):
        if parent == Path("/tmp") or not os.access(parent, os.W_OK) or parent == Path("/"):
            return
        parent.chmod(parent.stat().st_mode | 0o011)


@pytest.mark.parametrize(
    "answers", [{".": HANG_UP}, {"": "421 4.3.2 full"}, {"MAIL": "421 4.3.2 closing"}, {"RCPT": HANG_UP}]
)
def test_bridge_lost_at_any_stage_loses_nothing(away: Sendmail, answers: dict[str, str]) -> None:
    away.with_drop_directory()
    with scripted(answers) as server:
        result = away("b@y.example", input=MAIL, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint})

    assert (result.code, result.stderr) == (0, "")
    [file] = away.drop_directory.iterdir()
    assert read_drop(file, 10_000)[1] == MAIL.replace(b"\n", b"\r\n")


def test_only_who_was_not_answered_for_is_dropped(away: Sendmail) -> None:
    """The second of two transactions is lost: the first one's recipients have their mail."""
    away.with_drop_directory()
    ends = iter(["250 2.0.0 taken", HANG_UP])
    with scripted({".": lambda _: next(ends)}) as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        result = away(*(f"r{number}@y.example" for number in range(1500)), input=MAIL, env=env)

    assert result.code == 0
    [file] = away.drop_directory.iterdir()
    assert read_drop(file, 10_000)[0].forward_paths == tuple(
        f"r{number}@y.example" for number in range(1000, 1500)
    )


def test_refusal_is_no_reason_to_drop(away: Sendmail) -> None:
    away.with_drop_directory()
    with scripted({".": "554 5.6.0 bad"}) as server:
        assert away("b@y.example", input=MAIL, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint}).code == 65

    assert list(away.drop_directory.iterdir()) == []


def test_mailq_shows_dropped_mail_in_postfixs_layout(bridge: Bridge, away: Sendmail) -> None:
    away.with_drop_directory()
    away("-f", "s@x.example", "b@y.example", "c@y.example", input=MAIL + b"x" * 3000)
    [file] = away.drop_directory.iterdir()
    os.utime(file, (0, 0))
    shown = away(name="mailq", env={"SMTP2CF_ADMIN_LISTEN": bridge.env["SMTP2CF_ADMIN_LISTEN"]})

    reason = f"(dropped by uid {os.getuid()}, not yet taken by the bridge)"
    assert shown.code == 0
    assert shown.stdout.splitlines() == [
        "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------",
        f"{file.stem}      3084 Thu Jan  1 00:00:00 s@x.example",
        reason.rjust(78),
        " " * 47 + "b@y.example",
        " " * 47 + "c@y.example",
        "",
        "-- 3 Kbytes in 1 Request.",
    ]


def test_mailq_with_the_bridge_away_still_shows_dropped_mail(away: Sendmail) -> None:
    away.with_drop_directory()
    away("b@y.example", input=MAIL)
    shown = away("-bp")

    assert shown.code == 69
    assert "the bridge is away" in shown.reason
    assert shown.stdout.endswith("-- 0 Kbytes in 1 Request.\n")


def test_mailq_passes_over_what_is_no_drop(away: Sendmail, bridge: Bridge) -> None:
    away.with_drop_directory()
    away("b@y.example", input=MAIL)
    (away.drop_directory / "A.drop").write_bytes(b"nonsense\n")
    (away.drop_directory / "B.drop").mkdir()
    (away.drop_directory / "C.drop").symlink_to("/etc/passwd")
    os.mkfifo(away.drop_directory / "D.drop")
    shown = away("-bp", env={"SMTP2CF_ADMIN_LISTEN": bridge.env["SMTP2CF_ADMIN_LISTEN"]})

    assert shown.code == 0
    assert shown.stdout.endswith("in 1 Request.\n")
    assert shown.stderr.count("not a dropped message") == 4


def test_queue_run_without_a_bridge_fails(away: Sendmail) -> None:
    assert away("-q").code == 69


def test_killed_at_any_moment_a_drop_is_whole_or_absent(away: Sendmail) -> None:
    away.with_drop_directory()
    message = MAIL + b"x" * 70 + b"\n" + b"y" * 2_000_000
    command = [sys.executable, "-S", str(single_file(away.directory)), "-i", "b@y.example"]
    started = time.perf_counter()
    subprocess.run(command, input=message, env=away.env, check=True)
    usual = time.perf_counter() - started
    [first] = away.drop_directory.iterdir()
    expected = read_drop(first, 3_000_000)[1]
    chance = random.Random(4)
    acknowledged = 1
    for _ in range(40):
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=away.env) as process:
            assert process.stdin is not None
            process.stdin.write(message)
            process.stdin.close()
            try:
                process.wait(chance.uniform(0, usual * 0.8))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            acknowledged += process.wait() == 0

    whole = [file for file in away.drop_directory.iterdir() if file.suffix == ".drop"]
    assert len(whole) >= acknowledged
    assert all(read_drop(file, 3_000_000)[1] == expected for file in whole)
    others = [file.name for file in away.drop_directory.iterdir() if file.suffix != ".drop"]
    assert all(name.startswith(".") and name.endswith(".part") for name in others)


def test_file_is_on_disk_before_it_has_its_name_and_the_name_before_the_exit(
    away: Sendmail, tmp_path: Path
) -> None:
    strace = subprocess.run(["which", "strace"], capture_output=True).stdout.decode().strip()
    if not strace:
        pytest.skip("not installed: strace")
    away.with_drop_directory()
    trace = tmp_path / "trace"
    command = [
        strace,
        "-f",
        "-o",
        trace,
        "-e",
        "trace=fsync,rename,renameat,exit_group",
        sys.executable,
        single_file(tmp_path),
        "b@y.example",
    ]
    subprocess.run(command, input=MAIL, env=away.env, check=True)

    calls = [line.split()[1].partition("(")[0] for line in trace.read_text().splitlines() if "(" in line]
    assert [call for call in calls if call != "exit_group"] == ["fsync", "rename", "fsync"]


def test_full_disk_keeps_nothing_and_says_so(away: Sendmail, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk: the write fails half-way."""
    away.with_drop_directory()
    limited = f"ulimit -f 100; exec {sys.executable} {single_file(tmp_path)} -i b@y.example"
    result = subprocess.run(
        ["bash", "-c", limited], input=MAIL + b"x\n" * 100_000, env=away.env, capture_output=True
    )

    assert result.returncode == 75
    assert list(away.drop_directory.iterdir()) == []


def test_head_of_a_drop_is_one_line_of_json(away: Sendmail) -> None:
    away.with_drop_directory()
    away("-f", "", "b@y.example", input="Subject: ü\n\nhi\n".encode())

    [file] = away.drop_directory.iterdir()
    head, _, message = file.read_bytes().partition(b"\n")
    assert json.loads(head) == {
        "version": 1, "size": len(message), "reverse_path": "", "forward_paths": ["b@y.example"],
        "body": "8BITMIME", "smtputf8": True, "ret": None, "envid": None, "notify": None,
    }  # fmt: skip
