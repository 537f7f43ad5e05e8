"""Nobody gets a field, a part or the end of a header into a message, by whichever way it comes in.

Messages of clients that were handed values with CR and LF in them go through a bridge of its own process;
Python's email reads what the sandbox was handed.
"""

import os
import random
import smtplib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.message.clients import CR_CR_LF, CRLF, LF, Client, Part, as_read
from tests.support.bridge import Bridge, running_bridge
from tests.support.forked import Forked
from tests.support.waiting import PATIENCE

MESSAGES = 40
"""For each way and line end."""
Send = Callable[[bytes, str], None]


class Ways:
    """The ways into one bridge: each takes a message and its recipient."""

    def __init__(self, bridge: Bridge, directory: Path) -> None:
        self._bridge = bridge
        self._lmtp = bridge.wait_for_log("serve.ready")["lmtp"][0]
        self._away = {
            **os.environ,
            **bridge.env,
            "SMTP2CF_SENDMAIL_HOST": f"unix:{directory}/nobody",
            "SMTP2CF_SENDMAIL_DROP_DIR": str(directory / "drop"),
            "SMTP2CF_SENDMAIL_DOMAIN": "example.com",
        }
        self._there = self._away | bridge.env

    def smtp(self, message: bytes, recipient: str) -> None:
        with self._bridge.client() as client:
            self._data(client, message, recipient)

    def lmtp(self, message: bytes, recipient: str) -> None:
        host, _, port = self._lmtp.rpartition(":")
        with smtplib.LMTP(host, int(port), timeout=PATIENCE) as client:
            self._data(client, message, recipient)

    def bdat(self, message: bytes, recipient: str) -> None:
        with self._bridge.client() as client:
            self._envelope(client, recipient)
            client.send(b"BDAT %d LAST\r\n" % len(message) + message)
            assert client.getreply()[0] == 250

    def sendmail(self, message: bytes, recipient: str) -> None:
        self._run(["-i", recipient], message, self._there)

    def sendmail_away(self, message: bytes, recipient: str) -> None:
        self._run(["-i", recipient], message, self._away)

    def sendmail_bs(self, message: bytes, recipient: str) -> None:
        self._run(["-bs"], self._dialog(message, recipient), self._there)

    def sendmail_bs_away(self, message: bytes, recipient: str) -> None:
        self._run(["-bs"], self._dialog(message, recipient), self._away)

    def _envelope(self, client: smtplib.SMTP, recipient: str) -> None:
        client.ehlo()
        assert client.docmd("MAIL", "FROM:<anna@example.com>")[0] == 250
        assert client.docmd("RCPT", f"TO:<{recipient}>")[0] == 250

    def _data(self, client: smtplib.SMTP, message: bytes, recipient: str) -> None:
        self._envelope(client, recipient)
        assert client.docmd("DATA")[0] == 354
        client.send(_stuffed(message))
        assert client.getreply()[0] == 250

    def _dialog(self, message: bytes, recipient: str) -> bytes:
        commands = f"HELO a\r\nMAIL FROM:<anna@example.com>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n"
        return commands.encode() + _stuffed(message) + b"QUIT\r\n"

    def _run(self, arguments: list[str], given: bytes, env: dict[str, str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with Forked("smtp2cf.sendmail:main", ["sendmail", *arguments], env=env, **pipes) as process:
            said = process.communicate(given, timeout=PATIENCE)
        assert process.returncode == 0, said


def _stuffed(message: bytes) -> bytes:
    message += b"" if message.endswith(b"\r\n") else b"\r\n"
    return b"".join((b"\r\n" + message).replace(b"\r\n.", b"\r\n..").split(b"\r\n", 1)[1:]) + b".\r\n"


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bridge, Ways]]:
    directory = tmp_path_factory.mktemp("injection")
    (directory / "drop").mkdir(mode=0o3733)
    settings = {"LMTP_LISTEN": "127.0.0.1:0", "SENDMAIL_DROP_DIR": str(directory / "drop")}
    with running_bridge(directory, **settings) as running:
        yield running, Ways(running, directory)


ON_THE_WIRE = ["smtp", "lmtp", "bdat"]
ON_STANDARD_INPUT = ["sendmail", "sendmail_away", "sendmail_bs", "sendmail_bs_away"]


@pytest.mark.parametrize("line_end", [CRLF, CR_CR_LF, LF, b""], ids=["CRLF", "CR-CR-LF", "LF", "mixed"])
@pytest.mark.parametrize("way", ON_THE_WIRE)
def test_what_arrives_is_what_the_client_meant(
    bridge: tuple[Bridge, Ways], way: str, line_end: bytes
) -> None:
    running, ways = bridge
    _check(running, getattr(ways, way), line_end, MESSAGES, f"{way}{line_end!r}")


# On standard input LF ends a line, so that only a CR is foreign there; -bs is SMTP.
@pytest.mark.parametrize(
    ("way", "line_end"),
    [
        *((way, LF) for way in ON_STANDARD_INPUT),
        *((way, end) for way in ON_STANDARD_INPUT[2:] for end in (CRLF, b"")),
    ],
    ids=lambda value: value if isinstance(value, str) else {CRLF: "CRLF", LF: "LF"}.get(value, "mixed"),
)
def test_sendmail_too(bridge: tuple[Bridge, Ways], way: str, line_end: bytes) -> None:
    running, ways = bridge
    _check(running, getattr(ways, way), line_end, MESSAGES // 5, f"{way}{line_end!r}")


def _check(bridge: Bridge, send: Send, line_end: bytes, count: int, seed: str) -> None:
    bridge.clear()
    meant: dict[str, tuple[bytes, Part]] = {}
    for number in range(count):
        message, what = Client(random.Random(f"{seed}{number}"), line_end).message()
        recipient = f"m{number}@example.net"
        meant[recipient] = message, what
        send(message, recipient)
    for arrived in bridge.wait_for(count):
        message, what = meant.pop(arrived["recipients"][0])
        found = as_read(arrived["mime_message"])
        # What sendmail adds.
        found.names = [name for name in found.names if name != "Date"]
        assert found == what, message
    assert not meant
