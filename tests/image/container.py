"""Runs an image without a container engine: namespaces, a read-only root, the image's own user.

What util-linux has is enough: `unshare` makes the namespaces, the root is a bind mount remounted
read-only, `chroot --userspec` becomes the user. The network namespace has nothing but loopback, with
one more address, from which a client comes in as from outside.
"""

import concurrent.futures
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.support.waiting import PATIENCE

T = TypeVar("T")

OUTSIDE = "192.0.2.1"
"""An address of the container that is not loopback; connecting to it, one comes from it (RFC 5737)."""
STORAGE = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}
CLONE_NEWNET = 0x40000000

# $1: the image's root. $2: what becomes its volume. $3: where that goes. $4: uid:gid. $5: the image's
# PATH. Then the command.
SET_UP = f"""
ip link set lo up
ip address add {OUTSIDE}/32 dev lo
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
mount --bind "$2" "$1$3"
chroot=$(command -v chroot) setpriv=$(command -v setpriv) root=$1 user=$4
export PATH=$5
shift 5
exec "$setpriv" --no-new-privs "$chroot" --userspec="$user" --groups= "$root" "$@"
"""


def buildah(*arguments: str) -> str:
    """Run buildah and return its standard output; raises AssertionError with what it said."""
    done = subprocess.run(["buildah", *arguments], env=STORAGE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"buildah {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


class Container:
    """A started container. Everything here blocks."""

    def __init__(self, unshare: subprocess.Popen[bytes], log: Path, env: Mapping[str, str]) -> None:
        self._unshare = unshare
        self._log = log
        self._env = env

    @property
    def pid(self) -> int:
        """The process id, outside, of the container's first process."""
        return self._children()[0]

    def wait_for_log(self, event: str, timeout: float = 30.0) -> dict[str, object]:
        """The first log line with that event."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._unshare.poll() is None:
            for line in self._log.read_text().splitlines():
                if (
                    line.startswith("{")
                    and line.endswith("}")
                    and (fields := json.loads(line))["event"] == event
                ):
                    return fields
            time.sleep(0.02)
        raise AssertionError(f"no {event} in:\n{self._log.read_text()}")

    def log(self) -> str:
        """All that was written to standard output and standard error."""
        return self._log.read_text()

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in a thread whose sockets are in the container's network."""
        with concurrent.futures.ThreadPoolExecutor(
            1, initializer=_enter_network, initargs=(self.pid,)
        ) as pool:
            return pool.submit(function).result(60)

    def execute(self, *command: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in the container as its user, or as "0:0", as `docker exec` does."""
        uid, _, gid = (user or _user(self.pid)).partition(":")
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--root", "--wd"]
        return subprocess.run(
            [*enter, f"--setuid={uid}", f"--setgid={gid}", *command],
            env=dict(self._env),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def status(self, field: str) -> str:
        """A field of the first process's status in /proc, its words separated by a space."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return " ".join(value.split())
        raise KeyError(field)

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the container's first process."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = 30.0) -> int:
        """The exit status of the container's first process."""
        return self._unshare.wait(timeout)

    def remove(self) -> None:
        """End whatever still runs; the namespaces and their mounts go with it."""
        if self._unshare.poll() is None:
            for pid in self._children():
                os.kill(pid, signal.SIGKILL)
            self._unshare.kill()
        self._unshare.wait()

    def _children(self) -> list[int]:
        pid = self._unshare.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Image:
    """An image, and a copy of its root to run containers on."""

    def __init__(self, name: str, root: Path) -> None:
        self.root = root
        self.config: dict = json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"]

    @contextlib.contextmanager
    def run(self, directory: Path, command: Sequence[str], **env: str) -> Iterator[Container]:
        """Run a command as the image's user on its read-only root; directory: for its volume and log."""
        (volume,) = self.config["Volumes"]
        state = directory / "state"
        state.mkdir()
        os.chown(state, *map(int, self.config["User"].split(":")))
        environ = dict(line.split("=", 1) for line in self.config["Env"]) | env
        namespaces = ["--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child"]
        place = [str(self.root), str(state), volume, self.config["User"], environ["PATH"]]
        log = directory / "container.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["unshare", *namespaces, "sh", "-euc", SET_UP, "sh", *place, *command],
                env=environ | {"PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        container = Container(process, log, environ)
        try:
            yield container
        finally:
            container.remove()


def _enter_network(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net") as network:
        if libc.setns(network.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _user(pid: int) -> str:
    status = os.stat(f"/proc/{pid}")
    return f"{status.st_uid}:{status.st_gid}"
