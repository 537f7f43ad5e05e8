"""-bs: SMTP on standard input and output."""

# ruff: noqa: E501 - a row of a table is a line

import smtplib
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from smtp2cf.sendmail.parameters import MAIL_PARAMETERS, RCPT_PARAMETERS, smtp_path
from smtp2cf.smtpd.transaction import Transaction
from tests.sendmail.conftest import Result, Sendmail
from tests.sendmail.front_door import read_drop
from tests.sendmail.scripted import certificate, scripted
from tests.support.bridge import Bridge
from tests.support.waiting import PATIENCE

MESSAGE = b"Subject: s\r\n\r\nhi\r\n..dot\r\n"
SESSION = (
    b"EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n" + MESSAGE + b".\r\nQUIT\r\n"
)


def replies(result: Result) -> list[str]:
    """Code and enhanced code of each final reply line."""
    lines = [line for line in result.stdout.splitlines() if line[3:4] != "-"]
    return [
        " ".join(line.split()[:2]) if line[4:5] in "245" and line[5:6] == "." else line[:3] for line in lines
    ]


class Pipe(smtplib.SMTP):
    """smtplib over the standard input and output of a process, command by command as Symfony does."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        ours, theirs = socket.socketpair()
        self.ours = ours
        threading.Thread(target=self._carry, args=(theirs, process.stdin), daemon=True).start()
        super().__init__()
        self.sock = ours
        self.file = process.stdout  # type: ignore[assignment]

    def _carry(self, source: socket.socket, target: object) -> None:
        with source:
            while block := source.recv(65536):
                target.write(block)  # type: ignore[attr-defined]
                target.flush()  # type: ignore[attr-defined]


def test_two_messages_in_one_session_reply_by_reply(sendmail: Sendmail, bridge: Bridge) -> None:
    command = [sendmail.path, "-bs"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=sendmail.env
    ) as process:
        client = Pipe(process)
        assert client.getreply()[0] == 220
        for name in ("anna", "bob"):
            client.sendmail("a@x.example", [f"{name}@y.example"], f"Subject: {name}\n\nhi")
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.sendmail("a@x.example", ["bounce@y.example"], "Subject: s\n\nhi")
        assert refused.value.smtp_code == 550
        assert client.docmd("QUIT")[0] == 221
        assert process.wait(PATIENCE) == 0
        client.file = None  # Popen closes it
        client.ours.close()

    assert [message["subject"] for message in bridge.messages()] == ["anna", "bob", "s"]


def test_answers_are_the_bridges(sendmail: Sendmail) -> None:
    result = sendmail(
        "-bs", input=b"EHLO x\r\nMAIL FROM:<a@x.example> SIZE=999999999999\r\nRCPT TO:<x>\r\nFOO\r\nQUIT\r\n"
    )

    assert [reply[:3] for reply in replies(result)] == ["220", "250", "552", "503", "500", "221"]


def test_end_of_input_ends_the_session(sendmail: Sendmail, bridge: Bridge) -> None:
    result = sendmail("-bs", input=SESSION[: -len(b"QUIT\r\n")])

    assert result.code == 0
    assert "250 2.0.0" in result.stdout
    assert len(bridge.messages()) == 1


def test_large_message_through_the_pump(away: Sendmail) -> None:
    body = b"x" * 76 + b"\r\n"
    with scripted() as server:
        session = SESSION.replace(b"hi\r\n", body * 100_000)
        result = away("-bs", input=session, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint})

    assert (result.code, len(server.messages)) == (0, 1)
    assert server.messages[0] == MESSAGE.replace(b"hi\r\n", body * 100_000)


def test_caller_that_pipelines_more_than_any_buffer(sendmail: Sendmail) -> None:
    result = sendmail("-bs", input=b"EHLO x\r\n" + b"NOOP\r\n" * 200 + b"QUIT\r\n")

    assert result.stdout.endswith("\r\n") or result.stdout.endswith("\n")
    assert replies(result).count("250 2.0.0") == 200


HANDS_DOWN = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (2048, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
for _ in range(1100):
    os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_caller_that_hands_down_more_descriptors_than_select_takes(away: Sendmail) -> None:
    with scripted() as server:
        done = subprocess.run(
            [sys.executable, "-c", HANDS_DOWN, away.path, "-bs"],
            input=SESSION,
            capture_output=True,
            env={**away.env, "SMTP2CF_SENDMAIL_HOST": server.endpoint},
            timeout=PATIENCE,
            check=False,
        )

    assert (done.returncode, server.messages) == (0, [MESSAGE]), done.stderr


def test_through_tls_and_auth(tmp_path: Path, away: Sendmail) -> None:
    context, authority = certificate(tmp_path)
    answers = {
        "EHLO": "250-x\r\n250-AUTH PLAIN\r\n250 STARTTLS",
        "STARTTLS": "220 go",
        "AUTH": "235 2.7.0 ok",
    }
    with scripted(answers, context) as server:
        env = {
            "SMTP2CF_SENDMAIL_HOST": server.endpoint,
            "SMTP2CF_SENDMAIL_TLS": "yes",
            "SMTP2CF_SENDMAIL_TLS_CA_FILE": str(authority),
            "SMTP2CF_SENDMAIL_USER": "u",
            "SMTP2CF_SENDMAIL_PASSWORD": "p",
        }
        result = away("-bs", input=SESSION, env=env)

    assert (result.code, server.messages) == (0, [MESSAGE])
    assert [reply[:3] for reply in replies(result)] == ["220", "250", "250", "250", "354", "250", "221"]


def test_away_mail_is_dropped(away: Sendmail) -> None:
    away.with_drop_directory()
    result = away("-bs", input=SESSION)

    assert (result.code, result.stderr) == (0, "")
    assert replies(result)[2:] == ["250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "221 2.0.0"]
    [file] = away.drop_directory.iterdir()
    envelope, message = read_drop(file, 10_000)
    assert (envelope.reverse_path, envelope.forward_paths) == ("a@x.example", ("b@y.example",))
    assert message == MESSAGE.replace(b"..dot", b".dot")


def test_away_without_a_drop_directory(away: Sendmail) -> None:
    result = away("-bs", input=SESSION)

    assert result.code == 75
    assert result.stdout.startswith("421 4.3.2 ")


DIALOGS = [
    (b"MAIL FROM:<a@x>\r\n", "250 2.1.0"),
    (b"mail from: a@x\r\n", "250 2.1.0"),
    (b"MAIL FROM:<>\r\n", "250 2.1.0"),
    (b"MAIL FROM:<a@x> SIZE=10 BODY=8BITMIME\r\n", "250 2.1.0"),
    (b"MAIL FROM:<a\r\n", "501 5.1.7"),
    (b"MAIL <a@x>\r\n", "501 5.1.7"),
    (b"MAIL FROM:<local>\r\n", "501 5.1.7"),
    (b"RCPT TO:<b@y>\r\n", "503 5.5.1"),
    (b"DATA\r\n", "503 5.5.1"),
    (b"NOOP\r\n", "250 2.0.0"),
    (b"RSET\r\n", "250 2.0.0"),
    (b"VRFY x\r\n", "252 2.5.2"),
    (b"FOO\r\n", "500 5.5.2"),
    (b"\r\n", "500 5.5.2"),
    (b"\xff\xfe\r\n", "500 5.5.2"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "reply"), DIALOGS)
def test_away_dialog(away: Sendmail, command: bytes, reply: str) -> None:
    away.with_drop_directory()

    assert replies(away("-bs", input=command + b"QUIT\r\n"))[1:] == [reply, "221 2.0.0"]


@pytest.mark.parametrize("trick", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r"])
def test_away_only_crlf_dot_crlf_ends_a_message(away: Sendmail, trick: bytes) -> None:
    away.with_drop_directory()
    smuggled = MESSAGE + trick + b"MAIL FROM:<evil@x>\r\nRCPT TO:<evil@y>\r\nDATA\r\nevil\r\n"
    away("-bs", input=SESSION.replace(MESSAGE, smuggled))

    [file] = away.drop_directory.iterdir()
    assert read_drop(file, 10_000)[1] == smuggled.replace(b"\r\n.", b"\r\n")


def test_away_line_ends_are_kept_for_the_bridge_to_judge(away: Sendmail) -> None:
    """A field that a bare CR would start here could not be told from one that was there."""
    away.with_drop_directory()
    odd = b"Subject: ticket\rBcc: victim@x.example\r\r\nTo: b@y.example\r\n\r\na\rb\nc\r\n"
    away("-bs", input=SESSION.replace(MESSAGE, odd))

    [file] = away.drop_directory.iterdir()
    assert read_drop(file, 10_000)[1] == odd


def test_away_message_that_breaks_off_is_not_kept(away: Sendmail) -> None:
    away.with_drop_directory()
    result = away("-bs", input=SESSION[: SESSION.index(b"hi")])

    assert result.code == 65
    assert list(away.drop_directory.iterdir()) == []


def test_away_message_cut_anywhere(away: Sendmail) -> None:
    """The end of DATA found whatever the size of the pieces it comes in."""
    away.with_drop_directory()
    for size in (1, 2, 3, 5):
        with subprocess.Popen(
            [away.path, "-bs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=away.env, bufsize=0
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for place in range(0, len(SESSION), size):
                process.stdin.write(SESSION[place : place + size])
            process.stdin.close()
            process.stdout.read()

    messages = [read_drop(file, 10_000)[1] for file in away.drop_directory.iterdir()]
    assert messages == [MESSAGE.replace(b"..dot", b".dot")] * 4


@pytest.mark.parametrize(
    ("argument", "path", "parameters"),
    [
        ('FROM:<"a> b"@x> SIZE=1', '"a> b"@x', {"SIZE": "1"}),
        ("FROM:<@relay:a@x>", "a@x", {}),
        ("from:<a@x> smtputf8 body=8bitmime", "a@x", {"SMTPUTF8": "", "BODY": "8bitmime"}),
        ("FROM:a@x SIZE=1", "a@x", {"SIZE": "1"}),
        ("FROM: < a@x >", "a@x", {}),
        ("FROM:<<a@x>> SIZE=1", "a@x", {"SIZE": "1"}),
        ("FROM:<Anna Smith <a@x>>", "a@x", {}),
        ("FROM:<>", "", {}),
    ],
)
def test_path_and_parameters(argument: str, path: str, parameters: dict[str, str]) -> None:
    assert smtp_path(argument, "FROM:", MAIL_PARAMETERS) == (path, parameters, "")


PARAMETERS = [
    "RET=NONE", "RET=FULL", "ret=hdrs", "RET", "RET=FULL RET=FULL", "ENVID=" + "x" * 600, "ENVID=" + "x" * 100, "ENVID=a+b",
    "ENVID=a+2Bb", "ENVID=a+2", "ENVID=a=b", "ENVID=", "BODY=BINARYMIME", "BODY=7bit", "SIZE=1", "SIZE=x", "SIZE=" + "1" * 21,
    "SMTPUTF8", "SMTPUTF8=1", "FOO=1", "FOO", "NOTIFY=NEVER", "RET=FULL ENVID=x",
]  # fmt: skip
RCPT_WORDS = [
    "NOTIFY=NEVER", "notify=success,Failure", "NOTIFY=NEVER,FAILURE", "NOTIFY=FAILURE,FAILURE,DELAY,SUCCESS", "NOTIFY=", "NOTIFY",
    "ORCPT=rfc822;a@x", "ORCPT=rfc822;a+40x", "ORCPT=rfc822;a+4", "ORCPT=rfc822", "ORCPT=;a@x", "ORCPT=utf-8;jörg@x",
    "ORCPT=rfc822;jörg@x", "ORCPT=rfc822;" + "x" * 500, "SIZE=1", "ORCPT=rfc822;a=b", "NOTIFY=NEVER NOTIFY=NEVER",
]  # fmt: skip
PATHS = ["<a@x>", "a@x", "<a@x", "<a@x>>", "<a b@x>", "<a@[zz]>", "<a@[::1]>", '<a@"x y">', "<local>", "<a@x, b@y>",
         "<a@x>SIZE=1", "a@x> SIZE=1", "<a@x..y>", "<jörg@bücher.example>", "<a\u200b@x>", '<"a\\b"@x>', ""]  # fmt: skip
MAILS = [f"FROM:{path}" for path in PATHS] + [f"FROM:<a@x> {words}" for words in PARAMETERS]
RCPTS = [f"TO:{path}" for path in PATHS] + [f"TO:<a@x> {words}" for words in RCPT_WORDS]


@pytest.mark.parametrize("argument", [*MAILS, *RCPTS])
def test_away_takes_what_the_bridge_takes_and_nothing_else(argument: str) -> None:
    """What is answered with 250 now must not be refused later, when nobody waits for an answer."""
    transaction = Transaction()
    if argument.startswith("FROM"):
        theirs = transaction.mail(argument, size_limit=10**9)
        path, _, ours = smtp_path(argument, "FROM:", MAIL_PARAMETERS)
        assert ours or path == transaction.mail_from
    else:
        theirs = transaction.rcpt(argument, limit=10)
        path, _, ours = smtp_path(argument, "TO:", RCPT_PARAMETERS)
        assert ours or [path] == transaction.rcpt_tos
    assert bool(ours) == (theirs is not None), (ours, theirs)
    if theirs is not None and theirs.status == "5.5.4":
        assert ours[:9] == f"{theirs.code} {theirs.status}"


def test_away_what_is_refused_keeps_nobody_from_their_mail(away: Sendmail) -> None:
    away.with_drop_directory()
    session = b"MAIL FROM:<a@x.example> RET=NONE\r\nMAIL FROM:<a@x.example> RET=HDRS\r\n"
    session += (
        b'RCPT TO:<ok1@y.example> NOTIFY=NEVER\r\nRCPT TO:<c@"x y">\r\nRCPT TO:<d@y.example> NOTIFY=NO\r\n'
    )
    session += (
        b"RCPT TO:<ok2@y.example> NOTIFY=DELAY ORCPT=rfc822;Ok2@y\r\nDATA\r\n" + MESSAGE + b".\r\nQUIT\r\n"
    )
    result = away("-bs", input=session)

    assert [reply[:3] for reply in replies(result)] == [
        "220",
        "501",
        "250",
        "250",
        "501",
        "501",
        "250",
        "354",
        "250",
        "221",
    ]
    [file] = away.drop_directory.iterdir()
    envelope, _ = read_drop(file, 10_000)
    assert envelope.forward_paths == ("ok1@y.example", "ok2@y.example")
    assert envelope.notify == {"ok1@y.example": "NEVER", "ok2@y.example": "DELAY"}
    assert (envelope.orcpt, envelope.ret) == ({"ok2@y.example": "rfc822;Ok2@y"}, "HDRS")
