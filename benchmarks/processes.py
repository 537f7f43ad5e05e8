"""The processes a benchmark starts: each with a port and a log file of its own, all stopped at the end.

Knows nothing of what the processes do.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

START_TIMEOUT = 30.0
"""Seconds until a process that was started has to answer."""

STOP_TIMEOUT = 40.0
"""Seconds from SIGTERM to SIGKILL; more than the bridge's DRAIN_TIMEOUT."""

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class BrokenError(Exception):
    """Something did not work, which is another thing than being slow: a message was lost, a process died."""


class UnavailableError(Exception):
    """This machine lacks what a contender needs; its row is skipped."""


def program(name: str) -> str:
    """The path of a program, also of one in sbin, where an ordinary user's PATH doesn't look.

    Raises UnavailableError where there is none.
    """
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        raise UnavailableError(f"there is no {name} on this machine")
    return path


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, and that the system gives to nobody who asks for any.

    Of the ports that it gives away, one may go to somebody else before the caller's server listens on it.
    """
    ours = range(10_000, _first_ephemeral_port())
    while True:
        port = random.SystemRandom().choice(ours)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _first_ephemeral_port() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, less proxies (everything here is loopback) and less settings of the
    bridge that the caller's shell may hold, plus `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in _PROXIES and not name.startswith(("SMTP2CF_", "CLOUDFLARE_"))
    }
    return {**kept, **extra}


class Process:
    """A running program whose output goes to a file."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self.started_at = time.monotonic()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(env or {}),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop it with SIGTERM, with SIGKILL if it doesn't heed that."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def check(self) -> None:
        """Raises BrokenError if it has died."""
        if (status := self._process.poll()) is not None:
            raise self.broken(f"died with exit status {status}")

    def broken(self, what: str) -> BrokenError:
        """`what` went wrong with this process, and the last lines of its log."""
        return BrokenError(f"{self.name}: {what}\nthe last lines of its log:\n{self.last_lines()}")

    def last_lines(self, count: int = 15) -> str:
        """The end of its log, each line cut to what a person reads."""
        lines = self.log.read_text(errors="replace").splitlines()[-count:]
        return "\n".join(f"    {line[:300]}" for line in lines) or "    (nothing)"

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def memory(self, field: str) -> float:
        """VmRSS (resident now) or VmHWM (its peak), in MB of 1,000,000 bytes, from /proc."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024 / 1_000_000
        raise self.broken(f"its /proc status has no {field}")

    def forget_peak(self) -> None:
        """Count VmHWM from now on (proc(5), clear_refs)."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def wait_for_greeting(self, port: int) -> float:
        """Seconds from the process's start until its SMTP port said 220. Raises BrokenError if
        it never does."""
        while time.monotonic() - self.started_at < START_TIMEOUT:
            self.check()
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                    if client.recv(512).startswith(b"220"):
                        ready = time.monotonic() - self.started_at
                        client.sendall(b"QUIT\r\n")
                        while client.recv(512):
                            pass
                        return ready
            except OSError:
                time.sleep(0.005)
        raise self.broken(f"no 220 within {START_TIMEOUT:.0f} s")
