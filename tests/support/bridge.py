"""A real bridge for tests: `smtp2cf serve --sandbox` as its own process, on free ports."""

import contextlib
import http.client
import json
import os
import signal
import smtplib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.activation import Handing, start_with
from tests.support.forked import NONE, start_smtp2cf
from tests.support.secret import TOKEN
from tests.support.waiting import PATIENCE

START_TIMEOUT = PATIENCE


class Bridge:
    """A running bridge and what its sandbox took. Everything here blocks: use it from plain tests."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log_path = log
        ready = self.wait_for_log("serve.ready")
        self.smtp_host, _, port = ready["smtp"][0].rpartition(":")
        self.smtp_port = int(port) if port.isdigit() else 0
        self.smtp_endpoint: str = ready["smtp"][0]
        self.admin_url = f"http://{ready['admin'][0]}" if ready["admin"] else ""
        self.sandbox_url = f"http://{ready['sandbox']}" if "sandbox" in ready else ""
        self.env = {
            "SMTP2CF_SMTP_LISTEN": self.smtp_endpoint,
            "SMTP2CF_SENDMAIL_HOST": self.smtp_endpoint,
            "SMTP2CF_ADMIN_LISTEN": ready["admin"][0] if ready["admin"] else "none",
        }

    def log(self) -> list[dict]:
        """The log lines about all that can be seen of the bridge so far; what is not JSON (a traceback, say)
        as {"raw": …}."""
        if self.admin_url and self.process.poll() is None:
            # Lines are written at the end of the event loop's turn: an answer may be out before its line.
            with contextlib.suppress(OSError, http.client.HTTPException):
                urllib.request.urlopen(f"{self.admin_url}/livez", timeout=20).close()
        return self._written()

    def _written(self) -> list[dict]:
        return self.lines_of(self.log_path)

    @staticmethod
    def lines_of(log: Path) -> list[dict]:
        """The lines of a log file."""
        lines = []
        for line in log.read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"event": "raw", "raw": line})
        return lines

    def wait_for_log(self, event: str, timeout: float = START_TIMEOUT, **fields: object) -> dict:
        """The first log line with that event and those fields."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for line in self._written():
                if line.get("event") == event and fields.items() <= line.items():
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(
            f"no {event!r} {fields} in the log:\n{self.log_path.read_text(errors='replace')}"
        )

    def messages(self) -> list[dict]:
        """What send_raw accepted, oldest first; mime_message as bytes."""
        with urllib.request.urlopen(f"{self.sandbox_url}/messages?limit=1000") as answer:
            listed = json.load(answer)["messages"]
        for message in listed:
            with urllib.request.urlopen(f"{self.sandbox_url}/messages/{message['id']}") as answer:
                message["mime_message"] = answer.read()
        return listed[::-1]

    def wait_for(self, count: int, timeout: float = PATIENCE) -> list[dict]:
        """The messages, once there are `count` of them."""
        deadline = time.monotonic() + timeout
        while len(messages := self.messages()) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(messages)} of {count} messages arrived")
            time.sleep(0.05)
        return messages

    def clear(self) -> None:
        """Forget the messages."""
        request = urllib.request.Request(f"{self.sandbox_url}/messages", method="DELETE")
        urllib.request.urlopen(request).close()

    def client(self) -> smtplib.SMTP:
        """A connected smtplib client."""
        return smtplib.SMTP(self.smtp_host, self.smtp_port, timeout=PATIENCE)

    def stop(self, signal_number: int = signal.SIGTERM, timeout: float = PATIENCE) -> int:
        """Stop it and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(timeout)


@contextlib.contextmanager
def running_bridge(
    directory: Path,
    *arguments: str,
    sandbox: bool = True,
    handing: Handing = (),
    executed: bool = False,
    constants: Mapping[str, Any] = NONE,
    **env: str,
) -> Iterator[Bridge]:
    """Start a bridge with settings given as SMTP2CF_ variables without their prefix; stop it after.

    handing: sockets to hand over to it as systemd does, by name. executed: not forked (tests.support.forked),
    but as an operator starts it. constants: as for start_smtp2cf.
    """
    settings = {
        "SMTP_LISTEN": "127.0.0.1:0",
        "ADMIN_LISTEN": "127.0.0.1:0",
        "LOG_FORMAT": "json",
        "API_TOKEN": TOKEN,
    }
    if not sandbox:  # whose state is its own; else a test would use the host's
        settings["STATE_DIR"] = str(directory / "state")
    settings |= env
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("SMTP2CF_", "CLOUDFLARE_"))
    }
    environ |= {f"SMTP2CF_{name}": value for name, value in settings.items()}
    command = ["serve", *arguments]
    if sandbox:
        command += ["--sandbox", "--sandbox-listen", "127.0.0.1:0", "--sandbox-tls-listen", "127.0.0.1:0"]
    log = directory / "bridge.log"
    with log.open("ab") as log_file:
        streams = {"env": environ, "stderr": log_file, "stdout": subprocess.DEVNULL, "cwd": directory}
        if handing:
            process = start_with(handing, [sys.executable, "-m", "smtp2cf", *command], **streams)
        else:
            process = start_smtp2cf(command, executed=executed, constants=constants, **streams)
    try:
        yield Bridge(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    for line in Bridge.lines_of(log):
        assert isinstance(line.get("to", []), list), line
        assert not line.keys() & {"reverse_path", "recipient"}, line
