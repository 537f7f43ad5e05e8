"""Starts `smtp2cf` as a process without an exec: forked from a server that has imported everything.

A Popen like any other: pid, pipes, wait, signals. The process has the environment, the directory, the
standard streams and the file descriptors it would have, and nothing of ours. What a test can't have here is
the start of Python itself: what is imported and when, /proc/self/cmdline and environ. Where the environment
or a limit changes that start, it is noticed, and there is an exec.
"""

import array
import atexit
import functools
import os
import pickle
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.fork_server import Start
from tests.support.waiting import PATIENCE

_READ_AT_START = (b"PYTHON", b"LC_", b"LANG", b"LD_", b"MALLOC_", b"GLIBC_", b"OPENSSL_")
"""How names begin of variables that Python, or a library it loads, reads when it starts."""
ROOT = Path(__file__).parents[2]
_OUR_ENVIRONMENT = dict(os.environb)
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
NONE: Mapping[str, Any] = {}
_starting = threading.Lock()


def start_smtp2cf(
    arguments: Sequence[str], *, executed: bool = False, constants: Mapping[str, Any] = NONE, **popen: Any
) -> subprocess.Popen[Any]:
    """Start `smtp2cf …`.

    executed: as an operator does, `python -m smtp2cf`. constants: "module:NAME" with another value in that
    process, such as an interval that a test need not wait for; never executed. popen: Popen's other options.
    """
    if executed or _starts_otherwise(popen.get("env")):
        assert not constants, "this process has to be executed, and has the constants it has"
        return subprocess.Popen([sys.executable, "-m", "smtp2cf", *arguments], **popen)
    return Forked("smtp2cf.cli.app:main", ["smtp2cf", *arguments], constants=constants, **popen)


def run_script(script: str, **popen: Any) -> subprocess.CompletedProcess[Any]:
    """Run Python code as `python -c` does, with no standard input. popen: Popen's other options."""
    command = [sys.executable, "-c", script]
    started: subprocess.Popen[Any]
    if _starts_otherwise(popen.get("env")):
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, **popen)
    else:
        started = Forked(
            "tests.support.fork_server:script", ["-c", script], stdin=subprocess.DEVNULL, **popen
        )
    with started as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _starts_otherwise(env: Mapping[str, str] | None) -> bool:
    """Whether Python would not start as it did in the server: with that environment, these limits."""
    environment = dict(os.environb) if env is None else _as_octets(env)
    return _of_the_start(environment) != _of_the_start(_OUR_ENVIRONMENT) or _limits() != _OUR_LIMITS


def _of_the_start(env: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in env.items() if name.startswith(_READ_AT_START)}


def _as_octets(env: Mapping[str, str]) -> dict[bytes, bytes]:
    return {os.fsencode(name): os.fsencode(value) for name, value in env.items()}


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(limit) for limit in _LIMITS]


_OUR_LIMITS = _limits()


class Forked(subprocess.Popen[Any]):
    """A process that calls a function, "module:function", with these as sys.argv.

    Of Popen's options it has those for streams, pass_fds, cwd and env; constants are as for start_smtp2cf.
    """

    def __init__(
        self, main: str, argv: Sequence[str], *, constants: Mapping[str, Any] = NONE, **popen: Any
    ) -> None:
        self._main = main
        self._constants = dict(constants)
        super().__init__(list(argv), **popen)

    def _execute_child(  # type: ignore[no-untyped-def, override]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *others,
    ):  # fmt: skip
        streams = [
            given if given != -1 else usual for usual, given in enumerate((p2cread, c2pwrite, errwrite))
        ]
        start = Start(
            main=self._main,
            argv=list(args),
            env=dict(os.environb) if env is None else _as_octets(env),
            cwd=os.fsencode(cwd or os.getcwd()),
            umask=_umask(),
            fds=[0, 1, 2, *pass_fds],
            constants=self._constants,
        )
        self._told, teller = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with teller:
            fds = array.array("i", [teller.fileno(), *streams, *pass_fds])
            _server().sendmsg([pickle.dumps(start)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
        self.pid = int(self._told.recv(64))
        self._child_created = True

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):
            try:
                self._try_wait(os.WNOHANG)
            finally:
                self._waitpid_lock.release()
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """As Popen asks the system: (0, 0) while it runs."""
        if self.returncode is not None or (wait_flags & os.WNOHANG and not self._ended()):
            return 0, 0
        status = int(self._told.recv(64))
        self._told.close()
        self._handle_exitstatus(status)
        return self.pid, status

    def _ended(self) -> bool:
        poll = select.poll()  # select() takes no descriptor above 1023
        poll.register(self._told, select.POLLIN)
        return bool(poll.poll(0))


def _umask() -> int:
    os.umask(umask := os.umask(0o077))
    return umask


def _server() -> socket.socket:
    with _starting:
        return _start_server()


@functools.cache
def _start_server() -> socket.socket:
    """The socket to it; it ends when we do."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(theirs.fileno())],
            env=_OUR_ENVIRONMENT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


_SERVER = """
import socket, sys
from tests.support import fork_server
fork_server.prepare()
main = fork_server.serve(socket.socket(fileno=int(sys.argv[1])))
if main is not None:
    fork_server.end_with(main)
"""
