"""Sends numbered mail through bridges that are killed, and counts what arrived.

The sandbox and the clients outlive every bridge. A client behaves as real ones do: whatever went wrong
before it had its 250, it connects again and sends the same message again.
"""

import contextlib
import json
import os
import random
import signal
import smtplib
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from smtp2cf.sandbox import Sandbox
from tests.support.secret import TOKEN
from tests.support.waiting import PATIENCE, accepts, wait_until

ROOT = Path(__file__).parents[2]
SLACK = 2.0
"""Seconds from the API's answer until it is settled, with an fsync, on a busy machine."""
ARRIVAL = 0.1
"""Seconds in which the sandbox, on a busy machine, reads a call that was sent before the kill."""


class Zygote:
    """tests.relay.killable, which starts bridges."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.relay.killable"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def start(self, env: dict[str, str], log: Path) -> int:
        """A bridge's process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"env": env, "log": str(log)}) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Kill(NamedTuple):
    """One end of a bridge, in time.monotonic() seconds: when it was surely alive, when surely dead."""

    alive: float
    dead: float


class Harness:
    """One spool, one place for the log, any number of bridges one after the other or side by side."""

    def __init__(self, zygote: Zygote, sandbox: Sandbox, api: str, directory: Path, **settings: str) -> None:
        self.zygote = zygote
        self.sandbox = sandbox
        self.directory = directory
        self.log = directory / "bridge.log"
        self.kills: list[Kill] = []
        self.confirmed: dict[int, float] = {}
        self._stop = threading.Event()
        self._numbers = iter(range(1_000_000))
        self._drawing = threading.Lock()
        self._clients: list[threading.Thread] = []
        self._settings = {
            "API_BASE_URL": api,
            "ACCOUNT_ID": "test",
            "API_TOKEN": TOKEN,
            "ADMIN_LISTEN": "none",
            "LOG_FORMAT": "json",
            "STATE_DIR": str(directory),
            "SENDMAIL_DROP_DIR": str(directory / "drop"),
            "RETRY_MIN": "0.1",
            "API_RATE": "none",
            "DSN_QUOTA": "none",
            **settings,
        }

    # ---- bridges

    def start(self, port: int, kill_at: str = "", stop_at: str = "") -> int:
        """A bridge that listens, or died trying; its process id."""
        env = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        env |= {f"SMTP2CF_{name}": value for name, value in self._settings.items()}
        env["SMTP2CF_SMTP_LISTEN"] = f"127.0.0.1:{port}"
        if kill_at:
            env["SMTP2CF_TEST_KILL_AT"] = kill_at
        if stop_at:
            env["SMTP2CF_TEST_STOP_AT"] = stop_at
        pid = self.zygote.start(env, self.log)
        wait_until(lambda: is_dead(pid) or accepts(port), "the bridge listens")
        return pid

    def kill(self, pid: int) -> None:
        """SIGKILL."""
        alive = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.died(pid, alive)

    def died(self, pid: int, alive: float) -> None:
        """Wait for the end of one that was killed or kills itself."""
        wait_until(lambda: is_dead(pid), "it is dead", pause=0.001)
        self.kills.append(Kill(alive, time.monotonic()))

    def terminate(self, pid: int) -> None:
        """SIGTERM, and wait for the end."""
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: is_dead(pid), "it has stopped")

    # ---- clients

    def send_all(self, *ports: int, clients: int = 4, count: int | None = None) -> None:
        """Begin to send numbered messages, to the ports in turn, until `confirm_all` or `count`."""
        if count is not None:
            self._numbers = iter(range(count))
        for number in range(clients):
            turn = ports[number % len(ports) :] + ports[: number % len(ports)]
            thread = threading.Thread(target=self._client, args=(turn,))
            thread.start()
            self._clients.append(thread)

    def confirm_all(self) -> None:
        """Let every client get the 250 for its last message, and no more."""
        self._stop.set()
        self.wait_for_clients()

    def wait_for_clients(self) -> None:
        for thread in self._clients:
            thread.join(4 * PATIENCE)
            assert not thread.is_alive()

    def _client(self, ports: tuple[int, ...]) -> None:
        turns = 0
        server: smtplib.SMTP | None = None
        while not self._stop.is_set():
            with self._drawing:
                number = next(self._numbers, None)
            if number is None:
                break
            give_up = time.monotonic() + PATIENCE
            while number not in self.confirmed:
                assert time.monotonic() < give_up, f"no 250 for message {number}"
                try:
                    server = server or smtplib.SMTP(
                        "127.0.0.1", ports[turns % len(ports)], "client", timeout=10
                    )
                    server.sendmail("sender@example.com", recipient(number), message(number))
                    self.confirmed[number] = time.monotonic()
                except (OSError, smtplib.SMTPException):
                    if server is not None:
                        server.close()
                    server = None
                    turns += 1
                    time.sleep(0.005)
        if server is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                server.quit()

    # ---- what came of it

    def arrivals(self) -> Counter[int]:
        """How often each number is at the sandbox."""
        return Counter(number_of(accepted.recipients[0]) for accepted in tuple(self.sandbox.messages))

    def wait_until_all_arrived(self) -> None:
        """Everything that was confirmed is at the sandbox. However long it takes, as long as more arrives."""
        while missing := self.confirmed.keys() - self.arrivals().keys():
            wait_until(lambda: len(self.confirmed.keys() - self.arrivals().keys()) < len(missing), "one more")

    def possible_duplicates(self) -> set[int]:
        """The numbers that the log names as such."""
        return {number_of(who) for line in self.events("mail.possible_duplicate") for who in line["to"]}

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log's lines with that event, of all bridges."""
        lines = []
        for text in self.log.read_text().splitlines():
            # A process that is killed may leave half a line.
            with contextlib.suppress(ValueError):
                if (line := json.loads(text)).get("event") == event:
                    lines.append(line)
        return lines

    def check(self) -> None:
        """Nothing lost; nothing twice but what was in flight at a kill, and the log says so."""
        arrivals = self.arrivals()
        assert not self.confirmed.keys() - arrivals.keys(), "a 250 was given and the mail is lost"
        twice = {number for number, times in arrivals.items() if times > 1}
        assert twice <= self.possible_duplicates()
        calls = defaultdict(list)
        for call in tuple(self.sandbox.calls):
            if call.status == 200:
                calls[number_of(call.recipients[0])].append(call)
        for number in twice:
            for call in calls[number][:-1]:
                in_flight = any(
                    call.at <= kill.dead + ARRIVAL and call.answered_at >= kill.alive - SLACK
                    for kill in self.kills
                )
                assert in_flight, (
                    f"{number} was sent twice, no call was cut off: {calls[number]}, {self.kills}"
                )
        assert not self.events("queue.error")


def recipient(number: int) -> str:
    """Some take a while, so that calls are in flight when a bridge dies."""
    return f"n{number}+slow-{(number % 4) * 15}ms@example.org"


def number_of(address: str) -> int:
    return int(address[1:].partition("+")[0])


def message(number: int) -> bytes:
    return f"Subject: {number}\r\nMessage-ID: <{number}@example.com>\r\n\r\n{'x' * 300}\r\n".encode()


def is_dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def is_stopped(pid: int) -> bool:
    """By SIGSTOP."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextlib.contextmanager
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    try:
        yield started
    finally:
        started.close()


def pause_before_kill() -> float:
    """Seconds a bridge lives after it listens."""
    return random.uniform(0.0, 0.25)
