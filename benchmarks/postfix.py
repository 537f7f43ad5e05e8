"""A Postfix of the benchmark's own: `python -m benchmarks.postfix DIRECTORY PORT` becomes its master.

An instance apart from the system's: configuration, queue, data and log in DIRECTORY, SMTP on one port of
loopback, and a transport that discards. All else is as Debian ships it, so mail is fsynced before its 250.
"""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.processes import UnavailableError, program

_DAEMONS = Path("/usr/lib/postfix/sbin")
_DRAIN_TIMEOUT = 120.0

_MAIN = """
compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
daemon_directory = {daemons}
maillog_file = /dev/stdout
myhostname = bench.example.com
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
default_transport = discard
alias_maps =
alias_database =
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
discard    unix - - n -    - discard
anvil      unix - - n -    1 anvil
scache     unix - - n -    1 scache
postlog    unix-dgram n - n - 1 postlogd
"""


def prepare(_: Path) -> None:
    """Raises UnavailableError where it cannot run."""
    program("postfix")
    if not (_DAEMONS / "discard").exists():
        raise UnavailableError(f"there is no {_DAEMONS}/discard on this machine")
    if os.geteuid() != 0:
        raise UnavailableError("Postfix starts as root only")


def drain(directory: Path) -> None:
    """Wait until nothing is in its queue, so that it does no work in another's turn."""
    queues = [directory / "queue" / name for name in ("incoming", "active", "maildrop")]
    give_up = time.monotonic() + _DRAIN_TIMEOUT
    while any(path.is_file() for queue in queues for path in queue.rglob("*")):
        if time.monotonic() > give_up:
            raise UnavailableError(f"Postfix did not empty its queue within {_DRAIN_TIMEOUT:.0f} s")
        time.sleep(0.05)


def _become(directory: Path, port: int) -> None:
    config = directory / "config"
    config.mkdir()
    (directory / "queue").mkdir()
    (directory / "data").mkdir()
    (config / "main.cf").write_text(_MAIN.format(dir=directory, daemons=_DAEMONS))
    (config / "master.cf").write_text(_MASTER.format(port=port))
    # Its processes run as a user of their own, who has to get there.
    for path in (directory, *directory.parents):
        if path == Path(tempfile.gettempdir()):
            break
        path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IXGRP | stat.S_IXOTH)
    shutil.chown(directory / "data", "postfix")
    subprocess.run([program("postfix"), "-c", str(config), "check"], check=True)
    # What `postfix start-fg` runs, but as this very process, so that who stops it stops Postfix.
    master = str(_DAEMONS / "master")
    os.execve(master, [master, "-c", str(config), "-s"], {**os.environ, "MAIL_CONFIG": str(config)})


if __name__ == "__main__":
    _become(Path(sys.argv[1]), int(sys.argv[2]))
