"""The SMTP clients that the tests deliver with: how each is told to send one message.

Every client here knows the message's bytes, so that what reaches send_raw can be held against them.
"""

import smtplib
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.bridge import Bridge


class Sent(NamedTuple):
    """How a client ended: 0 where it believes that all went well, and what it said."""

    status: int
    said: str


Client = Callable[[Bridge, Path, str, Sequence[str]], Sent]
"""Sends a file of CRLF lines from a sender to recipients, through the bridge."""


def swaks(bridge: Bridge, message: Path, sender: str, recipients: Sequence[str]) -> Sent:
    server = ["--server", bridge.smtp_host, "--port", str(bridge.smtp_port)]
    envelope = ["--from", sender, "--to", ",".join(recipients)]
    # No fixing: what the file holds goes out, but for the dots that SMTP doubles.
    body = ["--data", f"@{message}", "--no-data-fixup"]
    message.write_bytes(_dot_stuffed(message.read_bytes()))
    return _run(["swaks", *server, *envelope, *body])


def msmtp(bridge: Bridge, message: Path, sender: str, recipients: Sequence[str]) -> Sent:
    server = ["--file=/dev/null", f"--host={bridge.smtp_host}", f"--port={bridge.smtp_port}"]
    verbatim = ["--set-date-header=off", "--set-msgid-header=off", "--remove-bcc-headers=off"]
    return _run(["msmtp", *server, *verbatim, f"--from={sender}", "--", *recipients], message)


def curl(bridge: Bridge, message: Path, sender: str, recipients: Sequence[str]) -> Sent:
    envelope = ["--mail-from", sender, *(word for who in recipients for word in ("--mail-rcpt", who))]
    url = f"smtp://{bridge.smtp_endpoint}/app.example.com"
    return _run(
        ["curl", "--silent", "--show-error", "--verbose", url, *envelope, "--upload-file", str(message)]
    )


def python_smtplib(bridge: Bridge, message: Path, sender: str, recipients: Sequence[str]) -> Sent:
    with bridge.client() as client:
        try:
            refused = client.sendmail(sender, list(recipients), message.read_bytes(), ["BODY=8BITMIME"])
        except smtplib.SMTPResponseException as error:
            return Sent(1, f"{error.smtp_code} {error.smtp_error!r}")
    return Sent(len(refused), "")


def _dot_stuffed(message: bytes) -> bytes:
    return smtplib._quote_periods(message) + b"."


def _run(command: list[str], stdin: Path | None = None) -> Sent:
    with open(stdin or "/dev/null", "rb") as given:
        done = subprocess.run(
            command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60
        )
    return Sent(done.returncode, done.stdout.decode(errors="replace"))
