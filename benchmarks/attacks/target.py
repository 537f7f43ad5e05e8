"""The target of attacks: a bridge in a process of its own, every door open, before a stand-in for the API.

Beside it an ordinary client, in a process of its own too, that measures how long its messages take.
"""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.api import RECIPIENT, get, wait_for_http
from benchmarks.contenders import BRIDGE
from benchmarks.processes import BrokenError, Process, environment, free_port
from smtp2cf.access.edit import put_user
from smtp2cf.access.logins import hash_password

USER, PASSWORD = "anna", "a password"
PROXY_ADDRESS = "127.0.0.9"
"""Whoever connects from here has to send a PROXY header first."""
ORDINARY_EVENTS = frozenset({"mail.attempt", "serve.ready", "serve.stopping", "serve.stopped"})
"""Log lines that are there without an attack, too."""
EMPTY_WITHIN = 40.0
"""Seconds after an attack within which no session of it may be left; a client has 30 to read a goodbye."""


@dataclass(frozen=True)
class Target:
    """Where the bridge listens, what it may be told, and its process."""

    process: Process
    smtp: int
    smtps: int
    lmtp: int
    admin: int

    def sessions(self) -> int:
        """Sessions that there are now."""
        metrics = get(f"http://127.0.0.1:{self.admin}/metrics").decode()
        found = re.search(r"^smtp2cf_sessions (\S+)$", metrics, re.MULTILINE)
        if found is None:
            raise BrokenError("no smtp2cf_sessions among the metrics")
        return int(float(found[1]))

    def wait_until_empty(self) -> float:
        """Seconds until the last session was over. Raises BrokenError where one stays."""
        begin = time.monotonic()
        while (left := self.sessions()) > 0:
            if time.monotonic() - begin > EMPTY_WITHIN:
                raise self.process.broken(f"{left} sessions are still there")
            time.sleep(0.05)
        return time.monotonic() - begin

    def logged(self) -> Counter[str]:
        """How often each event was logged that an ordinary client does not cause; "raw" for no JSON."""
        events: Counter[str] = Counter()
        for line in self.process.log.read_text(errors="replace").splitlines():
            try:
                events[json.loads(line)["event"]] += 1
            except (ValueError, KeyError, TypeError):
                events["raw"] += 1
        return Counter({event: count for event, count in events.items() if event not in ORDINARY_EVENTS})


def _certificate(directory: Path) -> tuple[Path, Path]:
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@contextlib.contextmanager
def started(directory: Path, settings: Mapping[str, str]) -> Iterator[Target]:
    """A bridge with settings (without SMTP2CF_) beside those that open its doors."""
    directory.mkdir(parents=True)
    cert, key = _certificate(directory)
    users = directory / "users"
    put_user(users, USER, hash_password(PASSWORD), None, replace=False)
    api, smtp, smtps, lmtp, admin = (free_port() for _ in range(5))
    doors = {
        "SMTPS_LISTEN": f"127.0.0.1:{smtps}",
        "LMTP_LISTEN": f"127.0.0.1:{lmtp}",
        "ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "TLS_CERT_FILE": str(cert),
        "TLS_KEY_FILE": str(key),
        "USERS_FILE": str(users),
        "LOG_FORMAT": "json",
        "MAX_MESSAGE_SIZE": "5MiB",
    }
    known = {"port": smtp, "api": f"http://127.0.0.1:{api}/client/v4", "dir": directory}
    env = {name: value.format_map(known) for name, value in BRIDGE.env.items()}
    env |= {f"SMTP2CF_{name}": value for name, value in {**doors, **settings}.items()}
    command = [sys.executable, "-m", "benchmarks.slow_api", str(api), "0"]
    with Process("the API", command, directory / "api.log") as answering:
        wait_for_http(answering, f"http://127.0.0.1:{api}")
        command = [sys.executable, "-m", "smtp2cf", "serve"]
        with Process("the bridge", command, directory / "log", env) as bridge:
            bridge.wait_for_greeting(smtp)
            yield Target(bridge, smtp, smtps, lmtp, admin)


class OrdinaryClient:
    """A client in a process of its own that sends small messages, each over a new connection."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "benchmarks.attacks.ordinary", str(port), RECIPIENT]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment({}))
        assert self._process.stdout is not None
        self._process.stdout.readline()  # its first message is through

    def stop(self) -> list[float]:
        """Seconds that each of its messages took. Raises BrokenError where one was not taken."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=30)
        if self._process.returncode != 0:
            raise BrokenError(f"the ordinary client: {output.decode(errors='replace')[-300:]}")
        return [float(seconds) for seconds in output.split()]

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
