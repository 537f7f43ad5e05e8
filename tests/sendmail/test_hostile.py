"""Input meant to harm, and callers in odd states."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.sendmail.conftest import Sendmail, single_file
from tests.sendmail.scripted import scripted
from tests.support.bridge import Bridge
from tests.support.waiting import PATIENCE

MAIL = b"Subject: s\n\nhi\n"


@pytest.mark.parametrize(
    "address",
    [
        "b@y.example\r\nRCPT TO:<evil@z>",
        "b@y.example\nDATA",
        "b@y.example\r",
        "<b@y.example> NOTIFY=NEVER\r\nQUIT",
        "b@y.example\x1b]0;x\x07",
        "b\u2028@y.example",
    ],
)
def test_control_characters_in_a_recipient_never_reach_the_wire(away: Sendmail, address: str) -> None:
    with scripted() as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        result = away("good@y.example", address, input=MAIL, env=env)

    rcpt = [line for line in server.commands if line.startswith("RCPT")]
    assert set(rcpt) <= {"RCPT TO:<good@y.example>", "RCPT TO:<b@y.example>"}
    assert [line.split()[0] for line in server.commands if not line.startswith("RCPT")] == [
        "EHLO",
        "MAIL",
        "DATA",
        "QUIT",
    ]
    assert "\x1b" not in result.stderr
    assert result.code in (0, 67)


@pytest.mark.parametrize(
    "sender", ["a@x\r\nRCPT TO:<evil@z>", "a@x, b@x", "a b", "a@x\x1b", "<a@x", "a@x> AUTH=<"]
)
def test_sender_that_is_no_address_is_refused(away: Sendmail, sender: str) -> None:
    with scripted() as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        result = away("-f", sender, "b@y.example", input=MAIL, env=env)

    assert (result.code, server.commands) in ((64, []), (0, server.commands))
    assert not any("evil" in line or "AUTH=" in line for line in server.commands)


def test_nul_in_a_header_address(sendmail: Sendmail, bridge: Bridge) -> None:
    result = sendmail("-t", input=b"To: good@y.example, b\0@y.example\n" + MAIL)

    assert (result.code, bridge.messages()[0]["recipients"]) == (0, ["good@y.example"])
    assert "not an address: b" in result.stderr


def test_address_that_starts_with_a_dash(sendmail: Sendmail, bridge: Bridge) -> None:
    assert (
        sendmail(
            "-t", "--", "-Xlog@y.example", input=b"To: -f@y.example\nBcc: -oQ/tmp@y.example\n" + MAIL
        ).code
        == 0
    )
    assert bridge.messages()[0]["recipients"] == ["-Xlog@y.example", "-f@y.example", "-oQ/tmp@y.example"]


def test_option_injection_writes_no_file(sendmail: Sendmail, tmp_path: Path) -> None:
    """CVE-2016-10033: an address that is options to sendmail, -X and -OQueueDirectory among them."""
    evil = tmp_path / "shell.php"
    sendmail("-t", "-i", f"-X{evil}", f"-OQueueDirectory={tmp_path}", "b@y.example", input=b"<?php\n\nhi\n")

    assert not evil.exists()


@pytest.mark.parametrize(
    "name",
    [
        "Evil\nBcc: evil@z",
        "Evil\r\nBcc: evil@z\r\n\r\nbody",
        "Evil\rBcc: evil@z",
        "x\x0by",
        "a\u2028b",
        "<evil@z>",
        "ü\nBcc: evil@z",
    ],
)
def test_full_name_injects_no_header(sendmail: Sendmail, bridge: Bridge, name: str) -> None:
    assert sendmail("-F", name, "-f", "a@x.example", "b@y.example", input=MAIL).code == 0

    from email import message_from_bytes, policy

    message = message_from_bytes(bridge.messages()[0]["mime_message"], policy=policy.default)
    assert message.keys() == ["Subject", "From", "Date", "Message-ID"]
    assert [address.addr_spec for address in message["From"].addresses] == ["a@x.example"]
    assert message.get_content().split() == ["hi"]


def test_ten_thousand_recipients(away: Sendmail) -> None:
    to = b"To: " + b",\n ".join(b"user%d@y.example" % number for number in range(10_000))
    with scripted() as server:
        result = away("-t", input=to + b"\n" + MAIL, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint})

    assert (result.code, result.stderr) == (0, "")
    rcpt = [line for line in server.commands if line.startswith("RCPT")]
    assert (len(rcpt), len(set(rcpt)), len(server.messages)) == (10_000, 10_000, 10)


def test_more_recipients_than_the_bridge_takes_at_once(sendmail: Sendmail, bridge: Bridge) -> None:
    to = b"To: " + b", ".join(b"user%d@y.example" % number for number in range(2500))

    assert sendmail("-t", input=to + b"\n" + MAIL).code == 0
    arrived = [recipient for message in bridge.messages() for recipient in message["recipients"]]
    assert sorted(arrived) == sorted(f"user{number}@y.example" for number in range(2500))


def test_ten_thousand_refused_recipients_are_not_all_named(away: Sendmail) -> None:
    to = b"To: " + b", ".join(b"user%d@y.example" % number for number in range(10_000))
    with scripted({"RCPT": "550 5.1.1 no"}) as server:
        result = away("-t", input=to + b"\n" + MAIL, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint})

    assert result.code == 67
    assert len(result.stderr) < 5_000


@pytest.mark.parametrize("option", ["-Z", "-tZ", "-iZt", "--frobnicate", "-bz", "-b", "-f", "-é", "-\n"])
def test_option_nobody_knows_is_named(away: Sendmail, option: str) -> None:
    result = away("b@y.example", option, input=MAIL)

    assert result.code == 64
    assert "option -" in result.reason
    assert result.stderr.count("\n") == 1


def test_bad_dsn_options_are_usage_errors(away: Sendmail) -> None:
    for options in (("-N", "always"), ("-R", "some"), ("-N", "never,success")):
        assert away(*options, "b@y.example", input=MAIL).code == 64


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "1>&- 2>&-", "1>&- 2>&- 0<&-"])
def test_closed_descriptors(sendmail: Sendmail, bridge: Bridge, closed: str) -> None:
    sends = f"echo hi | ( {sendmail.path} -i -v good@y.example {closed} )"
    fails = f"echo hi | ( {sendmail.path} -i bounce@y.example {closed} )"

    assert subprocess.run(["bash", "-c", sends], env=sendmail.env).returncode == 0
    assert subprocess.run(["bash", "-c", fails], env=sendmail.env).returncode == 67
    assert [message["recipients"] for message in bridge.messages()] == [
        ["good@y.example"],
        ["bounce@y.example"],
    ]


def test_reader_of_standard_error_that_has_gone(sendmail: Sendmail, bridge: Bridge) -> None:
    gone, theirs = os.pipe()
    os.close(gone)
    done = subprocess.run([sendmail.path, "-v", "b@y.example"], input=MAIL, stderr=theirs, env=sendmail.env)
    os.close(theirs)

    assert (done.returncode, len(bridge.messages())) == (0, 1)


def test_reader_of_standard_output_that_has_gone(sendmail: Sendmail) -> None:
    gone, theirs = os.pipe()
    os.close(gone)
    done = subprocess.run([sendmail.path, "-bp"], stdout=theirs, stderr=subprocess.PIPE, env=sendmail.env)
    os.close(theirs)

    assert (done.returncode, done.stderr) == (71, b"")


def test_user_without_a_name(away: Sendmail, tmp_path: Path) -> None:
    """A container that runs as a number nobody has written down."""
    if os.getuid():
        pytest.skip("not root: cannot run as another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, scripted() as server:
        Path(directory).chmod(0o755)
        env = {
            "SMTP2CF_SENDMAIL_HOST": server.endpoint,
            "SMTP2CF_SENDMAIL_DOMAIN": "x.example",
            "PATH": "/usr/bin:/bin",
        }
        who = {"user": 54321, "group": 54321, "extra_groups": []}
        command = ["/usr/bin/env", "python3", single_file(Path(directory)), "b@y.example"]
        subprocess.run(command, input=MAIL, env=env, check=True, cwd="/", **who)

    assert "MAIL FROM:<uid54321@x.example>" in server.commands[1]
    assert b"From: <uid54321@x.example>\r\n" in server.messages[0]


def test_no_traceback_for_a_bug_of_ours(away: Sendmail) -> None:
    code = "import sys, smtp2cf.sendmail as s; s.run = lambda *_: 1/0; sys.exit(s.main())"
    done = subprocess.run([sys.executable, "-c", code], input=MAIL, env=away.env, capture_output=True)

    assert (done.returncode, done.stderr.count(b"\n")) == (70, 1)
    assert b"ZeroDivisionError" in done.stderr


def test_interrupt_leaves_no_traceback_and_no_half_drop(away: Sendmail) -> None:
    import signal

    away.with_drop_directory()
    with subprocess.Popen(
        [away.path, "b@y.example"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=away.env
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(MAIL)
        process.stdin.flush()
        wait_until_reading(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read() == b""
    assert list(away.drop_directory.iterdir()) == []


def wait_until_reading(pid: int) -> None:
    """Until the process has read what is there and waits for more on its pipe."""
    import time

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if (
            "pipe_read" in Path(f"/proc/{pid}/wchan").read_text()
            or Path(f"/proc/{pid}/syscall").read_text()[:3] == "0 0"
        ):
            return
        time.sleep(0.01)
