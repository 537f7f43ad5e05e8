"""Without a bridge (SMTP2CF_SENDMAIL_DIRECT): several recipients, and -q on the drop directory."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.sendmail.dropped import Dropped, dropped
from smtp2cf.sendmail.settings import Settings
from tests.sendmail.conftest import Sendmail
from tests.sendmail.test_alone import direct
from tests.support.bridge import Bridge

__all__ = ["direct"]

MAIL = b"Subject: s\n\nhi\n"
MESSAGE = b"Subject: s\r\n\r\nhi\r\n"


def put(sendmail: Sendmail, *recipients: str, name: str = "A", **head: Any) -> Path:
    """A dropped file."""
    fields = {
        "version": 1, "size": len(MESSAGE), "reverse_path": "a@x.example", "forward_paths": recipients,
        "body": "7BIT", "smtputf8": False, "ret": None, "envid": None, "notify": None, **head,
    }  # fmt: skip
    path = sendmail.with_drop_directory().drop_directory / f"{name}.drop"
    path.write_bytes(json.dumps(fields).encode() + b"\n" + MESSAGE)
    return path


def head_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes().partition(b"\n")[0])


def sent_to(bridge: Bridge) -> list[tuple[str, list[str]]]:
    return [(message["from"], message["recipients"]) for message in bridge.messages()]


REPORT = ("mailer-daemon@x.example", ["a@x.example"])


def test_refused_recipient_is_reported_to_the_sender(direct: Sendmail, bridge: Bridge) -> None:
    result = direct("-f", "a@x.example", "good@y.example", "bounce@y.example", "John Doe", input=MAIL)

    assert result.code == 0
    assert "550 5.1.1" in result.reason
    assert sent_to(bridge)[1:] == [REPORT]
    report = bridge.messages()[1]["mime_message"]
    assert b"bounce@y.example" in report
    assert b"John Doe" in report


def test_nobody_is_told_what_the_exit_code_says(direct: Sendmail, bridge: Bridge) -> None:
    result = direct("-f", "a@x.example", "bounce@y.example", "suppressed@y.example", input=MAIL)

    assert result.code == 67
    assert REPORT not in sent_to(bridge)


FIFTY = [f"r{number}@y.example" for number in range(50)]


def test_deferred_recipient_is_kept_when_others_were_served(direct: Sendmail, bridge: Bridge) -> None:
    direct.with_drop_directory()
    result = direct("-f", "a@x.example", *FIFTY, "throttle@y.example", input=MAIL)

    assert (result.code, result.stderr) == (0, "")
    assert sent_to(bridge) == [("a@x.example", FIFTY)]
    [file] = direct.drop_directory.iterdir()
    assert head_of(file)["forward_paths"] == ["throttle@y.example"]


def test_deferred_recipient_is_given_up_where_nothing_can_be_kept(direct: Sendmail, bridge: Bridge) -> None:
    """The caller, trying again, would send the others a second copy: the sender is told instead."""
    result = direct("-f", "a@x.example", *FIFTY, "throttle@y.example", input=MAIL)

    assert result.code == 0
    assert "throttle@y.example" in result.reason
    assert sent_to(bridge) == [("a@x.example", FIFTY), REPORT]


def test_run_three_times_sends_once(direct: Sendmail, bridge: Bridge) -> None:
    put(direct, "good@y.example", "bounce@y.example")
    results = [direct("-q") for _ in range(3)]

    assert [result.code for result in results] == [0, 0, 0]
    assert "bounce@y.example" in results[0].reason
    assert [message["from"] for message in bridge.messages()] == ["a@x.example", REPORT[0]]
    assert list(direct.drop_directory.iterdir()) == []


def test_run_takes_who_is_served_out_of_the_file(direct: Sendmail, bridge: Bridge) -> None:
    path = put(direct, *FIFTY, "throttle@y.example", notify={"throttle@y.example": "FAILURE"})
    os.utime(path, (time.time() - 3600,) * 2)
    before = path.stat()
    results = [direct("-q") for _ in range(2)]

    assert [result.code for result in results] == [0, 0]
    assert sent_to(bridge) == [("a@x.example", FIFTY)]
    head = head_of(path)
    assert (head["forward_paths"], head["notify"]) == (
        ["throttle@y.example"],
        {"throttle@y.example": "FAILURE"},
    )
    assert path.read_bytes().endswith(b"\n" + MESSAGE)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_uid, after.st_gid) == (
        before.st_mtime_ns,
        before.st_uid,
        before.st_gid,
    )


def test_run_gives_old_mail_up_and_reports_it(direct: Sendmail, bridge: Bridge) -> None:
    path = put(direct, "throttle@y.example")
    os.utime(path, (time.time() - 6 * 86400,) * 2)

    assert direct("-q").code == 0
    assert sent_to(bridge) == [REPORT]
    assert not path.exists()


def test_run_reports_who_was_refused_before(direct: Sendmail, bridge: Bridge) -> None:
    put(direct, refused={"bad@y.example": "550 5.1.1 unknown"})

    assert direct("-q").code == 0
    assert sent_to(bridge) == [REPORT]
    assert b"bad@y.example" in bridge.messages()[0]["mime_message"]
    assert list(direct.drop_directory.iterdir()) == []


def test_run_keeps_for_a_person_what_nobody_can_be_told_of(direct: Sendmail, bridge: Bridge) -> None:
    put(direct, "b@y.example", reverse_path="")
    results = [direct("-q") for _ in range(2)]

    assert [result.code for result in results] == [0, 0]
    [kept] = (direct.drop_directory.parent / "refused").iterdir()
    assert (kept.name, head_of(kept)["forward_paths"]) == ("A.550-5.1.7.drop", ["b@y.example"])
    assert list(direct.drop_directory.iterdir()) == []


def test_run_judges_as_smtp_does(direct: Sendmail, bridge: Bridge) -> None:
    put(direct, "ok1@y.example", 'c@"x y"', "who@[zz]", "ok2@y.example")

    assert direct("-q").code == 0
    assert sent_to(bridge) == [("a@x.example", ["ok1@y.example", "ok2@y.example"]), REPORT]


@contextlib.contextmanager
def the_dropped(sendmail: Sendmail) -> Iterator[Dropped]:
    found = dropped(Settings(sendmail.env))
    yield next(found)
    found.close()


@pytest.mark.parametrize("trick", ["symlink", "another file", "nothing"])
def test_what_is_put_in_its_place_is_never_read(away: Sendmail, tmp_path: Path, trick: str) -> None:
    """The file's owner may rename and link as they like while root works on it."""
    path = put(away, "b@y.example")
    secret = tmp_path / "secret"
    secret.write_bytes(path.read_bytes().replace(b"hi", b"no"))
    with the_dropped(away) as one:
        path.rename(path.with_suffix(".old"))
        if trick == "symlink":
            path.symlink_to(secret)
        elif trick == "another file":
            path.write_bytes(secret.read_bytes())
        assert not one.claim()
        assert b"".join(one.message().blocks()) == MESSAGE


def test_link_that_is_there_is_not_followed(direct: Sendmail, bridge: Bridge, tmp_path: Path) -> None:
    path = put(direct, "b@y.example")
    path.rename(tmp_path / "secret.drop")
    path.symlink_to(tmp_path / "secret.drop")
    os.link(tmp_path / "secret.drop", path.with_name("B.drop"))
    os.mkfifo(path.with_name("C.drop"))
    result = direct("-q")

    assert (result.code, result.stderr.count("not a dropped message")) == (0, 3)
    assert bridge.messages() == []


def test_two_runs_at_once_send_once(direct: Sendmail, bridge: Bridge) -> None:
    path = put(direct, "b@y.example")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert direct("-q").code == 0
        assert bridge.messages() == []
    assert direct("-q").code == 0
    assert len(bridge.messages()) == 1


def test_file_that_cannot_be_written_anew_is_said(
    direct: Sendmail, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys

    put(direct, "good@y.example", "bounce@y.example")
    code = (
        "import sys; from smtp2cf.sendmail import dropped, main\n"
        "def full(*a, **k): raise OSError(28, 'No space left on device')\n"
        "dropped.write_drop = full\nsys.argv = ['sendmail', '-q']\nsys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=direct.env, capture_output=True)

    assert done.returncode == 71
    assert b"A: No space left on device; it may be sent again" in done.stderr
