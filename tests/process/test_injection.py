"""What a client or the API says, carried through a whole bridge: it stays words, wherever it shows up.

In reply lines, log lines for machines and people, the status page, the queue's listings, metrics, the JSON
to send_raw. What a DSN makes of it is in tests/message, log lines by themselves in tests/journal/test_logs.
"""

import contextlib
import json
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.process.test_admin import Page
from tests.support.bridge import Bridge, running_bridge
from tests.support.command import smtp2cf
from tests.support.secret import TOKEN
from tests.support.waiting import PATIENCE

EVIL = (
    "x\r\n250 2.0.0 all is well\r\nX-Evil: yes\n"
    "\x1b[2J\x1b]0;title\x07\x00\x7f\x9b31m\u2028\u202eevil\u2066<script>alert(1)</script>&\"'{{7*7}}"
)
"""Ends a line, clears a terminal, turns the text round, runs in a browser."""


class Api:
    """A stand-in for the API whose answers a test makes up. calls: the bodies of send_raw, parsed."""

    def __init__(self) -> None:
        self.status = 200
        self.answer: Any = {}
        self.calls: list[Any] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._reply(200, {"success": True, "errors": [], "result": {"status": "active"}})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                api.calls.append(json.loads(body))
                self._reply(api.status, api.answer)

            def _reply(self, status: int, answer: Any) -> None:
                body = json.dumps(answer).encode()  # surrogates as escapes, which JSON allows
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/client/v4"

    def refuse(self, status: int, message: str) -> None:
        self.status = status
        self.answer = {"success": False, "errors": [{"code": 99999, "message": message}], "result": None}

    def succeed(self, **result: Any) -> None:
        self.status, self.answer = 200, {"success": True, "errors": [], "result": result}


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    api = Api()
    thread = threading.Thread(target=api.server.serve_forever)
    thread.start()
    yield api
    api.server.shutdown()
    thread.join()
    api.server.server_close()


@contextlib.contextmanager
def bridge_of(api: Api, directory: Path, **settings: str) -> Iterator[Bridge]:
    account = {"ACCOUNT_ID": "a1", "API_TOKEN": TOKEN, "API_BASE_URL": api.url, "STATE_DIR": str(directory)}
    with running_bridge(directory, sandbox=False, **account, **settings) as bridge:
        yield bridge


@pytest.fixture(scope="module")
def direct(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """Without a spool: what the API says goes to the client."""
    with bridge_of(api, tmp_path_factory.mktemp("direct"), SPOOL_URL="none") as bridge:
        yield bridge


@pytest.fixture(scope="module")
def keeping(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """With a spool: what the API says is kept with the mail."""
    with bridge_of(api, tmp_path_factory.mktemp("keeping")) as bridge:
        yield bridge


def deliver(bridge: Bridge, mail: bytes = b"MAIL FROM:<a@example.com>", *recipients: bytes) -> list[bytes]:
    """A transaction, octet for octet; every line that came back."""
    commands = [b"EHLO c.example", mail, *(recipients or (b"RCPT TO:<b@example.net>",)), b"DATA"]
    seen: list[bytes] = []
    with socket.create_connection((bridge.smtp_host, bridge.smtp_port), timeout=PATIENCE) as sock:
        lines = sock.makefile("rb")
        for command in (b"", *commands, b"Subject: x\r\n\r\nhello\r\n.", b"QUIT"):
            if command:
                sock.sendall(command + b"\r\n")
            seen.append(lines.readline())
            while seen[-1][3:4] == b"-":
                seen.append(lines.readline())
        assert lines.read() == b"", "a reply too many"
    return seen


def assert_clean_lines(lines: list[bytes], *, utf8: bool = False) -> None:
    for line in lines:
        assert line[:3].isdigit(), line
        assert line[3:4] in (b" ", b"-")
        assert line.endswith(b"\r\n")
        assert line[:-2].decode("utf-8" if utf8 else "ascii").isprintable(), line


def assert_clean_text(text: str) -> None:
    """Lines of words for a person or a machine, and nothing but."""
    assert all(char.isprintable() or char == "\n" for char in text), ascii(text)


# ---- what the API says


@pytest.mark.parametrize("status", [400, 503])
def test_an_errors_words_are_one_answer_and_one_log_line(api: Api, direct: Bridge, status: int) -> None:
    api.refuse(status, EVIL)
    lines = deliver(direct)
    assert_clean_lines(lines)
    code = b"554" if status == 400 else b"451"
    answer = b"".join(line[4:] for line in lines if line.startswith(code))
    assert b"250 2.0.0 all is well" in answer, "as words of the refusal"
    assert not any(line.startswith(b"250 2.0.0 all is well") for line in lines)
    logged = direct.wait_for_log("mail.attempt", status="bounced" if status == 400 else "deferred")
    assert_clean_text(logged["reply"])
    text = direct.log_path.read_text()
    assert_clean_text(text)
    assert all(json.loads(line) for line in text.splitlines())


def test_half_a_character_in_an_error_makes_it_none_of_the_apis(api: Api, direct: Bridge) -> None:
    """JSON can say it, no text can: nothing is blamed on the mail then."""
    api.refuse(400, "\ud800")
    lines = deliver(direct)
    assert_clean_lines(lines)
    assert any(line.startswith(b"451 4.3.0") for line in lines)


def test_an_errors_words_are_text_on_the_status_page(api: Api, direct: Bridge) -> None:
    api.refuse(400, EVIL)
    deliver(direct)
    html = urllib.request.urlopen(f"{direct.admin_url}/").read().decode()
    page = Page(html)
    assert "<script>alert(1)</script>" in page.text
    assert "script" not in page.elements
    assert "{{7*7}}" in page.text, "no template of ours"
    assert_clean_text(page.text)


@pytest.mark.parametrize(
    "message_id",
    [
        EVIL,
        "<1@x>\r\n250 OK",
        "<\x1b[2J@x>",
        "x" * 100_000,
        5,
        None,
        ["x"],
        {"a": "b"},
        "\ud800",
        "<a\u202eb@x>",
    ],
    ids=range(10),
)
def test_a_message_id_that_is_none_is_not_passed_on(api: Api, direct: Bridge, message_id: object) -> None:
    api.succeed(delivered=["b@example.net"], message_id=message_id)
    lines = deliver(direct)
    assert_clean_lines(lines)
    assert sum(len(line) for line in lines) < 5000
    assert not any(line.startswith(b"250 OK") for line in lines)
    assert_clean_text(direct.log_path.read_text())


def test_an_errors_words_are_words_in_every_listing_of_the_queue(api: Api, keeping: Bridge) -> None:
    api.refuse(503, EVIL)
    deliver(keeping)
    keeping.wait_for_log("mail.attempt", status="deferred")
    state = {"STATE_DIR": str(keeping.log_path.parent)}
    queue_id = json.loads(urllib.request.urlopen(f"{keeping.admin_url}/queue").readline())["queue_id"]
    for arguments in (["list"], ["list", "--json"], ["show", queue_id], ["show", queue_id, "--json"]):
        done = smtp2cf("queue", *arguments, **state)
        assert done.status == 0, done.err
        assert "all is well" in " ".join(done.out.split())
        assert_clean_text(done.out)
    listed = urllib.request.urlopen(f"{keeping.admin_url}/queue").read().decode()
    assert_clean_text(listed)
    assert all(json.loads(line) for line in listed.splitlines())


def test_no_word_of_the_apis_is_in_the_metrics(api: Api, keeping: Bridge) -> None:
    """Labels are ours alone: other people's words would be series without end, and lines of their own."""
    for status in (400, 503):
        api.refuse(status, EVIL)
        deliver(keeping)
    api.succeed(message_id=EVIL, **{EVIL: [EVIL], "delivered": [EVIL]})
    deliver(keeping)
    text = urllib.request.urlopen(f"{keeping.admin_url}/metrics").read().decode()
    ours = [line for line in text.splitlines() if line.startswith("smtp2cf_")]
    assert all(re.fullmatch(r'\w+(\{(\w+="[\w.+]+",?)+\})? [\d.e+-]+', line) for line in ours)
    assert "evil" not in text.lower()


# ---- what a client says

CLIENTS = {  # each from a domain of its own: no calls are made for one that fails again and again
    "ENVID": (b"MAIL FROM:<a@envid.example> RET=HDRS ENVID=a+0D+0AX-Evil:+20yes+00+1B[2J",),
    "AUTH": (b"MAIL FROM:<a@auth.example> AUTH=e+0D+0A+00@x",),
    "ORCPT": (
        b"MAIL FROM:<a@orcpt.example>",
        b"RCPT TO:<b@example.net> ORCPT=rfc822;a+0D+0AAction:+20x+00+1B@x NOTIFY=FAILURE",
    ),
    "UTF-8": ("MAIL FROM:<a@ä0ß.example> SMTPUTF8".encode(), "RCPT TO:<u@exämple.net>".encode()),
    "markup": (
        b'MAIL FROM:<"<script>alert(1)</script>"@markup.example>',
        b'RCPT TO:<"\\"},{{7*7}}"@example.net>',
    ),
    "JSON": (b"MAIL FROM:<a@json.example>", b'RCPT TO:<"\\",\\"from\\":\\"evil@x"@example.net>'),
}


@pytest.mark.parametrize("commands", CLIENTS.values(), ids=CLIENTS)
def test_an_envelope_is_words_to_the_api_and_in_every_listing(
    api: Api, keeping: Bridge, commands: tuple[bytes, ...]
) -> None:
    api.refuse(500, "internal_server, later")  # about the sender: the API is not away
    api.calls.clear()
    lines = deliver(keeping, *commands)
    assert_clean_lines(lines, utf8=b"SMTPUTF8" in commands[0])
    assert [line[:3] for line in lines[-3:]] == [b"354", b"250", b"221"]
    (call,) = api.calls
    assert set(call) == {"from", "recipients", "mime_message"}
    assert len(call["recipients"]) == 1
    assert call["mime_message"] == "Subject: x\r\n\r\nhello\r\n", "ENVID and ORCPT are for DSNs alone"
    assert_clean_text(keeping.log_path.read_text())
    assert_clean_text(urllib.request.urlopen(f"{keeping.admin_url}/queue").read().decode())
    html = urllib.request.urlopen(f"{keeping.admin_url}/").read().decode()
    assert "script" not in Page(html).elements
    assert_clean_text(smtp2cf("queue", "list", STATE_DIR=str(keeping.log_path.parent)).out)


CONTROLS = [
    b"\x00",
    b"\x1b[2J",
    b"\x07",
    b"\r",
    b"\n",
    b"\x7f",
    b"\xc2\x9b",
    b"\xe2\x80\xae",
    b"\xff",
    b"\x85",
]


@pytest.mark.parametrize("control", CONTROLS, ids=[control.hex() for control in CONTROLS])
@pytest.mark.parametrize(
    "command",
    [b"EHLO x%by", b"MAIL FROM:<x%by@example.com>", b"VRFY x%by", b"X%bY", b"NOOP %b"],
    ids=range(5),
)
def test_no_control_character_of_a_command_comes_back_or_into_the_log(
    direct: Bridge, command: bytes, control: bytes
) -> None:
    with socket.create_connection((direct.smtp_host, direct.smtp_port), timeout=PATIENCE) as sock:
        sock.sendall(command % control + b"\r\nQUIT\r\n")
        lines = sock.makefile("rb").readlines()
    assert_clean_lines(lines)
    assert lines[-1].startswith((b"221", b"421"))
    assert_clean_text(direct.log_path.read_text())
