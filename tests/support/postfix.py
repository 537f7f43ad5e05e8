"""A Postfix of a test's own: its configuration, queue and log in one directory, one port on loopback.

Apart from the system's in everything. Starts as root only.
"""

import contextlib
import os
import re
import shutil
import smtplib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.waiting import PATIENCE

DAEMONS = Path("/usr/lib/postfix/sbin")
START_TIMEOUT = PATIENCE

_MAIN = """
compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
daemon_directory = {daemons}
maillog_file = /dev/stdout
myhostname = postfix.example.com
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
alias_maps =
alias_database =
smtputf8_enable = no
notify_classes =
"""

_MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup    unix n - n -    0 cleanup
qmgr       unix n - n 300  1 qmgr
rewrite    unix - - n -    - trivial-rewrite
bounce     unix - - n -    0 bounce
defer      unix - - n -    0 bounce
trace      unix - - n -    0 bounce
proxymap   unix - - n -    - proxymap
lmtp       unix - - n -    - lmtp
smtp       unix - - n -    - smtp
error      unix - - n -    - error
retry      unix - - n -    - error
anvil      unix - - n -    1 anvil
scache     unix - - n -    1 scache
showq      unix n - n -    - showq
tlsmgr     unix - - n 1000? 1 tlsmgr
postlog    unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """A running one. Everything here blocks."""

    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self._config = directory / "config"
        self._log = directory / "log"

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def fates(self, count: int, timeout: float = 20.0) -> dict[str, tuple[str, str]]:
        """Recipient to status (sent, bounced, deferred) and the reply, once the log has `count` of them."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.findall(r"to=<([^>]*)>.* status=(\w+) \((.*)\)$", self.log(), re.MULTILINE)
            if len(found) >= count:
                return {who: (status, reply) for who, status, reply in found}
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(found)} of {count} fates in the log:\n{self.log()}")
            time.sleep(0.05)

    def queue(self) -> str:
        """What mailq shows."""
        command = ["postqueue", "-c", str(self._config), "-p"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


@contextlib.contextmanager
def running_postfix(directory: Path, port: int, main: str) -> Iterator[Postfix]:
    """Start one in a directory that other users may get into. main: what main.cf says beside what every one
    here does."""
    config = directory / "config"
    for path in (config, directory / "queue", directory / "data"):
        path.mkdir()
    (config / "main.cf").write_text(_MAIN.format(dir=directory, daemons=DAEMONS) + main)
    (config / "master.cf").write_text(_MASTER.format(port=port))
    shutil.chown(directory / "data", "postfix")
    subprocess.run(["postfix", "-c", str(config), "check"], check=True, capture_output=True)
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [DAEMONS / "master", "-c", str(config), "-s"],
            env={**os.environ, "MAIL_CONFIG": str(config)},
            stdout=log,
            stderr=log,
        )
    postfix = Postfix(directory, port)
    try:
        _wait_until_it_listens(postfix, process)
        yield postfix
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait_until_it_listens(postfix: Postfix, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, smtplib.SMTPException):
            smtplib.SMTP("127.0.0.1", postfix.port, timeout=PATIENCE).close()
            return
        time.sleep(0.05)
    raise AssertionError(f"Postfix did not start:\n{postfix.log()}")
