"""Notify: tells systemd how the service is: sd_notify(3), for Type=notify and WatchdogSec=.

Says nothing where nobody listens. Knows nothing of what the service does.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping

import structlog

INTERVAL = 5.0
"""Seconds between two looks at the status; fewer where the watchdog asks for it."""
PATIENCE = 1.0
"""Seconds that one datagram may take: the service manager reads them one after the other."""
AFTER_DRAIN = 10.0
"""Seconds that closing everything may take after the drain."""

log = structlog.stdlib.get_logger("smtp2cf.serve")


class Notifier:
    """Talks to the service manager that started this process.

    environ: loses the variables that say where it listens, so that no child talks in our name.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        pid, limit = environ.pop("WATCHDOG_PID", ""), environ.pop("WATCHDOG_USEC", "")
        self._watched = limit.isdecimal() and int(limit) > 0 and pid in ("", str(os.getpid()))
        self.pause = min(INTERVAL, int(limit) / 2e6) if self._watched else INTERVAL
        """Seconds between two signs of life."""

    def ready(self) -> None:
        """Mail is taken now."""
        self._tell("READY=1")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Settings are being read again."""
        # The time is for Type=notify-reload, from systemd 253 on.
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._tell("READY=1")

    def stopping(self, drain_timeout: float) -> None:
        """What is under way may finish. drain_timeout: seconds, which TimeoutStopSec= must not cut short."""
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int((drain_timeout + AFTER_DRAIN) * 1e6)}")

    async def watch(self, status: Callable[[], str]) -> None:
        """Tell the status, a line, whenever it has changed, and show that the loop still turns."""
        told = ""
        while self._address:
            line = status()
            changed = [f"STATUS={line}"] if line != told else []
            self._tell(*changed, *(["WATCHDOG=1"] if self._watched else []))
            told = line
            await asyncio.sleep(self.pause)

    def _tell(self, *variables: str) -> None:
        if not self._address or not variables:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(PATIENCE)
                sock.sendto("\n".join(variables).encode(), self._address)
        except OSError as error:
            log.warning("serve.not_notified", reason=str(error), untold=list(variables))
