"""Starts a command with sockets handed over as systemd does it: from file descriptor 3 on, and named."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

Handing = Sequence[tuple[str, socket.socket]]

# The process that gets the sockets has to be the one that LISTEN_PID names: it becomes the command.
_BECOME = """
import fcntl, os, sys
names, numbers, *command = sys.argv[1:]
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers.split(",")]
for target, number in enumerate(high, 3):
    os.dup2(number, target)
    os.close(number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)))
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.execv(command[0], command)
"""


def start_with(handing: Handing, command: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
    """Start `command` so. popen: Popen's other options."""
    names = ":".join(name for name, _ in handing) or "-"
    sockets = [sock.fileno() for _, sock in handing]
    becoming = [sys.executable, "-c", _BECOME, names, ",".join(map(str, sockets))]
    return subprocess.Popen([*becoming, *command], pass_fds=sockets, **popen)
